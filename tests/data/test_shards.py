"""Every clip is encoded once and stored once, whoever dies, waits or runs out of disk meanwhile."""

import csv
import json
import multiprocessing
import os
import random
import resource
import signal
import tarfile
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from presto_data import Clip, ClipError, Corpus, LatentShards, Metadata, Problem, encode_corpus
from presto_data import shards as module

BATCH, SHARD = 4, 10  # the batches of a shard are not all full
fork = multiprocessing.get_context("fork")


class Numbers(Corpus):
    """Clip i is stereo and constant, left 0, right i, so its mid is i / 2; some are faulty."""

    def __init__(self, count, *, faulty=(), name="numbers"):
        self.count, self.faulty, self.name = count, frozenset(faulty), name

    def __len__(self):
        return self.count

    @property
    def key(self):
        return {"name": self.name, "count": self.count}

    def make(self, index):
        if index in self.faulty:
            raise ClipError(str(index), "silent")
        audio = torch.tensor([[0.0], [index]]).expand(2, 40 if index % 3 else 60)
        facts = Metadata(tempo=60.0 + index if index % 2 else None, instruments=("piano", "flute"))
        return Clip(audio, 8000, f"number {index} 🎵", facts, f"a/{index}.wav", index, 2.0 * index)


class Encoder:
    """Logs the clips it is given where a killed process leaves them too; may be slow."""

    def __init__(self, log, seconds=0.0, broken=(), together=None):
        self.log, self.seconds, self.broken, self.together = log, seconds, broken, together

    def __call__(self, audio):
        rows = [round(2 * value) for value in audio[:, 0].tolist()]
        with open(self.log, "a") as file:
            file.write("".join(f"{row}\n" for row in rows))
        time.sleep(self.seconds)
        if self.together:  # the others must be at work too before anyone goes on
            self.together.wait(60)
            self.together = None
        mean = audio.unfold(1, 4, 4).mT.clone()  # (b, 4, s / 4)
        mean[[row in self.broken for row in rows]] = torch.inf
        return mean, mean * 0.5 + 0.25

    @property
    def seen(self):
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


def encode(corpus, encoder, out, **options):
    options = {"batch_size": BATCH, "shard_clips": SHARD, "hop_length": 4, **options}
    return encode_corpus(corpus, encoder, out, key={"encoder": "v1"}, progress=False, **options)


def tars(out):
    return {path.name: path.read_bytes() for path in out.rglob("*.tar")}


@pytest.fixture
def reference(tmp_path):
    """The shards of 57 clips, two of which are faulty, made in one go."""
    encode(Numbers(57, faulty=[3, 40]), Encoder(tmp_path / "reference.log"), tmp_path / "reference")
    return tars(tmp_path / "reference")


