"""Reading audio: any format, rate and depth, to the sample; nothing is shortened in silence."""

import os
import shutil
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from presto_data import audio_info, load_audio
from presto_data.audio import FORMATS, at_most_stereo, resampled

RATE = 48_000  # Opus knows no 44.1 kHz
SOUNDFILE = ("a.wav", "a.flac", "a.ogg", "a.opus", "a.mp3", "a.aiff", "a.au", "a.w64")
WITH_LENGTH = ("a.wav", "a.flac", "a.ogg", "a.opus", "a.mp3", "a.aiff", "a.au", "a.w64", "a.m4a")
MP4 = ("a.m4a", "a.mp4", "a.aac")


def chord(seconds, rate=RATE):
    """Three slow sweeps: no two moments are alike, and lossy codecs keep them."""
    time = np.arange(round(seconds * rate)) / rate
    swept = [np.sin(2 * np.pi * f * (time + 0.05 * time**2)) for f in (220, 331, 557)]
    return (0.2 * sum(swept)).astype(np.float32)


def write(path, samples, rate=RATE, **options):
    if path.suffix in (".m4a", ".mp4", ".aac"):
        return write_mp4(path, samples, rate)
    options |= {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(path, "w", rate, channels, **options) as file:
        for i in range(0, len(samples), 8192):  # libsndfile's Vorbis overflows on long writes
            file.write(samples[i : i + 8192])
    return path


def write_mp4(path, samples, rate, layout="mono"):
    import av

    kind = {".m4a": "ipod", ".mp4": "mp4", ".aac": "adts"}[path.suffix]
    options = {} if kind == "adts" else {"movflags": "faststart"}
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream("aac", rate=rate, layout=layout, bit_rate=192_000)
        samples = np.atleast_2d(samples)
        for i in range(0, samples.shape[1], 1024):
            part = np.ascontiguousarray(samples[:, i : i + 1024])
            frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
            frame.sample_rate, frame.pts = rate, i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_rates_channels_and_depths(tmp_path, rate, channels, subtype):
    samples = np.stack([chord(0.1, rate) * (i + 1) / 8 for i in range(channels)], axis=1)
    path = write(tmp_path / "a.wav", samples, rate, subtype=subtype)
    assert audio_info(path) == (0.1, rate, channels)
    audio = load_audio(path, sample_rate=rate)
    step = {"PCM_16": 2**-15, "PCM_24": 2**-23}.get(subtype, 1e-7)
    assert (audio - torch.from_numpy(samples.T)).abs().max() <= step
    assert load_audio(path).shape == (channels, 4410)


@pytest.mark.parametrize("name", SOUNDFILE + MP4)
def test_a_section_is_a_slice_of_the_whole(tmp_path, name):
    samples = chord(4)
    path = write(tmp_path / name, samples)
    assert path.suffix in FORMATS
    whole = load_audio(path, sample_rate=RATE)[0]
    seconds, rate, channels = audio_info(path)
    assert (rate, channels, round(seconds * rate)) == (RATE, 1, len(whole))
    assert len(samples) <= len(whole) <= len(samples) + 2 * 1024  # bare AAC: whole packets
    section = load_audio(path, sample_rate=RATE, start=2.5, seconds=0.5)[0]
    assert torch.allclose(section, whole[120_000:144_000], atol=1e-4)
    late = 1024 if name == "a.aac" else 0  # and no note of the encoder's delay
    source = torch.from_numpy(samples[120_000 - late : 144_000 - late])
    assert (section - source).square().mean() < 0.02 * source.square().mean()
    rest = load_audio(path, sample_rate=RATE, start=3.9)[0]
    assert torch.allclose(rest, whole[187_200:], atol=1e-4)
    with pytest.raises(ValueError, match="empty"):
        load_audio(path, start=5)
    with pytest.raises(ValueError, match="start is -1"):
        load_audio(path, start=-1)


@pytest.mark.parametrize("name", ["long.wav", "long.flac", "long.ogg", "long.mp3", "long.m4a"])
def test_a_late_section_costs_the_memory_of_the_section(tmp_path, name):
    path = write(tmp_path / name, np.tile(chord(10, 8000), 24), 8000)  # 4 minutes, 8 MB
    load_audio(path, sample_rate=8000, seconds=0.1)  # imports
    tracemalloc.start()
    section = load_audio(path, sample_rate=8000, start=233.0, seconds=1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert section.shape == (1, 8000)
    assert peak < 16 * section.numel() * section.element_size()
    source = torch.from_numpy(chord(10, 8000)[24_000:32_000])
    assert torch.corrcoef(torch.stack([section[0], source]))[0, 1] > 0.99


@pytest.mark.parametrize("name", WITH_LENGTH)
def test_a_shortened_file_is_named(tmp_path, name):
    path = write(tmp_path / name, chord(4))
    body = path.read_bytes()
    path.write_bytes(body[: len(body) * 2 // 3])
    with pytest.raises(ValueError, match=r"truncated|unreadable") as error:
        load_audio(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"format": "RF64"}, {"endian": "BIG"}, {"format": "AU", "endian": "LITTLE"}],
    ids=lambda options: ",".join(options.values()),
)
def test_rarer_kinds_of_header_state_a_length_too(tmp_path, options):
    path = write(tmp_path / "a.wav", chord(1), **options)
    assert load_audio(path, sample_rate=RATE).shape == (1, RATE)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="truncated"):
        load_audio(path)


@pytest.mark.parametrize("name", ["a.ogg", "a.opus"])
def test_a_last_page_may_be_cut_too(tmp_path, name):
    path = write(tmp_path / name, chord(1))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated, no last page"):
        load_audio(path)


def test_a_name_need_not_be_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write(tmp_path / "a.wav", chord(1)).rename(path)
    assert load_audio(path, sample_rate=RATE).shape == (1, RATE)


def test_an_mp3_that_does_not_state_its_length(tmp_path):
    """Constant bit rate tells it all the same; else libsndfile would read 0.6 s of the 4."""
    import av

    with av.open(str(tmp_path / "a.mp3"), "w", options={"write_xing": "0"}) as container:
        stream = container.add_stream("mp3", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(chord(4)[None], "fltp", "mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert audio_info(tmp_path / "a.mp3").seconds == pytest.approx(4, abs=0.1)

    body = write(tmp_path / "b.mp3", chord(4)).read_bytes()
    second_frame = body.index(body[:2], 4)
    (tmp_path / "b.mp3").write_bytes(body[second_frame:])
    for read in (audio_info, load_audio):
        with pytest.raises(ValueError, match="length unknown"):
            read(tmp_path / "b.mp3")


def test_a_flac_that_was_written_to_a_pipe(tmp_path):
    path = write(tmp_path / "a.flac", chord(1))
    body = bytearray(path.read_bytes())
    body[21:26] = bytes([body[21] & 0xF0, 0, 0, 0, 0])  # STREAMINFO's total of samples: unknown
    path.write_bytes(body)
    for read in (audio_info, load_audio):
        with pytest.raises(ValueError, match=r"a\.flac: length unknown"):
            read(path)


@pytest.mark.parametrize("rate", [44_056, 44_078, 47_999])
def test_odd_rates_keep_time(rate):
    made = resampled(torch.zeros(1, 6 * rate), rate, 44_100)
    assert abs(made.shape[1] - 6 * 44_100) <= 1


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_stream_whose_writer_could_not_go_back_is_whole(tmp_path, size):
    path = write(tmp_path / "a.wav", chord(1))
    body = path.read_bytes()
    path.write_bytes(body[:4] + size.to_bytes(4, "little") + body[8:])
    assert load_audio(path, sample_rate=RATE).shape == (1, RATE)


@pytest.mark.parametrize("name", WITH_LENGTH)
@pytest.mark.parametrize("wrong", ["b.wav", "b.mp3", "b.m4a"])
def test_content_counts_not_the_extension(tmp_path, name, wrong):
    path = write(tmp_path / name, chord(1))
    shutil.copy(path, tmp_path / wrong)
    assert torch.equal(load_audio(tmp_path / wrong), load_audio(path))


@pytest.mark.parametrize("body", [b"", b"not audio at all", b"\0" * 100, b"\0\0\0\x20ftypM4A "])
@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a"])
def test_what_is_no_audio_is_one_line(tmp_path, body, name):
    path = tmp_path / name
    path.write_bytes(body)
    for read in (load_audio, audio_info):
        with pytest.raises(ValueError, match="unreadable") as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
        with pytest.raises(ValueError, match="no such file"):
            read(tmp_path / "missing.wav")


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.m4a", chord(1))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install 'presto-data\[m4a\]'"):
        load_audio(path)


def test_surround_keeps_its_front_and_centre():
    audio = torch.eye(6)
    mixed = at_most_stereo(audio)
    assert torch.equal(mixed[:, :2], torch.eye(2) / 2)
    assert torch.equal(mixed[:, 2:], torch.full((2, 4), 1 / 8))
    assert torch.equal(at_most_stereo(audio[:2]), audio[:2])


def test_a_section_has_the_samples_that_its_seconds_ask_for(tmp_path):
    path = write(tmp_path / "a.wav", chord(2, 44_100), 44_100)
    for tenths in range(1, 20):
        assert load_audio(path, seconds=tenths / 10).shape[1] == tenths * 4410
    for wrong in (dict(start=-1.0), dict(start=np.nan), dict(seconds=np.inf), dict(seconds=0.0)):
        with pytest.raises(ValueError, match=r"a\.wav: (start|seconds) is"):
            load_audio(path, **{name: float(value) for name, value in wrong.items()})


def test_damaged_aac_is_one_line(tmp_path):
    path = write(tmp_path / "a.m4a", chord(1))
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"free"))
    with pytest.raises(ValueError, match=r"a\.m4a: unreadable \(unknown codec\)"):
        audio_info(path)
    mono, stereo = tmp_path / "mono.aac", tmp_path / "stereo.aac"
    write(mono, chord(1))
    write_mp4(stereo, np.stack([chord(1)] * 2), RATE, "stereo")
    mono.write_bytes(mono.read_bytes() + stereo.read_bytes())
    with pytest.raises(ValueError, match=r"mono\.aac: unreadable \(its number of channels"):
        load_audio(mono)
