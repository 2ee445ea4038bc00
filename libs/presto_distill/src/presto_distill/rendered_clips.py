"""Rendered clips for training codec and mono to stereo: rendered once, then crops by number."""

import math
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from presto_data import Clip, Corpus
from presto_distill.objective import Batch
from presto_distill.trainer import Stream
from presto_models import Autoencoder
from presto_models.snapshot import write_atomic

FULL = 32767.0  # 16 bits
DECIBEL = math.log(10) / 20


def rendered(
    corpus: Corpus, path: Path, shown: Callable[[Clip], Tensor], *, workers: int = 0
) -> np.ndarray:
    """What `shown` makes of equally long clips, one after the other, kept in `path`."""
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    if not path.exists():
        loader = DataLoader(corpus, batch_size=None, num_workers=workers, collate_fn=shown)
        clips = tqdm(loader, "rendering", len(corpus), mininterval=30, ascii=True)
        made = np.stack([clip.numpy() for clip in clips])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda temporary: _save(temporary, made))
    return np.load(path, mmap_mode="r")


def stereo(clip: Clip) -> Tensor:
    """Audio (2, s) in 16 bits."""
    return (clip.audio * FULL).round().to(torch.int16)


def mid(clip: Clip) -> Tensor:
    """The mid (1, s) of a clip in 16 bits."""
    return (clip.mono().audio * FULL).round().to(torch.int16)


@torch.inference_mode()
def log_bands(clip: Clip) -> Tensor:
    """Log magnitudes (n, bands) of a clip's mid, as the codec sees them, in half precision."""
    return Autoencoder().log_bands(clip.mono().audio)[0].half()


def crops(audio: np.ndarray, *, batch: int, samples: int, seed: int) -> Stream:
    """Random crops of random clips, up to 9 dB softer; batch k depends on the seed and k alone."""
    if not 1 <= samples <= audio.shape[-1]:
        raise ValueError(f"samples is {samples}; the clips have 1 to {audio.shape[-1]}")

    def stream(start: int) -> Iterator[Batch]:
        for number in count(start):
            rng = np.random.default_rng([seed, number])
            some = _cut(np.moveaxis(audio, -1, 1), batch, samples, rng).swapaxes(1, 2)
            gains = 10 ** (-9 * rng.random((batch, 1, 1)) / 20) / FULL
            yield Batch(torch.from_numpy((some * gains).astype(np.float32)))

    return stream


def windows(bands: np.ndarray, *, batch: int, frames: int, seed: int) -> Stream:
    """Random windows of log magnitudes; batch k depends on the seed and k alone.

    A third are two clips at once; gain up to 6 dB either way, tilt up to 9 dB from end to end.
    """
    slope = np.linspace(-0.5, 0.5, bands.shape[-1])

    def stream(start: int) -> Iterator[Batch]:
        for number in count(start):
            rng = np.random.default_rng([seed, number])
            x, mixed = _cut(bands, batch, frames, rng).astype(np.float32), batch // 3
            if mixed:  # magnitudes of unrelated signals add as powers, near enough
                other = _cut(bands, mixed, frames, rng).astype(np.float32)
                x[:mixed] = np.logaddexp(2 * x[:mixed], 2 * other) / 2
            gain, tilt = rng.uniform(-1, 1, (2, batch, 1, 1))
            x = x + DECIBEL * (6 * gain + 9 * tilt * slope)
            yield Batch(torch.from_numpy(x.astype(np.float32)))

    return stream


def _cut(clips: np.ndarray, batch: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Random pieces of random clips (n, time, ...)."""
    rows = rng.integers(len(clips), size=batch)
    starts = rng.integers(clips.shape[1] - length + 1, size=batch)
    return np.stack([clips[row, at : at + length] for row, at in zip(rows, starts, strict=True)])


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add its suffix to a bare path
        np.save(file, array)
