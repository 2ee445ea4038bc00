"""A table that says which recordings, or parts of them, are the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from presto_data.clips import Metadata
from presto_data.corpora import FileCorpus, Last, Reading, Recording, usable
from presto_data.faults import Faults
from presto_data.folder import describe, joined
from presto_data.tables import Row, caption_of, facts_of, number_of, read_rows, row_name


def manifest_corpus(
    path: str | Path,
    *,
    seconds: float = 6.0,
    sample_rate: int = 44_100,
    last: Last = "align",
    strict: bool = False,
    check: bool = True,
) -> FileCorpus:
    """Return the recordings that a .csv, .jsonl or .parquet table lists as clips of `seconds`.

    Columns: `file` (relative to the table), and any of `id` (stem of the clips' ids, else the
    file), `caption`, `start` and `end` (seconds in the recording) and the fields of Metadata, where
    instruments and tags may be a list or text with ; or , between the names. A table in which no
    row has a caption is a list of files: each is described as `folder_corpus` would. The other
    options and what becomes of faults are `folder_corpus`'s; problems are named by row, as an
    editor numbers them (a CSV's header is row 1).
    Raises ValueError for a table that cannot be read or leaves nothing.
    """
    source, faults = Path(path), Faults(strict=strict)
    reading = Reading(seconds, sample_rate, last, check)
    corpus = FileCorpus(_recordings(source, faults), reading, faults)
    return usable(corpus, source, "give a table with a column file, and files that can be read")


def _recordings(source: Path, faults: Faults) -> Iterator[Recording]:
    rows = list(read_rows(source, faults))
    captioned = any("caption" in row for _, row in rows)
    first_row: dict[str, int] = {}
    for number, row in rows:
        label = row_name(source, number)
        try:
            if "id" in row and (first := first_row.setdefault(str(row["id"]), number)) != number:
                raise ValueError(f"duplicate id ({row['id']}, as in row {first})")
            recording = _recording(source.parent, row, label, captioned=captioned)
        except (ValueError, OSError) as error:  # no file has a name that is too long
            faults.add(f"{label} ({row.get('file', '')})", str(error))
            continue
        yield recording


def _recording(folder: Path, row: Row, label: str, *, captioned: bool) -> Recording:
    """Return what a row lists; raises ValueError naming what it lacks."""
    if "file" not in row:
        raise ValueError("no file")
    file = str(row["file"]).strip().replace("\\", "/")
    if not (path := folder / file).is_file():
        raise ValueError("no such file")
    if captioned and "caption" not in row:
        raise ValueError("no caption")
    caption, facts = (caption_of(row), {}) if captioned else describe(path, {})
    return Recording(
        path,
        name=str(row.get("id", file)),
        captions=(caption,),
        metadata=Metadata(**joined(facts, facts_of(row))),
        start=number_of(row, "start") if "start" in row else 0.0,
        end=number_of(row, "end") if "end" in row else None,
        label=f"{label} ({file})",
    )
