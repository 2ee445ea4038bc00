"""What distillation costs: one step against the sum of its parts, shared against separate passes,
dropped layers against all of them, and the memory of each player.

    python benchmarks/distill.py                # micro size, batch 12 of 64 frames
    python benchmarks/distill.py --tables layers --width 512 --depth 24 --frames 128

Times are medians of interleaved repeats in one process, so a slow spell of the machine falls on all
alike; only their ratios are meant to be read. FLOPs are matrix products and convolutions, counted,
not measured. Quality is in toy_mixture.py and layers.py, two-rank scaling in two_ranks.py.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from presto_distill import ema, losses
from presto_distill.metrics.latency import stage_times
from presto_distill.objective import Batch, Objective
from presto_distill.objectives.denoising import Denoising
from presto_distill.objectives.presto_l import PrestoL, PrestoLConfig
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.trainer import TrainConfig, Trainer
from presto_models import PrestoDenoiser, presto_schedule
from presto_models.conditioning import null_condition
from presto_models.dit import PrestoDenoiserConfig
from presto_models.edm import LogNormal, add_noise, sample_sigma
from presto_models.precision import Precision, autocast
from presto_models.sizes import micro

Work = Callable[[], object]


def main(
    *,
    width: int = 128,
    depth: int = 16,
    frames: int = 64,
    batch: int = 12,
    repeats: int = 7,
    precision: Precision = "auto",
    device: str = "cpu",
    tables: tuple[Literal["overhead", "critic", "layers", "memory"], ...] = (
        "overhead",
        "critic",
        "layers",
        "memory",
    ),
) -> None:
    """Print the tables.

    Args:
        width: Of the transformer; four heads.
        depth: Its blocks.
        frames: Of a clip, 21.5 a second.
        batch: Clips per turn.
        repeats: Of each timing, of which the median counts.
        precision: auto, float32 or bfloat16.
        device: cpu or cuda.
        tables: Which.
    """
    torch.manual_seed(0)
    size = replace(micro(), width=width, depth=depth, text_width=0)
    base = PrestoDenoiser(PrestoDenoiserConfig(size)).to(device)
    with torch.no_grad():  # a fresh network's output is zero, and with it most of its gradients
        base.inner.output.weight.normal_(std=0.02)
    clips = Batch(torch.randn(batch, size.channels, frames, device=device) * 0.5)
    cfg = TrainConfig(steps=10**9, precision=precision)

    def bench(objective: Objective) -> Trainer:
        return Trainer(objective, cfg, device)

    def step(trainer: Trainer) -> Work:
        run = trainer.run(lambda start: iter(lambda: clips, None))
        return lambda: next(run)

    def presto_s(**changes) -> PrestoS:
        options = PrestoSConfig(**{"guidance_scale": 1.0, **changes})
        return PrestoS(base, null_condition, options, feature_layer=depth // 2 - 1, width=width)

    facts = f"width {width}, depth {depth}, batch {batch} x {frames} frames, {precision}, {device}"
    print(f"{facts}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")

    def presto_l(**changes) -> PrestoL:
        return PrestoL(base, null_condition, schedule, PrestoLConfig(**changes), depth=depth)

    if "overhead" in tables:
        one = step(bench(presto_s()))
        overhead(one, parts_of_a_step(bench(presto_s()), clips), repeats)

    # A critic turn whose two losses look at the same noise shares a pass.
    if "critic" in tables:
        apart = LogNormal(sigma_max=79.99)  # the same law but for its name
        objectives = {"shared pass": presto_s(), "separate passes": presto_s(p_gan=apart)}
        for objective in objectives.values():
            objective.turns = objective.turns[:1]
        works = {name: step(bench(objective)) for name, objective in objectives.items()}
        compare("a critic turn", works, repeats)

    # Layers dropped at an equal mean budget: only the blocks kept, or all of them as ASE trains.
    schedule = presto_schedule(depth)
    if "layers" in tables:
        share = sum(schedule.budgets) / len(schedule.budgets) / depth
        works = {
            "every block runs, as in ASE": step(
                bench(Denoising(copy.deepcopy(base), null_condition))
            ),
            "Presto-L, a step that teaches": step(bench(presto_l(taught=1.0))),
            "Presto-L, a step that does not": step(bench(presto_l(nu=0.0))),
        }
        seconds = compare(f"a step of layer distillation, mean budget {share:.0%}", works, repeats)
        every, teaching, plain = seconds.values()
        taught = PrestoLConfig().taught
        mean = taught * teaching + (1 - taught) * plain
        print(
            f"  {taught:.0%} of the steps teach by default: {mean * 1e3:.1f} ms on average, "
            f"{every / mean:.2f} x as fast as with every block\n"
        )

    if "memory" in tables:
        memory("Presto-S", presto_s(), clips, precision)
        memory("Presto-L", presto_l(), clips, precision)


def overhead(one: Work, parts: dict[str, Work], repeats: int) -> None:
    """One generator update (5 critic turns and 1 generator turn) against the sum of its parts."""
    works = {"one step": one, **parts}
    seconds, flops = stage_times(works, repeats=repeats), counted(works)
    total, total_flops = (
        sum(v for k, v in table.items() if k != "one step") for table in (seconds, flops)
    )
    print("one generator update of Presto-S, and its parts alone")
    for name in works:
        print(f"  {name:<46} {seconds[name] * 1e3:9.1f} ms {flops[name] / 1e9:9.2f} GFLOP")
    print(f"  {'sum of the parts':<46} {total * 1e3:9.1f} ms {total_flops / 1e9:9.2f} GFLOP")
    print(
        f"  overhead: time {seconds['one step'] / total - 1:+.1%}, "
        f"FLOPs {flops['one step'] / total_flops - 1:+.1%}\n"
    )


def parts_of_a_step(trainer: Trainer, clips: Batch) -> dict[str, Work]:
    """The work of one generator update as pieces without the trainer or the objective."""
    objective, x, n = trainer.objective, clips.x, len(clips.x)
    G, fake_score, head, taps = (
        objective.generator,
        objective.fake_score,
        objective.head,
        objective.taps,
    )
    teacher, device = objective.fixed["teacher"], x.device
    updates = objective.cfg.critic_updates
    sigma = sample_sigma(LogNormal(), n, torch.Generator(device).manual_seed(0), device)
    noised = add_noise(x, sigma)
    amp = lambda: autocast(device, trainer.cfg.precision)  # noqa: E731

    def only(trained: nn.Module | None) -> None:
        for net in (G, fake_score, head):
            net.requires_grad_(net is trained or trained is None)

    def generate() -> None:
        with torch.no_grad(), amp():
            for _ in range(updates):
                G(noised, sigma)

    def critic() -> None:
        objective.players["critic"].requires_grad_(True)
        G.requires_grad_(False)
        for _ in range(updates):
            with amp():
                D_x, hidden = fake_score(noised, sigma, tap=taps)
                on_real = head(fake_score.features(noised, sigma, tap=taps))
                loss = losses.denoising(D_x, x, sigma).mean()
                loss = loss + losses.lsgan_discriminator(head(hidden), on_real).mean()
            objective.players["critic"].zero_grad()
            loss.backward()

    def generator() -> None:
        only(G)
        with amp():
            fake = G(noised, sigma)
            with torch.no_grad():
                D_fake, D_real = fake_score(noised, sigma), teacher(noised, sigma)
            loss = losses.distribution_matching(fake, D_fake, D_real, sigma).mean()
            again = fake + sigma.view(-1, 1, 1) * x
            loss = (
                loss
                + losses.lsgan_generator(head(fake_score.features(again, sigma, tap=taps))).mean()
            )
        G.zero_grad()
        loss.backward()

    def optimise() -> None:
        for name, times in (("critic", updates), ("generator", 1)):
            player = trainer.objective.players[name]
            for _ in range(times):
                nn.utils.clip_grad_norm_(player.parameters(), 1.0)
                trainer.optimizers[name].step()
                ema.update(trainer.averages[name], player, decay=0.999, step=1)

    return {
        f"generator without gradients, x {updates}": generate,
        f"fake score and head, forth and back, x {updates}": critic,
        "generator's losses, forth and back": generator,
        "clipping, Adam and averages of both players": optimise,
    }


def compare(title: str, works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Print time and FLOPs of each and how much more than the first they take; return seconds."""
    seconds, flops = stage_times(works, repeats=repeats), counted(works)
    first = next(iter(works))
    print(title)
    for name in works:
        times, sums = seconds[name] / seconds[first], flops[name] / flops[first]
        print(
            f"  {name:<46} {seconds[name] * 1e3:9.1f} ms {flops[name] / 1e9:9.2f} GFLOP"
            f"   x {times:.2f} time, x {sums:.2f} FLOPs"
        )
    print()
    return seconds


