"""Few-step distillation of one small teacher on a 2-D mixture: CM, CTM, DMD-GAN and Presto-S.

    python benchmarks/toy_mixture.py --out toy-report [--quick]

Every method gets the same number of network evaluations: forward calls of any network, times the
batch, backward passes not counted (CTM's vary by a tenth, it draws how far its teacher solves). All
start from the same teacher, which nothing conditions or guides; the students' moving averages
sample at the same noise levels, CTM by jumps without fresh noise, the others by renoising. DMD-GAN
is trained for 4 steps. Learning rates were picked for each method among 1e-4, 3e-4, 1e-3 and 3e-3
by single trials of other lengths than the default's; nothing else was tuned. Distribution matching
spends its evaluations on a fifth of the updates that CM gets.

Measured: unbiased MMD^2 to fresh data (Gaussian kernel of fixed bandwidth) against sampling steps,
over seeds of distillation and sampling. A real set against another is the floor. For distribution
matching also the same of one-call samples, from real points noised to one level, and to levels
drawn from p_gen: only the latter pool is what the objective matches. This is a check of the
objectives on a problem whose answer is known, not evidence about music.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor, nn

from presto_distill import PrestoS, PrestoSConfig, TrainConfig, Trainer
from presto_distill.baselines.consistency import ConsistencyConfig, ConsistencyDistillation
from presto_distill.baselines.dmd_gan import dmd_gan
from presto_distill.baselines.trajectory import TrajectoryConfig, TrajectoryDistillation
from presto_distill.lab.plots import COLOURS, FAINT, INK, OF_MODEL, canvas
from presto_distill.lab.toy import (
    BANDWIDTH,
    WIDTH,
    Net,
    batches,
    draw,
    nothing,
    renoise,
    run,
    source,
    train_teacher,
)
from presto_distill.metrics.mmd import gaussian, mmd
from presto_models.edm import add_noise, karras_sigmas, sample_sigma
from presto_models.samplers import few_step_sigmas, heun, jumps, sample

STEPS, TEACHER = (1, 2, 4, 8), "teacher"
LEVELS = (0.05, 0.5, 2.5, 17.5, 80.0)  # of noise; 80, 17.5 and 2.5 are visited by 4 steps


# ---------------------------------------------------------------------- methods


def consistency(teacher: nn.Module):
    return ConsistencyDistillation(teacher, nothing, ConsistencyConfig(guidance_scale=1.0))


def trajectory(teacher: nn.Module):
    cfg = TrajectoryConfig(guidance_scale=1.0)
    return TrajectoryDistillation(teacher, nothing, cfg, student=teacher)


def distribution(cfg: PrestoSConfig):
    cfg = replace(cfg, guidance_scale=1.0, head_layers=0)  # there is no time to look along
    return lambda teacher: PrestoS(teacher, nothing, cfg, feature_layer=1, width=WIDTH)


def along(G: nn.Module, noise: Tensor, steps: int, rng: torch.Generator) -> Tensor:
    return sample(jumps(G, noise, few_step_sigmas(steps), rng=rng))


@dataclass(frozen=True)
class Method:
    """How to distill, how to sample, which player generates, and Adam's learning rate."""

    objective: Callable
    draw: Callable[..., Tensor]
    player: str
    lr: float


METHODS = {
    "CM": Method(consistency, renoise, "student", 1e-3),
    "CTM": Method(trajectory, along, "student", 1e-3),
    "DMD-GAN": Method(distribution(dmd_gan(4)), renoise, "generator", 3e-4),
    "Presto-S": Method(distribution(PrestoSConfig()), renoise, "generator", 3e-4),
}


COLOUR = {
    TEACHER: OF_MODEL["base"],
    "CM": COLOURS[2],
    "CTM": COLOURS[3],
    "DMD-GAN": COLOURS[4],
    "Presto-S": OF_MODEL["Presto-S"],
}


def distill(method: Method, teacher: nn.Module, *, evaluations: int, seed: int) -> Trainer:
    """Train for as many steps as `evaluations` pay for, judging by the first twenty."""
    for steps in (20, None):
        torch.manual_seed(seed)  # of the discriminator's head
        steps = steps or max(1, round(20 * evaluations / Net.calls))
        Net.calls = 0
        cfg = TrainConfig(steps, lr=method.lr, decay="cosine", seed=seed)
        trainer = run(method.objective(teacher), cfg, batches(seed))
    return trainer


# ---------------------------------------------------------------------- measurements


@torch.no_grad()
def measure(name: str, draw_one: Callable, *, seed: int, n: int, real: Tensor) -> list[dict]:
    """MMD^2 of n samples to `real` at each number of steps, from noise that the seed decides."""
    rows = []
    for steps in STEPS:
        rng = source(seed, 2)
        x = draw_one(torch.randn(n, 2, 1, generator=rng), steps, rng).squeeze(-1)
        value = mmd(x, real, gaussian(BANDWIDTH))
        rows.append({"method": name, "seed": seed, "steps": steps, "mmd2": value})
    return rows


@torch.no_grad()
def by_level(name: str, objective: PrestoS, G: nn.Module, *, seed: int, n: int, real: Tensor):
    """MMD^2 of one call of the generator on noised real points, per noise level and pooled."""
    rng = source(seed, 3)
    x, law = draw(n, rng), objective.cfg.p_gen
    levels = {f"{level:g}": torch.full((n,), level) for level in LEVELS}
    levels["pooled over p_gen"] = sample_sigma(law, n, rng)
    for level, sigma in levels.items():
        made = G(add_noise(x, sigma, rng), sigma, None).squeeze(-1)
        value = mmd(made, real, gaussian(BANDWIDTH))
        yield {"method": name, "seed": seed, "level": level, "mmd2": value}


