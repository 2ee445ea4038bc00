"""Say in plain English what a clip's metadata knows, in many wordings, all of them true."""

from __future__ import annotations

from random import Random

from presto_data.clips import Metadata

ENSEMBLES = {2: "duo", 3: "trio", 4: "quartet", 5: "quintet"}
CHAMBER = ("jazz", "folk", "classical", "blues", "bossa nova", "waltz")  # where these words fit
TEMPO_WORDS = ((76, "slow"), (108, "mid-tempo"), (1000, "fast"))
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
