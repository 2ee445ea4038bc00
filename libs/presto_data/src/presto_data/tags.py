"""What a file says of itself: ID3, Vorbis and MP4 tags, read by tinytag."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

KEY = re.compile(r"([A-G])([#b♯♭]?)\s*(?:(m|[Mm]in(?:or)?)|(M|[Mm]aj(?:or)?))?")
FREE_TAGS = ("tags", "keyword", "keywords", "style", "theme", "grouping")


def embedded_facts(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Return a file's title and the Metadata fields its tags know; (None, {}) without tags.

    Used are genre, tempo (TBPM, bpm), key (TKEY, initialkey), mood and instrument; further genres
    and free tags such as keywords or style become tags. What says nothing of the sound (artist,
    comment, encoder) is not used, nor a tempo or key that cannot be understood.
    """
    from tinytag import TinyTag, TinyTagException

    try:
        found = TinyTag.get(path, duration=False).as_dict()
    except (TinyTagException, OSError):  # it knows fewer formats than we read
        return None, {}
    texts = {name: _texts(values) for name, values in found.items() if isinstance(values, list)}
    genres = texts.get("genre", [])
    facts = {
        "genre": next(iter(genres), None),
        "tempo": _tempo(texts.get("bpm", [])),
        "mood": next(iter(texts.get("mood", []) + texts.get("tmoo", [])), None),
        "instruments": tuple(texts.get("instrument", []) + texts.get("instruments", [])),
        "tags": tuple(genres[1:] + [tag for name in FREE_TAGS for tag in texts.get(name, [])]),
        **_key(texts.get("initial_key", [])),
    }
    title = " ".join(str(next(iter(found.get("title", [])), "")).split())
    return title or None, {name: value for name, value in facts.items() if value}


def _texts(values: list[Any]) -> list[str]:
    """The values of a tag, of which some writers put several into one text."""
    parts = [part.strip() for value in values for part in re.split(r"[;\0]", str(value))]
    return list(dict.fromkeys(filter(None, parts)))


def _tempo(values: list[str]) -> float | None:
    number = re.fullmatch(r"\d{2,3}([.,]\d+)?", next(iter(values), ""))
    return float(number[0].replace(",", ".")) if number else None


def _key(values: list[str]) -> dict[str, str]:
    parts = KEY.fullmatch(next(iter(values), ""))
    if not parts:
        return {}
    tonic, accidental, minor, major = parts.groups()
    key = tonic + accidental.replace("♯", "#").replace("♭", "b")
    return {"key": key, "mode": "minor" if minor else "major" if major else ""}
