"""The latent cache encodes every clip once, come what may; batches are functions of (seed, k)."""

from itertools import islice
from math import isnan

import pytest
import torch

from presto_data import Clip, Corpus, LatentSet, Metadata, batches, encode_corpus


class Numbers(Corpus):
    """Clip i is stereo and constant: left 0, right i; so its mid is i / 2."""

    def __init__(self, count, name="numbers"):
        self.count, self.name = count, name

    def __len__(self):
        return self.count

    @property
    def key(self):
        return {"name": self.name, "count": self.count}

    def make(self, index):
        audio = torch.tensor([[0.0], [index]]).expand(2, 40)
        facts = Metadata(tempo=60.0 + index if index % 2 else None, instruments=("piano", "flute"))
        return Clip(audio, 8000, f"number {index} 🎵", facts, str(index))


class Encoder:
    """Counts the clips it sees and can be told to fail after some."""

    def __init__(self, fail_after=10**9):
        self.seen, self.fail_after = [], fail_after

    def __call__(self, audio):
        self.seen += [round(2 * value) for value in audio[:, 0].tolist()]
        if len(self.seen) > self.fail_after:
            raise KeyboardInterrupt
        return audio.unfold(1, 4, 4).transpose(1, 2)  # (b, 4, 10)


def encode(corpus, encoder, out, key="v1", **options):
    return encode_corpus(corpus, encoder, out, key={"encoder": key}, progress=False, **options)


def same(a: LatentSet, b: LatentSet) -> bool:
    facts = (a.captions, a.metadata) == (b.captions, b.metadata)
    return facts and torch.equal(a.latents, b.latents) and torch.equal(a.tempo, b.tempo)


def test_latents_are_of_the_mid_in_the_corpus_order(tmp_path):
    found = encode(Numbers(150), Encoder(), tmp_path, batch_size=7)
    assert found.latents.shape == (150, 4, 10) and found.frames == 10 and len(found) == 150
    assert torch.equal(found.latents[:, 0, 0], torch.arange(150) / 2)
    assert found.captions[3] == "number 3 🎵" and found.metadata[3].instruments == (
        "piano",
        "flute",
    )
    assert found.tempo[3] == 63 and found.tempo[2] == 0 and not isnan(found.tempo.sum())


def test_a_second_call_encodes_nothing_and_another_key_everything(tmp_path):
    first = encode(Numbers(70), Encoder(), tmp_path)
    again, other, renamed = Encoder(), Encoder(), Encoder()
    assert same(encode(Numbers(70), again, tmp_path), first) and again.seen == []
    encode(Numbers(70), other, tmp_path, key="v2")
    encode(Numbers(70, name="others"), renamed, tmp_path)
    assert other.seen == renamed.seen == list(range(70))
    assert same(encode(Numbers(70), again, tmp_path), first) and again.seen == []


def test_a_killed_run_goes_on_and_encodes_no_clip_twice(tmp_path):
    killed, resumed = Encoder(fail_after=140), Encoder()
    with pytest.raises(KeyboardInterrupt):
        encode(Numbers(200), killed, tmp_path, batch_size=16)
    assert list(tmp_path.rglob("*.partial")) == []
    found = encode(Numbers(200), resumed, tmp_path, batch_size=16)
    assert resumed.seen == list(range(128, 200))  # two chunks of 64 were kept
    assert same(found, encode(Numbers(200), Encoder(), tmp_path / "at once"))


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    import presto_data.latents as module

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            encode(Numbers(5), Encoder(), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert len(encode(Numbers(5), Encoder(), tmp_path)) == 5


def test_workers_make_the_same_set(tmp_path):
    alone = encode(Numbers(90), Encoder(), tmp_path / "a")
    assert same(encode(Numbers(90), Encoder(), tmp_path / "b", workers=2), alone)


def test_save_and_load_round_trip_and_strangers_are_refused(tmp_path):
    found = encode(Numbers(9), Encoder(), tmp_path)
    found.save(tmp_path / "set.safetensors")
    assert same(LatentSet.load(tmp_path / "set.safetensors"), found)
    for content in (b"", b"not a set", (tmp_path / "set.safetensors").read_bytes()[:-20]):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match="bad: not a latent set"):
            LatentSet.load(tmp_path / "bad")
    with pytest.raises(ValueError, match="missing: not a latent set"):
        LatentSet.load(tmp_path / "missing")
    with pytest.raises(ValueError, match="n captions"):
        LatentSet(found.latents, found.captions[1:], found.metadata)


def test_split_holds_out_the_end(tmp_path):
    found = encode(Numbers(10), Encoder(), tmp_path)
    train, held = found.split(3)
    assert train.captions + held.captions == found.captions and len(held) == 3
    with pytest.raises(ValueError, match="held_out is 10"):
        found.split(10)


def test_what_cannot_be_a_latent_is_refused(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        encode(Numbers(0), Encoder(), tmp_path)
    for wrong in (lambda a: a, lambda a: a[:, None] * torch.nan, lambda a: a[:1, None]):
        with pytest.raises(ValueError, match="must be finite"):
            encode(Numbers(4), wrong, tmp_path)


@pytest.fixture
def counted():
    """Seven clips of 20 frames; entry (i, :, t) is 100 i + t."""
    values = 100 * torch.arange(7).view(7, 1, 1) + torch.arange(20).float().expand(7, 2, 20)
    return LatentSet(
        values, [f"clip {i}" for i in range(7)], [Metadata(tempo=60.0 + i) for i in range(7)]
    )


def equal(a, b):
    tensors = all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("latents", "tempo", "index"))
    return tensors and a.captions == b.captions


def test_batch_k_depends_on_seed_and_k_alone(counted):
    options = dict(batch_size=3, frames=8)
    run = list(islice(batches(counted, seed=5, **options), 30))
    resumed = batches(counted, seed=5, start=17, **options)
    assert all(equal(a, b) for a, b in zip(run[17:], resumed, strict=False))
    other = list(islice(batches(counted, seed=6, **options), 30))
    assert not all(equal(a, b) for a, b in zip(run, other, strict=True))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_every_clip_once_before_any_twice(counted, batch_size):
    stream = batches(counted, batch_size=batch_size, frames=20, seed=1)
    order = [i for batch in islice(stream, 70) for i in batch.index.tolist()]
    epochs = [order[k : k + 7] for k in range(0, len(order) - 6, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # and shuffled anew


def test_rows_belong_together_and_crops_reach_every_offset(counted):
    offsets = set()
    for batch in islice(batches(counted, batch_size=4, frames=8, seed=2), 60):
        assert batch.latents.shape == (4, 2, 8)
        offset = batch.latents[:, 0, 0] - 100 * batch.index
        expected = 100 * batch.index[:, None] + offset[:, None] + torch.arange(8)
        assert torch.equal(batch.latents[:, 1], expected)
        assert torch.equal(batch.tempo, 60.0 + batch.index)
        assert batch.captions == [f"clip {i}" for i in batch.index.tolist()]
        offsets |= set(offset.int().tolist())
    assert offsets == set(range(13))
    moved = batch.to("meta")
    assert moved.latents.device.type == moved.index.device.type == "meta"


def test_impossible_batches_are_refused_at_once(counted):
    for bad in (dict(frames=21), dict(frames=0), dict(batch_size=0), dict(start=-1)):
        with pytest.raises(ValueError):
            batches(counted, **{"batch_size": 2, "frames": 5, "seed": 0, **bad})
