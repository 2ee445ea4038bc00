"""A folder of one's own recordings as a captioned corpus."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

from presto_data.audio import FORMATS
from presto_data.clips import Metadata
from presto_data.corpora import FileCorpus, Last, Reading, Recording, text_of, usable
from presto_data.faults import Faults
from presto_data.tables import Row, caption_of, facts_of, lowered, read_rows, row_name
from presto_data.tags import embedded_facts

TABLE = "captions.csv"
LONGEST_LINE = 300  # of a text that was not written as a caption
UNREADABLE = (".wma",)  # looked at all the same, so that they are reported
CREDITS = re.compile(
    r"\s*(\(c\)(?! (?:maj|min))|©|\bcopyright\b(?![- ]free)|\b(is )?licen[cs]ed\b"
    r"|is in the public domain).*",
    re.I,
)


def folder_corpus(
    path: str | Path,
    *,
    seconds: float = 6.0,
    sample_rate: int = 44_100,
    last: Last = "align",
    strict: bool = False,
    check: bool = True,
) -> FileCorpus:
    """Return the audio files under `path` as clips of `seconds` at `sample_rate`.

    `last` and `check` are explained at `corpora.Reading`. A caption comes from the first of:
    NAME.json (caption and any field of Metadata), the first line of NAME.txt, the file's row in a
    `captions.csv` in `path` (columns file, caption and any field of Metadata), the title among the
    file's tags, its name. Facts are joined from all of these; the earlier source has the last word.

    What cannot be used is left out and listed in `.problems` (and counted in one warning): files
    that are unreadable, truncated, empty or not finite; silent and clipped ones; words or tags that
    are not UTF-8; and, where there is a captions.csv, files that neither it nor a sidecar knows and
    rows without a file, since a title would stand in for the caption that is missing. `strict`
    raises ClipError at the first. Raises ValueError when nothing is left.
    """
    root, hint = Path(path), f"give a folder of {' '.join(FORMATS)} files"
    reading, faults = Reading(seconds, sample_rate, last, check), Faults(strict=strict)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; {hint}")
    return usable(FileCorpus(_recordings(root, faults), reading, faults), root, hint)


def _recordings(root: Path, faults: Faults) -> Iterator[Recording]:
    table = _read_table(root / TABLE, faults) if (root / TABLE).is_file() else None
    for path in sorted(_files(root)):
        if path.suffix.lower() not in FORMATS + UNREADABLE:
            continue
        name = text_of(path.relative_to(root))
        row = table.pop(name, None) if table is not None else {}
        try:
            caption, facts = describe(path, row)
        except (ValueError, OSError) as error:
            faults.add(name, str(error))
            continue
        yield Recording(path, name, (caption,), Metadata(**facts))
    for name in table or ():
        faults.add(name, f"no such audio file (named in {TABLE})")


def _files(root: Path) -> Iterator[Path]:
    """Every file under a folder, through links to folders too, but for those to folders above."""
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        folders[:] = [name for name in folders if not _leads_up(here / name)]
        yield from (here / name for name in files)


def _leads_up(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _read_table(path: Path, faults: Faults) -> dict[str, Row]:
    """Return the rows of a captions table by file; a row without one or a second one is a fault."""
    table: dict[str, Row] = {}
    for number, row in read_rows(path, faults):
        name = str(row.get("file", "")).strip().replace("\\", "/")
        if not name:
            faults.add(row_name(path, number), "no file")
        elif name in table:
            faults.add(row_name(path, number), f"duplicate file ({name})")
        else:
            table[name] = row
    return table


def describe(path: Path, row: Row | None) -> tuple[str, Row]:
    """Return a file's caption and Metadata fields from its sidecars, `row`, tags and name.

    A `row` of None means that others have one, then only a sidecar's caption will do.
    Raises ValueError for a sidecar or row that is wrong, and when there is no caption.
    """
    json_file, text_file = path.with_suffix(".json"), path.with_suffix(".txt")
    given = read_sidecar(json_file) if json_file.is_file() else {}
    first_line = _first_line(text_file) if text_file.is_file() else ""
    caption = caption_of(given) or first_line or caption_of(row or {})
    if not caption and row is None:
        raise ValueError(f"no caption (no row in {TABLE})")
    if not caption and row:
        raise ValueError(f"no caption (its row in {TABLE} has none)")
    title, facts = embedded_facts(path)
    caption = caption or (title or _words(text_of(Path(path.stem))))[:LONGEST_LINE]
    bpm = re.search(r"(?<![\d.])(\d{2,3}(?:\.\d+)?) ?bpm", caption, re.I)
    said = {"tempo": float(bpm[1])} if bpm else {}
    known = [facts, facts_of(row or {}), facts_of(given)]
    known.insert(2 if given or first_line else 1 if row else 0, said)  # just below its source
    return caption, reduce(joined, known)


def joined(facts: Row, others: Row) -> Row:
    """Facts with others in their place; a key comes with a mode of its own or with none."""
    kept = {name: fact for name, fact in facts.items() if name != "mode" or "key" not in others}
    return kept | others


def _first_line(sidecar: Path) -> str:
    lines = map(clean, sidecar.read_text(encoding="utf-8", errors="replace").splitlines())
    return next(filter(None, lines), "")


def _words(stem: str) -> str:
    words = re.sub(r"[^\w\N{REPLACEMENT CHARACTER}]+|_+", " ", stem).strip()
    # A track's number, unless it is a tempo or a part of a word ("80s").
    return re.sub(r"^\d[\d ]* (?!bpm\b)(?=\D)", "", words, flags=re.IGNORECASE) or stem


def clean(line: str) -> str:
    """Take web addresses and licence talk out of a line."""
    return CREDITS.sub("", re.sub(r"\S*(https?://|www\.)\S*", "", line)).strip(" \t-:,\ufeff")


def read_sidecar(sidecar: Path) -> Row:
    """Return what a NAME.json says, a caption at least; raises ValueError naming what is wrong."""
    try:
        row = json.loads(sidecar.read_text(encoding="utf-8-sig", errors="replace"))
        if not isinstance(row, dict):
            raise ValueError("not an object")
        row = lowered(row)
        facts_of(row)
        caption = caption_of(row)
    except ValueError as error:
        raise ValueError(f"not a sidecar ({sidecar.name}: {error})") from None
    if not caption:
        raise ValueError(f"no caption ({sidecar.name})")
    return row
