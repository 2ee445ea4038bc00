"""Endless training batches; batch k depends on the seed and k alone, so resuming is a number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

PERIOD = 1000  # positions after which a mixture has met its weights exactly
OFFSETS, NOISE, TURNS = 1, 3, 5  # random streams; the even ones shuffle the parts of a mixture


@runtime_checkable
class Latents(Protocol):
    """What batches are drawn from: a LatentSet, LatentShards or a Mixture of them."""

    lengths: Int[np.ndarray, " n"]  # frames
    tempo: Float[Tensor, " n"]  # bpm, 0 where unknown
    timing: Float[Tensor, "n 3"]  # start, length of recording, length of a frame: s, 0 if unknown

    def __len__(self) -> int: ...
    def caption(self, index: int) -> str: ...
    def tonality(self, index: int) -> str | None: ...
    def crop(self, index: int, at: int, frames: int) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class Batch:
    """Latent crops with captions, tempo in bpm (0: unknown), tonality ("A minor"; None: unknown)
    and places in the latent set.

    `start` and `total` say where a crop begins and how long its recording is, in seconds (total 0:
    unknown).
    """

    latents: Float[Tensor, "b c t"]
    captions: list[str]
    tempo: Float[Tensor, " b"]
    index: Int[Tensor, " b"]
    start: Float[Tensor, " b"]
    total: Float[Tensor, " b"]
    tonality: list[str | None]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        names = ("latents", "tempo", "index", "start", "total")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class Mixture:
    """Several sets as one, the parts one after the other, drawn in proportion to their weights.

    `Mixture((songs, 3.0), (loops, 1.0))`: of every 1,000 clips drawn 750 are songs. Each part keeps
    its own order, in which every clip comes once before any comes twice.
    Weights are met to a 1,000th. Raises ValueError for smaller ones, for a part without clips and
    for parts of different channels.
    """

    def __init__(self, *parts: tuple[Latents, float]):
        weights = np.array([weight for _, weight in parts], dtype=np.float64)
        if not parts or not (weights > 0).all() or not np.isfinite(weights).all():
            raise ValueError(f"weights {weights.tolist()} must be one or more positive numbers")
        if any(isinstance(part, Mixture) for part, _ in parts):
            raise ValueError("a mixture of mixtures: name its parts with their own weights")
        if not all(len(part) for part, _ in parts):
            raise ValueError("a set without clips")
        channels = [len(part.crop(0, 0, 1)[0]) for part, _ in parts]
        if len(set(channels)) > 1:
            raise ValueError(f"sets of {channels} channels: their latents are not of one codec")
        exact = PERIOD * weights / weights.sum()
        self.turns = np.floor(exact).astype(int)  # of each part in a period
        largest = np.argsort(self.turns - exact, kind="stable")[: PERIOD - self.turns.sum()]
        self.turns[largest] += 1
        if not self.turns.all():
            raise ValueError(f"weights {weights.tolist()} differ by more than {PERIOD} times")
        self.parts = [part for part, _ in parts]
        self.first = np.cumsum([0, *map(len, self.parts)])[:-1]  # index of each part's first clip
        self.lengths = np.concatenate([part.lengths for part in self.parts])
        self.tempo = torch.cat([part.tempo for part in self.parts])
        self.timing = torch.cat([part.timing for part in self.parts])

    def __len__(self) -> int:
        return len(self.lengths)

    def _place(self, index: int) -> tuple[Latents, int]:
        part = int(np.searchsorted(self.first, index, side="right")) - 1
        return self.parts[part], index - int(self.first[part])

    def caption(self, index: int) -> str:
        part, own = self._place(index)
        return part.caption(own)

    def tonality(self, index: int) -> str | None:
        part, own = self._place(index)
        return part.tonality(own)

    def crop(self, index: int, at: int, frames: int) -> tuple[Tensor, Tensor | None]:
        part, own = self._place(index)
        return part.crop(own, at, frames)


class BatchStream(IterableDataset):
    """Batches number `start`, `start` + 1, ... without end; see `batches`.

    For `DataLoader(stream, batch_size=None, num_workers=w)`: each worker makes every w-th batch and
    the loader takes turns, so its batches are the same for any w.
    """

    def __init__(
        self,
        latents: Latents,
        *,
        batch_size: int,
        frames: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        sample: bool = True,
    ):
        if batch_size < 1 or start < 0:
            raise ValueError(f"batch_size {batch_size} must be >= 1 and start {start} >= 0")
        if not 0 <= rank < world or batch_size % world:
            raise ValueError(
                f"rank {rank} must be in [0, world) and batch_size {batch_size} divisible by world "
                f"{world}"
            )
        short = latents.lengths < frames
        if frames < 1 or short.any():
            raise ValueError(
                f"frames is {frames}; {short.sum()} of {len(latents)} clips are shorter, the "
                f"shortest has {latents.lengths.min()}"
            )
        self.mixture = latents if isinstance(latents, Mixture) else Mixture((latents, 1.0))
        self.batch_size, self.frames, self.sample = batch_size, frames, sample
        self.seed, self.start, self.rank, self.world = seed, start, rank, world
        # Shuffled, lest every second clip of an even mixture go to the same rank.
        turns = np.repeat(np.arange(len(self.mixture.parts)), self.mixture.turns)
        self.part = self._rng(TURNS).permutation(turns)  # whose turn it is at each position
        self.nth = np.zeros(PERIOD, dtype=int)  # and for which time
        for i, number in enumerate(self.mixture.turns):
            self.nth[self.part == i] = np.arange(number)
        self.orders: dict[int, tuple[int, np.ndarray]] = {}  # of each part: epoch, permutation

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what])

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return map(self.batch, count(self.start + first, step))

    def clip_at(self, position: int) -> int:
        """Return the index of the clip at a position of the endless sequence."""
        period, place = divmod(position, PERIOD)
        part = int(self.part[place])
        own = period * int(self.mixture.turns[part]) + int(self.nth[place])
        clips = len(self.mixture.parts[part])
        epoch, place = divmod(own, clips)
        if self.orders.get(part, (-1,))[0] != epoch:
            self.orders[part] = epoch, self._rng(2 * part, epoch).permutation(clips)
        return int(self.mixture.first[part] + self.orders[part][1][place])

    def batch(self, k: int) -> Batch:
        """Return this rank's rows of batch number k."""
        positions = range(k * self.batch_size, (k + 1) * self.batch_size)
        index = np.array([self.clip_at(position) for position in positions])
        room = self.mixture.lengths[index] - self.frames + 1
        offsets = self._rng(OFFSETS, k).integers(room)
        mine = slice(self.rank, None, self.world)
        index, offsets = index[mine], offsets[mine]
        places = zip(index.tolist(), offsets.tolist(), positions[mine], strict=True)
        rows = torch.from_numpy(index)
        start, total, frame_seconds = self.mixture.timing[rows].unbind(1)
        return Batch(
            torch.stack([self._draw(*place) for place in places]),
            [self.mixture.caption(i) for i in index.tolist()],
            self.mixture.tempo[rows],
            rows,
            (start + torch.from_numpy(offsets) * frame_seconds).float(),
            total.float(),
            [self.mixture.tonality(i) for i in index.tolist()],
        )

    def _draw(self, index: int, at: int, position: int) -> Float[Tensor, "c t"]:
        """Return a crop, drawn from the posterior where its scale is known."""
        mean, scale = self.mixture.crop(index, at, self.frames)
        if scale is None or not self.sample:
            return mean
        noise = self._rng(NOISE, position).standard_normal(mean.shape, dtype=np.float32)
        return torch.addcmul(mean, scale, torch.from_numpy(noise))


def batches(
    latents: Latents,
    *,
    batch_size: int,
    frames: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    sample: bool = True,
) -> Iterator[Batch]:
    """Yield batches number `start`, `start` + 1, ... of random crops of `frames`, without end.

    Every clip is used once before any is used twice, also across batch boundaries. `batch_size` is
    that of all ranks together: rank r gets rows r, r + world, ... Where the set knows the scale of
    the encoder's posterior, every use of a clip is a new draw from it, unless `sample` is False.
    Raises ValueError for sizes that the set cannot serve, and for clips shorter than `frames`.
    """
    stream = BatchStream(
        latents,
        batch_size=batch_size,
        frames=frames,
        seed=seed,
        start=start,
        rank=rank,
        world=world,
        sample=sample,
    )
    return iter(stream)
