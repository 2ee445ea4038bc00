"""Folders of recordings: any readable file is served, everything else is named with its reason."""

import json

import numpy as np
import pytest
import soundfile
import torch

from presto_data import Metadata, folder_corpus, load_audio
from presto_data.folder import clean

RATE = 44_100


def tone(seconds, rate, channels=1, hertz=440.0):
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def write(path, seconds=2.0, rate=RATE, channels=1, hertz=440.0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate, channels, hertz), rate, **options)
    return path


def peak_hertz(audio):
    power = torch.fft.rfft(audio[0] * torch.hann_window(audio.shape[1])).abs()
    return power.argmax().item() * RATE / audio.shape[1]


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_056, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_keeps_pitch_and_duration(tmp_path, rate, channels):
    path = write(tmp_path / "a.wav", rate=rate, channels=channels)
    audio = load_audio(path)
    assert audio.shape[0] == channels and abs(audio.shape[1] - 2 * RATE) < 100
    assert peak_hertz(audio) == pytest.approx(440, abs=0.6)
    clip = folder_corpus(tmp_path, seconds=1.0)[1]
    assert clip.audio.shape == (channels, RATE) and clip.audio.abs().max() > 0.25


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "A.WAV", "a.aiff"])
def test_formats_and_odd_paths(tmp_path, name):
    write(tmp_path / "sub folder 🎷" / name)
    corpus = folder_corpus(tmp_path, seconds=1.0)
    assert len(corpus) == 2 and corpus.problems == []
    assert peak_hertz(corpus[0].audio) == pytest.approx(440, abs=1.5)
    assert corpus[1].id == f"sub folder 🎷/{name}@1"


def test_surround_becomes_stereo_and_keeps_its_centre(tmp_path):
    samples = np.zeros((RATE, 6), np.float32)
    samples[:, 2] = tone(1, RATE)[:, 0]  # the centre alone
    soundfile.write(tmp_path / "five one.wav", samples, RATE)
    audio = folder_corpus(tmp_path, seconds=1.0)[0].audio
    assert audio.shape == (2, RATE) and torch.equal(audio[0], audio[1]) and audio.abs().max() > 0


def test_consecutive_excerpts_cover_the_file_and_short_ones_repeat(tmp_path):
    ramp = np.linspace(0.1, 0.9, 10 * 1000, dtype=np.float32)
    soundfile.write(tmp_path / "ramp.wav", ramp, 1000, subtype="FLOAT")
    clips = list(folder_corpus(tmp_path, seconds=4.0, sample_rate=1000))
    assert [clip.id for clip in clips] == ["ramp.wav@0", "ramp.wav@4"]  # 10 / 4 rounds to 2
    whole = torch.from_numpy(ramp)
    assert torch.equal(clips[1].audio[0], whole[4000:8000])
    assert [c.id for c in folder_corpus(tmp_path, seconds=6.0, sample_rate=1000)] == [
        "ramp.wav@0",
        "ramp.wav@4",  # the rest is more than half a clip: aligned to the end
    ]
    short = folder_corpus(tmp_path, seconds=25.0, sample_rate=1000)[0].audio[0]
    assert torch.equal(short, whole.repeat(3)[:25_000])


def test_bad_files_are_left_out_and_named(tmp_path):
    write(tmp_path / "good.wav")
    whole = write(tmp_path / "cut.flac", seconds=4).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "zero bytes.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_text("not audio at all")
    (tmp_path / "phone.m4a").write_bytes(b"\0" * 100)
    soundfile.write(tmp_path / "no samples.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    broken = tone(1, RATE)
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    (tmp_path / "notes.md").write_text("ignored")
    with pytest.warns(UserWarning, match=r"7 left out: 4 unreadable, .*1 silent.*cut\.flac: unr"):
        corpus = folder_corpus(tmp_path, seconds=1.0)
    assert {clip.id.split("@")[0] for clip in corpus} == {"good.wav"}
    reasons = dict(corpus.problems)
    assert set(reasons) == {
        "cut.flac",
        "zero bytes.wav",
        "text.mp3",
        "phone.m4a",
        "no samples.wav",
        "silent.wav",
        "nan.wav",
    }
    assert "empty" in reasons["no samples.wav"] and "not finite" in reasons["nan.wav"]
    assert all("\n" not in reason for reason in reasons.values())
    with pytest.raises(ValueError, match=r"cut\.flac"):
        folder_corpus(tmp_path, seconds=1.0, strict=True)


def test_nothing_usable_is_an_error_in_one_line(tmp_path):
    for folder, why in ((tmp_path / "missing", "no such folder"), (tmp_path, "no usable audio")):
        with pytest.raises(ValueError, match=why) as error:
            folder_corpus(folder)
        assert str(folder) in str(error.value) and ".flac" in str(error.value)
        assert "\n" not in str(error.value)
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"1 left out\); x\.wav: unreadable"):
        folder_corpus(tmp_path)
    with pytest.raises(ValueError, match="seconds 0"):
        folder_corpus(tmp_path, seconds=0)


