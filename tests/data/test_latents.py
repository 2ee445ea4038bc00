"""Encoded corpora answer alike from memory and from shards, also where clips differ in length."""

import pickle

import pytest
import torch

from presto_data import Clip, Corpus, LatentSet, LatentShards, Metadata, encode_corpus

FRAMES = [12, 9, 12, 30, 9, 10, 12]


class Ramps(Corpus):
    """Clip i has 4 samples per frame and FRAMES[i] frames, or as many as it is told."""

    def __init__(self, frames=None):
        self.frames = frames

    def __len__(self):
        return len(FRAMES)

    @property
    def key(self):
        return {"ramps": self.frames}

    def make(self, index):
        audio = torch.linspace(-1, 1, 4 * (self.frames or FRAMES[index]))[None] * (index + 1)
        tempo = 60.0 + index if index % 2 else None
        facts = Metadata(
            tempo=tempo, key="D", mode="dorian", genre="jazz", instruments=("piano", "flute")
        )
        return Clip(audio, 8, f"number {index} 🎵", facts, str(index), 10.0 * index, 100.0)


def frames_of(audio):
    return audio.unfold(1, 4, 4).mT  # (b, 4, s / 4)


def with_scale(audio):
    return frames_of(audio), frames_of(audio).square()


def encode(corpus, encoder, out):
    return encode_corpus(corpus, encoder, out, key={}, hop_length=4, shard_clips=3, progress=False)


def test_any_crop_of_any_clip_is_what_was_encoded(tmp_path):
    found = encode(Ramps(), with_scale, tmp_path)
    assert len(found) == 7 and found.lengths.tolist() == FRAMES and found.channels == 4
    for i, clip in enumerate(Ramps()):
        means, scales = (part[0].half().float() for part in with_scale(clip.audio))
        for at, frames in ((0, FRAMES[i]), (2, 5), (FRAMES[i] - 1, 1)):
            mean, scale = found.crop(i, at, frames)
            assert torch.equal(mean, means[:, at : at + frames])
            assert torch.equal(scale, scales[:, at : at + frames])
        assert found.caption(i) == clip.caption and found.metadata(i) == clip.metadata
        assert found.tempo[i] == (clip.metadata.tempo or 0)
        assert found.timing[i].tolist() == [10 * i, 100, 0.5]


def test_shards_open_again_and_travel_to_other_processes(tmp_path):
    found = encode(Ramps(), frames_of, tmp_path)
    first, none = found.crop(3, 4, 6)  # a file is open now
    assert none is None
    for other in (
        LatentShards(tmp_path),
        LatentShards(found.path),
        pickle.loads(pickle.dumps(found)),
    ):
        assert torch.equal(other.crop(3, 4, 6)[0], first)


def test_the_loaded_set_answers_as_the_shards_do(tmp_path):
    shards = encode(Ramps(frames=20), with_scale, tmp_path)
    loaded = shards.load()
    assert loaded.latents.shape == (7, 4, 20) and loaded.frames == 20 and len(loaded) == 7
    for name in ("tempo", "timing"):
        assert torch.equal(getattr(loaded, name), getattr(shards, name))
    assert loaded.lengths.tolist() == shards.lengths.tolist()
    for i in range(7):
        assert loaded.tonality(i) == shards.tonality(i) == "D minor"
        assert loaded.caption(i) == shards.caption(i) and loaded.metadata[i] == shards.metadata(i)
        for a, b in zip(loaded.crop(i, 3, 5), shards.crop(i, 3, 5), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ValueError, match="clips of 9 to 30 frames"):
        encode(Ramps(), with_scale, tmp_path / "uneven").load()


@pytest.mark.parametrize(
    ("key", "mode", "tonality"),
    [
        ("A", "minor", "A minor"),
        ("B flat", "mixolydian", "B flat major"),
        ("F Sharp", "Min", "F Sharp minor"),
        ("BB", "minor", None),
        ("F#", None, None),
        (None, "major", None),
        ("H", "major", None),  # a German B: no key that anybody else would look for
    ],
)
def test_a_key_is_known_where_tonic_and_mode_are(key, mode, tonality):
    assert Metadata(key=key, mode=mode).tonality == tonality


def test_a_frame_is_as_long_as_the_clip_says_where_the_encoder_does_not(tmp_path):
    found = encode_corpus(Ramps(), frames_of, tmp_path, key={}, progress=False)
    assert found.timing[:, 2].tolist() == [0.5] * 7


def test_facts_that_only_some_shards_know_are_kept(tmp_path):
    class Late(Ramps):
        def make(self, index):
            clip = super().make(index)
            facts = Metadata() if index < 3 else Metadata(tempo=90, mood="calm", tags=("live",))
            return Clip(clip.audio, 8, clip.caption, facts, clip.id)

    found = encode(Late(), frames_of, tmp_path)
    assert [found.metadata(i) for i in (0, 6)] == [Late()[0].metadata, Late()[6].metadata]
    assert found.tempo.tolist() == [0, 0, 0, 90, 90, 90, 90]


def test_unknown_tempi_of_a_whole_set_are_zero(tmp_path):
    class Untimed(Ramps):
        def make(self, index):
            clip = super().make(index)
            return Clip(clip.audio, 8, clip.caption, Metadata(), clip.id)

    assert encode(Untimed(), frames_of, tmp_path).tempo.tolist() == [0] * 7


def test_folders_without_one_complete_set_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no complete set of latents \(no index"):
        LatentShards(tmp_path)
    first = encode(Ramps(), frames_of, tmp_path)
    encode(Ramps(frames=20), frames_of, tmp_path)
    with pytest.raises(ValueError, match="holds 2 sets: .*" + first.path.name):
        LatentShards(tmp_path)
    (first.path / "index.parquet").unlink()
    with pytest.raises(ValueError, match="not finished, run the same command again"):
        LatentShards(first.path)
    other = LatentShards(tmp_path)
    shard = other.path / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"shard-000000\.tar: truncated, clip 0"):
        other.crop(0, 0, 20)


def test_split_and_rows_pick_whole_clips(tmp_path):
    found = encode(Ramps(frames=20), with_scale, tmp_path).load()
    train, held = found.split(3)
    assert train.captions + held.captions == found.captions and len(held) == 3
    with pytest.raises(ValueError, match="held_out is 7"):
        found.split(7)
    some = found[torch.tensor([5, 0])]
    assert some.captions == ["number 5 🎵", "number 0 🎵"]
    for name in ("latents", "scales", "timing"):
        assert torch.equal(getattr(some, name), getattr(found, name)[[5, 0]])
    assert some.metadata == [found.metadata[5], found.metadata[0]]


def test_what_does_not_belong_together_is_refused():
    z, captions, facts = torch.zeros(2, 4, 5), ["a", "b"], [Metadata()] * 2
    with pytest.raises(ValueError, match="n captions"):
        LatentSet(z, captions[1:], facts)
    with pytest.raises(ValueError, match="scales"):
        LatentSet(z, captions, facts, z[:, :, 1:])
    with pytest.raises(ValueError, match="timing"):
        LatentSet(z, captions, facts, timing=torch.zeros(3, 3))
