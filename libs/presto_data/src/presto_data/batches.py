"""Endless training batches; batch k depends on the seed and k alone, so resuming is a number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from presto_data.latents import LatentSet


@dataclass(frozen=True)
class Batch:
    """Latent crops with their captions, tempo in bpm (0: unknown) and places in the latent set."""

    latents: Float[Tensor, "b c t"]
    captions: list[str]
    tempo: Float[Tensor, " b"]
    index: Int[Tensor, " b"]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("latents", "tempo", "index")}
        return replace(self, **moved)


def batches(
    latents: LatentSet, *, batch_size: int, frames: int, seed: int, start: int = 0
) -> Iterator[Batch]:
    """Yield batches number `start`, `start` + 1, ... of random crops of `frames`, without end.

    Every clip is used once before any is used twice, also across batch boundaries.
    Raises ValueError for sizes that the set cannot serve.
    """
    if not 1 <= frames <= latents.frames:
        raise ValueError(f"frames is {frames}; the set has 1 to {latents.frames}")
    if batch_size < 1 or start < 0 or not len(latents):
        raise ValueError(
            f"batch_size {batch_size} must be >= 1, start {start} >= 0, clips {len(latents)} >= 1"
        )
    return _batches(latents, batch_size, frames, seed, start)


def _batches(
    latents: LatentSet, batch_size: int, frames: int, seed: int, start: int
) -> Iterator[Batch]:
    tempo, n = latents.tempo, len(latents)
    epoch, order = -1, np.arange(n)
    for k in count(start):
        index = []
        for position in range(k * batch_size, (k + 1) * batch_size):
            if position // n != epoch:
                epoch = position // n
                order = np.random.default_rng([seed, 0, epoch]).permutation(n)
            index.append(int(order[position % n]))
        room = latents.frames - frames + 1
        offsets = np.random.default_rng([seed, 1, k]).integers(room, size=batch_size)
        crops = [
            latents.latents[i, :, at : at + frames] for i, at in zip(index, offsets, strict=True)
        ]
        rows = torch.tensor(index)
        yield Batch(torch.stack(crops), [latents.captions[i] for i in index], tempo[rows], rows)
