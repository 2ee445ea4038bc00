"""Every fault is counted once, listed by name and reason, and stops at the first when strict."""

import os
import shutil
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile
import torch

from presto_data import ClipError, Problem, folder_corpus, report
from presto_data.faults import Faults, audible_fault

RATE = 8000


def tone(seconds=2.0, gain=0.3):
    return (gain * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def write(path, samples, **options):
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, samples, RATE, **options)
    return path


def shorten(path):
    body = path.read_bytes()
    path.write_bytes(body[: len(body) // 2])


def mistag(path):
    """A FLAC whose title is Latin-1, where Vorbis comments must be UTF-8."""
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.title = "Cafe noir"
        file.write(tone())
    path.write_bytes(path.read_bytes().replace(b"Cafe noir", b"Caf\xe9 noir"))


def spoiled(value):
    samples = tone()
    samples[100] = value
    return samples


SOUND = ("good.wav", "sub folder 🎷/a tune.wav", "really a flac.mp3", "loud but whole.wav")
FAULTS = {
    "text.mp3": "unreadable",
    "zero bytes.wav": "unreadable",
    "no samples.wav": "empty",
    "cut.wav": "truncated",
    "cut.ogg": "truncated",
    "cut.mp3": "truncated",
    "silent.wav": "silent",
    "clipped.wav": "clipped",
    "nan.wav": "not finite",
    "infinite.wav": "not finite",
    "tags.flac": "text or tags not UTF-8",
    "words.wav": "text or tags not UTF-8",
    "caf\N{REPLACEMENT CHARACTER}.wav": "text or tags not UTF-8",
    "dangling.wav": "no such file",
    "partly.wav@2": "silent",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    for name in SOUND[:2]:
        write(root / name, tone())
    shutil.copy(write(root / "x.flac", tone()), root / SOUND[2])
    (root / "x.flac").unlink()
    write(root / SOUND[3], tone(gain=1.0), subtype="FLOAT")
    (root / "text.mp3").write_text("not audio at all")
    (root / "zero bytes.wav").write_bytes(b"")
    write(root / "no samples.wav", np.zeros(0))
    for name in ("cut.wav", "cut.ogg", "cut.mp3"):
        shorten(write(root / name, tone()))
    write(root / "silent.wav", np.zeros(2 * RATE))
    write(root / "clipped.wav", np.clip(tone(gain=3.0), -1, 1))
    write(root / "nan.wav", spoiled(np.nan), subtype="FLOAT")
    write(root / "infinite.wav", spoiled(np.inf), subtype="FLOAT")
    mistag(root / "tags.flac")
    write(root / "words.wav", tone())
    (root / "words.txt").write_bytes("Café noir".encode("latin-1"))
    shutil.copy(root / "good.wav", os.fsencode(root) + b"/caf\xe9.wav")
    (root / "dangling.wav").symlink_to(root / "gone.wav")
    write(root / "partly.wav", np.concatenate([tone(), np.zeros(2 * RATE)]))
    return root


def test_each_fault_is_named_once_and_the_rest_is_served(folder):
    with pytest.warns(UserWarning, match=f"{len(FAULTS)} left out: "):
        corpus = folder_corpus(folder, seconds=2.0, sample_rate=RATE)
    assert {clip.id for clip in corpus} == {f"{name}@0" for name in (*SOUND, "partly.wav")}
    kinds = {name: reason.split(",")[0].split(" (")[0] for name, reason in corpus.problems}
    assert kinds == FAULTS and len(corpus.problems) == len(FAULTS)
    assert all("\n" not in reason and str(folder) not in reason for _, reason in corpus.problems)
    good = torch.from_numpy(soundfile.read(folder / "good.wav", dtype="float32")[0])
    assert all(
        torch.allclose(clip.audio[0], good, atol=1e-4) for clip in corpus if "loud" not in clip.id
    )


def test_strict_stops_at_the_first(folder):
    with pytest.raises(ClipError) as error:
        folder_corpus(folder, seconds=2.0, strict=True)
    assert error.value.problem.name == min(FAULTS)


def test_strict_names_the_clip(tmp_path):
    write(tmp_path / "partly.wav", np.concatenate([tone(), np.zeros(2 * RATE)]))
    with pytest.raises(ClipError, match=r"^partly\.wav@2: silent$"):
        folder_corpus(tmp_path, seconds=2.0, strict=True)


def test_without_a_check_headers_speak_first_and_clips_later(folder):
    with pytest.warns(UserWarning):
        corpus = folder_corpus(folder, seconds=2.0, sample_rate=RATE, check=False)
    raised = {}
    for index in range(len(corpus)):
        try:
            corpus[index]
        except ClipError as error:
            raised[error.problem.name.split("@0")[0]] = error.problem.reason
    known = dict(corpus.problems)
    assert not known.keys() & raised.keys() and known.keys() | raised.keys() == FAULTS.keys()
    later = ("cut.mp3", "silent.wav", "clipped.wav", "nan.wav", "infinite.wav", "partly.wav@2")
    assert raised.keys() == set(later)
    assert all(reason.startswith(FAULTS[name]) for name, reason in raised.items())


def test_a_file_that_changes_after_the_check_is_not_served(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    corpus = folder_corpus(tmp_path, seconds=2.0)
    write(path, np.zeros(2 * RATE))
    with pytest.raises(ClipError, match=r"^a\.wav@0: silent$"):
        corpus[0]
    path.unlink()
    with pytest.raises(ClipError, match=r"^a\.wav@0: no such file$"):
        corpus[0]


def test_three_hours_are_never_in_memory(tmp_path):
    """3 h of 44.1 kHz stereo, as a sparse file: silence and a last second of sound."""
    frames, sound = 3 * 3600 * 44_100, b"\0\x20\0\xe0" * 44_100
    size = 4 * frames
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 44_100, 4 * 44_100, 4, 16)
    header = struct.pack("<4sI4s", b"RIFF", size + 36, b"WAVE") + form
    with (tmp_path / "huge.wav").open("wb") as file:
        file.write(header + struct.pack("<4sI", b"data", size))
        file.seek(size - len(sound), os.SEEK_CUR)
        file.write(sound)
    tracemalloc.start()
    corpus = folder_corpus(tmp_path, seconds=10.0, check=False)
    clip = corpus[-1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(corpus) == 1080 and (clip.start, clip.total) == (10_790.0, 10_800.0)
    assert clip.audio.shape == (2, 441_000) and clip.audio[:, -44_100:].abs().min() == 0.25
    assert peak < 3 * clip.audio.numel() * 4
    with pytest.raises(ClipError, match="silent"):
        corpus[0]


def test_three_hours_are_checked_piece_by_piece(tmp_path):
    rate, seconds = 1000, 3 * 3600
    wave = 0.3 * np.sin(0.3 * np.arange(rate * seconds, dtype="f4"))
    wave[5 * rate * 60 : 6 * rate * 60] = 0
    soundfile.write(tmp_path / "huge.flac", wave, rate)
    del wave
    tracemalloc.start()
    with pytest.warns(UserWarning, match="2 left out: 2 silent"):
        corpus = folder_corpus(tmp_path, seconds=30.0, sample_rate=rate)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(corpus) == 358
    assert corpus.problems == [("huge.flac@300", "silent"), ("huge.flac@330", "silent")]
    assert peak < 2_000_000  # the decoded file has 43,200,000


def test_clipping_counts_long_runs_only():
    samples = torch.zeros(1, 1000)
    samples[0, ::3] = 1.0  # a third of all, none beside another
    assert audible_fault(samples) is None
    samples = 0.5 * torch.ones(2, 1000)
    samples[0, 100:120] = -1.0
    assert audible_fault(samples) is None  # 1 % of 2,000
    samples[1, 500:503] = 1.0
    assert audible_fault(samples) == "clipped, 1% of the samples"
    assert audible_fault(torch.full((1, 2), 1e-4)) == "silent"


def test_a_report_counts_reasons_and_lists_names():
    assert report([]) == ""
    problems = [Problem("a b.wav", "silent"), Problem("🎷.wav", "truncated, 3 of 4 samples")]
    problems += [Problem(f"{i}.mp3", "unreadable (no good)") for i in range(12)]
    assert report(problems).splitlines()[:4] == [
        "14 left out: 12 unreadable, 1 silent, 1 truncated",
        "unreadable:",
        "  0.mp3 (no good)",
        "  1.mp3 (no good)",
    ]
    lines = report(problems).splitlines()
    assert lines[11:] == [
        *("  9.mp3 (no good)", "  and 2 more"),
        *("silent:", "  a b.wav"),
        *("truncated:", "  🎷.wav: 3 of 4 samples"),
    ]


def test_faults_are_a_list_that_may_be_strict():
    faults = Faults()
    faults.add("a", "b")
    assert faults == [Problem("a", "b")]
    with pytest.raises(ClipError, match="a: b"):
        Faults(strict=True).add("a", "b")


def test_a_sound_folder_says_nothing(tmp_path):
    write(tmp_path / "a.wav", tone())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder_corpus(tmp_path, seconds=1.0, strict=True).problems == []
