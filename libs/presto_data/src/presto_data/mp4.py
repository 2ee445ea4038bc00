"""AAC and ALAC, in MP4 files or bare: what libsndfile cannot read, PyAV (the extra m4a) does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from presto_data.audio import AudioInfo, sample_span

PRE_ROLL = 0.2  # seconds decoded before a section: an AAC frame overlaps the one before it


def mp4_info(path: str | Path) -> AudioInfo:
    """Return length, rate and channels; raises ValueError when unreadable or without audio.

    Bare AAC states no length: its packets are counted, not decoded.
    """
    with _opened(path) as (container, stream):
        codec = stream.codec_context
        if "mp4" in container.format.name:
            duration = stream.duration
        else:
            duration = sum(packet.duration or 0 for packet in container.demux(stream))
        seconds = float((duration or 0) * stream.time_base)
        return AudioInfo(seconds, codec.sample_rate, codec.channels)


def read_mp4(
    path: str | Path, *, start: float, seconds: float | None
) -> tuple[Float[Tensor, "ch s"], int]:
    """Return a section of the audio (ch, s), all of it without `seconds`, and its rate.

    MP4 is entered a little before `start`; bare AAC is decoded up to it, keeping nothing. Where
    AAC substitutes noise, a section has other noise than the same part of the whole.
    Raises ValueError when unreadable, empty or truncated.
    """
    info = mp4_info(path)
    rate = info.sample_rate
    first, wanted = sample_span(path, start, seconds, round(info.seconds * rate), rate)
    parts, found, position = [], 0, 0
    with _opened(path) as (container, stream):
        import av

        seekable = "mp4" in container.format.name
        if seekable:
            container.seek(int(max(0.0, start - PRE_ROLL) / stream.time_base), stream=stream)
        planar = av.AudioResampler(format="fltp")
        for frame in container.decode(stream):
            if seekable:
                if frame.pts is None:
                    raise ValueError(f"{path}: unreadable (a frame without a time)")
                position = round(float(frame.pts * frame.time_base) * rate)
            for piece in planar.resample(frame):
                samples = piece.to_ndarray()
                part = samples[:, max(0, first - position) : first + wanted - position]
                position += samples.shape[1]
                if parts and len(part) != len(parts[0]):
                    raise ValueError(f"{path}: unreadable (its number of channels changes)")
                if part.shape[1]:
                    parts.append(torch.from_numpy(part.copy()))
                    found += part.shape[1]
            if found >= wanted:
                break
    if found < wanted:
        raise ValueError(f"{path}: truncated, {found} of {wanted} samples")
    return torch.cat(parts, dim=1), rate


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its audio stream, with PyAV's errors in our words."""
    try:
        import av
    except ImportError:
        raise ValueError(
            f"{path}: unreadable without PyAV (pip install 'presto-data[m4a]')"
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise ValueError(f"{path}: unreadable (no audio in it)")
            if container.streams.audio[0].codec_context is None:
                raise ValueError(f"{path}: unreadable (unknown codec)")
            yield container, container.streams.audio[0]
    except av.FFmpegError as error:
        raise ValueError(f"{path}: unreadable ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: unreadable (its text is not UTF-8)") from None
