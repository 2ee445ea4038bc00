"""`presto data encode | info | plan`, as typed, on recordings that are partly broken."""

import json
import re
import sys

import numpy as np
import pytest
import soundfile
import torch

from presto_data import Clip, Corpus, LatentShards, Metadata, encode_corpus
from presto_data.plan import Rates, plan
from presto_distill.cli import main
from presto_distill.streams import conditioned
from presto_models import TextEncoder

RATE = 44_100


@pytest.fixture
def presto(capsys, monkeypatch):
    """Runs a command line; returns exit code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["presto", "data", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def recordings(tmp_path):
    """Three recordings of noise, the last named in emoji, one empty and one that is no audio."""
    folder = tmp_path / "my music"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, seconds in (("a 90 bpm", 2), ("b 130 bpm", 1), ("c 🎵", 1)):
        audio = rng.normal(size=(seconds * RATE, 2)) * 0.1
        soundfile.write(folder / f"{name}.wav", audio, RATE)
    (folder / "a 90 bpm.json").write_text(
        json.dumps({"caption": "noise", "tempo": 90, "genre": "jazz", "instruments": ["flute"]})
    )
    (folder / "empty.wav").write_bytes(b"")
    (folder / "wrong.flac").write_text("not audio")
    return folder


def test_recordings_are_encoded_listed_and_looked_at(presto, recordings, tmp_path):
    options = ("--corpus", recordings, "--out", tmp_path / "out", "--seconds", 1)
    code, out, _ = presto("encode", *options)
    assert code == 0 and "4 clips, 0.00 hours" in out
    assert re.search(r"2 left out: 2 unreadable\n.*\n +empty\.wav .*\n +wrong\.flac ", out)

    shards = LatentShards(tmp_path / "out")
    assert shards.lengths.tolist() == [22] * 4 and shards.stats["scales"]
    assert shards.timing[:, 2].tolist() == [2048 / RATE] * 4
    code, out, _ = presto("info", tmp_path / "out")
    assert code == 0 and "4 clips of 22 to 22 frames, 3 captions" in out
    assert "genre\n  jazz: 2\n" in out and "instruments\n  flute: 2\n" in out
    assert re.search(r"tempo: 3 clips\n   80-100 #{40} 2\n  100-120 +0\n  120-140 #{20} +1\n", out)
    assert "64 channels" in out and "sigma_data" in out and "2 left out" in out

    before = {path: path.read_bytes() for path in shards.path.iterdir() if path.is_file()}
    code, out, _ = presto("encode", *options)  # again: nothing to do, the same words
    assert code == 0 and "2 left out" in out
    assert before == {path: path.read_bytes() for path in before}


def test_rendered_music_has_mean_and_scale(presto, tmp_path):
    where = ("--out", tmp_path, "--seconds", 1, "--seed", 3)
    assert presto("encode", "--corpus", "synthetic:3", *where)[0] == 0
    shards = LatentShards(tmp_path)
    mean, scale = shards.crop(2, 0, 22)
    assert len(shards) == 3 and scale.min() > 0 and scale.max() < 1 and mean.abs().max() > 0.5
    stream = conditioned(shards, TextEncoder(), batch=2, frames=8, seed=0)
    first, again = next(stream(0)), next(stream(0))  # what training reads
    assert first.x.shape == (2, 64, 8) and torch.equal(first.x, again.x)


def test_what_cannot_be_done_is_said_in_one_line(presto, recordings, tmp_path):
    for words, reason in (
        (("encode", "--corpus", "nowhere", "--out", tmp_path), "no corpus 'nowhere'"),
        (("encode", "--corpus", "synthetic:0", "--out", tmp_path), "the corpus is empty"),
        (
            ("encode", "--corpus", "synthetic:1", "--out", tmp_path, "--workers", -1),
            "workers must not be negative, got -1",
        ),
        (("encode", "--corpus", recordings, "--out", tmp_path, "--strict"), "empty.wav"),
        (("encode", "--corpus", "synthetic:1", "--out", recordings / "wrong.flac"), "cannot write"),
        (("info", tmp_path), "no complete set of latents"),
        (("plan",), "give either --rates"),
        (("plan", "--rates", recordings / "wrong.flac"), "no measured rates"),
        (("plan", "--rate", "0"), "must be positive"),
        (("plan", "--rate", "9", "--hours", "inf"), "must be positive and finite"),
        (
            ("encode", "--corpus", recordings, "--seconds", "inf", "--out", tmp_path),
            "positive and finite",
        ),
        (
            ("encode", "--corpus", recordings, "--no-vocals", recordings, "--out", tmp_path),
            "--no-vocals is a list of Song Describer's tracks",
        ),
    ):
        code, _, errors = presto(*words)
        said = [line for line in errors.splitlines() if line.startswith("presto: ")]
        assert code == 2 and len(said) == 1 and reason in said[0]


def test_a_plan_counts_clips_shards_and_time(presto, tmp_path):
    made = plan(3600, Rates(50.0, 40.0), workers=(1, 8))
    assert (made.clips, made.shards) == (405_000, 1583)
    assert made.seconds == {1: 3600 * 3600 / 50, 8: 3600 * 3600 / 320}
    (tmp_path / "rates.json").write_text('{"encode": {"alone": 50, "together": 40}}')
    code, out, _ = presto("plan", "--rates", tmp_path / "rates.json", "--workers", 1, 8)
    assert code == 0 and "405,000 clips in 1,583 shards, 72." in out
    assert "1 worker: 3.0 days" in out and "8 workers: 11.2 hours" in out
    _, means, _ = presto("plan", "--rate", 50, "--means-only")
    assert "36." in means and "GB" in means


def test_the_planned_disk_is_what_shards_take(tmp_path):
    class Silence(Corpus):
        key = {"silence": 1}  # noqa: RUF012

        def __len__(self):
            return 40

        def make(self, index):
            caption = "a rather long caption about nothing, in the manner of a catalogue"
            return Clip(torch.zeros(1, 690), 21, caption, Metadata(tempo=90.0), f"clip-{index}")

    def encode(audio):
        mean = audio[:, None].expand(-1, 64, -1)
        return mean, mean

    found = encode_corpus(Silence(), encode, tmp_path, key={}, progress=False)
    size = sum(path.stat().st_size for path in found.path.glob("*.tar"))
    hours = 40 * 32 / 3600
    assert plan(hours, Rates(1, 1), workers=(1,)).size == pytest.approx(size, rel=0.01)


def test_copies_have_other_tempi_and_one_length(presto, tmp_path):
    words = ("--corpus", "synthetic:2", "--out", tmp_path / "out", "--seconds", 1)
    code, out, _ = presto("encode", *words, "--copies", 3, "--seed", 1)
    assert code == 0 and "6 clips" in out
    shards = LatentShards(tmp_path / "out")
    assert shards.lengths.tolist() == [22] * 6
    assert len(set(shards.tempo.tolist())) > 2
    assert all("+copy=" in name for name in shards.table["id"].to_pylist())
    code, _, error = presto("encode", *words, "--copies", -1)
    assert code == 2 and "copies is -1" in error


def test_a_manifest_and_whole_songs_are_corpora_too(presto, recordings, tmp_path):
    (recordings / "list.csv").write_text("file,caption\nb 130 bpm.wav,hiss\nnone.wav,gone\n")
    words = ("--out", tmp_path / "manifest", "--seconds", 1)
    code, out, _ = presto("encode", "--corpus", recordings / "list.csv", *words)
    assert code == 0 and "1 clips" in out and "none.wav" in out
    assert LatentShards(tmp_path / "manifest").caption(0) == "hiss"
    words = ("--out", tmp_path / "songs", "--seconds", 1)
    assert presto("encode", "--corpus", "songs:2", *words)[0] == 0
    timing = LatentShards(tmp_path / "songs").timing
    assert (timing[:, 1] > 30).all()  # a whole song's length
    code, _, error = presto("encode", "--corpus", "song-describer:nowhere", *words)
    assert code == 2 and "nowhere" in error
