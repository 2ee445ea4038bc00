"""Augment clips: other pitch, tempo, level, polarity, sides, colour or place; their facts follow.

Functions from clip to clip by stated amounts, each adding to the id what it did; `Augment` draws
the amounts. The paper states pitch-shifting and time-stretching; every amount is our default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from math import ceil, inf, isfinite, log10
from random import Random
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from presto_data.clips import Clip, ClipError, Corpus, Metadata
from presto_data.retell import retell, transposed

# Seconds. The stretcher's own preset has 0.12: bass notes near 45 Hz then land 12 cents off.
BLOCK, INTERVAL = 0.15, 0.03
LONGEST_PERIOD = 200  # of the resampling ratio: 0.02 cents from any interval
LOWEST = {"low": 60, "peak": 500, "high": 2500}  # Hz; drawn bands lie within two octaves above
VERSION = 1  # raise it when the same amounts start to sound different: caches notice


# ---------------------------------------------------------------------- pitch and tempo


def pitch_shift(clip: Clip, semitones: float) -> Clip:
    """Transpose a clip without changing its tempo; see `shift_and_stretch`."""
    return shift_and_stretch(clip, semitones=semitones)


def time_stretch(clip: Clip, rate: float) -> Clip:
    """Play a clip `rate` times as fast without changing its pitch; see `shift_and_stretch`."""
    return shift_and_stretch(clip, rate=rate)


def shift_and_stretch(clip: Clip, *, semitones: float = 0.0, rate: float = 1.0) -> Clip:
    """Change pitch and tempo in one pass: audio (ch, s) becomes (ch, round(s / rate)).

    Tempo (to a tenth), key, caption, tags, start and total follow; a key that a broken shift leaves
    more than a quarter of a semitone from any name becomes unknown. Raises ValueError beyond an
    octave or a factor of two.
    """
    if not -12 <= semitones <= 12:
        raise ValueError(f"semitones is {semitones}; it must be in [-12, 12]")
    if not 0.5 <= rate <= 2:
        raise ValueError(f"rate is {rate}; it must be in [0.5, 2]")
    if semitones == 0 and rate == 1:
        return clip
    facts = clip.metadata
    change = {"semitones": semitones, "rate": rate, "tempo": facts.tempo}
    followed = replace(
        facts,
        tempo=facts.tempo and round(facts.tempo * rate, 1),
        key=transposed(facts.key, semitones) if facts.key and semitones else facts.key,
        tags=tuple(retell(tag, **change) for tag in facts.tags),
    )
    did = f"+pitch={semitones:+g}st" * (semitones != 0) + f"+rate={rate:g}" * (rate != 1)
    return replace(
        clip,
        audio=_retimed(clip.audio, clip.sample_rate, semitones=semitones, rate=rate),
        caption=retell(clip.caption, **change),
        metadata=followed,
        id=clip.id + did,
        start=clip.start / rate,
        total=clip.total / rate,
    )


def _retimed(
    audio: Float[Tensor, "ch s"], sample_rate: int, *, semitones: float, rate: float
) -> Float[Tensor, "ch t"]:
    """Stretch in time by Signalsmith's library, then change pitch by resampling.

    The library shifts pitch by itself, but moves low notes up to 30 cents too far or too little;
    its stretching and a resampler keep within 5. No delay: time t becomes t / rate.
    """
    from python_stretch.Signalsmith import Stretch
    from torchaudio.functional import resample

    channels, length = len(audio), round(audio.shape[1] / rate)
    faster = Fraction(2 ** (semitones / 12)).limit_denominator(LONGEST_PERIOD)

    # The stretcher fades the last half block out: let it fade a reflection, and cut that.
    block = round(BLOCK * sample_rate)
    tail = min(block, audio.shape[1] - 1)
    longer = torch.nn.functional.pad(audio, (0, tail), "reflect").contiguous()

    stretcher = Stretch(0)  # seeded: equal amounts, equal bits
    stretcher.configure(channels, block, round(INTERVAL * sample_rate))
    stretcher.timeFactor = rate / float(faster)
    stretched = torch.from_numpy(stretcher.process(longer.numpy()))
    up, down = faster.as_integer_ratio()
    pitched = resample(stretched, up, down, lowpass_filter_width=24)
    pitched = pitched[:, :length]

    # Noise, such as cymbals, loses up to 1.5 dB: give the whole its level back, balance untouched.
    # What lost more was shifted out of hearing, and should be gone.
    lost = audio.square().mean() / pitched.square().mean().clamp(min=1e-12)
    return pitched * lost.clamp(max=2).sqrt()


# ---------------------------------------------------------------------- level, sides, colour


def gain(clip: Clip, decibels: float) -> Clip:
    """Make a clip louder or softer; nothing is clipped."""
    if not isfinite(decibels):
        raise ValueError(f"decibels is {decibels}; it must be finite")
    return replace(
        clip, audio=clip.audio * 10 ** (decibels / 20), id=f"{clip.id}+gain={decibels:+g}dB"
    )


def flip_polarity(clip: Clip) -> Clip:
    """Turn every sample's sign."""
    return replace(clip, audio=-clip.audio, id=f"{clip.id}+flipped")


