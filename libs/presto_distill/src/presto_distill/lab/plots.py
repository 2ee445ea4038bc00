"""Figures from tidy tables: one theme, colours that colour-blind eyes tell apart, units on axes,
names beside what they name. Every function returns a Figure and keeps no state."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from pandas import DataFrame
from torch import Tensor

# PRESTO_THEME=dark, set before a notebook's first cell, draws on dark paper.
if (LOOK := os.environ.get("PRESTO_THEME", "light")) not in ("light", "dark"):
    raise ValueError(f"PRESTO_THEME must be light or dark, got {LOOK!r}")
DARK = LOOK == "dark"
INK, FAINT, PAPER = ("#e6e9ef", "#8f98a8", "#1b1f27") if DARK else ("#2b2f36", "#8a919c", "#ffffff")
# Okabe and Ito's colours (2008): told apart by colour-blind eyes. On dark paper the two that would
# drown there, blue and grey, are lighter, and the light blue with them.
BLUE, SKY, GREY = ("#2f95d8", "#9ad4f7", "#b4bcc9") if DARK else ("#0072B2", "#56B4E9", "#4d4d4d")
COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", SKY, GREY)
OF_MODEL = {"base": GREY, "Presto-L": "#E69F00", "Presto-S": BLUE, "Presto-LS": "#D55E00"}
THEME = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.edgecolor": "#4a5261" if DARK else "#c9ced6",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#323846" if DARK else "#e7eaef",
    "lines.linewidth": 1.8,
}
FRECHET = "Fréchet distance to held-out clips (lower is better)"
BY_SCALE = {
    "frechet_distance": "Fréchet distance (lower is better)",
    "recall": "recall (higher is more diverse)",
    "clap_score": "prompt similarity (higher is better)",
}


def canvas(columns: int = 1, *, width: float = 7.0, height: float = 3.8, **options) -> tuple:
    """An empty figure in the theme, and its axes (one, or a list of `columns`)."""
    sns.set_theme(style="whitegrid", palette=COLOURS, rc=THEME)
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = fig.subplots(1, columns, squeeze=False, **options)[0]
    for ax in axes:
        sns.despine(ax=ax)
    return fig, (axes[0] if columns == 1 else list(axes))


def colour_of(model: str, index: int = 0) -> str:
    """A model's colour, the same in all figures; variants of an ablation go by position."""
    return OF_MODEL.get(model, COLOURS[index % len(COLOURS)])


def quality_by_steps(quality: DataFrame, bounds: DataFrame, *, reference: int) -> Figure:
    """Fréchet distance against sampler steps, with the base model at `reference` steps and other
    real clips as lines, and 95 % intervals.

    `quality`: rows of `studies.quality`; `bounds`: those of `studies.bounds`.
    """
    fig, ax = canvas(height=4.2)
    few_steps = quality["solver"] == "few-step"
    few = quality[few_steps | ((quality["model"] == "base") & (quality["steps"] < reference))]
    ends, middle = [], (few["model"].nunique() - 1) / 2
    for i, (model, rows) in enumerate(few.groupby("model", sort=False)):
        rows, colour = rows.sort_values("steps"), colour_of(model, i)
        # Side by side, or intervals of equal steps would hide each other.
        _errorbars(ax, rows["steps"] * 1.03 ** (i - middle), rows, colour, line=True)
        last = rows.iloc[-1]
        ends.append((last["steps"] * 1.03**middle, last["frechet_distance"], model, colour))
    base = quality[(quality["model"] == "base") & (quality["steps"] == reference)].iloc[0]
    real = bounds[bounds["model"] == "real clips"].iloc[0]
    reference_lines(
        ax,
        (base, f"base, {reference} Heun steps", OF_MODEL["base"], "--"),
        (real, "other real clips", COLOURS[2], ":"),
    )
    ax.set(xscale="log", yscale="log", xlabel="sampler steps", ylabel=FRECHET)
    ax.xaxis.set_major_locator(NullLocator())
    steps = sorted(few["steps"].unique())
    ax.set_xticks(steps, [f"{step:g}" for step in steps])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(min(steps) * 0.6, max(steps) * 1.5)
    plain_log(ax)
    _label_ends(ax, ends)
    return fig


