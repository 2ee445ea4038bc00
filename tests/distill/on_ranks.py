"""What test_distributed.py runs under torchrun, and once more in one process to compare with.

python -m torch.distributed.run --standalone --nproc-per-node 2 on_ranks.py FOLDER
"""

import faulthandler
import itertools
import json
import sys
from pathlib import Path

import torch

from presto_distill import checkpoint
from presto_distill.distributed import World, start
from presto_distill.objective import Batch, Objective
from presto_distill.objectives.presto_l import PrestoL, PrestoLConfig
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.trainer import TrainConfig, Trainer
from presto_models.conditioning import Condition, null_condition
from presto_models.dit import DiTConfig, PrestoDenoiser, PrestoDenoiserConfig
from presto_models.layer_schedule import LayerSchedule

MICRO_BATCHES, DEPTH, WIDTH = 4, 4, 16
STEPS = {"steps": 2, "layers": 4, "layers_ema": 2}
MIXED = LayerSchedule(edges=(0.3,), budgets=(DEPTH, 2))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def denoiser() -> PrestoDenoiser:
    size = dict(channels=4, width=WIDTH, depth=DEPTH, heads=2, text_width=8)
    net, source = PrestoDenoiser(PrestoDenoiserConfig(DiTConfig(**size))), rng(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=source) * 0.3)
    return net


def objective(kind: str) -> Objective:
    if kind == "steps":
        cfg = PrestoSConfig(critic_updates=1)
        return PrestoS(denoiser(), null_condition, cfg, feature_layer=1, width=WIDTH)
    cfg = PrestoLConfig(teacher="ema" if kind == "layers_ema" else "self")
    return PrestoL(denoiser(), null_condition, MIXED, cfg, depth=DEPTH)


def stream(start: int):
    """One clip per micro-batch: what its noise level calls for decides alone which blocks run.

    Adam's first steps are almost signs, so one gradient as small as rounding would spoil the
    comparison; these seeds have none.
    """
    for i in itertools.count(start):
        mask = torch.ones(1, 3, dtype=torch.bool)
        cond = Condition(torch.randn(1, 3, 8, generator=rng(i)), mask, torch.tensor([120.0]))
        yield Batch(torch.randn(1, 4, 16, generator=rng(2000 + i)), cond)


def trainer(kind: str, world: World, **options) -> Trainer:
    torch.manual_seed(world.rank)  # the discriminator head starts differently on every rank
    options = {"lr": 1e-3, "grad_clip": 0.5, "micro_batches": MICRO_BATCHES, **options}
    return Trainer(
        objective(kind), TrainConfig(STEPS[kind], **options), world.device, parallel=world
    )


def train(kind: str, world: World, folder: Path, name: str, *, resume: str | None = None) -> None:
    """Train to the end; leave records, the state half-way (unless resumed) and the final one."""
    run = trainer(kind, world)
    if resume:
        checkpoint.load(run, folder / f"{kind}-{resume}-half.pt")
    records = []
    for record in run.run(stream):
        records.append(record._replace(seconds=0.0))
        if run.step == STEPS[kind] // 2 and not resume:
            checkpoint.save(run, folder / f"{kind}-{name}-half.pt")
    checkpoint.save(run, folder / f"{kind}-{name}.pt")
    if kind == "steps" and not resume:
        between_steps(run, folder / f"between-{name}-{world.rank}.pt")
    (folder / f"{kind}-{name}-{world.rank}.json").write_text(json.dumps(records))


def between_steps(run: Trainer, path: Path) -> None:
    """What the generator and its average make of a batch, and the average as it is published."""
    x, cond = next(stream(0))
    with run.gathered(), torch.no_grad():
        nets = run.objective.players["generator"], run.averages["generator"]
        outputs = [net(x, torch.ones(1), cond) for net in nets]
    published = denoiser()
    state = run.average_state("generator")
    if run.parallel.leads:
        published.load_state_dict(state)
        outputs.append(published(x, torch.ones(1), cond).detach())
    torch.save(outputs, path)


def failures(world: World) -> dict[str, str]:
    """What this rank says to mistakes, some of which only the other rank can see."""

    def reason(action) -> str:
        try:
            action()
        except ValueError as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    def diverge():
        run = trainer("layers", world)
        (turn,) = run.objective.turns

        def loss(batch, rng):
            scale = float("nan") if world.rank == world.size - 1 else 1.0
            return {name: term * scale for name, term in turn.loss(batch, rng).items()}

        run.objective.turns = [turn._replace(loss=loss)]
        next(run.run(stream))

    def run_out():
        short = lambda start: itertools.islice(stream(start), MICRO_BATCHES + 1)  # noqa: E731
        list(trainer("layers", world).run(short))

    return {
        "diverged": reason(diverge),
        "ended": reason(run_out),
        "indivisible": reason(lambda: trainer("layers", world, micro_batches=3)),
    }


def main(folder: Path) -> None:
    faulthandler.dump_traceback_later(200, exit=True)  # ranks that wait for each other for ever
    torch.set_num_threads(1)
    ddp = start("ddp", "cpu")
    fsdp = World(ddp.rank, ddp.size, "fsdp", ddp.device)
    for kind, world in itertools.product(STEPS, (ddp, fsdp)):
        train(kind, world, folder, world.strategy)
    for kind in ("steps", "layers"):
        train(kind, ddp, folder, "single-ddp", resume="single")
        train(kind, fsdp, folder, "single-fsdp", resume="single")
        train(kind, fsdp, folder, "ddp-fsdp", resume="ddp")
    (folder / f"failures-{ddp.rank}.json").write_text(json.dumps(failures(ddp)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