def swap_channels(clip: Clip) -> Clip:
    """Exchange left and right; a mono clip stays. Raises ValueError for more than two channels."""
    if len(clip.audio) > 2:
        raise ValueError(f"{clip.id}: {len(clip.audio)} channels have no left and right")
    if len(clip.audio) == 1:
        return clip
    return replace(clip, audio=clip.audio.flip(0), id=f"{clip.id}+swapped")


class Band(NamedTuple):
    """A second-order filter: a shelf below or above `hertz`, or a peak about it, in decibels."""

    kind: Literal["low", "peak", "high"]
    hertz: float
    decibels: float


def equalise(clip: Clip, bands: tuple[Band, ...]) -> Clip:
    """Filter all channels by each band in turn; Q is 0.7 (Bristow-Johnson's audio EQ cookbook).

    Raises ValueError for an unknown kind and a frequency not below half the sample rate.
    """
    from torchaudio.functional import bass_biquad, equalizer_biquad, treble_biquad

    filters = {"low": bass_biquad, "peak": equalizer_biquad, "high": treble_biquad}
    audio = clip.audio * 2**-10  # torchaudio's filters clamp at 1; a power of two rounds nothing
    for band in bands:
        if band.kind not in filters or not 0 < band.hertz < clip.sample_rate / 2:
            raise ValueError(f"{band} is no low, peak or high band below half the sample rate")
        amounts = band.hertz, band.decibels
        amounts = amounts if band.kind == "peak" else amounts[::-1]  # their order differs
        audio = filters[band.kind](audio, clip.sample_rate, *amounts, 0.707)
    did = ",".join(f"{band.kind}{band.hertz:g}Hz{band.decibels:+g}dB" for band in bands)
    return replace(clip, audio=audio * 2**10, id=f"{clip.id}+eq={did}" if bands else clip.id)


def crop(clip: Clip, start: float, seconds: float) -> Clip:
    """Return the `seconds` of a clip from `start` on; ClipError where it does not have them."""
    first, length = round(start * clip.sample_rate), round(seconds * clip.sample_rate)
    if first < 0 or length < 1 or first + length > clip.audio.shape[1]:
        has = clip.audio.shape[1] / clip.sample_rate
        raise ClipError(clip.id, f"no {seconds:g} s from {start:g} s on, it has {has:g} s")
    return replace(
        clip,
        audio=clip.audio[:, first : first + length].contiguous(),
        id=f"{clip.id}+from={start:g}s",
        start=clip.start + first / clip.sample_rate,
    )


# ---------------------------------------------------------------------- at random


