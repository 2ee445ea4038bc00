"""Say in plain English what a clip's metadata knows, in many wordings, all of them true."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from random import Random
from typing import Literal, get_args

from presto_data.clips import Metadata

ENSEMBLES = {2: "duo", 3: "trio", 4: "quartet", 5: "quintet"}
CHAMBER = ("jazz", "folk", "classical", "blues", "bossa nova", "waltz")  # where these words fit
TEMPO_WORDS = ((76, "slow"), (108, "mid-tempo"), (math.inf, "fast"))
SPOKEN = {"F#": "F sharp", "Db": "D flat", "Eb": "E flat", "Ab": "A flat", "Bb": "B flat"}


def article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0].lower() in "aeiou" else f"a {phrase}"


def listing(names: tuple[str, ...] | list[str]) -> str:
    """Join names as English does: a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def tempo_word(bpm: float) -> str:
    return next(word for limit, word in TEMPO_WORDS if bpm < limit)


def caption(facts: Metadata, rng: Random) -> str:
    """Describe a clip from what is known; wording and omissions depend on `rng` alone.

    Every stated fact is in `facts`; raises ValueError when there is nothing to say.
    """
    names = list(facts.instruments)
    if not (facts.genre or names):
        raise ValueError("a caption needs a genre or instruments")
    rng.shuffle(names)
    some = names[: rng.randint(max(1, len(names) - 2), len(names))] if names else []
    some = some if rng.random() < 0.85 else []
    genre = facts.genre or "music"
    piece = rng.choice(("piece", "track", "tune", "groove" if "drum" in str(names) else "piece"))
    style = rng.randrange(8)
    if len(names) in ENSEMBLES and genre in CHAMBER and rng.random() < 0.5 and style != 7:
        piece = ENSEMBLES[len(names)]
    word = tempo_word(facts.tempo) if facts.tempo else ""
    bpm = f"{facts.tempo:g} bpm" if facts.tempo else ""
    spelled = rng.choice((facts.key, SPOKEN.get(facts.key, facts.key))) if facts.key else ""
    key = f"{spelled} {facts.mode or ''}".strip() if spelled else ""
    feeling = (facts.mood if rng.random() < 0.7 else word) or ""

    def phrase(*words: str) -> str:
        return " ".join(w for w in words if w)

    if style == 0:  # fast techno, synth bass
        return ", ".join([phrase(word, genre, piece if not some else ""), *some[:2]])
    if style == 1:  # dark house, A minor, 124 bpm, synth bass, piano
        return ", ".join(filter(None, [phrase(facts.mood or "", genre), key, bpm, *some]))
    if style == 2:  # jazz with piano
        return phrase(feeling, genre, "with" if some else "", listing(some))
    if style == 3:  # A slow blues tune for harmonica and piano.
        opening = article(phrase(word, genre, piece)).capitalize()
        return phrase(opening, "with" if some else "", listing(some)) + "."
    lead = article(phrase(feeling, genre, piece))
    with_ = f"with {listing(some)}" if some else ""
    in_key, at = (f"in {key}" if key else ""), (f"at {bpm}" if bpm else "")
    if style == 4:  # a mellow jazz piece in D minor at 92 bpm with piano and upright bass
        return phrase(lead, in_key, at, with_)
    if style == 5:
        return phrase(lead, with_, at)
    if style == 6:
        return phrase(phrase(word, genre).capitalize(), in_key + ",", f"{bpm}.", "Played on",
                      listing(some) + ".") if some and key and bpm else lead  # fmt: skip
    return phrase(listing(some).capitalize(), "playing", lead, in_key) if some else lead


TempoForm = Literal["number", "word", "option"]


def describe(facts: Metadata, rng: Random, *, tempo: TempoForm = "number") -> str:
    """State every known fact of a record together with its role, in a wording drawn from `rng`.

    `tempo` is told as a "number", as the "word" for its range or as the prompt option "--bpm 120".
    Nothing is left out and a role is never in doubt (mood or genre, tag or instrument), so records
    that differ get captions that differ. Two exceptions: a "word" hides tempos of one range from
    each other, and the order of instruments and tags is not told. Names and tags stand verbatim,
    in quotes where their punctuation could be taken for the caption's.

    Raises ValueError when nothing is known, or when --bpm would follow a name that holds " --".
    """
    said = known_facts(facts, rng, tempo)
    if not (said or facts.tempo):
        raise ValueError("a caption needs at least one known fact")
    text = rng.choice((sentence, sentences, labels, keywords))(said, rng) or "music"
    if tempo != "option" or not facts.tempo:
        return text
    if re.search(r"(^|\s)--\w", text):
        raise ValueError(f"--bpm cannot follow what looks like an option: {text!r}")
    return f"{text} --bpm {facts.tempo:g}"


