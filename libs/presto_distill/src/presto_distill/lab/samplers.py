"""The notebook on samplers: solvers at equal evaluations, and the spacing of the noise levels."""

from __future__ import annotations

from statistics import mean
from typing import Any

import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from pandas import DataFrame
from torch import Tensor

from presto_distill.experiment import Lab, Run
from presto_distill.lab import plots, studies
from presto_distill.lab.params import Samplers
from presto_distill.lab.plots import COLOURS, FRECHET, OF_MODEL, canvas, measured, plain_log
from presto_models import Sampling
from presto_models.samplers import SOLVERS, few_step_sigmas

REFERENCE = "base, long"
TWICE = ("heun", "dpmpp_2s")  # evaluate the network twice a step, once in the last


def at_evaluations(solver: str, evaluations: int, rho: float = 7.0) -> Sampling:
    """The settings by which a solver spends so many evaluations, a guided one counted once.

    Raises ValueError for an even number, which solvers of two evaluations a step cannot spend.
    """
    if evaluations % 2 == 0:
        raise ValueError(f"evaluations must be odd (Heun spends 2 steps - 1), got {evaluations}")
    steps = (evaluations + 1) // 2 if solver in TWICE else evaluations
    return Sampling(steps=steps, solver=solver, rho=rho)


def base_quality(lab: Lab, params: Samplers) -> DataFrame:
    """Rows of `studies.quality` of the base model by every solver, at all numbers of evaluations
    with the first rho and at the highest with the others, and by the lab's reference sampler.

    Column evaluations: a guided one counts once. Equal evaluations are not equal calls: Heun's
    second one of a step needs no guidance, and where that is held back to some noise levels solvers
    have different shares of theirs there.
    """
    first, *others = params.rhos
    points = [(evaluations, first) for evaluations in params.evaluations]
    points += [(max(params.evaluations), rho) for rho in others]
    entries = [
        studies.Entry(studies.BASE, None, at_evaluations(solver, evaluations, rho))
        for solver in params.solvers
        for evaluations, rho in points
    ]
    entries.append(studies.Entry(REFERENCE, None, Sampling(steps=lab.preset.base_steps)))
    spent = [evaluations for _ in params.solvers for evaluations, _ in points]
    spent.append(2 * lab.preset.base_steps - 1)
    return studies.quality(lab, entries).assign(evaluations=spent)


def few_step_quality(lab: Lab, params: Samplers) -> DataFrame:
    """Rows of `studies.quality` of the few-step generator by steps and rho, from equal noise.

    One step starts and ends at sigma_max, whatever rho: it is measured once and listed for each.
    """
    generator = few_step_run(lab)
    entries = [
        studies.Entry("Presto-S", generator, Sampling(steps=steps, rho=rho))
        for rho in params.rhos
        for steps in params.steps
        if steps > 1 or rho == params.rhos[0]
    ]
    table = studies.quality(lab, entries)
    single = [table[table["steps"] == 1].assign(rho=rho) for rho in params.rhos[1:]]
    return pd.concat([table, *single], ignore_index=True)


def few_step_run(lab: Lab) -> Run:
    """The Presto-S generator of the notebook `combined_acceleration`."""
    return lab.distill("steps", start=lab.warm_start())


def levels(params: Samplers) -> DataFrame:
    """The noise levels the few-step sampler visits: columns rho, steps, index, sigma."""
    rows = [
        {"rho": rho, "steps": steps, "index": index, "sigma": sigma}
        for rho in params.rhos
        for steps in params.steps
        for index, sigma in enumerate(few_step_sigmas(steps, rho=rho).tolist())
    ]
    return DataFrame(rows)


def equal_noise(
    lab: Lab, params: Samplers, *, steps: int, seconds: float
) -> dict[str, Float[Tensor, " s"]]:
    """One clip of the generator per rho, of the same prompt and noise."""
    pipeline = studies.pipeline_of(lab, few_step_run(lab))
    return {
        f"{steps} steps, ρ = {rho:g}": pipeline(
            params.prompt,
            seconds=seconds,
            seed=params.seed,
            sampling=Sampling(steps=steps, rho=rho),
        ).audios[0, 0]
        for rho in params.rhos
    }


# ---------------------------------------------------------------------- figures


def colour_of(solver: str) -> str:
    """A solver's colour by its displayed name, the same in all figures."""
    return COLOURS[[studies.SOLVER_NAMES[name] for name in SOLVERS].index(solver)]


def evaluations_plot(quality: DataFrame, bounds: DataFrame) -> Figure:
    """Fréchet distance against evaluations, one line per solver, the first rho.

    `quality`: rows of `base_quality`; `bounds`: those of `studies.bounds`.
    """
    fig, ax = canvas(width=7.6, height=4.4)
    base = quality[quality["model"] == studies.BASE]
    base = base[base["rho"] == base["rho"].iloc[0]]
    for i, (solver, rows) in enumerate(base.groupby("solver", sort=False)):
        rows = rows.sort_values("evaluations")
        # A little beside each other, or intervals at equal numbers hide one another.
        where = rows["evaluations"] * 1.012 ** (i - 1.5)
        measured(ax, where, rows, "frechet_distance", colour_of(solver), label=solver)
    long = studies.pick(quality, REFERENCE)
    label = f"Heun, {long['evaluations']:g} evaluations ({long['steps']:g} steps)"
    real = studies.pick(bounds, studies.REAL)
    plots.reference_lines(
        ax,
        (long, label, OF_MODEL["base"], "--"),
        (real, "other real clips", COLOURS[2], ":"),
    )
    ax.set(xscale="log", yscale="log", ylabel=FRECHET)
    ax.set_xlabel("network evaluations per clip (a guided one, of two calls, counts once)")
    _ticks(ax, base["evaluations"])
    plain_log(ax)
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    return fig