@dataclass(frozen=True)
class Augment:
    """Changes a clip by amounts drawn within these limits.

    The published pair, pitch and tempo, is on; the others are off until given a limit. Whole
    semitones keep the keys true. With `seconds` the clips are random excerpts that all have this
    length after stretching, as encoding in batches needs; they must come from clips of at least
    `seconds` times the fastest rate.
    `recaption` writes new captions from the facts (for rendered clips: `captions.caption`);
    without it tempo and key are changed where the caption names them.
    """

    semitones: int = 2  # up or down
    rate: tuple[float, float] = (0.9, 1.1)
    gain: float = 0.0  # dB, up or down
    eq: float = 0.0  # dB, up or down, of each of a low shelf, a peak and a high shelf
    polarity: bool = False  # flip that of every other clip
    sides: bool = False  # swap those of every other clip
    seconds: float | None = None
    recaption: Callable[[Metadata, Random], str] | None = None

    def __post_init__(self):
        slow, fast = self.rate
        if not 0.5 <= slow <= fast <= 2:
            raise ValueError(f"rate is {self.rate}; it must be (slowest, fastest) in [0.5, 2]")
        if self.semitones not in range(13):
            raise ValueError(f"semitones is {self.semitones}; it must be a whole number in 0..12")
        for name in ("gain", "eq"):
            if not 0 <= getattr(self, name) <= 24:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 24] dB")
        if self.seconds is not None and not 0 < self.seconds < inf:
            raise ValueError(f"seconds is {self.seconds}; it must be positive and finite")
        if self.recaption and "<" in getattr(self.recaption, "__qualname__", "<"):
            raise ValueError(f"recaption is {self.recaption}; caches need a function with a name")

    @property
    def key(self) -> dict:
        """The limits as JSON; `recaption` by its name."""
        write = self.recaption
        return asdict(self) | {"recaption": write and f"{write.__module__}.{write.__qualname__}"}

    def _band(self, kind: str, sample_rate: int, rng: Random) -> Band:
        hertz = min(LOWEST[kind] * 4 ** rng.random(), 0.4 * sample_rate)
        return Band(kind, round(hertz), round(rng.uniform(-self.eq, self.eq), 1) + 0.0)

    def __call__(self, clip: Clip, rng: Random) -> Clip:
        """Return the clip changed; all amounts come from `rng`, and the id tells them.

        It is made softer where its peak would pass 1. Raises ClipError for a clip too short.
        """
        # Draw everything, used or not: what is switched on does not change the other amounts.
        semitones = int((2 * self.semitones + 1) * rng.random()) - self.semitones
        rate = round(rng.uniform(*self.rate), 3)
        where = rng.random()
        low, peak, high = (self._band(kind, clip.sample_rate, rng) for kind in LOWEST)
        decibels = round(rng.uniform(-self.gain, self.gain), 1)
        flip, swap = rng.random() < 0.5, rng.random() < 0.5

        if self.seconds is not None:
            # A few samples more, so that rounding never leaves too few after stretching.
            taken = (ceil(self.seconds * rate * clip.sample_rate) + 2) / clip.sample_rate
            room = clip.audio.shape[1] / clip.sample_rate - taken
            clip = crop(clip, int(1000 * where * max(0.0, room)) / 1000, taken)
        clip = shift_and_stretch(clip, semitones=semitones, rate=rate)
        if self.seconds is not None:
            length = round(self.seconds * clip.sample_rate)
            clip = replace(clip, audio=clip.audio[:, :length].contiguous())
        if self.eq:
            clip = equalise(clip, (low, peak, high))
        if decibels:
            clip = gain(clip, decibels)
        if self.polarity and flip:
            clip = flip_polarity(clip)
        if self.sides and swap:
            clip = swap_channels(clip)
        if (loudest := clip.audio.abs().max().item()) > 1:
            clip = gain(clip, -ceil(200 * log10(loudest)) / 10)
        if self.recaption:
            clip = replace(clip, caption=self.recaption(clip.metadata, rng))
        return clip


class AugmentedCorpus(Corpus):
    """Clip i + k n is copy k of clip i of n: a pure function of (corpus, augment, seed, k, i)."""

    def __init__(self, corpus: Corpus, augment: Augment, *, copies: int, seed: int):
        self.corpus, self.augment, self.copies, self.seed = corpus, augment, copies, seed
        self.problems = corpus.problems

    def __len__(self) -> int:
        return len(self.corpus) * self.copies

    @property
    def key(self) -> dict:
        return {
            "augmented": VERSION,
            "corpus": self.corpus.key,
            "augment": self.augment.key,
            "copies": self.copies,
            "seed": self.seed,
        }

    def make(self, index: int) -> Clip:
        copy, row = divmod(index, len(self.corpus))
        clip = self.corpus[row]
        rng = Random(f"{self.seed}/{copy}/{row}")  # a string is hashed whole: no overlap
        return self.augment(replace(clip, id=f"{clip.id}+copy={copy}"), rng)


def augmented(
    corpus: Corpus, augment: Augment, *, copies: int = 1, seed: int = 0
) -> AugmentedCorpus:
    """Return a corpus whose clips are those of `corpus` changed anew in each of `copies`.

    For clips of equal length let `augment.seconds` be set and the corpus's clips be longer, as in
    `augmented(synthetic_corpus(99, seconds=6.7), Augment(seconds=6.0))`.
    Raises ValueError for fewer than one copy.
    """
    if copies < 1:
        raise ValueError(f"copies is {copies}; it must be at least 1")
    return AugmentedCorpus(corpus, augment, copies=copies, seed=seed)