def bars(table: DataFrame, *, lines: Sequence[DataFrame] = (), title: str = "") -> Figure:
    """Fréchet distance per model as points with intervals (log scale); `lines` are references.

    A model without a number (it diverged) gets the word instead.
    """
    fig, ax = canvas(height=1.2 + 0.48 * len(table))
    for i, (_, row) in enumerate(table.iterrows()):
        if pd.isna(row["frechet_distance"]):
            ax.text(
                0.02, i, f"diverged: {row['diverged']}", transform=ax.get_yaxis_transform(),
                va="center", bbox={"color": PAPER, "pad": 1},
            )  # fmt: skip
            continue
        colour = colour_of(row["model"], i)
        _errorbars(ax, pd.Series([i]), row.to_frame().T, colour, sideways=True)
        text, place = f"{row['frechet_distance']:.3g}", (row["frechet_distance_high"], i)
        ax.annotate(text, place, (7, 0), textcoords="offset points", va="center")
    references = pd.concat(lines) if lines else pd.DataFrame()
    for i, (_, row) in enumerate(references.iterrows()):
        colour = (OF_MODEL["base"], COLOURS[2], FAINT)[i % 3]
        ax.axvline(row["frechet_distance"], color=colour, ls=("--", ":", "-.")[i % 3], lw=1.3)
        place = (row["frechet_distance"], 1.0)
        ax.annotate(  # a row of text each: lines may lie close together
            row["model"], place, (-2, 3 + 12 * i), xycoords=("data", "axes fraction"),
            textcoords="offset points", color=colour, va="bottom", fontsize=9,
        )  # fmt: skip
    ax.set_yticks(range(len(table)), table["model"])
    ax.set(ylim=(len(table) - 0.4, -0.6), xscale="log", xlabel=FRECHET)
    if title:
        ax.set_title(title, pad=8 + 12 * len(references))
    plain_log(ax, "x")
    return fig


def curves(records: DataFrame, *, terms: Iterable[str], smooth: int = 3) -> Figure:
    """Training curves, one panel per term: each step faint, their running mean strong.

    `records` has columns model, step, term, value. Only terms that occur are drawn.
    """
    terms = [term for term in terms if (records["term"] == term).any()] or ["nothing recorded"]
    fig, axes = canvas(len(terms), width=min(10.5, 2.0 + 2.8 * len(terms)), height=3.0)
    axes = axes if isinstance(axes, list) else [axes]
    order, named = list(records["model"].unique()), {}
    for ax, term in zip(axes, terms, strict=True):
        for model, rows in records[records["term"] == term].groupby("model", sort=False):
            colour = colour_of(model, order.index(model))
            ax.plot(rows["step"], rows["value"], color=colour, alpha=0.25, lw=1)
            mean = rows["value"].rolling(smooth, min_periods=1).mean()
            marker = "o" if len(rows) < 4 else ""
            (named[model],) = ax.plot(rows["step"], mean, color=colour, marker=marker)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.set(xlabel="updates", title=term)
    axes[0].set_ylabel("weighted loss")
    fig.legend(named.values(), named, frameon=False, fontsize=9, loc="outside right upper")
    return fig


def quality_against_latency(table: DataFrame) -> Figure:
    """Fréchet distance against seconds of denoising; points bear their steps, lines their model.

    `table` joins `studies.quality` and `studies.speed` on model and steps.
    """
    fig, ax = canvas(height=4.2)
    for i, (model, rows) in enumerate(table.groupby("model", sort=False)):
        rows, colour = rows.sort_values("steps"), colour_of(model, i)
        _errorbars(ax, rows["denoise"], rows, colour, line=True)
        for row in rows.itertuples():
            unit = "Heun steps" if row.solver == "Heun" else "step" if row.steps == 1 else "steps"
            # The name once per line; of the other points only the steps.
            last = row.steps == rows["steps"].max()
            text = f"{model}, {row.steps:g} {unit}" if last else f"{row.steps:g}"
            ax.annotate(
                text, (row.denoise, row.frechet_distance), (6, 6), textcoords="offset points",
                color=colour, fontsize=9, fontweight="bold" if last else "normal",
            )  # fmt: skip
    seconds = table["audio_seconds"].iloc[0]
    label = f"seconds of denoising for a {seconds:g} s clip (batch 1; text and decoding not in it)"
    ax.set(xscale="log", yscale="log", xlabel=label, ylabel=FRECHET)
    low, high = table["denoise"].min(), table["denoise"].max()
    ax.set_xlim(low / 1.4, high * (high / low) ** 0.3 * 1.2)
    plain_log(ax, "both")
    return fig


