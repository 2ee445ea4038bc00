"""Read any audio file, or a section of it, at any rate and channel count."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from soundfile import SoundFile

FORMATS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64")
FORMATS += (".m4a", ".mp4", ".aac")  # by PyAV
ADTS = (b"\xf0", b"\xf1", b"\xf8", b"\xf9")  # second bytes of its sync word
MP3_PRE_ROLL = 16 * 1152  # samples: a frame draws on up to 511 bytes of the frames before it
UNKNOWN_FRAMES = 2**62  # and above: what libsndfile says where a FLAC was written to a pipe
UNKNOWN_SIZE = 0x7FFF0000  # and above: what writers that cannot go back put for a size


class AudioInfo(NamedTuple):
    """What a file's header says: its length in seconds, samples per second and channels."""

    seconds: float
    sample_rate: int
    channels: int


def audio_info(path: str | Path) -> AudioInfo:
    """Return length, rate and channels of a file without decoding it.

    Raises ValueError as `load_audio` does, as far as a header can tell.
    """
    check_whole(Path(path))
    if is_mp4(path):
        from presto_data.mp4 import mp4_info

        info = mp4_info(path)
    else:
        with _opened(path) as file:
            info = AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)
    if not info.seconds:
        raise ValueError(f"{path}: empty, 0 samples")
    return info


def load_audio(
    path: str | Path,
    *,
    sample_rate: int = 44_100,
    start: float = 0.0,
    seconds: float | None = None,
) -> Float[Tensor, "ch s"]:
    """Return a file's audio (ch, s), or `seconds` of it from `start`, resampled to `sample_rate`.

    Only the section is decoded, to the sample; its format is told by its content, not its name.
    Raises ValueError, in one line with the path, for a file that is missing, unreadable, empty,
    shorter than it says or not finite.
    """
    return resampled(*read_section(path, start=start, seconds=seconds), sample_rate)


def read_section(
    path: str | Path, *, start: float = 0.0, seconds: float | None = None
) -> tuple[Float[Tensor, "ch s"], int]:
    """Return `load_audio`'s section as it is stored, and its rate; raises the same errors."""
    if not 0 <= start < math.inf:
        raise ValueError(f"{path}: start is {start}; it must not be negative or infinite")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"{path}: seconds is {seconds}; it must be positive and finite")
    check_whole(Path(path))
    if is_mp4(path):
        from presto_data.mp4 import read_mp4

        audio, rate = read_mp4(path, start=start, seconds=seconds)
    else:
        audio, rate = _read_soundfile(path, start, seconds)
    if not audio.isfinite().all():
        raise ValueError(f"{path}: not finite (NaN or infinity)")
    return audio, rate


def _read_soundfile(
    path: str | Path, start: float, seconds: float | None
) -> tuple[Float[Tensor, "ch s"], int]:
    with _opened(path) as file:
        rate = file.samplerate
        first, wanted = sample_span(path, start, seconds, file.frames, rate)
        # In one read: soundfile seeks after each, and a seek forgets MP3's bit reservoir.
        before = min(first, MP3_PRE_ROLL) if file.format == "MP3" else 0
        file.seek(first - before)
        samples = file.read(before + wanted, dtype="float32", always_2d=True)[before:]
    if len(samples) < wanted:
        raise ValueError(f"{path}: truncated, {len(samples)} of {wanted} samples")
    return torch.from_numpy(samples).T.contiguous(), rate


@contextmanager
def _opened(path: str | Path) -> Iterator[SoundFile]:
    """The file as libsndfile opens it, with its errors in our words."""
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:  # a name may not be UTF-8
            if file.frames >= UNKNOWN_FRAMES:
                raise ValueError(
                    f"{path}: length unknown, its header has none; write the file anew"
                )
            if file.format == "MP3":
                check_mp3_length(path, file.frames / file.samplerate)
            yield file
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: unreadable ({' '.join(error.error_string.split())})") from None


