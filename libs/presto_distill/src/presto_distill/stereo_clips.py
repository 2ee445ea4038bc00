"""Rendered stereo for mono-to-stereo training: clips rendered once, crops by number."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch

from presto_data import Corpus
from presto_distill.objective import Batch
from presto_distill.trainer import Stream
from presto_models.snapshot import write_atomic

FULL = 32767.0  # 16 bits


def rendered(corpus: Corpus, path: Path, *, workers: int = 0) -> np.ndarray:
    """Audio (n, 2, s) of a stereo corpus of equally long clips, as int16, kept in `path`."""
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    if not path.exists():
        loader = DataLoader(corpus, batch_size=None, num_workers=workers, collate_fn=_int16)
        clips = tqdm(loader, "rendering", len(corpus), mininterval=30, ascii=True)
        audio = np.stack([clip.numpy() for clip in clips])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda temporary: _save(temporary, audio))
    return np.load(path, mmap_mode="r")


def crops(audio: np.ndarray, *, batch: int, samples: int, seed: int) -> Stream:
    """Random crops of random clips, up to 9 dB softer; batch k depends on the seed and k alone."""
    if not 1 <= samples <= audio.shape[-1]:
        raise ValueError(f"samples is {samples}; the clips have 1 to {audio.shape[-1]}")

    def stream(start: int) -> Iterator[Batch]:
        for number in count(start):
            rng = np.random.default_rng([seed, number])
            rows = rng.integers(len(audio), size=batch)
            starts = rng.integers(audio.shape[-1] - samples + 1, size=batch)
            gains = 10 ** (-9 * rng.random((batch, 1, 1)) / 20) / FULL
            some = np.stack(
                [audio[row, :, at : at + samples] for row, at in zip(rows, starts, strict=True)]
            )
            yield Batch(torch.from_numpy((some * gains).astype(np.float32)))

    return stream


def _int16(clip) -> torch.Tensor:
    return (clip.audio * FULL).round().to(torch.int16)


def _save(path: Path, audio: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add its suffix to a bare path
        np.save(file, audio)