def stage_times(speed: DataFrame) -> Figure:
    """Seconds of text, denoising and decoding stacked side by side, one bar per row of `speed`."""
    fig, ax = canvas(height=1.3 + 0.42 * len(speed))
    left = pd.Series(0.0, index=speed.index)
    names = [
        f"{row.model}, {row.steps:g} step{'s' * (row.steps > 1)}" for row in speed.itertuples()
    ]
    stages = {"text": COLOURS[4], "denoise": COLOURS[0], "decode": COLOURS[2]}
    for stage, colour in stages.items():
        ax.barh(names, speed[stage], left=left, color=colour, label=stage, height=0.62)
        left = left + speed[stage]
    for i, row in enumerate(speed.itertuples()):
        text = f"  {row.total:.2f} s = {row.real_time_factor:.3g} × real time"
        ax.annotate(text, (row.total, i), va="center", fontsize=9)
    ax.set_xlabel(f"seconds for a {speed['audio_seconds'].iloc[0]:g} s mono clip, batch 1")
    ax.set_xlim(0, left.max() * 1.38)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.legend(ncols=3, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9)
    return fig


def spectrograms(
    clips: dict[str, Float[Tensor, " s"]], *, sample_rate: int, seconds: float = 4.0
) -> Figure:
    """Spectrograms side by side: seconds against frequency (log), 80 dB below the loudest."""
    columns = len(clips)
    fig, axes = canvas(columns, width=min(10.5, 3.4 * columns), height=3.2, sharey=True)
    axes = axes if isinstance(axes, list) else [axes]
    for ax, (name, audio) in zip(axes, clips.items(), strict=True):
        mesh = _spectrogram(ax, audio[: round(seconds * sample_rate)], sample_rate)
        ax.set_title(name)
    axes[0].set_ylabel("frequency (Hz)")
    fig.colorbar(mesh, ax=axes, label="dB below the loudest", pad=0.01)
    return fig


def waveform(audio: Float[Tensor, " s"], *, sample_rate: int, title: str = "") -> Figure:
    """A clip's waveform above its spectrogram, on one axis of seconds."""
    fig, _ = canvas(width=5.4, height=4.4)
    fig.clear()
    wave, below = fig.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    hop = max(1, len(audio) // 2000)  # a pixel is many samples: draw their extremes
    parts = audio[: len(audio) // hop * hop].detach().cpu().view(-1, hop)
    times = torch.arange(len(parts)) * hop / sample_rate
    low, high = parts.amin(1).numpy(), parts.amax(1).numpy()
    wave.fill_between(times.numpy(), low, high, color=COLOURS[0], lw=0.3)
    wave.set(ylim=(-1, 1), title=title, ylabel="level")
    mesh = _spectrogram(below, audio, sample_rate)
    below.set(ylabel="frequency (Hz)", xlim=(0, len(audio) / sample_rate))
    fig.colorbar(mesh, ax=[wave, below], label="dB below the loudest", pad=0.01)
    return fig


def _spectrogram(ax: Axes, audio: Float[Tensor, " s"], sample_rate: int) -> QuadMesh:
    """One spectrogram with its axes; returns what a colour bar needs."""
    levels, times, hertz = _log_spectrogram(audio, sample_rate)
    mesh = ax.pcolormesh(
        times, hertz, levels, cmap="magma", vmin=-80, vmax=0, rasterized=True, shading="nearest"
    )
    ax.set(yscale="log", xlabel="seconds")
    ax.grid(visible=False)
    ax.set_yticks([50, 100, 200, 500, 1000, 2000, 5000, 10000])
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda hz, _: f"{hz:g}" if hz < 1000 else f"{hz / 1000:g}k")
    )
    ax.yaxis.set_minor_locator(NullLocator())
    return mesh


def _log_spectrogram(audio: Tensor, sample_rate: int, *, bands: int = 240) -> tuple:
    """Levels in dB (bands, frames) on log-spaced frequencies, with times and frequencies."""
    window, hop = 4096, 512
    audio = audio.detach().cpu().float()
    audio = torch.nn.functional.pad(audio, (0, max(0, window - len(audio))))
    spectrum = torch.stft(
        audio, window, hop, window=torch.hann_window(window), return_complex=True
    ).abs()
    hertz = torch.logspace(math.log10(40), math.log10(min(16_000, sample_rate / 2.01)), bands)
    bins = hertz * window / sample_rate
    below = bins.long()
    share = (bins - below)[:, None]
    magnitude = spectrum[below] * (1 - share) + spectrum[below + 1] * share
    levels = 20 * torch.log10((magnitude / magnitude.max().clamp(min=1e-9)).clamp(min=1e-5))
    times = torch.arange(spectrum.shape[1]) * hop / sample_rate
    return levels.numpy(), times.numpy(), hertz.numpy()


