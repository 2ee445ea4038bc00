"""Recordings in files as a corpus of clips; `folder_corpus` and its kin say which and what of."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable
from copy import copy
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from presto_data.audio import at_most_stereo, audio_info, read_section, resampled
from presto_data.clips import Clip, ClipError, Corpus, Metadata
from presto_data.faults import Faults, audible_fault, report
from presto_data.tables import unreadable_text

Last = Literal["align", "drop", "pad"]
DECIMALS = 0.01  # seconds by which a stated end may be rounded up
ROUNDING = 1e-6  # of a clip: what decimals and sample counts may differ by


@dataclass(frozen=True)
class Reading:
    """How recordings become clips of `seconds` at `sample_rate`.

    `last` is what becomes of the rest that fills no clip: "align" moves the last clip back to the
    end, if more than half of it is new, else drops the rest, and repeats a recording that is
    shorter than one clip until it fills it; "drop" leaves the rest out; "pad" adds silence.
    `check` decodes every clip once when the corpus is listed, so that every fault is known before
    any work; without it only headers are read, and other faults are raised clip by clip.
    """

    seconds: float
    sample_rate: int
    last: Last
    check: bool

    def __post_init__(self):
        if self.sample_rate < 1 or not 1 <= self.seconds * self.sample_rate < math.inf:
            raise ValueError(
                f"seconds {self.seconds} at sample_rate {self.sample_rate} make no clip"
            )
        if self.last not in get_args(Last):
            raise ValueError(f"last is {self.last!r}; it must be one of {get_args(Last)}")

    def cut(self, start: float, end: float) -> list[tuple[float, float]]:
        """Return where the clips of a recording begin and end, in seconds."""
        count = (end - start) / self.seconds
        if self.last == "align":
            latest = max(start, end - self.seconds)
            clips = max(1, math.ceil(count - 0.5 - ROUNDING))
            starts = [min(start + i * self.seconds, latest) for i in range(clips)]
        elif self.last == "drop":
            starts = [start + i * self.seconds for i in range(math.floor(count + ROUNDING))]
        else:
            starts = [start + i * self.seconds for i in range(math.ceil(count - ROUNDING))]
        return [(at, min(at + self.seconds, end)) for at in starts]

    def fill(self, audio: Float[Tensor, "ch s"]) -> Float[Tensor, "ch clip"]:
        """Bring audio to the length of a clip: cut, repeated or followed by silence."""
        length = round(self.seconds * self.sample_rate)
        missing = length - audio.shape[1]
        if missing > 0 and self.last == "pad":
            audio = torch.nn.functional.pad(audio, (0, missing))
        elif missing > 0:
            audio = audio.repeat(1, -(-length // audio.shape[1]))
        return audio[:, :length].contiguous()


@dataclass(frozen=True)
class Recording:
    """A file (or its part from `start` to `end` seconds), its captions and what is known of it.

    `name` is its place in the corpus and the stem of its clips' ids; `label` names it among the
    problems, if that should be more. With several captions the clips take them in turn.
    """

    path: Path
    name: str
    captions: tuple[str, ...]
    metadata: Metadata
    start: float = 0.0
    end: float | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Where one clip lies in a recording: from `start` to `end` of `total` seconds."""

    recording: Recording
    start: float
    end: float
    total: float
    caption: str

    @property
    def id(self) -> str:
        return f"{self.recording.name}@{self.start:.10g}"