def test_last_says_what_becomes_of_the_rest(tmp_path):
    ramp = np.linspace(0.1, 0.9, 10 * 1000, dtype=np.float32)
    soundfile.write(tmp_path / "ramp.wav", ramp, 1000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", ramp[:1000], 1000, subtype="FLOAT")
    with pytest.warns(UserWarning, match="1 shorter than a clip"):
        dropped = folder_corpus(tmp_path, seconds=4.0, sample_rate=1000, last="drop")
    assert [clip.id for clip in dropped] == ["ramp.wav@0", "ramp.wav@4"]
    assert dropped.problems == [("short.wav", "shorter than a clip, 1 s")]
    padded = folder_corpus(tmp_path, seconds=4.0, sample_rate=1000, last="pad")
    assert [clip.id for clip in padded] == ["ramp.wav@0", "ramp.wav@4", "ramp.wav@8", "short.wav@0"]
    rest = padded[2].audio[0]
    assert torch.equal(rest[:2000], torch.from_numpy(ramp[8000:])) and not rest[2000:].any()
    assert [(clip.start, clip.total) for clip in padded] == [(0, 10), (4, 10), (8, 10), (0, 1)]
    assert len({str(c.key) for c in (dropped, padded)}) == 2
    for seconds, starts in ((4.0, [0, 4, 0]), (3.9, [0, 3.9, 6.1, 0]), (20 / 3, [0, 0])):
        aligned = folder_corpus(tmp_path, seconds=seconds, sample_rate=1000)
        assert [clip.start for clip in aligned] == pytest.approx(starts)
    with pytest.raises(ValueError, match="last is 'fold'"):
        folder_corpus(tmp_path, last="fold")


def test_captions_from_sidecars_and_names(tmp_path):
    write(tmp_path / "442789__lena-orsa__happy_ragtime.wav")
    write(tmp_path / "🎹.wav")
    write(tmp_path / "b.wav")
    (tmp_path / "b.txt").write_text(
        "\ufeffhttps://example.org/a\n\nSlow Waltz at 90 bpm is licensed under CC BY. www.x.org\n"
    )
    write(tmp_path / "c.wav")
    facts = {"caption": "a  slow jazz\ntrio", "tempo": 92, "key": "D", "instruments": ["piano"]}
    (tmp_path / "c.json").write_text(json.dumps({**facts, "licence": "CC0", "mode": None}))
    clips = {clip.id.split("@")[0]: clip for clip in folder_corpus(tmp_path, seconds=2.0)}
    assert clips["442789__lena-orsa__happy_ragtime.wav"].caption == "lena orsa happy ragtime"
    assert clips["🎹.wav"].caption == "🎹"
    assert clips["b.wav"].caption == "Slow Waltz at 90 bpm"
    assert clips["b.wav"].metadata == Metadata(tempo=90.0)
    assert clips["c.wav"].caption == "a slow jazz trio"
    assert clips["c.wav"].metadata == Metadata(tempo=92.0, key="D", instruments=("piano",))


@pytest.mark.parametrize(
    ("name", "caption", "tempo"),
    [
        ("03 slow waltz", "slow waltz", None),
        ("120bpm_Am_loop", "120bpm Am loop", 120.0),
        ("98 bpm groove", "98 bpm groove", 98.0),
        ("80s synth pop", "80s synth pop", None),
        ("loop 1128 bpm", "loop 1128 bpm", None),
    ],
)
def test_a_name_loses_the_number_of_its_track_and_no_tempo(tmp_path, name, caption, tempo):
    write(tmp_path / f"{name}.wav")
    (clip, *_) = folder_corpus(tmp_path, seconds=2.0)
    assert (clip.caption, clip.metadata.tempo) == (caption, tempo)


@pytest.mark.parametrize("text", ["{", "[]", '{"tempo": 90}', '{"caption": 3}', '{"caption": " "}'])
def test_a_broken_sidecar_is_a_problem_not_a_guess(tmp_path, text):
    write(tmp_path / "a.wav")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"(not a sidecar|no caption) \(a\.json"):
        folder_corpus(tmp_path, strict=True)


