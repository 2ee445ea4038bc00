"""Figures of what happens inside: layers, hidden states, a run's health. Same theme as `plots`."""

from __future__ import annotations

import math
from itertools import pairwise

import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from presto_distill.lab.plots import COLOURS, DARK, INK, PAPER, THEME, canvas, plain_log
from presto_models import LayerSchedule, karras_sigmas
from presto_models.layer_schedule import kept_blocks


def layer_probe(probe: DataFrame) -> Figure:
    """Denoising loss relative to the full base model, and scale of the hidden state, per budget.

    `probe`: rows of `probes.layer_probe`; the base model with all its blocks is the line at 1.
    """
    fig, (loss, scale) = canvas(2, width=9.5, height=3.8)
    full = probe[probe["model"] == "base, all blocks"].set_index("sigma")["loss"]
    rest = probe[probe["model"] != "base, all blocks"]
    for i, (model, rows) in enumerate(rest.groupby("model", sort=False)):
        x = [f"{sigma:.2g}\n{blocks}" for sigma, blocks in zip(rows["sigma"], rows["bin_budget"])]  # noqa: B905
        relative = rows["loss"].to_numpy() / full.loc[rows["sigma"]].to_numpy()
        for ax, values in ((loss, relative), (scale, rows["scale"].to_numpy())):
            ax.plot(x, values, marker="o", ms=5, color=COLOURS[i % len(COLOURS)], label=model)
    for ax, title in ((loss, "denoising loss / base"), (scale, "hidden state's scale / base")):
        ax.axhline(1, color=INK, ls="--", lw=1)
        ax.set(xlabel="noise level sigma, and blocks that run", ylabel=title)
    loss.set_title("Denoising of held-out clips")
    scale.set_title("What enters the output head")
    scale.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def depth_probe(probe: DataFrame) -> Figure:
    """Scale of the hidden state entering the head, and denoising loss, against the blocks kept.

    `probe`: rows of `probes.depth_probe`; one colour per way to drop, one dash per noise level.
    """
    fig, (scale, loss) = canvas(2, width=9.5, height=3.8)
    names = {"tail": "last blocks dropped (ASE)", "shifted": "last block kept (Presto-L)"}
    dashes = dict(zip(sorted(probe["sigma"].unique()), ("-", "--", ":", "-."), strict=False))
    for (drop, sigma), rows in probe.groupby(["drop", "sigma"], sort=False):
        look = {"color": COLOURS[drop == "shifted"], "ls": dashes[sigma]}
        label = f"{names[drop]}, σ = {sigma:g}"
        scale.plot(rows["blocks"], rows["scale"], label=label, **look)
        loss.plot(rows["blocks"], rows["loss"], label=label, **look)
    scale.axhline(1, color=INK, lw=1)
    scale.set(xlabel="blocks that run", ylabel="hidden state's scale / all blocks")
    loss.set(xlabel="blocks that run", ylabel="denoising loss", yscale="log")
    plain_log(loss)
    scale.set_title("What enters the output head")
    loss.set_title("What comes out, without further training")
    loss.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def budget_map(schedule: LayerSchedule, depth: int, *, heun_steps: int = 40) -> Figure:
    """Which blocks run at which noise level, Presto-L's way: a column per bin, a row per block.

    The title holds the mean budget over the levels of a sampler of `heun_steps`, and the speed-up
    of denoising that it promises where time goes with blocks.
    """
    edges = [f"{edge:.2g}" for edge in schedule.edges]
    bins = [f"σ < {edges[0]}", *(f"{a} to {b}" for a, b in pairwise(edges)), f"σ ≥ {edges[-1]}"]
    run = torch.zeros(depth, len(bins))
    for i, budget in enumerate(schedule.budgets):
        run[kept_blocks(budget, depth), i] = 1
    fig, ax = canvas(width=2.2 + 1.1 * len(bins), height=1.4 + 0.24 * depth)
    colours = ListedColormap(["#2b313c" if DARK else "#e9ecf1", COLOURS[0]])
    ax.pcolormesh(run, cmap=colours, vmin=0, vmax=1, edgecolors=PAPER, linewidth=1.5)
    for i, budget in enumerate(schedule.budgets):
        ax.text(i + 0.5, depth + 0.15, f"{budget} of {depth}", ha="center", va="bottom", fontsize=9)
    ax.set_xticks([i + 0.5 for i in range(len(bins))], bins, fontsize=9)
    ax.set_yticks([i + 0.5 for i in range(depth)], range(1, depth + 1), fontsize=8.5)
    ax.set(xlabel="noise level", ylabel="block", ylim=(0, depth))
    ax.grid(visible=False)
    mean = mean_budget(schedule, heun_steps)
    text = f"{mean:.1f} of {depth} blocks on average promise {depth / mean:.2f} × faster denoising"
    ax.set_title(text, pad=22)
    return fig