def levels_plot(levels: DataFrame) -> Figure:
    """The noise levels visited, one row per number of steps and rho."""
    rows = levels.groupby(["steps", "rho"], sort=False).size().index
    order = sorted(rows, key=lambda key: (key[0], list(levels["rho"].unique()).index(key[1])))
    fig, ax = canvas(height=1.1 + 0.34 * len(order))
    names = []
    for place, (steps, rho) in enumerate(order):
        mine = levels[(levels["steps"] == steps) & (levels["rho"] == rho)]
        colour = COLOURS[list(levels["rho"].unique()).index(rho)]
        ax.plot(mine["sigma"], [place] * len(mine), "o-", ms=6, lw=1, color=colour)
        names.append(f"{steps} step{'s' * (steps > 1)}, ρ = {rho:g}")
    ax.set_yticks(range(len(order)), names)
    ax.set(
        xscale="log", xlabel="noise level σ at which the generator is called (from right to left)"
    )
    ax.set_ylim(len(order) - 0.4, -0.6)
    plain_log(ax, "x")
    ax.xaxis.get_major_locator().set_params(subs=(1,))
    return fig


def rho_plot(base: DataFrame, few: DataFrame) -> Figure:
    """Fréchet distance by rho: of the base model's solvers at the most evaluations, and of the
    generator against its steps."""
    fig, (left, right) = canvas(2, width=10.5, height=4.0)
    base = base[base["model"] == studies.BASE]
    base = base[base["evaluations"] == base["evaluations"].max()]
    solvers = list(base["solver"].unique())
    rhos = list(few["rho"].unique())
    for i, rho in enumerate(rhos):
        rows = base[base["rho"] == rho]
        where = [solvers.index(name) + 0.16 * (i - (len(rhos) - 1) / 2) for name in rows["solver"]]
        measured(left, where, rows, "frechet_distance", COLOURS[i], marker="o")
        rows = few[few["rho"] == rho].sort_values("steps")
        where = rows["steps"] * 1.03 ** (i - (len(rhos) - 1) / 2)
        measured(right, where, rows, "frechet_distance", COLOURS[i], label=f"ρ = {rho:g}")
    left.set_xticks(range(len(solvers)), [name.replace(" ", "\n") for name in solvers])
    left.set(yscale="log", ylabel=FRECHET.split(" (")[0])
    left.set_title(f"Base model, {base['evaluations'].max()} evaluations")
    left.grid(visible=False, axis="x")
    right.set(xscale="log", yscale="log", xlabel="sampler steps")
    right.set_title("Presto-S, equal noise")
    _ticks(right, few["steps"])
    right.legend(frameon=False, fontsize=9.5)
    for ax in (left, right):
        plain_log(ax)
    return fig


def _ticks(ax: Axes, values) -> None:
    """Ticks of a log axis at just these values."""
    values = sorted(set(values))
    ax.xaxis.set_major_locator(NullLocator())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.set_xlim(min(values) * 0.8, max(values) * 1.25)


# ---------------------------------------------------------------------- verdicts


def rho_verdict(few: DataFrame) -> dict[str, Any]:
    """Whether no number of steps is clearly worse with another rho than with the first; for
    `Results.verdict`."""
    first, *others = few["rho"].unique()
    said, worse, gains = [], [], []
    for rho in others:
        for steps in sorted(few.loc[few["steps"] > 1, "steps"].unique()):
            pair = few[few["steps"] == steps].set_index("rho")
            ours, theirs = pair.loc[first], pair.loc[rho]
            better = studies.below(theirs, ours)
            worse.append(better is False)
            gains.append(ours["frechet_distance"] - theirs["frechet_distance"])
            word = {True: ", clearly better", False: ", clearly worse", None: ""}[better]
            said.append(f"{steps:g} steps: {studies.state(ours)} and {studies.state(theirs)}{word}")
    return {
        "held": not any(worse) if worse else None,
        "evidence": f"rho {' and '.join(f'{rho:g}' for rho in few['rho'].unique())}; "
        + "; ".join(said),
        "effect": mean(gains) if gains else None,
        "of": f"Fréchet distance, rho {first:g} minus the other, mean over numbers of steps",
        "rule": "not below",
    }


def duel(base: DataFrame, ours: str, rival: str) -> dict[str, Any]:
    """Whether a solver comes closer than another at the most evaluations; for
    `Results.verdict`."""
    rows = base[(base["model"] == studies.BASE) & (base["rho"] == base["rho"].iloc[0])]
    rows = rows[rows["evaluations"] == rows["evaluations"].max()].set_index("solver")
    a, b = rows.loc[ours], rows.loc[rival]
    said = [f"{row.name} {studies.state(row)} with {row['calls']:g} calls" for row in (a, b)]
    return {
        "held": studies.below(a, b),
        "evidence": f"{a['evaluations']:g} evaluations: {', '.join(said)}",
        "effect": b["frechet_distance"] - a["frechet_distance"],
        "of": f"Fréchet distance, {rival} minus {ours}",
    }