def figure(table: pd.DataFrame, clouds: dict[str, Tensor], real: Tensor) -> Figure:
    """MMD^2 against steps, mean and range over seeds; below, samples of 2 steps over the data."""
    fig, ax = canvas(width=9.5, height=6.6)
    ax.remove()
    above, below = fig.subfigures(2, 1, height_ratios=(3, 2))
    ax = above.subplots()
    floor = table[table["method"] == "real"]["mmd2"].abs().max()
    for name in clouds:
        rows = table[(table["method"] == name) & table["steps"].isin(STEPS)]
        spread = rows.groupby("steps")["mmd2"].agg(["mean", "min", "max"]).clip(lower=floor)
        colour, label = COLOUR[name], "teacher, Heun (2n - 1 calls)" if name == TEACHER else name
        style = "o--" if name == TEACHER else "o-"
        ax.plot(spread.index, spread["mean"], style, ms=5, color=colour, label=label)
        ax.fill_between(spread.index, spread["min"], spread["max"], color=colour, alpha=0.15, lw=0)
    solved = table[(table["method"] == TEACHER) & (table["steps"] == 40)]["mmd2"].mean()
    lines = {"two sets of data (largest difference)": floor, "teacher, 40 Heun steps": solved}
    for text, level in lines.items():
        ax.axhline(level, color=FAINT, ls=":", lw=1.3)
        place = (1, level)
        ax.annotate(text, place, (0, 3), textcoords="offset points", color=INK, fontsize=9)
    ax.set(xscale="log", yscale="log", xlabel="sampling steps n", ylabel="MMD² (lower is better)")
    ax.set_xticks(STEPS, [str(steps) for steps in STEPS])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes = below.subplots(1, len(clouds), sharex=True, sharey=True)
    for ax, (name, cloud) in zip(axes, clouds.items(), strict=True):
        ax.scatter(*real[:1500].T, s=2, color=FAINT, alpha=0.3, lw=0)
        ax.scatter(*cloud[:1500].T, s=2, color=COLOUR[name], lw=0)
        ax.set(title="teacher, 40 steps" if name == TEACHER else f"{name}, 2 steps")
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
    return fig


@dataclass(frozen=True)
class Options:
    """What to spend."""

    out: Path = Path("toy-report")
    evaluations: int = 12_000  # network calls per distillation, of one batch each
    teacher_steps: int = 2500
    seeds: int = 3
    samples: int = 3000
    quick: bool = False  # a smoke run: a twentieth of the training, one seed


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, evaluations=500, teacher_steps=125, seeds=1, samples=1000)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    started, n = time.perf_counter(), options.samples
    real = draw(n, source(1000)).squeeze(-1)
    teacher = train_teacher(options.teacher_steps)
    print(f"teacher: {options.teacher_steps} updates, {time.perf_counter() - started:.0f} s")

    @torch.no_grad()
    def solve(noise: Tensor, steps: int, rng: torch.Generator | None) -> Tensor:
        return sample(heun(teacher, noise, karras_sigmas(steps)))

    rows, levels, clouds = [], [], {}
    for seed in range(options.seeds):
        other = draw(n, source(seed, 1001)).squeeze(-1)
        floor = mmd(other, real, gaussian(BANDWIDTH))
        rows.append({"method": "real", "seed": seed, "steps": 0, "mmd2": floor})
        solved = solve(torch.randn(n, 2, 1, generator=source(seed, 2)), 40, None)
        value = mmd(solved.squeeze(-1), real, gaussian(BANDWIDTH))
        rows.append({"method": TEACHER, "seed": seed, "steps": 40, "mmd2": value})
        rows += measure(TEACHER, solve, seed=seed, n=n, real=real)
        for name, method in METHODS.items():
            lap = time.perf_counter()
            trainer = distill(method, teacher, evaluations=options.evaluations, seed=seed)
            spent = {"updates": trainer.step, "evaluations": Net.calls}
            G = trainer.averages[method.player].requires_grad_(False)
            few = partial(method.draw, G)
            found = measure(name, few, seed=seed, n=n, real=real)
            rows += [{**row, **spent} for row in found]
            if isinstance(trainer.objective, PrestoS):
                each = by_level(name, trainer.objective, G, seed=seed, n=n, real=real)
                levels += list(each)
            clouds.setdefault(name, few(torch.randn(n, 2, 1), 2, source(seed)).squeeze(-1))
            print(f"{name}, seed {seed}: {spent}, {time.perf_counter() - lap:.0f} s", flush=True)

        # After every seed, so that an interrupted run leaves what it has.
        table = pd.DataFrame(rows)
        table.to_csv(options.out / "toy_mixture.csv", index=False)
        pd.DataFrame(levels).to_csv(options.out / "levels.csv", index=False)
        shown = {TEACHER: solved.squeeze(-1), **clouds}
        figure(table, shown, real).savefig(options.out / "toy_mixture.png", dpi=150)

    summary = table.groupby(["method", "steps"], sort=False)["mmd2"].agg(["mean", "std"])
    print(summary.mul(1e3).round(2).to_string())
    each = pd.DataFrame(levels).groupby(["method", "level"], sort=False)["mmd2"]
    print(each.agg(["mean", "std"]).mul(1e3).round(2).to_string())
    print(f"MMD² times 1000; {options.seeds} seeds, {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