class FileCorpus(Corpus):
    """Clips cut from recordings; `problems` names what was left out, and why, each once.

    A recording that cannot be read to its end is left out as a whole, a silent or clipped clip
    alone.
    """

    def __init__(self, recordings: Iterable[Recording], reading: Reading, faults: Faults):
        self.reading, self.problems = reading, faults
        self.excerpts: list[Excerpt] = []
        ids: set[str] = set()
        for recording in recordings:
            try:
                excerpts = self._cut(recording, ids)
                reasons = [self._fault(excerpt) if reading.check else None for excerpt in excerpts]
                if all(reasons):
                    raise ValueError(reasons[0])
            except ValueError as error:
                reason = str(error).removeprefix(f"{recording.path}: ")
                faults.add(recording.label or recording.name, reason)
                continue
            for excerpt, reason in zip(excerpts, reasons, strict=True):
                if reason:
                    faults.add(excerpt.id, reason)
                else:
                    self.excerpts.append(excerpt)
                    ids.add(excerpt.id)

    def _cut(self, recording: Recording, ids: set[str]) -> list[Excerpt]:
        """Return a recording's excerpts; raises ValueError when all of it is to be left out."""
        if damaged := unreadable_text(" ".join(recording.captions), recording.metadata):
            raise ValueError(f"text or tags not UTF-8 ({damaged[:60]!r})")
        total = audio_info(recording.path).seconds
        start, end = recording.start, total if recording.end is None else recording.end
        if not 0 <= start < end <= total + DECIMALS:
            raise ValueError(f"bad number (from {start:g} to {end:g} s of {total:g} s)")
        spans = self.reading.cut(start, min(end, total))
        if not spans:
            raise ValueError(f"shorter than a clip, {end - start:g} s")
        captions = islice(cycle(recording.captions), len(spans))
        excerpts = [
            Excerpt(recording, *span, total, caption)
            for span, caption in zip(spans, captions, strict=True)
        ]
        if taken := [excerpt.id for excerpt in excerpts if excerpt.id in ids]:
            raise ValueError(f"duplicate id ({taken[0]})")
        return excerpts

    def _fault(self, excerpt: Excerpt) -> str | None:
        return audible_fault(self._section(excerpt)[0])

    def _section(self, excerpt: Excerpt) -> tuple[Float[Tensor, "ch s"], int]:
        seconds = excerpt.end - excerpt.start
        return read_section(excerpt.recording.path, start=excerpt.start, seconds=seconds)

    def __len__(self) -> int:
        return len(self.excerpts)

    def only(self, rows: Iterable[int]) -> FileCorpus:
        """Return a corpus of some of the clips, and of no problems."""
        part = copy(self)
        part.excerpts, part.problems = [self.excerpts[row] for row in rows], []
        return part

    @property
    def key(self) -> dict:
        """Names, sizes and times of the files, what is cut from them and what is said of it.

        As a digest, for there may be millions; not the files' bytes, which would have to be read.
        """
        stats = {path: path.stat() for path in {e.recording.path for e in self.excerpts}}
        digest = sha256()
        for e in self.excerpts:
            size, time = stats[e.recording.path].st_size, stats[e.recording.path].st_mtime_ns
            row = (e.id, size, time, e.start, e.end, e.caption, asdict(e.recording.metadata))
            digest.update(json.dumps(row).encode())
        reading = {"seconds": self.reading.seconds, "sample_rate": self.reading.sample_rate}
        last = self.reading.last
        return {"clips": len(self), "files": digest.hexdigest(), **reading, "last": last}

    def make(self, index: int) -> Clip:
        excerpt = self.excerpts[index]
        path = excerpt.recording.path
        try:
            stored, rate = self._section(excerpt)
            if reason := audible_fault(stored):
                raise ValueError(reason)
        except ValueError as error:
            raise ClipError(excerpt.id, str(error).removeprefix(f"{path}: ")) from None
        sample_rate = self.reading.sample_rate
        return Clip(
            self.reading.fill(resampled(at_most_stereo(stored), rate, sample_rate)),
            sample_rate,
            excerpt.caption,
            excerpt.recording.metadata,
            excerpt.id,
            start=excerpt.start,
            total=excerpt.total,
        )


def usable(corpus: FileCorpus, source: Path, hint: str) -> FileCorpus:
    """Return the corpus; warns of what was left out, raises ValueError when nothing is left."""
    problems = corpus.problems
    if not len(corpus):
        why = f" ({len(problems)} left out)" if problems else ""
        why += "".join(f"; {name}: {reason}" for name, reason in problems[:3])
        raise ValueError(f"{source}: no usable audio{why}; {hint}")
    if problems:
        first = report(problems).splitlines()[0]
        name, reason = problems[0]
        warnings.warn(f"{source}: {first}; first {name}: {reason}", stacklevel=3)
    return corpus


def text_of(path: Path) -> str:
    """Return a path as text that can be printed and stored, whatever its bytes are."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="replace")
