"""Training streams of latents with their prompts encoded; batch k depends on its number alone."""

from collections.abc import Iterable, Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from presto_data import batches
from presto_data.batches import Latents
from presto_distill.objective import Batch
from presto_distill.trainer import Stream
from presto_models.conditioning import PromptEncoder, condition
from presto_models.text_encoders import Cached


def conditioned(
    data: Latents,
    text: PromptEncoder,
    *,
    batch: int,
    frames: int,
    seed: int,
    tempo_dropout: float = 0.0,
    key_dropout: float | None = None,
) -> Stream:
    """Batches of latents with captions, tempi and keys encoded as conditions, once per caption.

    A crop's `beat` is told as if its recording began on a beat, as rendered ones do. A share
    `tempo_dropout` of crops keeps its tempo to itself, so that prompts need not state one, and
    `key_dropout` its key; None: no key is ever told, for networks built without.
    """
    encoder = Cached(text)

    def stream(start: int) -> Iterator[Batch]:
        drawn = batches(data, batch_size=batch, frames=frames, seed=seed, start=start)
        for k, item in enumerate(drawn, start):
            rng = np.random.default_rng([seed, k])
            tempo = item.tempo * torch.from_numpy(rng.random(batch) >= tempo_dropout)
            key = None
            if key_dropout is not None:
                told = rng.random(batch) >= key_dropout
                key = [
                    one if known else None for one, known in zip(item.tonality, told, strict=True)
                ]
            beat = item.start * item.tempo / 60
            cond = condition(encoder, item.captions, tempo, key=key, beat=beat)
            yield Batch(item.latents, tree_map_only(Tensor, Tensor.cpu, cond))

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