def mean_budget(schedule: LayerSchedule, heun_steps: int) -> float:
    """Blocks that an evaluation runs on average in Heun's method: two a level, one at the first."""
    sigmas = karras_sigmas(heun_steps)
    return schedule(torch.cat([sigmas, sigmas[1:]])).double().mean().item()


HEALTH = {  # measures of presto_distill.health that share a panel, the first one solid
    "fake score against teacher: |difference| / |teacher|": ("gap",),
    "discriminator's mean score": ("score_real", "score_fake"),
    "matching weight": ("dm_weight_mean", "dm_weight_max_over_median"),
    "standard deviation of clips": ("std_real", "std_generated"),
    "Fréchet distance of one-step samples": ("frechet",),
    "MMD of one-step samples": ("mmd",),
    "denoising loss": ("denoising",),
    "hidden state against full depth": ("hidden_distance",),
}


def health_panel(table: DataFrame) -> Figure:
    """A run's health over its updates, one panel per question; noise levels from dark to light.

    `table`: rows of `presto_distill.health.probe` with their step, as in a run's health.csv.
    """
    asked = {k: v for k, v in HEALTH.items() if table["measure"].isin(v).any()}
    sns.set_theme(style="whitegrid", palette=COLOURS, rc=THEME)
    height = 0.6 + 2.7 * math.ceil(len(asked) / 2)
    fig = Figure(figsize=(10.5, height), layout="constrained")
    axes = list(fig.subplots(math.ceil(len(asked) / 2), 2, squeeze=False).flat)
    for ax, (title, measures) in zip(axes, asked.items(), strict=False):
        for measure, style in zip(measures, ("-", "--"), strict=False):
            _by_noise(ax, table[table["measure"] == measure], measure, style)
        ax.set_title(title)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(ax.get_lines()) > 1:
            ax.legend(
                frameon=False, fontsize=8, handlelength=3.2,
                loc="upper left", bbox_to_anchor=(1.0, 1.0),
            )  # fmt: skip
        sns.despine(ax=ax)
    for ax in axes[len(asked) :]:
        ax.remove()
    for ax in fig.axes[-2:]:
        ax.set_xlabel("updates")
    return fig


def _by_noise(ax: Axes, rows: DataFrame, measure: str, style: str) -> None:
    """One line per noise level, or a single one for what has none."""
    by_sigma = "sigma" in rows and rows["sigma"].notna().any()
    groups = list(rows.groupby("sigma")) if by_sigma else [(None, rows)]
    shades = sns.color_palette("viridis", len(groups)) if by_sigma else COLOURS[:1]
    for (sigma, line), shade in zip(groups, shades, strict=True):
        label = measure.replace("_", " ")
        if by_sigma:
            label = f"σ {sigma:.2g}"
            if "budget" in line and line["budget"].notna().any():
                label += f", {line['budget'].iloc[0]:.0f} blocks"
        # Of two measures per noise level only the first is named; the other is dashed.
        label = label if style == "-" or not by_sigma else None
        marker = "o" if len(line) < 12 else ""
        ax.plot(line["step"], line["value"], style, color=shade, marker=marker, ms=3.5, label=label)
    if by_sigma and style == "--":
        ax.plot([], [], style, color=INK, label="dashed: generated")
