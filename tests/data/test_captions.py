"""Captions that state every fact: read back by a parser that knows nothing of how they are made."""

import re
from dataclasses import replace
from random import Random

import pytest

from presto_data import Metadata
from presto_data.captions import describe, paraphrases
from presto_data.composer import KEYS
from presto_data.genres import GENRES, INSTRUMENTS, KITS, SCALES

MOODS = ("dark", "upbeat", "warm", "dreamy", "tense and nervous")
TAGS = ("lo-fi", "80s", "夜のドライブ", "música", "live, unplugged", "drum and bass", "🎸",
        "Op. 5; No. 2", "dark", "piano", "A minor", "120 bpm")  # fmt: skip
MODES = "|".join(SCALES)


def records(count, seed):
    """Distinct random records; every field may be unknown, genre and mood may be one word."""
    rng, found = Random(seed), {}
    while len(found) < count:
        facts = Metadata(
            tempo=rng.choice((None, float(rng.randint(50, 200)), rng.randint(500, 2000) / 10)),
            key=rng.choice((None, *KEYS)),
            mode=rng.choice((None, *SCALES)),
            genre=rng.choice((None, "dark", "drum and bass", *GENRES)),
            instruments=tuple(sorted(rng.sample([*INSTRUMENTS, *KITS], rng.randrange(5)))),
            mood=rng.choice((None, *MOODS)),
            tags=tuple(sorted(rng.sample(TAGS, rng.randrange(4)))),
        )
        if facts != Metadata():
            found[facts] = None
    return list(found)


BAND = r"((?:[^,]+, )*[^,]+ and [^,]+?|[^,]+?)(?=,|\.|$)"
PROSE = {  # where each fact may stand in a caption whose quoted names are masked
    "genre": (r"^An? (.+?) (?:piece|track|tune)\b", r"(?:^|, )([^,]+) music(?=,|$)"),
    "mood": (r", ([^,]+) in mood", r"The mood is (.+?)\. ?", r"(?:^|, )([^,]+) mood(?=,|$)"),
    "key": (rf"(?:in|key is) ([A-G](?:#|b| sharp| flat)?(?: (?:{MODES}))?)(?= at |,|\.|$)",),
    "mode": (rf"in ({MODES}) mode", rf"The mode is ({MODES})\."),
    "tempo": (r"([\d.]+ (?:bpm|beats per minute)|a \S+ pace)",),
    "instruments": (rf"(?:played|performed) on {BAND}", rf"featuring {BAND}"),
    "tags": (r"tagged (.+?)\.?$", r"Tags: (.+)\.$"),
}


def read(text):
    """Return the record that a caption states, and the word for its tempo if it has one."""
    text, option = re.fullmatch(r"(.+?)(?: --bpm (\d+(?:\.\d+)?))?", text, re.S).groups()
    hidden = re.findall(r"“([^”]*)”", text)
    masks = iter(range(len(hidden)))
    text = re.sub(r"“[^”]*”", lambda _: chr(0xE000 + next(masks)), text)
    if re.match("(genre|mood|key|mode|tempo|instruments|tags): ", text):
        said = dict(field.split(": ") for field in re.split(r"; | \| ", text))
    else:
        said = {}
        for name in reversed(PROSE):  # tags first: they may look like anything
            found = next(filter(None, (re.search(p, text) for p in PROSE[name])), None)
            if found:
                said[name] = found[1]
                text = text[: found.start()] + ", " * (name == "mood") + text[found.end() :]

    def shown(name):
        return hidden[ord(name) - 0xE000] if "\ue000" <= name <= "\uf8ff" else name

    def each(name, separator):
        return tuple(sorted(map(shown, re.split(separator, said[name])))) if name in said else ()

    pace = said.get("tempo", "")
    number = re.match(r"[\d.]+", pace)
    key, mode = re.fullmatch(rf"(.*?)(?: ?\b({MODES}))?", said.get("key", "")).groups()
    facts = Metadata(
        tempo=float(number[0] if number else option) if number or option else None,
        key=key.replace(" sharp", "#").replace(" flat", "b") or None,
        mode=mode or said.get("mode"),
        genre=shown(said["genre"]) if "genre" in said else None,
        instruments=each("instruments", ", | and "),
        mood=shown(said["mood"]) if "mood" in said else None,
        tags=each("tags", ", "),
    )
    return facts, None if number else pace.removeprefix("a ").removesuffix(" pace")


