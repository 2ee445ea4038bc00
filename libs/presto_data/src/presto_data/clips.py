"""What the whole library passes around: a piece of audio and the true facts about it."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

TONIC = re.compile(r"[A-Ga-g] ?([#♯b♭]|(?i:sharp|flat))?")
THIRDS = {
    "major": ("major", "maj", "ionian", "lydian", "mixolydian"),
    "minor": ("minor", "min", "aeolian", "dorian", "phrygian"),
}


@dataclass(frozen=True)
class Metadata:
    """What is known about a clip; None or empty means unknown. Tempo is in beats per minute."""

    tempo: float | None = None
    key: str | None = None
    mode: str | None = None
    genre: str | None = None
    instruments: tuple[str, ...] = ()
    mood: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def tonality(self) -> str | None:
        """The key as "A minor", church modes by their third; None where it is not known so."""
        mode = (self.mode or "").lower()
        third = next((third for third, modes in THIRDS.items() if mode in modes), None)
        return f"{self.key} {third}" if third and TONIC.fullmatch(self.key or "") else None

    @classmethod
    def from_json(cls, row: dict) -> Metadata:
        """Rebuild what `dataclasses.asdict` and JSON made of it."""
        lists = {name: tuple(row[name]) for name in ("instruments", "tags") if name in row}
        return cls(**{**row, **lists})


@dataclass(frozen=True)
class Clip:
    """Float32 audio of shape (ch, s) in about [-1, 1], its caption and its metadata.

    `start` says where in its recording the clip begins, `total` how long the recording is, both in
    seconds; a total of 0 means unknown.
    """

    audio: Float[Tensor, "ch s"] = field(repr=False)
    sample_rate: int
    caption: str
    metadata: Metadata
    id: str
    start: float = 0.0
    total: float = 0.0

    def mono(self) -> Clip:
        """Return the clip with its channels averaged: audio (1, s), the mid of a stereo clip."""
        return replace(self, audio=self.audio.mean(0, keepdim=True))


class Problem(NamedTuple):
    """A recording or clip that was left out, and why."""

    name: str
    reason: str


class ClipError(ValueError):
    """A clip that cannot be served; carries the `Problem`."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.problem = Problem(name, reason)

    def __reduce__(self):  # worker processes hand it on
        return type(self), tuple(self.problem)


class Corpus(Sequence[Clip]):
    """A sized, indexable sequence of clips, each made when it is asked for.

    Subclasses say how many there are, how clip `index` is made and what names their content.
    `make` raises ClipError for a clip that cannot be served: nothing is put in its place.
    `problems` lists what was left out when the corpus was listed.
    """

    problems: Sequence[Problem] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def make(self, index: int) -> Clip: ...

    @property
    @abstractmethod
    def key(self) -> dict:
        """What the clips depend on, as JSON: equal keys, equal clips. Caches compare it."""

    def __getitem__(self, index: int) -> Clip:
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of a corpus of {len(self)}")
        return self.make(index % len(self))

    def __iter__(self) -> Iterator[Clip]:
        return map(self.make, range(len(self)))