def sample_span(
    path: str | Path, start: float, seconds: float | None, total: int, rate: int
) -> tuple[int, int]:
    """Return a section's first sample and its length, at most to the end; ValueError if empty.

    What decimals put just after a sample, `start` or the end, counts as that sample.
    """
    first = int(start * rate + 1e-6)
    wanted = total - first
    if seconds is not None:
        wanted = min(wanted, math.ceil(seconds * rate - 1e-6))
    if wanted <= 0:
        raise ValueError(f"{path}: empty, {max(0, wanted)} of {total} samples")
    return first, wanted


def is_mp4(path: str | Path) -> bool:
    """Whether a file begins as MP4 (a ftyp box) or bare AAC (an ADTS sync word, layer 0) does."""
    with open(path, "rb") as file:
        head = file.read(8)
    return head[4:] == b"ftyp" or (head[:1] == b"\xff" and head[1:2] in ADTS)


def check_whole(path: Path) -> None:
    """Raise ValueError for a file that is missing, or ends before its container says it does.

    libsndfile reads a shortened one without a word. Formats that state no size are found out by
    decoding.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            head = file.read(28)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2**17))  # an Ogg page has at most 65,307 bytes
            tail = file.read() if head[:4] == b"OggS" else b""
    except OSError as error:
        raise ValueError(f"{path}: unreadable ({error.strerror})") from None
    if size + 1 < (stated := stated_size(head)):  # a last byte of padding may be missing
        raise ValueError(f"{path}: truncated, {size} of {stated} bytes")
    if tail and not ends_whole(tail):
        raise ValueError(f"{path}: truncated, no last page")


def stated_size(head: bytes) -> int:
    """The bytes that a WAV (RIFF, RIFX, RF64, W64), AIFF or AU says it has; 0 if it does not."""
    kind, order = head[:4], "big" if head[:4] in (b"RIFX", b"FORM", b".snd") else "little"

    def field(at: int, size: int = 4) -> int:
        return int.from_bytes(head[at : at + size], order)

    if kind in (b"RIFF", b"RIFX", b"FORM"):
        return 8 + field(4) if 0 < field(4) < UNKNOWN_SIZE else 0
    if kind in (b".snd", b"dns."):
        return field(4) + field(8) if field(8) < UNKNOWN_SIZE else 0
    if kind == b"RF64":  # in the chunk ds64, which is the first
        return 8 + field(20, 8)
    return field(16, 8) if kind == b"riff" else 0  # W64


def ends_whole(tail: bytes) -> bool:
    """Whether an Ogg stream (RFC 3533) ends in a whole page that carries an end mark."""
    page = tail[tail.rfind(b"OggS") :]
    flags, segments = page[5:6], page[26:27]
    if not segments or not flags[0] & 4:
        return False
    header = 27 + segments[0]
    return len(page) >= header + sum(page[27:header])


def check_mp3_length(path: str | Path, seconds: float) -> None:
    """Raise ValueError for an MP3 of variable bit rate whose header does not state its length.

    libsndfile then guesses from the first frame, and reads no further. tinytag looks at more, but
    counts what the encoder added at both ends, some tenths of a second at low rates.
    """
    from tinytag import TinyTag, TinyTagException

    try:
        other = TinyTag.get(path, tags=False).duration
    except TinyTagException:
        return
    if other and abs(other - seconds) > 0.05 * other + 0.5:
        raise ValueError(f"{path}: length unknown, the MP3 header has none; write the file anew")


def resampled(
    audio: Float[Tensor, "ch s"], rate: int, sample_rate: int
) -> Float[Tensor, "ch resampled"]:
    """Return audio of `rate` samples per second at `sample_rate`."""
    from torchaudio.functional import resample

    # An odd rate such as 44,056 Hz would need thousands of filters; 1e-6 off, it needs few. (Those
    # just beside the target, such as 44,099 Hz, stay 2e-5 off.)
    exact = Fraction(sample_rate, rate)
    ratio = exact.limit_denominator(1000)
    if abs(ratio / exact - 1) > 1e-6:
        ratio = exact.limit_denominator(4000)
    return resample(audio, ratio.denominator, ratio.numerator)


def at_most_stereo(audio: Float[Tensor, "ch s"]) -> Float[Tensor, "_ s"]:
    """Mix surround down to its front pair with the mean of the rest in the middle, at half gain."""
    return audio if len(audio) <= 2 else (audio[:2] + audio[2:].mean(0)) / 2
