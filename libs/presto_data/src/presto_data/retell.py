"""Keep what a text says about tempo and key true when the music is stretched or transposed.

English only. A tempo is a number beside "bpm", "beats per minute" or "tempo"; a key is a tonic with
its mode ("F sharp minor", "Bbm"), after "in" or "key", or alone between commas. Everything else,
such as "a minor key" or a B flat clarinet, is left as it is.
"""

from __future__ import annotations

import re

from presto_data.captions import SPOKEN, tempo_word
from presto_data.composer import KEYS

IN_TUNE = 0.25  # semitones off a whole number up to which a shifted piece is still in a named key

NUMBER = r"\d+(?:\.\d+)?"
TEMPO = re.compile(
    rf"(?<![\d.])(?P<low>{NUMBER})(?P<to>\s*(?:-|–|to)\s*)(?P<high>{NUMBER})(?P<u>[\s-]*bpm\b)"
    rf"|(?<![\d.])(?P<number>{NUMBER})(?P<unit>[\s-]*(?:bpm\b|beats (?:per|a) minute\b))"
    r"|(?P<label>\b(?:bpm|tempo(?: of| is| at|\s*[:=])?)(?: about| around)?[\s:=~]*)"
    rf"(?P<said>{NUMBER})(?![\w/'’])",
    re.I,
)
TONIC = r"(?P<letter>[A-Ga-g])(?P<sign>[#♯b♭]|[ -]?(?i:sharp|flat)\b)?"
MODE = r"(?:major|minor|maj|min|dorian|phrygian|lydian|mixolydian|aeolian|ionian|locrian)\b"
KEY = re.compile(rf"(?<![\w#])(?P<article>an? )?{TONIC}(?P<gap>[ -]?)(?P<mode>{MODE})", re.I)
SHORT = rf"{TONIC.replace('A-Ga-g', 'A-G')}(?P<short>m?)"
PLACED = re.compile(
    rf"(?P<place>(?i:\b(?:(?:in |the )?key(?: of| is)? |in |(?:key|chords?) ?[:=] ?))){SHORT}"
    rf"(?![\w#♯♭-]| (?i:sharp|flat)\b|[ -](?i:{MODE}))"
)
ALONE = re.compile(rf"(?P<place>(?:^|(?<=, ))){SHORT}(?=,|$)")
# What tells a tonic A from the article: "in A." and "in a minor, soft", not "A minor key".
KEY_OF = ("key of ", "key is ", "key: ", "key:")
AFTER_A_TONIC = re.compile(r" ?(?:[,.;:!?)]|$|(?:with|at|for)\b)")
AFTER_AN_ARTICLE = re.compile(r" (?:key|chord|scale|mode|third|sixth|part|role|hit)", re.I)


def _whole(semitones: float) -> int | None:
    """The number of semitones by which names of keys move; None where no name fits any more."""
    nearest = round(semitones)
    return nearest if abs(semitones - nearest) <= IN_TUNE else None


def transposed(tonic: str, semitones: float) -> str | None:
    """A tonic such as "F#" or "E flat" moved up; None when it is no tonic or nothing fits."""
    found = re.fullmatch(TONIC, tonic.strip())
    return _moved(found, semitones) if found else None


def retell(text: str, *, semitones: float, rate: float, tempo: float | None = None) -> str:
    """Return `text` as it must read after a shift by `semitones` and a tempo `rate` times as fast.

    Tempos are rounded to a tenth. A key that the shift leaves between two names becomes "a minor
    key" or "another key". `tempo`, the old one in bpm where known, lets the words of `tempo_word`
    ("slow", "mid-tempo", "fast") follow when it crosses their limits.
    """
    if rate != 1:
        text = TEMPO.sub(lambda found: _faster(found, rate), text)
        if tempo:
            before, after = tempo_word(tempo), tempo_word(round(tempo * rate, 1))
            if before != after:
                text = re.sub(rf"\b{before}\b", after, text)
                text = re.sub(rf"\b{before.capitalize()}\b", after.capitalize(), text)
    if semitones != 0:
        text = KEY.sub(lambda found: _named(found, semitones), text)
        text = PLACED.sub(lambda found: _placed(found, semitones), text)
        text = ALONE.sub(lambda found: _placed(found, semitones), text)
    return text


def _faster(found: re.Match, rate: float) -> str:
    def times(number: str) -> str:
        return f"{round(float(number) * rate, 1):g}"

    if found["low"]:
        return times(found["low"]) + found["to"] + times(found["high"]) + found["u"]
    if found["number"]:
        return times(found["number"]) + found["unit"]
    possible = 30 <= float(found["said"]) <= 300  # not the 808 of "high bpm 808 beat"
    return found["label"] + times(found["said"]) if possible else found[0]


def _moved(found: re.Match, semitones: float) -> str | None:
    """The tonic of a match, moved and spelled in its way: sign or word, capital or not."""
    steps = _whole(semitones)
    if steps is None:
        return None
    sign = found["sign"] or ""
    raised = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}.get(sign)
    if raised is None:
        raised = 1 if "sharp" in sign.lower() else -1
    name = KEYS[("C.D.EF.G.A.B".index(found["letter"].upper()) + raised + steps) % 12]
    name = SPOKEN.get(name, name) if len(sign) > 1 else name
    return name if found["letter"].isupper() else name[0].lower() + name[1:]


def _named(found: re.Match, semitones: float) -> str:
    """A tonic with its mode, and the article before it."""
    before, after = found.string[: found.start()], found.string[found.end() :]
    if found["letter"] in "aA" and not found["sign"] and not found["article"]:
        tonic = before.endswith("in ") and AFTER_A_TONIC.match(after)
        if found["letter"] == "a" and not (tonic or before.lower().endswith(KEY_OF)):
            return found[0]
        starts = not before.strip() or before.rstrip()[-1] in ".!?"
        if starts and AFTER_AN_ARTICLE.match(after):
            return found[0]
    name, mode, article = _moved(found, semitones), found["mode"], found["article"] or ""
    if name is None:
        mode = {"maj": "major", "min": "minor"}.get(mode, mode)
        return f"{article[:1]} {mode}-key" if article else f"a {mode} key"
    if article:
        article = article[0] + ("n " if name[0] in "AEFaef" else " ")
    return article + name + found["gap"] + mode


def _placed(found: re.Match, semitones: float) -> str:
    """A tonic after "in" or "key", or alone."""
    bare = found["letter"] == "A" and not (found["sign"] or found["short"])
    if bare and not AFTER_A_TONIC.match(found.string[found.end() :]):
        return found[0]
    name, place = _moved(found, semitones), found["place"]
    if name is None:
        return f"{place[:3]}another key" if place.lower().startswith("in ") else "another key"
    return place + name + found["short"]
