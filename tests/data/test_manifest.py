"""A table of recordings: three formats, one meaning; every wrong row is named by its number."""

import csv
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch

from presto_data import ClipError, Metadata, manifest_corpus

RATE = 1000
RAMP = np.linspace(0.1, 0.9, 10 * RATE, dtype=np.float32)
ROWS = [
    {"file": "a.wav", "id": "one", "caption": "a  slow\npiece", "tempo": 90, "start": 2, "end": 6},
    {"file": "sub/b c.wav", "caption": "loud", "instruments": ["drums", "bass"], "key": "D"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "sub/b c.wav"):
        soundfile.write(tmp_path / name, RAMP, RATE, subtype="FLOAT")
    return tmp_path


def write(path, rows):
    """Write rows as the table that the path's extension names; lists as JSON in a CSV."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            names = list(dict.fromkeys(name for row in rows for name in row))
            table = csv.DictWriter(file, names)
            table.writeheader()
            texts = (
                {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
                for row in rows
            )
            table.writerows(texts)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def clips_of(path, **options):
    return manifest_corpus(path, seconds=4.0, sample_rate=RATE, **options)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_every_format_says_the_same(folder, name):
    corpus = clips_of(write(folder / name, ROWS))
    assert [clip.id for clip in corpus] == ["one@2", "sub/b c.wav@0", "sub/b c.wav@4"]
    assert corpus.problems == []
    first, second, _ = corpus
    assert torch.equal(first.audio[0], torch.from_numpy(RAMP[2000:6000]))
    assert (first.caption, first.start, first.total) == ("a slow piece", 2.0, 10.0)
    assert first.metadata == Metadata(tempo=90.0)
    assert second.metadata == Metadata(key="D", instruments=("drums", "bass"))


@pytest.mark.parametrize("text", ["drums; bass", "drums,bass", '["drums", "bass"]'])
def test_lists_as_text(folder, text):
    row = {"file": "a.wav", "caption": "x", "instruments": text, "tags": "calm"}
    metadata = clips_of(write(folder / "m.csv", [row]))[0].metadata
    assert metadata == Metadata(instruments=("drums", "bass"), tags=("calm",))


def test_a_part_shorter_than_a_clip_is_not_filled_with_its_surroundings(folder):
    path = write(folder / "m.csv", [{"file": "a.wav", "caption": "x", "start": 3, "end": 4}])
    part = torch.from_numpy(RAMP[3000:4000])
    assert torch.equal(clips_of(path)[0].audio[0], part.repeat(4))
    assert torch.equal(clips_of(path, last="pad")[0].audio[0, :1000], part)
    assert not clips_of(path, last="pad")[0].audio[0, 1000:].any()
    with pytest.raises(ValueError, match=r"m\.csv row 2 \(a\.wav\): shorter than a clip, 1 s"):
        clips_of(path, last="drop", strict=True)


def test_files_without_captions_are_described_as_in_a_folder(folder):
    (folder / "a.txt").write_text("Slow Waltz at 90 bpm")
    corpus = clips_of(write(folder / "m.csv", [{"file": "a.wav"}, {"file": "sub/b c.wav"}]))
    assert [clip.caption for clip in corpus] == ["Slow Waltz at 90 bpm"] * 2 + ["b c"] * 2
    assert corpus[0].metadata == Metadata(tempo=90.0)


def test_a_header_may_be_written_with_capitals_blanks_and_a_comma_at_the_end(folder):
    (folder / "m.csv").write_text("File, Caption\na.wav,slow piano,\n")
    assert clips_of(folder / "m.csv", strict=True)[0].caption == "slow piano"


def test_a_key_of_the_table_does_not_keep_the_mode_of_the_sidecars_key(folder):
    (folder / "a.json").write_text('{"caption": "x", "key": "A", "mode": "minor"}')
    (clip, *_) = clips_of(write(folder / "m.csv", [{"file": "a.wav", "key": "C"}]))
    assert clip.metadata == Metadata(key="C")


BAD = [
    ({"file": "z" * 300, "caption": "x"}, "File name too long"),
    ({"file": "a.wav", "caption": "x", "id": "one"}, r"duplicate id \(one, as in row 2\)"),
    ({"file": "sub/b c.wav", "caption": "y"}, r"duplicate id \(sub/b c\.wav@0\)"),
    ({"file": "gone.wav", "caption": "x"}, "no such file"),
    ({"caption": "x"}, "no file"),
    ({"file": "a.wav"}, "no caption"),
    ({"file": "a.wav", "caption": "x", "tempo": "fast"}, r"bad number \(tempo is 'fast'\)"),
    ({"file": "a.wav", "caption": "x", "tempo": "nan"}, r"bad number \(tempo is 'nan'\)"),
    ({"file": "a.wav", "caption": "x", "tempo": "-90"}, r"bad number \(tempo is '-90'\)"),
    ({"file": "a.wav", "caption": "x", "tempo": "90000"}, r"bad number \(tempo is '90000'\)"),
    ({"file": "a.wav", "caption": "x", "start": "1:30"}, r"bad number \(start is '1:30'\)"),
    ({"file": "a.wav", "caption": "x", "start": "-1"}, r"bad number \(from -1 to 10 s of 10 s\)"),
    ({"file": "a.wav", "caption": "x", "end": "11"}, r"bad number \(from 0 to 11 s of 10 s\)"),
    ({"file": "a.wav", "caption": "x", "start": "5", "end": "5"}, r"bad number \(from 5 to 5 s"),
    ({"file": "a.wav", "caption": "x", "tags": "[1"}, r"bad list \(tags is '\[1'\)"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason[:20] for _, reason in BAD])
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_wrong_row_is_named_and_the_others_stay(folder, name, row, reason):
    path = write(folder / name, [*ROWS, row, {"file": "a.wav", "id": "last", "caption": "z"}])
    number = 4 if name == "m.csv" else 3
    with pytest.warns(UserWarning, match="1 left out"):
        corpus = clips_of(path)
    reason = reason.replace("row 2", "row 1") if name == "m.jsonl" else reason
    assert [clip.id for clip in corpus][-2:] == ["last@0", "last@4"] and len(corpus) == 5
    ((label, why),) = corpus.problems
    assert label.startswith(f"{name} row {number} (")
    with pytest.raises(ClipError, match=reason) as error:
        clips_of(path, strict=True)
    assert error.value.problem == (label, why)


def test_lines_that_are_no_row(folder):
    path = folder / "m.jsonl"
    good = json.dumps(ROWS[0])
    path.write_bytes(f"{good}\n{{\n\n[1]\n".encode() + b'{"file": "a.wav", "caption": "caf\xe9"}')
    with pytest.warns(UserWarning, match="3 left out"):
        corpus = clips_of(path)
    assert len(corpus) == 1
    names, reasons = zip(*corpus.problems, strict=True)
    assert names == ("m.jsonl row 2", "m.jsonl row 4", "m.jsonl row 5 (a.wav)")
    assert [reason.split(" (")[0] for reason in reasons] == [
        "not JSON",
        "not a JSON object",
        "text or tags not UTF-8",
    ]
    (folder / "m.csv").write_text('file,caption\na.wav,x,y\na.wav,"good, quoted"\n')
    with pytest.warns(UserWarning, match=r"m\.csv row 2: more cells than the header"):
        assert clips_of(folder / "m.csv")[0].caption == "good, quoted"


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("m.txt", b"", "not a table"),
        ("m.csv", None, "no such file"),
        ("m.parquet", b"PAR1", "not Parquet"),
        ("m.csv", b"file\n", "no usable audio"),
    ],
)
def test_no_table_is_an_error_in_one_line(folder, name, body, reason):
    if body is not None:
        (folder / name).write_bytes(body)
    with pytest.raises(ValueError, match=reason) as error:
        clips_of(folder / name)
    assert str(folder / name) in str(error.value) and "\n" not in str(error.value)
