"""Figures of `noise_laws`."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from pandas import DataFrame

from presto_distill.lab import noise_laws as laws
from presto_distill.lab.plots import COLOURS, FAINT, INK, OF_MODEL, canvas

MMD = "MMD to the toy's distribution (lower is better)"
SIGN = {"train": "σ_train", "inf": "σ_inf"}


def table_one(table: DataFrame) -> Figure:
    """The 16 combinations, best first: a column of laws for every player, then their MMD averaged
    over numbers of steps, with its interval; beside them what each law costs by steps.

    `table`: rows of `noise_laws.toy_quality`.
    """
    fig, (left, right) = canvas(2, width=10.5, height=5.4, gridspec_kw={"width_ratios": (5, 4)})
    names = laws.with_law()
    mean = table[table["laws"].isin(names)].groupby("laws")["mmd"].mean().sort_values()
    spread = laws.contrast(table, {mean.index[0]}, {mean.index[1]})
    half = (spread.high - spread.low) / 2 / 2**0.5  # of one combination alone
    for i, (name, value) in enumerate(mean.items()):
        ours = name == laws.PUBLISHED
        colour = OF_MODEL["Presto-S"] if ours else INK
        left.errorbar(value, i, xerr=half, fmt="o", ms=6, color=colour, ecolor=(colour, 0.5))
        for column, law in enumerate(name.split()):
            place = (-0.32 + 0.08 * column, i)
            left.plot(
                *place, "s", ms=9, transform=left.get_yaxis_transform(), clip_on=False,
                color=COLOURS[1] if law == "inf" else "#d5dae2",
            )  # fmt: skip
        if ours:
            place = (value + half, i)
            left.annotate(
                "published", place, (6, 0), textcoords="offset points", va="center", color=colour,
                fontweight="bold",
            )  # fmt: skip
    for column, player in enumerate(laws.PLAYERS):
        place = (-0.32 + 0.08 * column, 1.01)
        left.text(*place, player, transform=left.transAxes, ha="center", va="bottom", fontsize=9)
    start = table[table["laws"] == "start"]["mmd"].mean()
    _line(left, start, "before\ntraining")
    left.set(
        ylim=(len(mean) - 0.5, -0.5), yticks=[], xlabel=f"{MMD}\nmean over 1, 2, 4 and 8 steps"
    )
    left.set_title("■ σ_inf", color=COLOURS[1], x=-0.36, y=1.05, loc="left")
    for i, player in enumerate(laws.PLAYERS):
        _effect(right, table, player, i)
    right.axhline(0, color=INK, lw=0.8)
    _steps(right)
    right.set(ylabel="MMD with σ_inf less MMD with σ_train", title="Above 0: better with σ_train")
    right.legend(frameon=False, fontsize=9, title="whose law", title_fontsize=9)
    return fig


def _effect(ax: Axes, table: DataFrame, player: str, index: int) -> None:
    """What a player's law changes on average over the others', at every number of steps."""
    minus, plus = (laws.with_law(**{player: law}) for law in ("train", "inf"))
    found = [laws.contrast(table, minus, plus, steps) for steps in laws.STEPS]
    value = [one.value for one in found]
    error = [one.high - one.value for one in found]
    places = [steps * 1.06 ** (index - 1.5) for steps in laws.STEPS]
    ax.errorbar(
        places, value, yerr=error, fmt="o-", ms=5, capsize=3, elinewidth=1, label=f"p_{player}",
        color=COLOURS[index],
    )  # fmt: skip


def conditioning(table: DataFrame) -> Figure:
    """MMD against sampler steps of a continuous p_gen and of discrete ones; large: the number of
    steps that a discrete generator was trained for."""
    fig, ax = canvas(height=4.2)
    names = {laws.PUBLISHED: "continuous"} | {f"discrete {n}": f"discrete, {n}" for n in laws.STEPS}
    ends = []
    for i, (name, label) in enumerate(names.items()):
        rows = table[table["laws"] == name].groupby("steps")["mmd"].agg(["mean", "min", "max"])
        colour = OF_MODEL["Presto-S"] if i == 0 else COLOURS[i]
        ax.plot(rows.index, rows["mean"], "o-" if i == 0 else "o--", ms=5, color=colour)
        ax.fill_between(rows.index, rows["min"], rows["max"], color=colour, alpha=0.12, lw=0)
        if i:
            own = int(name.split()[1])
            ax.plot(own, rows["mean"][own], "o", ms=11, color=colour)
        ends.append((rows["mean"].iloc[-1], label, colour))
    _steps(ax)
    low, high = ax.get_ylim()
    last = low
    for value, label, colour in sorted(ends):
        last = max(value, last + 0.05 * (high - low))
        place = (8.5, last)
        ax.annotate(label, place, color=colour, va="center", fontweight="bold", fontsize=9.5)
    ax.set(ylabel=MMD, xlim=(0.85, 14))
    return fig


def _steps(ax: Axes) -> None:
    ax.set(xscale="log", xlabel="sampler steps")
    ax.set_xticks(laws.STEPS, [str(steps) for steps in laws.STEPS])
    ax.xaxis.set_minor_locator(NullLocator())


def _line(ax: Axes, value: float, label: str) -> None:
    ax.axvline(value, color=FAINT, ls=":", lw=1.3)
    ax.text(
        value, 0.97, f"{label} ", transform=ax.get_xaxis_transform(), color=FAINT, fontsize=9,
        va="top", ha="right",
    )  # fmt: skip
