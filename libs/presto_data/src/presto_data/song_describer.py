"""The Song Describer Dataset, laid out as it is published, in clips for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from presto_data.clips import Metadata
from presto_data.corpora import FileCorpus, Last, Reading, Recording, usable
from presto_data.faults import Faults
from presto_data.tables import Row, caption_of, read_rows, row_name

TABLE = "song_describer.csv"
Subset = Literal["no-vocals", "valid", "all"]
TrackIds = Sequence[int | str] | str | Path


def song_describer(
    root: str | Path,
    *,
    subset: Subset = "no-vocals",
    no_vocals_ids: TrackIds | None = None,
    audio: str | Path | None = None,
    seconds: float = 32.0,
    sample_rate: int = 44_100,
    last: Last = "drop",
    strict: bool = False,
    check: bool = True,
) -> FileCorpus:
    """Return the dataset's tracks as clips of `seconds`, with their captions in turn.

    Source: Manco et al. 2023 (arXiv 2311.10057), Zenodo record 10072001; from its data card:
    `song_describer.csv` with one row per caption and the columns caption_id, track_id, caption,
    is_valid_subset and path among others, and an audio folder in which the track of path
    `48/1004048.mp3` is `48/1004048.2min.mp3`, its first two minutes at most. 1,106 captions of 706
    tracks, up to five for one; 746 captions are the validated subset.

    `subset` "valid" takes the captions whose is_valid_subset is True; "no-vocals" takes the tracks
    in `no_vocals_ids`: a sequence of track ids, a text file with one a line, or a CSV with the
    column track_id. The data card marks no such tracks, so the list is for you to give. `audio`
    is where the unpacked archive lies, `root`/audio if not given. The remaining options and what
    becomes of faults are `folder_corpus`'s. Clips of 32 s and the no-vocals subset are Presto's
    test set; that the rest is dropped, and that the i-th clip of a track has its i-th caption
    (beginning again after the last), are our choices.
    Raises ValueError for a missing table or list, and when nothing is left.
    """
    root, faults = Path(root), Faults(strict=strict)
    if subset not in get_args(Subset):
        raise ValueError(f"subset is {subset!r}; it must be one of {get_args(Subset)}")
    if (subset == "no-vocals") != (no_vocals_ids is not None):
        raise ValueError(
            f"subset {subset!r}: no_vocals_ids (a sequence, a text file or a CSV of track ids) "
            "goes with 'no-vocals' and only with it"
        )
    tracks = _read_tracks(root / TABLE, faults, valid=subset == "valid")
    if no_vocals_ids is not None:
        wanted = _read_ids(no_vocals_ids)
        for missing in [name for name in wanted if name not in tracks]:
            faults.add(f"track {missing}", f"not in {TABLE}")
        tracks = {name: track for name, track in tracks.items() if name in wanted}
    recordings = _recordings(tracks, Path(audio) if audio is not None else root / "audio")
    corpus = FileCorpus(recordings, Reading(seconds, sample_rate, last, check), faults)
    return usable(corpus, root, f"give the folder with {TABLE} and the unpacked audio")


@dataclass
class Track:
    path: str
    captions: list[str] = field(default_factory=list)


def _read_tracks(table: Path, faults: Faults, *, valid: bool) -> dict[str, Track]:
    """Return the tracks by id, with their captions in the table's order."""
    tracks: dict[str, Track] = {}
    seen: set[str] = set()
    for number, row in read_rows(table, faults):
        if valid and str(row.get("is_valid_subset")).strip().lower() != "true":
            continue
        try:
            track_id, caption = _check_row(row, seen)
        except ValueError as error:
            faults.add(row_name(table, number), str(error))
            continue
        tracks.setdefault(track_id, Track(str(row["path"]))).captions.append(caption)
    return tracks


def _check_row(row: Row, seen: set[str]) -> tuple[str, str]:
    """Return a row's track id and caption; ValueError for what is missing or a caption_id again."""
    for name in ("caption_id", "track_id", "path", "caption"):
        if name not in row:
            raise ValueError(f"no {name}")
    if row["caption_id"] in seen:
        raise ValueError(f"duplicate id (caption {row['caption_id']})")
    seen.add(row["caption_id"])
    return _normal(row["track_id"]), caption_of(row) or ""


def _recordings(tracks: dict[str, Track], audio: Path) -> Iterator[Recording]:
    for name, track in tracks.items():
        path = (audio / track.path).with_suffix(".2min.mp3")
        yield Recording(path, name, tuple(track.captions), Metadata(), label=f"track {name}")


def _read_ids(ids: TrackIds) -> list[str]:
    if isinstance(ids, str | Path):
        path = Path(ids)
        if path.suffix.lower() == ".csv":
            rows = read_rows(path, Faults(strict=True))
            ids = [row["track_id"] for _, row in rows if "track_id" in row]
        elif path.is_file():
            ids = path.read_text(encoding="utf-8-sig").split()
        else:
            raise ValueError(f"{path}: no such file; no_vocals_ids is a list of track ids")
    if not ids:
        raise ValueError("no_vocals_ids names no track")
    return list(dict.fromkeys(map(_normal, ids)))


def _normal(track_id: int | str) -> str:
    """The id as the table writes it: without leading zeros or blanks."""
    return str(track_id).strip().lstrip("0")