def test_webdataset_reads_what_was_stored(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    out = encode(Numbers(25), Encoder(tmp_path / "log"), tmp_path).path
    urls = sorted(map(str, out.glob("*.tar")))
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(urls) == 3 and [item["__key__"] for item in found] == [f"{i:09d}" for i in range(25)]
    for i, item in enumerate(found):
        assert item["mean.npy"].dtype == np.float16
        np.testing.assert_array_equal(item["mean.npy"], np.full((4, 10 if i % 3 else 15), i / 2))
        np.testing.assert_array_equal(item["scale.npy"], item["mean.npy"] / 2 + 0.25)
        facts = item["json"]
        assert facts["caption"] == f"number {i} 🎵" and facts["id"] == f"a/{i}.wav"
        assert (facts["start"], facts["total"], facts["sample_rate"]) == (i, 2 * i, 8000)
        assert Metadata.from_json(facts["metadata"]).instruments == ("piano", "flute")
    with tarfile.open(urls[0]) as tar:  # and any tar program
        assert len(tar.getnames()) == 30


def test_a_second_call_encodes_nothing_and_another_key_everything(tmp_path):
    encode(Numbers(12), Encoder(tmp_path / "1"), tmp_path)
    again, renamed = Encoder(tmp_path / "2"), Encoder(tmp_path / "3")
    assert len(encode(Numbers(12), again, tmp_path)) == 12 and again.seen == []
    encode(Numbers(12, name="others"), renamed, tmp_path)
    assert sorted(renamed.seen) == list(range(12))


def test_kills_at_random_moments_lose_nothing(tmp_path, reference):
    """Ten processes one after the other, none of which lives for two batches."""
    corpus, log, rng = Numbers(57, faulty=[3, 40]), tmp_path / "log", random.Random(0)
    for _ in range(10):
        slow = Encoder(log, seconds=0.1)
        process = fork.Process(target=encode, args=(corpus, slow, tmp_path / "out"))
        process.start()
        process.join(rng.uniform(0.0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    (folder,) = (tmp_path / "out").iterdir()
    (folder / "key.json.0.partial").touch()  # what a kill at the very first write leaves
    assert len(encode(corpus, Encoder(log), tmp_path / "out")) == 55
    seen = Counter(Encoder(log).seen)
    assert seen.keys() == set(range(57)) - {3, 40}
    assert seen.total() <= 55 + 10 * BATCH
    assert tars(tmp_path / "out") == reference
    assert list((tmp_path / "out").rglob("*.partial")) == []


def test_a_shard_cut_anywhere_grows_to_the_same_bytes(tmp_path):
    """Where a kill or a power cut ends a file is not ours to choose."""
    corpus = Numbers(SHARD, faulty=[3])
    out = encode(corpus, Encoder(tmp_path / "log"), tmp_path / "out").path
    ((name, whole),) = tars(out).items()
    edges = [clip.end for clip in module.stored_clips(out / name)]
    cuts = [0, 1, 512, len(whole) - 1, len(whole), *edges, *(edge - 1 for edge in edges)]
    for cut in [None, *cuts, *random.Random(1).sample(range(len(whole)), 10)]:
        (out / "index.parquet").unlink()
        (out / name).unlink()
        if cut is not None:
            (out / "job" / f"{name}.partial").write_bytes(whole[:cut])
        (out / "job" / f"{name}.left_out").write_text('[3, "3", "silent"]\n[9, "half a li')
        encoder = Encoder(tmp_path / f"{cut}.log")
        assert len(encode(corpus, encoder, tmp_path / "out")) == SHARD - 1
        assert tars(out) == {name: whole}
        again = sum(edge <= (cut or 0) for edge in edges) + len(encoder.seen) - (SHARD - 1)
        assert 0 <= again < BATCH


def test_processes_share_a_job_without_a_coordinator(tmp_path, reference):
    corpus = Numbers(57, faulty=[3, 40])
    together = fork.Barrier(3)
    encoders = [Encoder(tmp_path / f"{i}.log", together=together) for i in range(3)]
    team = [fork.Process(target=encode, args=(corpus, e, tmp_path / "out")) for e in encoders]
    for process in team:
        process.start()
    for process in team:
        process.join(60)
    assert [process.exitcode for process in team] == [0, 0, 0]
    seen = Counter(row for encoder in encoders for row in encoder.seen)
    assert seen == Counter(set(range(57)) - {3, 40})
    assert all(encoder.seen for encoder in encoders)
    assert tars(tmp_path / "out") == reference


def test_the_others_take_over_from_a_dead_process(tmp_path, reference):
    corpus = Numbers(57, faulty=[3, 40])
    slow, quick = Encoder(tmp_path / "slow.log", seconds=60), Encoder(tmp_path / "quick.log")
    doomed = fork.Process(target=encode, args=(corpus, slow, tmp_path / "out"))
    doomed.start()
    while not slow.seen:
        time.sleep(0.01)
    heir = fork.Process(target=encode, args=(corpus, quick, tmp_path / "out"))
    heir.start()
    while len(quick.seen) < 57 - SHARD - 1:  # all but the doomed one's shard
        time.sleep(0.01)
    os.kill(doomed.pid, signal.SIGKILL)
    heir.join(60)
    doomed.join()
    assert heir.exitcode == 0 and tars(tmp_path / "out") == reference


def test_worker_processes_make_the_same_shards(tmp_path, reference):
    corpus = Numbers(57, faulty=[3, 40])
    encode(corpus, Encoder(tmp_path / "log"), tmp_path / "out", workers=2)
    assert tars(tmp_path / "out") == reference


def test_faults_are_listed_and_the_job_goes_on(tmp_path):
    corpus = Numbers(23, faulty=[0, 5, 22])
    corpus.problems = [Problem("b.mp3", "unreadable"), Problem("\udcff.wav", "empty")]
    found = encode(corpus, Encoder(tmp_path / "log", broken=[7]), tmp_path)
    assert len(found) == 19
    assert found.problems == [
        ("b.mp3", "unreadable"),
        ("?.wav", "empty"),
        ("0", "silent"),
        ("5", "silent"),
        ("a/7.wav", "latent not finite in half precision"),
        ("22", "silent"),
    ]
    with open(found.path / "unread.csv", newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["unreadable", "empty"]
    assert [found.caption(i) for i in (0, 4, 18)] == [f"number {i} 🎵" for i in (1, 6, 21)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corpus_that_runs_out_of_something_is_no_shorter_one(tmp_path, workers):
    """A loader takes StopIteration for the end: clips would be lost, and others misnumbered."""
    corpus = Numbers(12)
    corpus.make = lambda index: next(iter(())) if index == 3 else Numbers(12).make(index)
    with pytest.raises(RuntimeError, match="clip 3 raised StopIteration"):
        encode_corpus(corpus, Encoder(tmp_path / "log"), tmp_path, key={}, workers=workers)


def test_the_callers_random_numbers_are_its_own(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    encode_corpus(Numbers(4), Encoder(tmp_path / "log"), tmp_path, key={})
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("at, frames", [(-1, 3), (8, 3), (10, 1)])
def test_a_crop_lies_within_its_clip(tmp_path, at, frames):
    shards = encode_corpus(Numbers(3), Encoder(tmp_path / "log"), tmp_path, key={})
    length = int(shards.lengths[1])
    at = at if at < 0 else at - 10 + length
    with pytest.raises(IndexError, match=f"of a clip of {length}"):
        shards.crop(1, at, frames)


def test_strict_stops_at_the_first_fault_and_can_go_on(tmp_path):
    corpus, log = Numbers(23, faulty=[14]), tmp_path / "log"
    with pytest.raises(ClipError, match="14: silent"):
        encode(corpus, Encoder(log), tmp_path / "out", strict=True)
    with pytest.raises(ClipError, match=r"a/9\.wav: latent not finite"):
        encode(corpus, Encoder(log, broken=[9]), tmp_path / "other", strict=True)
    assert len(encode(corpus, Encoder(log), tmp_path / "out")) == 22
    assert len(tars(tmp_path / "out")) == 3
    with pytest.raises(ClipError, match="14: silent"):  # also when all is done
        encode(corpus, Encoder(log), tmp_path / "out", strict=True)


def test_recordings_mended_or_removed_are_problems_no_more(tmp_path):
    corpus, log = Numbers(5, faulty=[3]), Encoder(tmp_path / "log")
    corpus.problems = [Problem("b.mp3", "unreadable")]
    assert encode(corpus, log, tmp_path / "out").problems[0] == ("b.mp3", "unreadable")
    corpus.problems = []
    assert encode(corpus, log, tmp_path / "out").problems == [("3", "silent")]
    assert log.seen == [0, 1, 2, 4]  # each once


def test_sides_that_cancel_out_are_no_silent_clip(tmp_path):
    class Opposed(Numbers):
        def make(self, index):
            clip = super().make(index)
            return replace(clip, audio=torch.cat([clip.audio, (-1) ** index * clip.audio]))

    found = encode(Opposed(5), Encoder(tmp_path / "log"), tmp_path / "out")
    assert [name for name, reason in found.problems] == ["a/1.wav", "a/3.wav"]
    assert "cancel out" in found.problems[0].reason


def test_a_set_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        encode(Numbers(0), Encoder(tmp_path / "log"), tmp_path)
    with pytest.raises(ValueError, match=r"2 clips left out \(0: silent"):
        encode(Numbers(2, faulty=[0, 1]), Encoder(tmp_path / "log"), tmp_path)
    for wrong in (lambda a: a, lambda a: a[:1, None], lambda a: (a[:, None], a[:, None, 1:])):
        with pytest.raises(ValueError, match=r"must be \(b, c, t\)"):
            encode(Numbers(4, name="wrong"), wrong, tmp_path)


@pytest.mark.parametrize("writes", range(12))
def test_a_full_disk_is_said_in_one_line_and_loses_nothing(tmp_path, monkeypatch, writes):
    """Whichever write it is that fails: of key, clips, problems, summary, end or index."""
    sync, done = os.fsync, []

    def full(descriptor):
        done.append(descriptor)
        if len(done) > writes:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    corpus, log = Numbers(12, faulty=[2]), tmp_path / "log"
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot write.*No space left.*run the same") as failure:
            encode(corpus, Encoder(log), tmp_path / "out")
    assert "\n" not in str(failure.value) and not list(tmp_path.rglob("index.parquet"))
    for partial in (tmp_path / "out").rglob("*.tar.partial"):
        ends = [clip.end for clip in module.stored_clips(partial)]
        assert partial.stat().st_size == max(ends, default=0)  # no half clip
    assert len(encode(corpus, Encoder(log), tmp_path / "out")) == 11
    assert Counter(log.read_text().split()).total() <= 11 + BATCH


def test_a_file_may_not_grow(tmp_path, reference):
    """A real limit of the system, that cuts a write short."""
    corpus, log = Numbers(57, faulty=[3, 40]), tmp_path / "log"

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        try:
            encode(corpus, Encoder(log), tmp_path / "out")
        except OSError as error:
            os._exit(9 if "File too large" in str(error) else 1)

    process = fork.Process(target=limited)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    encode(corpus, Encoder(log), tmp_path / "out")
    assert tars(tmp_path / "out") == reference


def test_where_nothing_can_be_written_it_is_said_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/.*: cannot write \("):
        encode(Numbers(3), Encoder(tmp_path / "log"), tmp_path / "file")
    assert not (tmp_path / "log").exists()


def test_statistics_are_those_of_the_stored_values(tmp_path):
    class Noise:
        """Channel i has standard deviation 0.2 (i + 1) and mean i."""

        def __call__(self, audio):
            rng = torch.Generator().manual_seed(round(1000 * audio[0, 0].item()))
            spread = torch.tensor([0.2, 0.4, 0.6])[:, None]
            noise = torch.randn(len(audio), 3, audio.shape[1], generator=rng)
            return noise * spread + torch.arange(3)[:, None], spread.expand(noise.shape) / 2

    found = encode(Numbers(31), Noise(), tmp_path)
    values = torch.cat([found.crop(i, 0, int(found.lengths[i]))[0] for i in range(31)], dim=1)
    stats, values = json.loads((found.path / "stats.json").read_text()), values.double()
    assert stats["clips"] == 31 and stats["frames"] == values.shape[1]
    assert stats["hours"] == pytest.approx(values.shape[1] / 8000 / 3600)
    np.testing.assert_allclose(stats["mean"], values.mean(1), rtol=1e-9)
    np.testing.assert_allclose(stats["std"], values.std(1, correction=0), rtol=1e-9)
    np.testing.assert_allclose(stats["scale_rms"], [0.1, 0.2, 0.3], rtol=1e-3)
    drawn = values.var(1, correction=0).mean() + (0.01 + 0.04 + 0.09) / 3
    assert stats["sigma_data"] == pytest.approx(drawn.sqrt().item(), rel=1e-3)
    assert stats["warning"] == "2 of 3 channels have a deviation far from 0.5: 0 (0.23), 2 (0.68)"


def test_the_index_is_a_table_for_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    found = encode(Numbers(25, faulty=[4]), Encoder(tmp_path / "log"), tmp_path)
    table = pandas.read_parquet(found.path / "index.parquet")
    assert len(table) == 24 and table["shard"].nunique() == 3
    row = table.set_index("id").loc["a/13.wav"]
    assert (row["tempo"], row["frames"], row["start"], row["total"]) == (73, 10, 13, 26)
    with open(found.path / row["shard"], "rb") as file:
        file.seek(row["scale_offset"])
        assert np.load(file)[0, 0] == 13 / 4 + 0.25
    assert LatentShards(tmp_path).path == found.path
