"""Compose songs from a seed: endless sections for short excerpts, or whole ones with a form."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import cycle
from math import ceil, inf
from random import Random
from typing import NamedTuple

from presto_data.clips import Metadata
from presto_data.composer import BODY, FORM, Composer, Note, Part, chord, place
from presto_data.genres import DRUMS, INSTRUMENTS, SCALES, genre_named

# Between an intro and an ending; two different verses take turns, the chorus is always the same.
FORMS = (
    "verse chorus verse chorus breakdown chorus",
    "verse verse chorus breakdown verse chorus",
    "verse chorus breakdown verse chorus chorus",
)
ENERGY = {"intro": 0.88, "verse": 0.94, "chorus": 1.06, "breakdown": 0.86, "ending": 1.0}
CADENCES = {"major": "V7", "minor": "V7", "dorian": "IV7", "mixolydian": "VII", "phrygian": "II",
            "lydian": "II"}  # fmt: skip
RING_SECONDS = 1.5  # from the release of the last chord to the end of the song
SHORT_LIVED = ("marimba", "muted guitar", "pizzicato strings")  # silent within a second
SENDS = {"bass": 0.3, "drums": 0.6, "chords": 1.0, "pad": 1.4, "lead": 1.3}


class Section(NamedTuple):
    """A stretch of a song: sections of one name share their progression. Counted from bar 0."""

    name: str
    first_bar: int
    bars: int


@dataclass(frozen=True)
class Song:
    """A composed song: facts, parts, beats per bar, sections, amount of reverb.

    `ratio` is the compressor's on the mix, 1 for none; it fades out over its last `fade` seconds.
    """

    metadata: Metadata
    parts: tuple[Part, ...]
    beats: int
    sections: tuple[Section, ...]
    reverb: float
    ratio: float = 1.0
    fade: float = 0.0

    @property
    def bars(self) -> int:
        return self.sections[-1].first_bar + self.sections[-1].bars

    @property
    def bar_seconds(self) -> float:
        return self.beats * 60 / self.metadata.tempo

    @property
    def seconds(self) -> float:
        return self.bars * self.bar_seconds


def compose(genre: str, rng: Random, *, seconds: float) -> Song:
    """Write sections without beginning or end, for excerpts of `seconds`; `rng` draws everything.

    Raises ValueError for an unknown genre.
    """
    style = genre_named(genre)
    bars = BODY * 4
    while bars * style.beats * 60 / style.tempo[1] < 1.5 * seconds:
        bars += BODY
    c = Composer(genre, rng, bars)
    parts = c.band()
    facts = c.facts(parts)
    sections = (Section(FORM[i % 4], BODY * i, BODY) for i in range(bars // BODY))
    return Song(facts, c.arrange(parts), style.beats, tuple(sections), style.reverb)


def compose_whole(genre: str, rng: Random, *, seconds: float = 0.0) -> Song:
    """Write a song with intro, verses, choruses, breakdown and ending, at least `seconds` long.

    The tempo never changes; the ending closes on a chord of the tonic, held and left to ring out.
    Raises ValueError for an unknown genre.
    """
    c = Composer(genre, rng, 3 * BODY)  # two verses and a chorus, all that a song is made of
    c.harmony += cadence(c)
    band = c.band()
    facts = c.facts(band)
    plan = form(c, seconds)
    roles = {part.role for part in band}
    companion = rng.choice(sorted(roles - {"chords", "lead"}) or [""])
    playing = [entrances(section, roles, companion, c.genre.beats) for section, _ in plan]

    parts = []
    for part in band:
        notes = close(c, part, bars=plan[-1][0].bars - 3)
        notes = [
            note
            for (section, source), enter in zip(plan, playing, strict=True)
            for note in repeat(c, notes, section, source, enter.get(part.role, inf))
        ]
        ratio = 4.0 if part.role == "drums" else 1.0
        parts.append(replace(part, notes=notes, send=SENDS[part.role], ratio=ratio))
    sections = tuple(section for section, _ in plan)
    return Song(
        facts, tuple(parts), c.genre.beats, sections, c.genre.reverb, ratio=2.0, fade=RING_SECONDS
    )


def cadence(c: Composer) -> list[list[int]]:
    """Return the chords of the last four bars: a start, a tension and the genre's tonic chord."""
    numerals = " ".join(c.genre.progressions[c.mode]).split()
    tonic = next(numeral for numeral in numerals if re.match(r"[iI](?![iIvV])", numeral))
    end = [chord(numeral, c.tonic, SCALES[c.mode]) for numeral in (CADENCES[c.mode], tonic)]
    return c.harmony[:2] + end


