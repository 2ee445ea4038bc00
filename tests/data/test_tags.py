"""Tags in the file (ID3, Vorbis comments, MP4) become caption and metadata; nothing is guessed."""

import json

import numpy as np
import pytest

from presto_data import Metadata, folder_corpus
from presto_data.tags import embedded_facts

av = pytest.importorskip("av")
KINDS = {
    ".flac": ("flac", "flac", "s16"),
    ".m4a": ("ipod", "aac", "fltp"),
    ".mp3": ("mp3", "mp3", "fltp"),
}


def tagged(path, **tags):
    """Write a second of a tone with these tags."""
    container_format, codec, samples = KINDS[path.suffix]
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    tone = tone.astype(np.float32) if samples == "fltp" else (tone * 32767).astype(np.int16)
    with av.open(str(path), "w", format=container_format) as container:
        container.metadata.update(tags)
        stream = container.add_stream(codec, rate=44_100, layout="mono")
        for i in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, i : i + 1024], samples, "mono")
            frame.sample_rate, frame.pts = 44_100, i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_vorbis_comments(tmp_path):
    known = {"bpm": "132", "key": "Bbm", "mood": "calm", "keywords": "late", "style": "cool;hot"}
    unused = {"artist": "Somebody", "comment": "buy it", "encoder": "x"}
    path = tagged(
        tmp_path / "a.flac",
        **{"title": "Night; Train", "genre": "Jazz;Swing", "instrument": "piano; bass"},
        **known,
        **unused,
    )
    title, facts = embedded_facts(path)
    assert title == "Night; Train"
    assert Metadata(**facts) == Metadata(
        tempo=132.0,
        key="Bb",
        mode="minor",
        genre="Jazz",
        instruments=("piano", "bass"),
        mood="calm",
        tags=("Swing", "late", "cool", "hot"),
    )


def test_id3_and_mp4(tmp_path):
    frames = {"TBPM": "90.5", "TKEY": "F#"}
    mp3 = tagged(tmp_path / "b.mp3", title="Żółw", genre="Folk", **frames)
    assert embedded_facts(mp3) == ("Żółw", {"genre": "Folk", "tempo": 90.5, "key": "F#"})
    m4a = tagged(tmp_path / "c.m4a", title="Café", genre="Bossa Nova")
    assert embedded_facts(m4a) == ("Café", {"genre": "Bossa Nova"})


@pytest.mark.parametrize(
    ("text", "key", "mode"),
    [
        ("C", "C", None),
        ("Am", "A", "minor"),
        ("F#m", "F#", "minor"),
        ("E♭ major", "Eb", "major"),
        ("GM", "G", "major"),
        ("D min", "D", "minor"),
        ("8A", None, None),
        ("o", None, None),
    ],
)
def test_keys(tmp_path, text, key, mode):
    _, facts = embedded_facts(tagged(tmp_path / "a.flac", key=text))
    assert (facts.get("key"), facts.get("mode")) == (key, mode)


@pytest.mark.parametrize("text", ["0", "fast", "-3", "nan", "1e9", ""])
def test_a_tempo_that_is_none_is_unknown(tmp_path, text):
    assert "tempo" not in embedded_facts(tagged(tmp_path / "a.flac", bpm=text))[1]


def test_a_sidecar_has_the_last_word(tmp_path):
    for name in ("a.flac", "b.flac"):
        tagged(tmp_path / name, title="Title", genre="Rock", bpm="100", key="Am")
    facts = {"caption": "own words", "genre": "ska", "key": "D"}
    (tmp_path / "b.json").write_text(json.dumps(facts))
    clips = list(folder_corpus(tmp_path, seconds=1.0))
    assert [clip.caption for clip in clips] == ["Title", "own words"]
    assert clips[0].metadata == Metadata(tempo=100.0, key="A", mode="minor", genre="Rock")
    assert clips[1].metadata == Metadata(tempo=100.0, key="D", genre="ska")


def test_a_file_without_tags_knows_nothing(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\0\0\0\0WAVE")
    assert embedded_facts(path) == (None, {})