def counted(works: dict[str, Work]) -> dict[str, int]:
    """FLOPs of one call of each."""
    totals = {}
    for name, work in works.items():
        with FlopCounterMode(display=False) as counter:
            work()
        totals[name] = counter.get_total_flops()
    return totals


def memory(title: str, objective: Objective, clips: Batch, precision: Precision) -> None:
    """Print, per player, what its turn keeps: weights, gradients, Adam, average, activations.

    Activations are the tensors that the turn's graph saves for its backward pass, each storage
    once and weights left out: the same on any device.
    """
    print(f"{title}: memory in MB")
    header = ("player", "weights", "gradients", "Adam", "average", "activations")
    print("  " + "".join(f"{name:>13}" for name in header))
    for turn in {turn.player: turn for turn in objective.turns}.values():
        for name, player in objective.players.items():
            player.requires_grad_(name == turn.player)
        held = {
            p.untyped_storage().data_ptr() for net in networks(objective) for p in net.parameters()
        }
        saved: dict[int, int] = {}

        def keep(tensor: Tensor, saved=saved, held=held) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in held:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            with autocast(clips.x.device, precision):
                terms = turn.loss(clips, torch.Generator(clips.x.device).manual_seed(0))
            kept = sum(saved.values())
            sum(terms.values()).backward()
        size = sum(
            p.numel() * p.element_size() for p in objective.players[turn.player].parameters()
        )
        row = [size, size, 2 * size, size, kept]
        print(f"  {turn.player:>13}" + "".join(f"{value / 1e6:13.1f}" for value in row))
    fixed = [p for net in getattr(objective, "fixed", {}).values() for p in net.parameters()]
    size = sum(p.numel() * p.element_size() for p in fixed)
    print(f"  {'frozen':>13}{size / 1e6:13.1f}\n")


def networks(objective: Objective) -> list[nn.Module]:
    return [*objective.players.values(), *getattr(objective, "fixed", {}).values()]


if __name__ == "__main__":
    tyro.cli(main)
