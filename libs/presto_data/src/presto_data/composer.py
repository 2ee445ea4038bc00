"""Write what each instrument of a band plays: harmony, bass, chords, melody, drums, in beats."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import NamedTuple

from presto_data.clips import Metadata
from presto_data.genres import DRUMS, INSTRUMENTS, SCALES, Genre, genre_named

KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii")
CHORDS = {"": (0, 4, 7), "m": (0, 3, 7), "7": (0, 4, 7, 10), "m7": (0, 3, 7, 10),
          "maj7": (0, 4, 7, 11), "mo7": (0, 3, 6, 10), "6": (0, 4, 7, 9), "m6": (0, 3, 7, 9),
          "9": (0, 4, 7, 10, 14), "m9": (0, 3, 7, 10, 14), "sus": (0, 5, 7)}  # fmt: skip
VELOCITY = {"X": 112, "x": 92, "o": 52}  # anything else that sounds: 92
BODY = 8  # bars in a section
FORM = "AABA"  # progressions, section after section, over and over
METALS = ("hat", "open", "pedal", "ride", "shaker", "tambourine")  # quiet in any mix
RESTS = ("lead", "pad", "drums", "bass")


class Note(NamedTuple):
    """One note: start and length in beats, MIDI pitch and velocity."""

    start: float
    length: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """One instrument's notes and its place in the mix.

    `pan` in [-1, 1], `width` spreads its voices, `level` in dB; `send` scales what the reverb
    hears of it and `ratio` is its compressor's, 1 for none.
    """

    instrument: str
    role: str
    notes: list[Note] = field(repr=False)
    pan: float = 0.0
    width: float = 0.0
    level: float = 0.0
    send: float = 1.0
    ratio: float = 1.0


def chord(numeral: str, tonic: int, scale: tuple[int, ...]) -> list[int]:
    """Return the pitch classes, root first, of a Roman numeral on a degree of `scale`."""
    degree, suffix = re.fullmatch(r"([iIvV]+)(.*)", numeral).groups()
    minor = "m" if degree.islower() else ""
    root = tonic + scale[NUMERALS.index(degree.lower())]
    return [(root + interval) % 12 for interval in CHORDS[minor + suffix]]


def place(pitch_class: int, low: int) -> int:
    """Return the lowest pitch of this class at or above `low`."""
    return low + (pitch_class - low) % 12


def hits(pattern: str, beats: int, swing: float = 0.0) -> list[tuple[float, float, str]]:
    """Return (start, length, symbol) in beats for every symbol that sounds in a one-bar pattern."""
    step, found = beats / len(pattern), []
    for i, symbol in enumerate(pattern):
        if symbol not in ".-":
            held = len(pattern[i + 1 :]) - len(pattern[i + 1 :].lstrip("-"))
            late = swing * step * (i % 2) * (len(pattern) == 16)  # 12 steps swing by themselves
            found.append((i * step + late, (1 + held) * step, symbol))
    return found


class Composer:
    """Holds what the parts of one song share while it is written."""

    def __init__(self, genre: str, rng: Random, bars: int):
        self.name, self.genre, self.rng = genre, genre_named(genre), rng
        low, high = self.genre.tempo
        self.tempo = rng.randint(low, high)
        self.tonic = rng.randrange(12)
        self.mode = rng.choice(sorted(self.genre.progressions))
        self.scale = [(self.tonic + step) % 12 for step in SCALES[self.mode]]
        self.harmony = self._harmony(bars)
        self.tight = rng.uniform(0.004, 0.012) * self.tempo / 60  # timing spread, seconds to beats
        self.legato = rng.uniform(0.55, 0.98)  # how much of their length chords sound

    def _harmony(self, bars: int) -> list[list[int]]:
        """One chord per bar: the sections A and B keep their own progression."""
        options = self.genre.progressions[self.mode]
        sections = [self.rng.choice(options).split() for _ in "AB"]
        return [
            chord(row[bar % BODY % len(row)], self.tonic, SCALES[self.mode])
            for bar in range(bars)
            for row in [sections[FORM[bar // BODY % 4] == "B"]]
        ]

    def note(self, bar: int, start: float, length: float, pitch: int, velocity: float) -> Note:
        """Place a note in a bar with a human hand's timing and touch, louder as a section grows."""
        velocity *= 0.88 + 0.2 * (bar % BODY) / BODY
        when = max(0.0, bar * self.genre.beats + start + self.rng.gauss(0, self.tight))
        touch = min(127, max(20, round(velocity + self.rng.gauss(0, 5))))
        return Note(when, length, pitch, touch)

    def bass(self, instrument: str) -> list[Note]:
        low = INSTRUMENTS[instrument][1]
        line, notes = self.rng.choice(self.genre.basslines), []
        for bar, (now, after) in enumerate(pairwise([*self.harmony, self.harmony[-1]])):
            root = place(now[0], low)
            for start, length, symbol in hits(line, self.genre.beats, self.genre.swing):
                if symbol == "a":  # the scale step just above or below the next root
                    target = place(after[0], low)
                    near = [target + d for d in (-1, -2, 1, 2) if (target + d) % 12 in self.scale]
                    pitch = min(near, key=lambda p: abs(p - root - 3))
                else:
                    member = {"1": 0, "3": 1, "5": 2, "7": 3, "8": 0}[symbol]
                    pitch = place(now[member if member < len(now) else 0], root)
                    pitch += 12 * (symbol in "78" and pitch == root)
                accent = 100 if start == 0 else 90
                notes.append(self.note(bar, start, length * 0.92, pitch, accent))
        return notes

    def voicing(self, instrument: str, now: list[int]) -> list[int]:
        """Keep every voice inside one octave, so that voices move by small steps."""
        _, low, high = INSTRUMENTS[instrument]
        if instrument == "distorted guitar":  # thirds turn to mud: root, fifth, octave
            root = place(now[0], low)
            return [root, root + 7, root + 12]
        centre = min(max(54, low), high - 14)
        return sorted(place(pc, centre) for pc in now)

    def comping(self, instrument: str, pattern: str, velocity: float = 0.85) -> list[Note]:
        notes, beats = [], self.genre.beats
        for bar, now in enumerate(self.harmony):
            voices = self.voicing(instrument, now)
            for start, length, symbol in hits(pattern, beats, self.genre.swing):
                loud = velocity * VELOCITY.get(symbol, 92)
                if symbol.isdigit():
                    octave, voice = divmod(int(symbol) - 1, len(voices))
                    pitch = voices[voice] + 12 * octave
                    notes.append(self.note(bar, start, length * 1.5, pitch, loud))
                else:
                    first = self.note(bar, start, length * self.legato, 0, loud)
                    spread = 0.012 * ("guitar" in instrument) * self.tempo / 60  # a strum
                    notes += [
                        first._replace(start=first.start + i * spread, pitch=pitch)
                        for i, pitch in enumerate(voices)
                    ]
        return notes

    def melody(self, instrument: str) -> list[Note]:
        """Phrases of four bars: a motif, its answer, the motif, a cadence; some phrases rest."""
        _, low, high = INSTRUMENTS[instrument]
        low, high = max(low, 57), min(high, max(low, 57) + 22)
        ladder = [p for p in range(low, high + 1) if p % 12 in self.scale]
        motifs = [self._motif() for _ in range(3)]
        at, notes = len(ladder) // 2, []
        for bar, now in enumerate(self.harmony):
            phrase, place_in_phrase = divmod(bar, 4)
            if place_in_phrase == 0:
                resting = self.rng.random() < 0.12
                base = self.rng.randint(len(ladder) // 4, len(ladder) * 3 // 4)
            if resting:
                continue
            rhythm, contour = motifs[(0, 1, 0, 2)[place_in_phrase] if phrase % 4 != 2 else 1]
            at = base
            for i, (start, length, _) in enumerate(rhythm):
                cadence = place_in_phrase == 3 and i == len(rhythm) - 1
                at = min(max(at + contour[i], 0), len(ladder) - 1)
                if start % 1 == 0 or cadence or length >= 1:  # strong or long: a chord tone
                    tones = now[:3] if cadence else now
                    inside = [k for k, p in enumerate(ladder) if p % 12 in tones]
                    at = min(inside, key=lambda k: abs(k - at))
                arch = 88 + 12 * (start % 1 == 0) + 4 * place_in_phrase - 8 * cadence
                length *= self.rng.uniform(0.8, 0.98)
                notes.append(self.note(bar, start, length, ladder[at], arch))
        return notes

    def _motif(self) -> tuple[list[tuple[float, float, str]], list[int]]:
        """A one-bar rhythm and a contour in scale steps: mostly steps, few leaps, turning back."""
        rhythm = hits(self.rng.choice(self.genre.rhythms), self.genre.beats, self.genre.swing)
        direction, contour = self.rng.choice((-1, 1)), [0]
        for _ in rhythm:
            direction *= -1 if self.rng.random() < 0.35 else 1
            contour.append(direction * self.rng.choice((1, 1, 1, 2, 0, 3)))
        return rhythm, contour

    def drums(self) -> list[Note]:
        groove, notes = self.rng.choice(self.genre.grooves), []
        for bar in range(len(self.harmony)):
            fill = bar % 4 == 3 and self.rng.random() < (0.9 if bar % BODY == 7 else 0.35)
            stop = self.genre.beats - (1 if fill else 0)
            for name, pattern in groove.items():
                for start, length, symbol in hits(pattern, self.genre.beats, self.genre.swing):
                    if start < stop and not (symbol == "o" and self.rng.random() < 0.2):
                        loud = VELOCITY[symbol] - 38 * (name in METALS)
                        notes.append(self.note(bar, start, length, DRUMS[name][0], loud))
            if fill:
                steps = 3 if len(pattern) == 12 else 4
                kit = sorted(self.rng.choices(("snare", "tom1", "tom2", "tom3"), k=steps))
                notes += [
                    self.note(bar, stop + i / steps, 0.2, DRUMS[name][0], 84 + 6 * i)
                    for i, name in enumerate(kit)
                ]
            if bar % BODY == 0:
                notes.append(self.note(bar, 0, 2, DRUMS["crash"][0], 64))
        return notes

    def band(self) -> list[Part]:
        """Choose who plays and where they stand, and let everybody play from the first bar on."""
        style, rng = self.genre, self.rng
        lead, chords, bass, pad = map(rng.choice, (style.lead, style.chords, style.bass, style.pad))
        if lead == chords:  # one instrument, one role
            chords = next((name for name in style.chords if name != lead), chords)
        pad = "" if pad in (lead, chords, bass) else pad
        side = rng.choice((-1, 1))

        parts = []
        if bass:
            parts.append(Part(bass, "bass", self.bass(bass), level=-3.5))
        pattern = rng.choice(style.comping)
        if chords == "distorted guitar":  # two takes, left and right
            takes = [(side, self.comping(chords, pattern)) for side in (-1, 1)]
            parts += [Part(chords, "chords", notes, pan, level=-7) for pan, notes in takes]
        else:
            wide, notes = rng.uniform(0.3, 0.6), self.comping(chords, pattern)
            parts.append(Part(chords, "chords", notes, side * 0.3, wide, -5.0))
        if pad:
            held = "x" + "-" * (style.beats * 4 - 1)
            parts.append(Part(pad, "pad", self.comping(pad, held, 0.7), -side * 0.2, 0.8, -9.0))
        parts.append(Part(lead, "lead", self.melody(lead), -side * 0.25, level=-2.0))
        kit = rng.choice(style.kits) if style.kits else ""
        if kit:
            parts.append(Part(kit, "drums", self.drums(), width=1.0, level=style.drums))
        return parts

    def facts(self, parts: list[Part]) -> Metadata:
        return Metadata(
            tempo=float(self.tempo),
            key=KEYS[self.tonic],
            mode=self.mode,
            genre=self.name,
            instruments=tuple(dict.fromkeys(part.instrument for part in parts)),
            mood=mood(self.tempo, self.mode, self.genre, self.rng),
        )

    def arrange(self, parts: list[Part]) -> tuple[Part, ...]:
        """Let one role rest now and then, four bars at a time; chords always play."""
        blocks = -(-len(self.harmony) // 4)
        resting = [self.rng.choice(("", "", "", "", *RESTS)) for _ in range(blocks)]

        def rests(part: Part, note: Note) -> bool:
            return resting[min(int(note.start / self.genre.beats / 4), blocks - 1)] == part.role

        return tuple(
            replace(part, notes=[n for n in part.notes if not rests(part, n)]) for part in parts
        )


def mood(tempo: float, mode: str, genre: Genre, rng: Random) -> str:
    """Choose a mood that tempo (within the genre's range) and mode agree with."""
    low, high = genre.tempo
    fast, bright = tempo > (low + high) / 2, mode in ("major", "lydian", "mixolydian")
    return rng.choice(
        {
            (True, True): ("upbeat", "happy", "lively", "cheerful"),
            (True, False): ("driving", "tense", "restless", "intense"),
            (False, True): ("warm", "relaxed", "mellow", "gentle"),
            (False, False): ("dark", "moody", "melancholic", "brooding"),
        }[fast, bright]
    )
