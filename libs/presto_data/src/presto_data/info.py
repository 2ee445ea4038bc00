"""An encoded corpus in words and numbers: how much of what there is, and whether it looks right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from presto_data.faults import report
from presto_data.latents import LatentShards

BAR = 40  # characters
TEMPO_STEP = 20  # bpm
MOST = 12  # lines of a list


def info(shards: LatentShards) -> str:
    """Return hours, counts, tempi, channel statistics and what was left out, as text."""
    stats, frames = shards.stats, shards.lengths
    captions = len(set(shards.table["caption"].to_pylist()))
    size = sum(path.stat().st_size for path in shards.path.glob("*.tar"))
    kind = "means and scales" if stats["scales"] else "means"
    lines = [
        f"{shards.path}",
        f"{stats['hours']:,.2f} hours in {len(shards):,} clips of {frames.min()} to {frames.max()} "
        f"frames, {captions:,} captions",
        f"{size / 1e6:,.1f} MB of {kind} with {shards.channels} channels",
    ]
    for name in ("genre", "mood", "key", "instruments", "tags"):
        lines += section(name, shards.table[name].to_pylist())
    tempo = shards.tempo.numpy()
    lines += [f"tempo: {np.count_nonzero(tempo):,} clips", *histogram(tempo[tempo > 0])]
    std = np.array(stats["std"])
    lines += [
        "channels",
        f"  mean {min(stats['mean']):.3g} to {max(stats['mean']):.3g}, "
        f"standard deviation {std.min():.3g} to {std.max():.3g}",
        f"  sigma_data {stats['sigma_data']:.3g}",
        *([f"  {stats['warning']}"] if stats["warning"] else []),
    ]
    return "\n".join([*lines, report(shards.problems) or "nothing was left out"])


def section(name: str, values: Iterable[str | Sequence[str] | None]) -> list[str]:
    """Return the most frequent values of a column and in how many clips each is."""
    parts = ([value] if isinstance(value, str) else value or [] for value in values)
    counts = Counter(part for several in parts for part in several)
    if not counts:
        return []
    shown = counts.most_common(MOST)
    more = [f"  and {len(counts) - MOST:,} more"] if len(counts) > MOST else []
    return [name, *(f"  {value}: {number:,}" for value, number in shown), *more]


def histogram(tempo: np.ndarray) -> list[str]:
    """Return one bar of text for every 20 bpm."""
    bins = Counter((tempo // TEMPO_STEP).astype(int).tolist())
    if not bins:
        return []
    most = max(bins.values())
    return [
        f"  {TEMPO_STEP * i:>3}-{TEMPO_STEP * (i + 1):<3} "
        f"{'#' * -(-BAR * bins[i] // most):<{BAR}} {bins[i]:,}".rstrip()
        for i in range(min(bins), max(bins) + 1)
    ]