@pytest.mark.parametrize("seed", [1, 2])
def test_every_caption_states_the_whole_record_and_nothing_else(seed):
    """So no two of 1,000 different records can share one: read back, they would be the same."""
    texts = {"number": set(), "option": set(), "word": set()}
    for i, facts in enumerate(records(1_000, seed)):
        for form, seen in texts.items():
            text = describe(facts, Random(f"{seed} {i}"), tempo=form)
            assert text not in seen, text
            seen.add(text)
            found, word = read(text)
            if form == "word" and facts.tempo:
                low, high = {"slow": (0, 76), "mid-tempo": (76, 108), "fast": (108, 1e9)}[word]
                assert low <= facts.tempo < high, text
                found = replace(found, tempo=facts.tempo)
            assert found == facts, text
            assert (" --bpm " in text) == (form == "option" and facts.tempo is not None)
            assert form != "option" or not re.search(r"\d bpm|per minute", text) or facts.tags


def test_close_records_never_share_a_caption():
    """Records that name the same things in other roles, each in 60 wordings."""
    close = [
        Metadata(genre="dark"),
        Metadata(mood="dark"),
        Metadata(tags=("dark",)),
        Metadata(instruments=("dark",)),
        Metadata(mood="deep", genre="house"),
        Metadata(genre="deep house"),
        Metadata(tags=("a", "b")),
        Metadata(tags=("a, b",)),
        Metadata(tags=("a and b",)),
        Metadata(instruments=("a", "b")),
        Metadata(instruments=("a and b",)),
        Metadata(key="A"),
        Metadata(key="A", mode="minor"),
        Metadata(mode="minor"),
        Metadata(tempo=120.0),
        Metadata(tempo=120.5),
    ]
    wordings = [{describe(facts, Random(i)) for i in range(60)} for facts in close]
    assert sum(map(len, wordings)) == len(set().union(*wordings))


def test_paraphrases_are_distinct_deterministic_and_equally_true():
    facts = records(1, 5)[0]
    facts = replace(facts, tempo=98.5, key="F#", mode="dorian", instruments=("piano", "violin"))
    texts = paraphrases(facts, 30, seed=4)
    assert len(set(texts)) == 30 and texts == paraphrases(facts, 30, seed=4)
    assert texts != paraphrases(facts, 30, seed=5)
    assert {read(text)[0] for text in texts} == {facts}
    assert len(paraphrases(Metadata(tempo=90.0), 6)) == 6
    with pytest.raises(ValueError, match="not 500"):
        paraphrases(Metadata(tempo=90.0), 500)
    with pytest.raises(ValueError, match="at least one known fact"):
        paraphrases(Metadata(), 1)


def test_odd_names_stand_verbatim():
    odd = ("Übermensch", "ラップ", "vol. 2 \n live", "--bpm 300", "“quoted", "R&B/Soul", "")
    for i in range(40):
        text = describe(Metadata(tags=odd, instruments=("drum 'n' bass",)), Random(i))
        assert all(tag in text for tag in odd) and "drum 'n' bass" in text


def test_the_option_parses_as_a_prompt():
    """The words, then one option: what a prompt with a tempo looks like."""
    for i in range(40):
        facts = Metadata(tempo=90.5) if i % 2 else Metadata(tempo=140.0, genre="techno")
        words, *options = re.split(r"\s--(?=\w)", f" {describe(facts, Random(i), tempo='option')}")
        assert words.strip() and options == [f"bpm {facts.tempo:g}"]
        assert "bpm" not in words and ("techno" in words or i % 2)
    for bad in ("hi --fi", "a --bpm 3"):
        with pytest.raises(ValueError, match="looks like an option"):
            describe(Metadata(tempo=90.0, tags=(bad,)), Random(0), tempo="option")
    with pytest.raises(ValueError, match="tempo form 'bpm'"):
        describe(Metadata(tempo=90.0), Random(0), tempo="bpm")