def measured(
    ax: Axes, where, rows: DataFrame, metric: str, colour: str, *, marker: str = "o-", **style
) -> None:
    """A metric at `where` as points (and a line), with its 95 % intervals."""
    value, low, high = (
        rows[name].astype(float) for name in (metric, f"{metric}_low", f"{metric}_high")
    )
    error = [(value - low).clip(lower=0), (high - value).clip(lower=0)]
    look = {"color": colour, "ecolor": (colour, 0.55), "fmt": marker, "ms": 6, "capsize": 3}
    ax.errorbar(where, value, yerr=error, **{**look, "elinewidth": 1, **style})


def metrics_by_scale(table: DataFrame) -> Figure:
    """Those of BY_SCALE side by side against the guidance scale, a line per model, with intervals.

    `table`: rows of `studies.quality` with a column `scale`.
    """
    fig, axes = canvas(len(BY_SCALE), width=10.5, height=3.8)
    for ax, (metric, label) in zip(axes, BY_SCALE.items(), strict=True):
        for i, (model, rows) in enumerate(table.groupby("model", sort=False)):
            rows = rows.sort_values("scale")
            measured(ax, rows["scale"], rows, metric, COLOURS[i], label=model)
        ax.set(xlabel="guidance scale w", ylabel=label)
    axes[0].set_yscale("log")
    plain_log(axes[0])
    axes[-1].legend(frameon=False, fontsize=9, loc="lower right")
    return fig


def _errorbars(
    ax: Axes, where, rows: DataFrame, colour: str, *, line: bool = False, sideways: bool = False
) -> None:
    """Fréchet distances with their intervals at `where`."""
    value = rows["frechet_distance"].astype(float)
    low, high = rows["frechet_distance_low"].astype(float), rows["frechet_distance_high"]
    error = [(value - low).clip(lower=0), (high.astype(float) - value).clip(lower=0)]
    style = {
        "color": colour,
        "ecolor": (colour, 0.55),
        "fmt": "o-" if line else "o",
        "ms": 6,
        "capsize": 3,
        "elinewidth": 1,
    }
    if sideways:
        ax.errorbar(value, where, xerr=error, **style)
    else:
        ax.errorbar(where, value, yerr=error, **style)


def reference_lines(ax: Axes, *references: tuple[Any, str, str, str]) -> None:
    """Horizontal references, each (row, name, colour, line style), with intervals as bands. Names
    are at the left: the highest's above its line, those of others below theirs."""
    highest = max(row["frechet_distance"] for row, *_ in references)
    for row, name, colour, style in references:
        y, low, high = (row[f"frechet_distance{end}"] for end in ("", "_low", "_high"))
        ax.axhline(y, color=colour, ls=style, lw=1.4)
        ax.axhspan(low, high, color=colour, alpha=0.08, lw=0)
        side, va = (1, "bottom") if y == highest else (-1, "top")
        ax.annotate(
            name, (0.01, y), (0, 3 * side), xycoords=("axes fraction", "data"),
            textcoords="offset points", va=va, color=colour, fontsize=9,
        )  # fmt: skip


def _label_ends(ax: Axes, ends: list[tuple]) -> None:
    """Names at the right ends of lines, pushed apart (in log space) where they would overlap."""
    low, high = (math.log(limit) for limit in ax.get_ylim())
    gap, last = (high - low) * 0.055, -math.inf
    for x, y, model, colour in sorted(ends, key=lambda end: end[1]):
        last = max(math.log(y), last + gap)
        place = (x * 1.06, math.exp(last))
        ax.annotate(
            model, place, color=colour, va="center", fontweight="bold", fontsize=9.5,
            bbox={"color": PAPER, "pad": 1},  # reference lines may run through it
        )  # fmt: skip


def plain_log(ax: Axes, axis: str = "y") -> None:
    """Ticks of a log axis as plain numbers: at 1, 2 and 5 of each decade, or closer where the axis
    spans less than one."""
    for name in ("x", "y") if axis == "both" else (axis,):
        one = ax.xaxis if name == "x" else ax.yaxis
        low, high = sorted(one.get_view_interval())
        close = high < 8 * low
        one.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8) if close else (1, 2, 5)))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        one.set_minor_formatter(NullFormatter())