def paraphrases(facts: Metadata, n: int, seed: int = 0) -> list[str]:
    """Return `n` different wordings of all that a record states, the same for the same seed.

    Raises ValueError when nothing is known, or too little for `n` wordings.
    """
    rng = Random(f"paraphrases/{seed}")
    found: dict[str, None] = {}
    for _ in range(100 * n):
        if len(found) == n:
            break
        found[describe(facts, rng)] = None
    if len(found) < n:
        raise ValueError(f"{facts} has only {len(found)} wordings, not {n}")
    return list(found)


def known_facts(facts: Metadata, rng: Random, tempo: TempoForm) -> dict[str, str]:
    """Return in words what there is to say, by the name of the fact; unknown facts are missing."""
    if tempo not in get_args(TempoForm):
        raise ValueError(f"tempo form {tempo!r} is none of {', '.join(get_args(TempoForm))}")
    said = {
        "genre": facts.genre and quoted(facts.genre),
        "mood": facts.mood and quoted(facts.mood),
        "instruments": listing(shuffled(map(quoted, facts.instruments), rng)),
        "tags": ", ".join(shuffled(map(quoted, facts.tags), rng)),
    }
    if facts.key:
        key = rng.choice((facts.key, SPOKEN.get(facts.key, facts.key)))
        said["key"] = f"{key} {facts.mode}" if facts.mode else key
    elif facts.mode:
        said["mode"] = facts.mode
    if facts.tempo and tempo == "number":
        said["tempo"] = f"{facts.tempo:g} {rng.choice(('bpm', 'beats per minute'))}"
    if facts.tempo and tempo == "word":
        said["tempo"] = f"a {tempo_word(facts.tempo)} pace"
    return {name: words for name, words in said.items() if words}


def quoted(name: str) -> str:
    """Put a name into quotes unless it is made of plain words, which end where our text goes on."""
    plain = re.fullmatch(r"[\w'’&/+#-]+( (?!and )[\w'’&/+#-]+)*", name)
    return name if plain else f"“{name}”"


def shuffled(names: Iterable[str], rng: Random) -> list[str]:
    names = list(names)
    rng.shuffle(names)
    return names


def filled(said: dict[str, str], *patterns: str) -> list[str]:
    """Fill in the patterns whose fact, one each, is known."""
    return [p.format_map(said) for p in patterns if re.search(r"{(\w+)}", p)[1] in said]


def opening(said: dict[str, str], rng: Random) -> str:
    piece = rng.choice(("piece", "track", "tune"))
    return "A" + article(f"{said['genre']} {piece}" if "genre" in said else piece)[1:]


def sentence(said: dict[str, str], rng: Random) -> str:
    """A house track in A minor at 124 bpm, dark in mood, played on piano and synth bass."""
    middle = shuffled(filled(said, "in {key}", "in {mode} mode", "at {tempo}"), rng)
    played = rng.choice(("played on {instruments}", "performed on {instruments}"))
    rest = filled(said, "{mood} in mood", played, "tagged {tags}")
    return ", ".join([" ".join([opening(said, rng), *middle]), *rest]) + "."


def sentences(said: dict[str, str], rng: Random) -> str:
    """A house track. The mood is dark. It is played on piano. The key is A minor."""
    facts = ("The mood is {mood}.", "The key is {key}.", "The mode is {mode}.",
             "The tempo is {tempo}.", "It is played on {instruments}.")  # fmt: skip
    middle = shuffled(filled(said, *facts), rng)
    return " ".join([opening(said, rng) + ".", *middle, *filled(said, "Tags: {tags}.")])


def labels(said: dict[str, str], rng: Random) -> str:
    """key: A minor; genre: house; tempo: 124 bpm; mood: dark; instruments: piano"""
    names = shuffled(said, rng)
    return rng.choice(("; ", " | ")).join(f"{name}: {said[name]}" for name in names)


def keywords(said: dict[str, str], rng: Random) -> str:
    """124 bpm, house music, in A minor, dark mood, featuring piano and synth bass"""
    facts = ("{genre} music", "{mood} mood", "in {key}", "in {mode} mode", "{tempo}",
             "featuring {instruments}")  # fmt: skip
    return ", ".join([*shuffled(filled(said, *facts), rng), *filled(said, "tagged {tags}")])
