"""What encoding so many hours of music takes: clips, shards, disk and time, from measured rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from presto_data import shards

FACTS = {"caption and metadata": "x" * 600}  # of a typical clip


@dataclass(frozen=True)
class Rates:
    """Seconds of audio encoded per second: by one process, and by each of two at work together."""

    alone: float
    together: float

    def __post_init__(self):
        if not (self.alone > 0 and self.together > 0):
            raise ValueError(f"rates {self.alone} and {self.together} must be positive")


@dataclass(frozen=True)
class Plan:
    """Clips, shards, bytes on disk, and seconds of work for each number of workers."""

    clips: int
    shards: int
    size: int
    seconds: dict[int, float]

    def __str__(self) -> str:
        rows = [f"{self.clips:,} clips in {self.shards:,} shards, {self.size / 1e9:,.1f} GB"]
        rows += [
            f"{workers:>4} worker{'s' * (workers > 1)}: {duration(seconds)}"
            for workers, seconds in self.seconds.items()
        ]
        return "\n".join(rows)


def plan(
    hours: float,
    rates: Rates,
    *,
    workers: Sequence[int],
    clip_seconds: float = 32.0,
    frames: int = 690,
    channels: int = 64,
    scales: bool = True,
) -> Plan:
    """Return what it takes to encode `hours` of music as clips of `clip_seconds` and `frames`.

    More than two workers are taken to be as fast each as one of two: what they share beyond that
    (disk, network) is not in the rates. Raises ValueError for sizes that are not positive.
    """
    sizes = (hours, clip_seconds, frames, channels, *workers)
    if not workers or not all(0 < size < inf for size in sizes):
        raise ValueError(
            f"hours {hours}, clip_seconds {clip_seconds}, frames {frames}, channels {channels} and "
            f"workers {list(workers)} must be positive and finite"
        )
    latent = np.zeros((channels, frames), dtype=np.float16)
    clip = len(shards.clip_bytes(0, FACTS, latent, latent if scales else None))
    clips = ceil(hours * 3600 / clip_seconds)
    rate = {n: n * (rates.alone if n == 1 else rates.together) for n in workers}
    return Plan(
        clips,
        ceil(clips / shards.CLIPS),
        clips * clip,
        {n: clips * clip_seconds / rate[n] for n in workers},
    )


def duration(seconds: float) -> str:
    """Return a time in the largest unit of which there are at least two."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
