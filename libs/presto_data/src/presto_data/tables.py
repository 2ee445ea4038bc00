"""Tables about recordings (CSV, JSON lines, Parquet): their rows, and the facts in a row."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from presto_data.clips import THIRDS, Metadata
from presto_data.faults import Faults

LISTS = ("instruments", "tags")
MODES = tuple(mode for modes in THIRDS.values() for mode in modes)
FASTEST = 1000  # bpm; a larger number is no tempo
Row = dict[str, Any]


def read_rows(path: Path, faults: Faults) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of a .csv, .jsonl or .parquet table, without its blank cells.

    The number is what a spreadsheet or editor shows: a CSV's header is row 1. Text that is not
    UTF-8 keeps a mark where a byte could not be read, see `unreadable_text`; lines that are no row
    are faults.
    Raises ValueError for a table that is missing, of another kind or unreadable.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: not a table; give {', '.join(readers)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    for number, row in readers[path.suffix.lower()](path):
        if isinstance(row, str):
            faults.add(row_name(path, number), row)
        else:
            yield number, {name: value for name, value in lowered(row).items() if not _blank(value)}


def lowered(row: Row) -> Row:
    """A row by its columns' names in small letters."""
    return {name.strip().lower(): value for name, value in row.items()}


def row_name(path: Path, number: int) -> str:
    return f"{path.name} row {number}"


def _blank(value: Any) -> bool:
    not_a_number = isinstance(value, float) and math.isnan(value)
    return value is None or not_a_number or (isinstance(value, str) and not value.strip())


def _read_csv(path: Path) -> Iterator[tuple[int, Row | str]]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip().lower() for name in next(reader, ())]
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise ValueError(f"{path}: two columns {twice[0]!r}")
            for number, cells in enumerate(reader, start=2):
                more = any(cell.strip() for cell in cells[len(header) :])
                if cells:
                    row = dict(zip(header, cells, strict=False))
                    yield number, "more cells than the header" if more else row
        except csv.Error as error:
            raise ValueError(f"{path}: not a CSV ({error})") from None


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row | str]]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                yield number, f"not JSON ({error})"
            else:
                yield number, row if isinstance(row, dict) else "not a JSON object"


def _read_parquet(path: Path) -> Iterator[tuple[int, Row | str]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not Parquet ({' '.join(str(error).split())})") from None


def caption_of(row: Row) -> str | None:
    """Return a row's caption on one line, None if it has none; ValueError if it is not text."""
    caption = row.get("caption")
    if caption is None:
        return None
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError("caption must be text")
    return " ".join(caption.split())


def facts_of(row: Row) -> Row:
    """Return what a row knows of Metadata's fields, in their types; ValueError for a bad value.

    Lists (instruments, tags) may be lists, or text: JSON, or names with ; or , between them. A
    tempo of 0 is unknown.
    """
    known = {field.name for field in fields(Metadata)}
    facts = {name: value for name, value in row.items() if name in known and value}
    if "tempo" in facts:
        facts["tempo"] = number_of(row, "tempo") or None
        if not 0 <= (facts["tempo"] or 0) <= FASTEST:
            raise ValueError(f"bad number (tempo is {row['tempo']!r})")
    for name in facts.keys() - {"tempo"}:
        facts[name] = names_of(row, name) if name in LISTS else str(facts[name]).strip()
    tonic, _, mode = facts.get("key", "").rpartition(" ")
    if mode.lower() in MODES and "mode" not in facts:  # both in one column
        facts |= {"key": tonic, "mode": mode.lower()}
    return facts


def number_of(row: Row, name: str) -> float:
    """Return a cell as a finite number, or raise ValueError."""
    try:
        number = float(row[name])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"bad number ({name} is {row[name]!r})")
    return number


def names_of(row: Row, name: str) -> tuple[str, ...]:
    """Return a cell as names, or raise ValueError."""
    value = row[name]
    if isinstance(value, str):
        try:
            is_json = value.lstrip().startswith("[")
            value = json.loads(value) if is_json else value.split(";" if ";" in value else ",")
        except ValueError:
            raise ValueError(f"bad list ({name} is {value!r})") from None
    if not isinstance(value, list):
        raise ValueError(f"bad list ({name} is {value!r})")
    return tuple(filter(None, (str(item).strip() for item in value)))


def unreadable_text(caption: str, metadata: Metadata) -> str | None:
    """Return the first text in which a byte was not UTF-8, with a mark in its place."""
    texts = [caption, *metadata.instruments, *metadata.tags]
    texts += [metadata.key, metadata.mode, metadata.genre, metadata.mood]
    return next((text for text in texts if text and "\N{REPLACEMENT CHARACTER}" in text), None)