def form(c: Composer, seconds: float) -> list[tuple[Section, int]]:
    """Choose the sections; with each comes the bar of the composed material it begins to play."""
    bar_seconds = c.genre.beats * 60 / c.tempo
    names = ["intro", *c.rng.choice(FORMS).split(), "ending"]
    bars = {"intro": c.rng.choice((4, 8)), "breakdown": c.rng.choice((4, 8)),
            "ending": 4 + ceil((RING_SECONDS + 1) / bar_seconds)}  # fmt: skip
    while sum(bars.get(name, BODY) for name in names) * bar_seconds < seconds:
        names[1:1] = ["verse", "chorus"]

    plan, first_bar, verses = [], 0, cycle((0, BODY))
    sources = {
        "intro": BODY - bars["intro"],  # the last bars of a verse, whose drum fill leads on
        "breakdown": 2 * BODY - bars["breakdown"],
        "chorus": 2 * BODY,
        "ending": 3 * BODY,
    }
    for name in names:
        section = Section(name, first_bar, bars.get(name, BODY))
        plan.append((section, next(verses) if name == "verse" else sources[name]))
        first_bar += section.bars
    return plan


def entrances(section: Section, roles: set[str], companion: str, beats: int) -> dict[str, float]:
    """Return the beat of a section on which each role enters; those that rest are left out."""
    end = section.bars * beats
    if section.name == "intro":
        playing = {"chords": 0.0, companion: end / 2}
    else:
        resting = {"verse": {"pad"}, "breakdown": roles & {"bass", "drums"} or {"lead"}}
        playing = dict.fromkeys(roles - resting.get(section.name, set()), 0.0)
    if "drums" in roles:
        playing.setdefault("drums", end - 1.0)  # a fill before the others come in
    return playing


def repeat(
    c: Composer, notes: list[Note], section: Section, source: int, enter: float
) -> list[Note]:
    """Return the notes from bar `source` on as `section` plays them, from its beat `enter` on."""
    beats, energy = c.genre.beats, ENERGY[section.name]
    early = 4 * c.tight  # hands may come before the beat
    shift = (section.first_bar - source) * beats
    return [
        n._replace(start=max(0.0, n.start + shift), velocity=min(127, round(n.velocity * energy)))
        for n in notes
        if enter <= n.start + early - source * beats < section.bars * beats
    ]


def close(c: Composer, part: Part, *, bars: int) -> list[Note]:
    """Let a part strike the last chord in place of its last bar and hold it for about `bars`."""
    last, beats = len(c.harmony) - 1, c.genre.beats
    length = bars * beats - RING_SECONDS * c.tempo / 60
    if part.role == "drums" or part.instrument in SHORT_LIVED:
        length = 1.0
    notes = [n for n in part.notes if n.start + 4 * c.tight < last * beats]
    tonic, (_, low, high) = c.harmony[last], INSTRUMENTS.get(part.instrument, (0, 0, 127))
    if part.role == "drums":
        pitches = [DRUMS["kick"][0], DRUMS["crash"][0]]
    elif part.role == "bass":
        pitches = [place(tonic[0], low)]
    elif part.role == "lead":
        before = notes[-1].pitch if notes else (low + high) // 2
        tonics = range(place(tonic[0], low), high + 1, 12)
        pitches = [min(tonics, key=lambda pitch: abs(pitch - before))]
    else:
        pitches = c.voicing(part.instrument, tonic)
    loud = 80 if part.role == "drums" else 100
    return notes + [c.note(last, 0.0, length, pitch, loud) for pitch in pitches]
