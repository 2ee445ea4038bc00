"""Read any audio file that libsndfile can, at any rate and channel count."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

FORMATS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64")


def load_audio(
    path: str | Path,
    *,
    sample_rate: int = 44_100,
    start: float = 0.0,
    seconds: float | None = None,
) -> Float[Tensor, "ch s"]:
    """Return a file's audio (ch, s), or `seconds` of it from `start`, resampled to `sample_rate`.

    Raises ValueError, in one line with the path, for a file that is missing, unreadable, empty,
    shorter than it says or not finite.
    """
    import soundfile
    from torchaudio.functional import resample

    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with soundfile.SoundFile(path) as file:
            first = round(start * file.samplerate)
            wanted = file.frames - first
            if seconds is not None:
                wanted = min(wanted, -int(-seconds * file.samplerate // 1))
            if wanted <= 0:
                raise ValueError(f"{path}: empty, {file.frames} samples")
            file.seek(first)
            samples, rate = file.read(wanted, dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise ValueError(f"{path}: unreadable ({' '.join(str(error).split())})") from None
    if len(samples) < wanted:
        raise ValueError(f"{path}: truncated, {len(samples)} of {wanted} samples")
    audio = torch.from_numpy(samples).T.contiguous()
    if not audio.isfinite().all():
        raise ValueError(f"{path}: not finite (NaN or infinity)")
    # An odd rate such as 44,056 Hz would need thousands of filters; 1e-6 off, it needs few.
    ratio = Fraction(sample_rate, rate).limit_denominator(1000)
    return resample(audio, ratio.denominator, ratio.numerator)