def test_one_table_describes_the_folder(tmp_path):
    for name in ("a.wav", "sub/b.wav", "c.wav", "d.wav"):
        write(tmp_path / name)
    (tmp_path / "c.txt").write_text("its own words")
    (tmp_path / "captions.csv").write_text(
        "file,caption,tempo,instruments,unknown\n"
        "a.wav,slow  waltz,90,piano;flute,x\n"
        'sub/b.wav,"fast, loud",,"drums, bass",\n'
        "gone.wav,where is it,,,\n"
    )
    with pytest.warns(UserWarning, match="2 left out"):
        corpus = folder_corpus(tmp_path, seconds=2.0)
    assert {clip.id: clip.caption for clip in corpus} == {
        "a.wav@0": "slow waltz",
        "sub/b.wav@0": "fast, loud",
        "c.wav@0": "its own words",
    }
    assert corpus[0].metadata == Metadata(tempo=90.0, instruments=("piano", "flute"))
    assert corpus[2].metadata == Metadata(instruments=("drums", "bass"))
    assert corpus.problems == [
        ("d.wav", "no caption (no row in captions.csv)"),
        ("gone.wav", "no such audio file (named in captions.csv)"),
    ]


def test_the_key_names_what_the_clips_depend_on(tmp_path):
    path = write(tmp_path / "a.wav")
    keys = [folder_corpus(tmp_path, seconds=1.0).key, folder_corpus(tmp_path, seconds=2.0).key]
    keys.append(folder_corpus(tmp_path, seconds=1.0, sample_rate=8000).key)
    (tmp_path / "a.txt").write_text("a caption")
    keys.append(folder_corpus(tmp_path, seconds=1.0).key)
    write(path, hertz=880.0)
    keys.append(folder_corpus(tmp_path, seconds=1.0).key)
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(keys)
    assert folder_corpus(tmp_path, seconds=1.0, check=False).key == keys[-1]


def test_linked_folders_are_looked_into_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere" / "b.wav")
    write(tmp_path / "music" / "sub" / "a.wav")
    (tmp_path / "music" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music" / "sub" / "up").symlink_to(tmp_path / "music")
    corpus = folder_corpus(tmp_path / "music", seconds=2.0)
    assert [clip.id for clip in corpus] == ["linked/b.wav@0", "sub/a.wav@0"]


@pytest.mark.parametrize(
    "line, kept",
    [
        ("Waltz in (C) major at 90 bpm", "Waltz in (C) major at 90 bpm"),
        ("Copyright free lounge piano", "Copyright free lounge piano"),
        ("Unlicensed warehouse techno", "Unlicensed warehouse techno"),
        ("Vibe Ace by Kevin MacLeod is licensed under CC-BY", "Vibe Ace by Kevin MacLeod"),
        ("Rag, (c) 2019 A. Player", "Rag"),
    ],
)
def test_credits_are_cut_and_captions_are_not(line, kept):
    assert clean(line) == kept


def test_a_tempo_counts_as_much_as_what_states_it(tmp_path):
    """A sidecar's words before a table's cell, a table's words before a file's name."""
    for name in ("a.wav", "b 100bpm.wav", "c.wav"):
        write(tmp_path / name)
    (tmp_path / "a.txt").write_text("slow waltz at 90 bpm, " + "and on " * 60)
    rows = ["File,Caption,Tempo,Key", "a.wav,x,140,", "b 100bpm.wav,at 110 bpm,,A minor"]
    rows.append("c.wav,at 110 bpm,120,F# Maj")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    corpus = folder_corpus(tmp_path, seconds=2.0)
    assert [clip.metadata.tempo for clip in corpus] == [90, 110, 120]
    assert [clip.metadata.tonality for clip in corpus] == [None, "A minor", "F# major"]
    assert corpus[0].caption.endswith("and on")
    (tmp_path / "captions.csv").write_text("file,caption,Caption\na.wav,x,y")
    with pytest.raises(ValueError, match="two columns 'caption'"):
        folder_corpus(tmp_path)
