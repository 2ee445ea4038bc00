"""Song Describer on a miniature of its published layout: subsets, chunks, captions in turn."""

import csv

import numpy as np
import pytest
import soundfile

from presto_data import ClipError, Metadata, song_describer

RATE = 8000
COLUMNS = "caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration"
TRACKS = {1004048: 80.0, 18500: 40.0, 973498: 31.0}  # seconds
ROWS = [
    (1, 1004048, "A first caption, with a comma", "True"),
    (2, 18500, "Another track", "True"),
    (3, 1004048, "A second caption", "False"),
    (4, 973498, "Less than a chunk", ""),
    (5, 1004048, "A third caption", "True"),
]


def path_of(track):
    return f"{track % 100:02d}/{track}.mp3"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sdd")
    with open(root / "song_describer.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS.split(","))
        for caption_id, track, caption, valid in ROWS:
            row = (caption_id, track, caption, valid, 3, 7, 8, path_of(track), 2 * TRACKS[track])
            table.writerow(row)
    for track, seconds in TRACKS.items():
        path = (root / "audio" / path_of(track)).with_suffix(".2min.mp3")
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * RATE)) / RATE
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * time), RATE)
    return root


def clips_of(root, **options):
    return list(song_describer(root, sample_rate=RATE, **options))


def test_whole_chunks_with_captions_in_turn(root):
    with pytest.warns(UserWarning, match=r"1 shorter than a clip; first track 973498: .*, 31 s"):
        clips = clips_of(root, subset="all")
    assert [(clip.id, clip.caption) for clip in clips] == [
        ("1004048@0", "A first caption, with a comma"),
        ("1004048@32", "A second caption"),
        ("18500@0", "Another track"),
    ]
    assert clips[1].audio.shape == (1, 32 * RATE)
    assert (clips[1].start, clips[1].total, clips[1].metadata) == (32.0, 80.0, Metadata())


def test_the_last_chunk_padded(root):
    clips = clips_of(root, subset="all", last="pad")
    assert [clip.id for clip in clips] == [
        *("1004048@0", "1004048@32", "1004048@64"),
        *("18500@0", "18500@32", "973498@0"),
    ]
    assert clips[2].caption == "A third caption" and clips[4].caption == clips[3].caption
    sounding = clips[2].audio[0].abs() > 0.1
    assert sounding.nonzero().max() == pytest.approx(16 * RATE, abs=RATE // 100)


def test_the_valid_subset_is_a_choice_of_captions(root):
    captions = [clip.caption for clip in clips_of(root, subset="valid", last="pad")]
    three = ["A first caption, with a comma", "A third caption", "A first caption, with a comma"]
    assert captions == [*three, "Another track", "Another track"]


def test_no_vocals_is_a_list_of_tracks(root, tmp_path):
    (tmp_path / "ids.txt").write_text("18500\n973498\n")
    (tmp_path / "ids.csv").write_text("caption_id,track_id\n2,18500\n4,0973498\n")
    for ids in ([18500, 973498], ("18500", "973498"), tmp_path / "ids.txt", tmp_path / "ids.csv"):
        clips = clips_of(root, no_vocals_ids=ids, last="pad")
        assert [clip.id for clip in clips] == ["18500@0", "18500@32", "973498@0"]
    with pytest.warns(UserWarning, match=r"first track 5: not in song_describer\.csv"):
        assert len(clips_of(root, no_vocals_ids=[5, 18500])) == 1
    for ids, why in ((None, "sequence, a text file or a CSV"), ([], "no track"), ("x", "no such")):
        with pytest.raises(ValueError, match=why):
            song_describer(root, no_vocals_ids=ids)
    with pytest.raises(ValueError, match="only with it"):
        song_describer(root, subset="valid", no_vocals_ids=[1])
    with pytest.raises(ValueError, match="subset is 'test'"):
        song_describer(root, subset="test")


def test_what_is_missing_is_named(root, tmp_path):
    (tmp_path / "song_describer.csv").write_text(
        f"{COLUMNS}\n"
        "1,18500,good,True,1,1,1,00/18500.mp3,1\n"
        "1,18500,again,True,1,1,1,00/18500.mp3,1\n"
        "2,18500, ,True,1,1,1,00/18500.mp3,1\n"
        "3,77,not there,True,1,1,1,77/77.mp3,1\n"
    )
    options = {"subset": "all", "audio": root / "audio", "sample_rate": RATE}
    with pytest.warns(UserWarning, match="3 left out"):
        corpus = song_describer(tmp_path, **options)
    assert [clip.caption for clip in corpus] == ["good"]
    assert corpus.problems == [
        ("song_describer.csv row 3", "duplicate id (caption 1)"),
        ("song_describer.csv row 4", "no caption"),
        ("track 77", "no such file"),
    ]
    with pytest.raises(ClipError, match="row 3: duplicate"):
        song_describer(tmp_path, **options, strict=True)
    with pytest.raises(ValueError, match=r"song_describer\.csv: no such file"):
        song_describer(tmp_path / "elsewhere", subset="all")
