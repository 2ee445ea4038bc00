"""Render composed songs to stereo audio and serve them as an endless, seeded, captioned corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from importlib.resources import as_file, files
from math import ceil
from random import Random

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from presto_data.captions import caption, describe
from presto_data.clips import Clip, Corpus
from presto_data.composer import Note, Part
from presto_data.genres import DRUMS, GENRES, INSTRUMENTS, KITS
from presto_data.songs import Song, compose, compose_whole

SAMPLE_RATE = 44_100
TARGET_RMS = 10 ** (-18 / 20)  # every clip is about this loud, unless that would pass PEAK
PEAK = 0.95
TICKS = 2_000  # per second
VELOCITY = 100  # of all notes as the synthesizer is told them; see `play`
ROOM_SECONDS = 1.6
CONTROL_RATE = 441  # of the compressor's gain, Hz; divides SAMPLE_RATE


@cache
def synthesizer(program: int, drums: bool):
    """Return this process's synthesizer for an instrument; it keeps decoded samples between clips.

    Each instrument has its own: in a shared one a kit plays what an earlier kit left there, and
    clips would depend on those rendered before.
    """
    from symusic import Synthesizer

    with as_file(files("presto_data") / "soundfont" / "fluid_subset.sf3") as path:
        return Synthesizer(sf_path=str(path), sample_rate=SAMPLE_RATE, quality=4)


@lru_cache(4)
def room(n: int) -> np.ndarray:
    """Return the spectrum (2, n // 2 + 1) of a stereo room: two decaying noises, no deep bass."""
    t = np.arange(int(ROOM_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(0).standard_normal((2, len(t)))
    dull = np.stack([np.convolve(row, np.ones(12) / 3.5, "same") for row in noise])
    bright = np.exp(-t / 0.06)  # walls swallow the treble first
    tail = (noise * bright + dull * (1 - bright)) * np.exp(-4.6 * t / ROOM_SECONDS)
    tail[:, t < 0.012] = 0  # the direct sound comes first
    tail /= np.sqrt((tail**2).sum(1, keepdims=True))
    hertz = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    return (np.fft.rfft(tail, n) * hertz / (hertz + 200)).astype(np.complex64)


def play(notes: Sequence[Note], program: int, *, drums: bool, spb: float) -> np.ndarray:
    """Render notes (their times in beats of `spb` seconds) on one instrument to mono (s,).

    All at one velocity: the synthesizer goes on playing a pitch as it was struck first, so that
    loudness is the caller's.
    """
    from symusic import Note as Event
    from symusic import Score, Tempo, Track

    track = Track("", program, drums)
    for start, length, pitch, _ in notes:
        ticks = max(1, round(length * spb * TICKS))
        track.notes.append(Event(round(start * spb * TICKS), ticks, pitch, VELOCITY))
    score = Score(TICKS // 2)  # ticks per quarter at 120 bpm
    score.tempos.append(Tempo(0, 120))
    score.tracks.append(track)
    return synthesizer(program, drums).render(score, stereo=False)[0]


def voices(part: Part, notes: list[Note]) -> dict[tuple[float, int], list[Note]]:
    """Group notes by (pan, gain in dB): a wide part is spread by register, a kit by its pieces."""
    middle = (min(n.pitch for n in notes) + max(n.pitch for n in notes)) / 2
    kit = dict(DRUMS.values())
    groups: dict[tuple[float, int], list[Note]] = {}
    for note in notes:
        side = 0.5 if note.pitch > middle else -0.5
        pan = kit[note.pitch] if part.role == "drums" else part.pan + part.width * side
        gain = 3 * round(40 * np.log10(note.velocity / 127) / 3)
        groups.setdefault((pan, gain), []).append(note)
    return groups


def sounding(part: Part, first: float, last: float) -> list[Note]:
    return [n for n in part.notes if n.start < last and n.start + n.length > first]


def render(
    song: Song, *, seconds: float | None = None, start_bar: float = 0
) -> Float[Tensor, "2 s"]:
    """Render `seconds` of a song (default: all of it) from a bar on: stereo, 44.1 kHz, float32.

    Notes begun earlier are heard ringing, so an excerpt does not start from silence. Loudness is
    normalised to -18 dB RMS, less where peaks would pass 0.95; nothing is clipped.
    """
    spb = 60 / song.metadata.tempo
    if seconds is None:
        seconds = (song.bars - start_bar) * song.bar_seconds
    if seconds <= 0:
        raise ValueError(f"seconds is {seconds}; it must be positive")
    start = start_bar * song.beats
    held = [n.start for part in song.parts for n in sounding(part, start, start)]
    first = min([start - song.beats, *held]) if start_bar else 0
    lead_in = start - first
    skip, length = round(lead_in * spb * SAMPLE_RATE), round(seconds * SAMPLE_RATE)
    mix = np.zeros((2, skip + length), np.float32)
    sent = np.zeros_like(mix)  # to the reverb
    for part in song.parts:
        notes = [
            n._replace(start=n.start - first)
            for n in sounding(part, first, first + lead_in + seconds / spb)
            if n.start >= first
        ]
        if not notes:
            continue
        kit = part.role == "drums"
        program = KITS[part.instrument] if kit else INSTRUMENTS[part.instrument][0]
        bus = np.zeros_like(mix)
        for (pan, decibels), some in voices(part, notes).items():
            dry = play(some, program, drums=kit, spb=spb)[: mix.shape[1]]
            gain, angle = 10 ** (decibels / 20), (pan + 1) * np.pi / 4  # constant power
            bus[0, : len(dry)] += np.float32(gain * np.cos(angle)) * dry
            bus[1, : len(dry)] += np.float32(gain * np.sin(angle)) * dry
        bus = compress(bus, part.ratio)
        bus *= 10 ** (part.level / 20) / loudness(bus)
        mix += bus
        sent += np.float32(part.send) * bus
    audio = compress((mix + song.reverb * reverb(sent))[:, skip:], song.ratio)
    if song.fade:
        left = song.seconds - start * spb - np.arange(length) / SAMPLE_RATE
        audio *= np.clip(left / song.fade, 0, 1).astype(np.float32) ** 2
    rms, peak = np.sqrt(np.square(audio).mean()), np.abs(audio).max()
    gain = min(TARGET_RMS / max(rms, 1e-5), PEAK / max(peak, 1e-5))
    return torch.from_numpy(np.float32(gain) * audio)


def loudness(bus: np.ndarray) -> float:
    """RMS of the louder half of 50 ms frames: silence between notes does not count."""
    power = bus[:, : bus.shape[1] // 2205 * 2205].reshape(2, -1, 2205)
    frames = np.sort(np.einsum("cfs,cfs->f", power, power) / 2205)
    frames = frames[frames > 1e-9]
    return float(np.sqrt(frames[len(frames) // 2 :].mean())) if len(frames) else 1.0


def compress(
    audio: np.ndarray, ratio: float, *, attack: float = 0.005, release: float = 120.0
) -> np.ndarray:
    """Turn down what is louder than 6 dB below the `loudness` of audio (2, s), feeding forward.

    Both channels share the gain, so that the stereo image stays. The RMS of 11 ms is brought down
    to one `ratio`-th of its excess in dB; the gain moves over `attack` seconds and comes back by
    `release` dB per second. A ratio of 1 changes nothing.
    """
    if ratio == 1:
        return audio
    hop = SAMPLE_RATE // CONTROL_RATE
    steps = -(-audio.shape[1] // hop)
    padded = np.pad(audio, ((0, 0), (0, steps * hop - audio.shape[1]))).reshape(2, steps, hop)
    power = np.pad(np.einsum("cks,cks->k", padded, padded) / hop, 2)
    power = np.convolve(power, np.ones(5) / 5, "valid")
    excess = 10 * np.log10(power + 1e-12) - 20 * np.log10(loudness(audio)) + 6
    cut = np.maximum(excess, 0) * (1 - 1 / ratio)

    # A constant rate in dB makes the release a running maximum along a slope.
    slope = np.arange(steps) * release / CONTROL_RATE
    cut = np.maximum.accumulate(cut + slope) - slope

    # Look ahead, or the attack of a drum would pass before its level is known.
    smooth = max(1, round(attack * CONTROL_RATE))
    ahead = np.pad(cut, (smooth, 2 * smooth), "edge")
    cut = np.max([ahead[i : i + steps + smooth] for i in range(2 * smooth + 1)], axis=0)
    cut = np.convolve(cut, np.ones(smooth + 1) / (smooth + 1), "valid")
    centres = (np.arange(steps) + 0.5) * hop
    gain = 10 ** (-np.interp(np.arange(audio.shape[1]), centres, cut) / 20)
    return audio * gain.astype(np.float32)


def reverb(dry: np.ndarray) -> np.ndarray:
    """Convolve the mid of `dry` (2, s) with the stereo room."""
    seconds = -(-dry.shape[1] // SAMPLE_RATE) + ceil(ROOM_SECONDS)
    n = seconds * SAMPLE_RATE  # a product of small primes: a fast transform
    spectrum = np.fft.rfft(dry.mean(0), n) * room(n)
    return np.float32(2**0.5) * np.fft.irfft(spectrum, n)[:, : dry.shape[1]]


VERSION = 5  # raise it when the same seed starts to sound different: caches notice
WHOLE_VERSION = 2  # the same for whole songs


class SyntheticCorpus(Corpus):
    """Clips of composed songs; clip i is a pure function of (seed, i) and the options."""

    def __init__(
        self, count: int, *, seed: int, seconds: float, genres: Sequence[str], whole_songs: bool
    ):
        self.count, self.seed, self.seconds, self.genres = count, seed, seconds, tuple(genres)
        self.whole_songs = whole_songs

    def __len__(self) -> int:
        return self.count

    @property
    def key(self) -> dict:
        options = dict(vars(self))
        if not options.pop("whole_songs"):
            return {"synthetic": VERSION, **options}
        return {"synthetic whole songs": WHOLE_VERSION, **options}

    def make(self, index: int) -> Clip:
        rng = Random(f"{self.seed}/{index}")  # a string is hashed whole: no nearby-seed overlap
        genre = self.genres[rng.randrange(len(self.genres))]
        write = compose_whole if self.whole_songs else compose
        song = write(genre, rng, seconds=self.seconds)
        if self.whole_songs:  # from any bar on, or as late as the song allows
            last = song.bars - self.seconds / song.bar_seconds
            start_bar = rng.choice([*range(int(last) + 1), last])
        else:
            last = song.bars - ceil(self.seconds / song.bar_seconds) - 1
            start_bar = rng.randint(0, max(0, last))
        first = start_bar * song.beats
        end = first + self.seconds / song.bar_seconds * song.beats
        heard = [part for part in song.parts if sounding(part, first, end - 0.5)]
        if self.whole_songs:  # who would enter in the last half beat stays out
            song = replace(song, parts=tuple(heard))
        facts = replace(
            song.metadata, instruments=tuple(dict.fromkeys(part.instrument for part in heard))
        )
        return Clip(
            audio=render(song, seconds=self.seconds, start_bar=start_bar),
            sample_rate=SAMPLE_RATE,
            caption=describe(facts, rng) if self.whole_songs else caption(facts, rng),
            metadata=facts,
            id=f"{'song' if self.whole_songs else 'synthetic'}-{self.seed}-{index}",
            start=start_bar * song.bar_seconds,
            total=song.seconds,
        )


def synthetic_corpus(
    count: int,
    *,
    seed: int = 0,
    seconds: float = 6.0,
    genres: Sequence[str] | None = None,
    whole_songs: bool = False,
) -> Corpus:
    """Return `count` captioned stereo clips at 44.1 kHz, rendered lazily; splits are seeds.

    By default a clip is cut from the middle of music that neither begins nor ends. With
    `whole_songs` it is cut from anywhere in a song with intro, verses, choruses, breakdown and
    ending, mixed with compression and a reverb send per instrument, and its caption states all
    that is known. Raises ValueError for a negative count, non-positive seconds or an unknown genre.
    """
    genres = tuple(GENRES if genres is None else genres)
    unknown = [name for name in genres if name not in GENRES]
    if unknown or not genres:
        raise ValueError(f"unknown genres {unknown}; choose some of {', '.join(GENRES)}")
    if count < 0 or not 0 < seconds < float("inf"):
        raise ValueError(f"count {count} must be >= 0 and seconds {seconds} > 0 and finite")
    return SyntheticCorpus(
        count, seed=seed, seconds=seconds, genres=genres, whole_songs=whole_songs
    )
