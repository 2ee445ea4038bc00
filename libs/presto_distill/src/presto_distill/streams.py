"""Training streams of latents with their prompts encoded; batch k depends on its number alone."""

from collections.abc import Iterable, Iterator
from itertools import count

import torch
from torch import Tensor

from presto_data import batches
from presto_data.batches import Latents
from presto_distill.objective import Batch
from presto_distill.trainer import Stream
from presto_models import TextEncoder
from presto_models.conditioning import Condition


def conditioned(data: Latents, text: TextEncoder, *, batch: int, frames: int, seed: int) -> Stream:
    """Batches of latents with captions and tempi encoded as conditions, once per caption."""
    known: dict[str, Tensor] = {}
    width = text.config.max_tokens

    def encode(captions: list[str]) -> tuple[Tensor, Tensor]:
        for caption in captions:
            if caption not in known:
                with torch.no_grad():
                    known[caption] = text([caption])[0][0].cpu()
        tokens = torch.zeros(len(captions), width, text.config.width)
        mask = torch.zeros(len(captions), width, dtype=torch.bool)
        for row, caption in enumerate(captions):
            tokens[row, : len(known[caption])] = known[caption]
            mask[row, : len(known[caption])] = True
        longest = int(mask.any(0).sum())
        return tokens[:, :longest], mask[:, :longest]

    def stream(start: int) -> Iterator[Batch]:
        for item in batches(data, batch_size=batch, frames=frames, seed=seed, start=start):
            yield Batch(item.latents, Condition(*encode(item.captions), item.tempo))

    return stream


def in_turn(streams: Iterable[Stream]) -> Stream:
    """One stream that asks each of several for a batch, round after round."""
    streams = list(streams)

    def stream(start: int) -> Iterator[Batch]:
        turns = len(streams)
        # Stream i has been asked once per round, and once more if this round has passed it.
        running = [s(start // turns + (i < start % turns)) for i, s in enumerate(streams)]
        for k in count(start):
            yield next(running[k % turns])

    return stream
