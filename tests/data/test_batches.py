"""Batches are functions of (seed, k): whoever asks, in whatever order, after whatever stop."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from presto_data import (
    BatchStream,
    Clip,
    Corpus,
    LatentSet,
    Metadata,
    Mixture,
    batches,
    encode_corpus,
)


def counting(clips, frames=20, scale=None):
    """Entry (i, :, t) is 100 i + t; clip i begins at second 10 i of 1,000; a frame is 0.25 s."""
    values = 100 * torch.arange(clips).view(-1, 1, 1) + torch.arange(frames).expand(clips, 2, -1)
    timing = torch.tensor([[10.0 * i, 1000.0, 0.25] for i in range(clips)], dtype=torch.float64)
    return LatentSet(
        values.float(),
        [f"clip {i}" for i in range(clips)],
        [Metadata(tempo=60.0 + i, key="ABCDEFG"[i % 7], mode="minor") for i in range(clips)],
        None if scale is None else torch.full(values.shape, scale),
        timing,
    )


@pytest.fixture
def counted():
    return counting(7)


def equal(a, b):
    names = ("latents", "tempo", "index", "start", "total")
    return (
        all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)
        and a.captions == b.captions
        and a.tonality == b.tonality
    )


def test_the_stream_of_old_runs_is_unchanged(counted):
    """What the published numbers were trained on."""
    stream = islice(batches(counted, batch_size=5, frames=8, seed=3), 4)
    assert [batch.latents[:, 0, 0].int().tolist() for batch in stream] == [
        [512, 603, 207, 105, 410],
        [305, 9, 409, 310, 107],
        [609, 5, 200, 509, 208],
        [507, 305, 103, 411, 602],
    ]


def test_batch_k_depends_on_seed_and_k_alone(counted):
    options = dict(batch_size=3, frames=8)
    run = list(islice(batches(counted, seed=5, **options), 30))
    resumed = batches(counted, seed=5, start=17, **options)
    assert all(equal(a, b) for a, b in zip(run[17:], resumed, strict=False))
    stream = BatchStream(counted, seed=5, **options)
    assert all(equal(stream.batch(k), run[k]) for k in (29, 3, 11))
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
        assert torch.equal(batch.start, 10 * batch.index + 0.25 * offset)
        assert torch.equal(batch.total, torch.full((4,), 1000.0))
        assert batch.captions == [f"clip {i}" for i in batch.index.tolist()]
        offsets |= set(offset.int().tolist())
    assert offsets == set(range(13))
    moved = batch.to("meta")
    assert moved.latents.device.type == moved.start.device.type == "meta"


def test_two_ranks_of_two_workers_stopped_and_resumed_see_every_clip_once():
    """As two training processes would: each with its own loader, stopped after 3 of 6 batches."""
    data, options = counting(48), dict(batch_size=8, frames=8, seed=4, world=2)

    def run(rank, start, number, workers):
        stream = BatchStream(data, rank=rank, start=start, **options)
        return list(islice(DataLoader(stream, batch_size=None, num_workers=workers), number))

    ranks = [run(rank, 0, 3, 2) + run(rank, 3, 3, 2) for rank in (0, 1)]
    seen = [i for rank in ranks for batch in rank for i in batch.index.tolist()]
    assert sorted(seen) == list(range(48))
    alone = list(islice(batches(data, **{**options, "world": 1}), 6))
    for rank in (0, 1):
        assert all(equal(a, b) for a, b in zip(ranks[rank], run(rank, 0, 6, 0), strict=True))
        for whole, part in zip(alone, ranks[rank], strict=True):
            assert torch.equal(whole.latents[rank::2], part.latents)
            assert whole.tonality[rank::2] == part.tonality


def test_a_mixture_meets_its_weights_and_each_part_keeps_its_order():
    parts = counting(30), counting(11), counting(5)
    mixture = Mixture(*zip(parts, (5.0, 3.0, 2.0), strict=True))
    stream = islice(batches(mixture, batch_size=25, frames=8, seed=0), 80)
    order = np.concatenate([batch.index.numpy() for batch in stream])
    first = [0, 30, 41, 46]
    for part, share in enumerate((500, 300, 200)):
        own = (order >= first[part]) & (order < first[part + 1])
        assert own[:1000].sum() == own[1000:].sum() == share
        assert 0 < own[:100].sum() < 100  # and not in one piece
        drawn, size = order[own] - first[part], len(parts[part])
        for epoch in range(len(drawn) // size):
            assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))
    rows = next(batches(mixture, batch_size=40, frames=8, seed=0, start=7))
    own = (
        rows.index
        - torch.tensor(first)[torch.bucketize(rows.index, torch.tensor(first[1:]), right=True)]
    )
    assert rows.captions == [f"clip {i}" for i in own.tolist()]
    assert rows.tonality == [f"{'ABCDEFG'[i % 7]} minor" for i in own.tolist()]
    assert torch.equal(rows.latents[:, 0, 0] // 100, own.float())
    assert torch.equal(rows.tempo, 60.0 + own)
    resumed = batches(mixture, batch_size=25, frames=8, seed=0, start=79)
    assert np.array_equal(next(resumed).index, order[-25:])


def test_a_mixture_of_one_is_the_set_itself(counted):
    options = dict(batch_size=5, frames=8, seed=3)
    pairs = zip(
        batches(Mixture((counted, 0.1)), **options), batches(counted, **options), strict=True
    )
    assert all(equal(a, b) for a, b in islice(pairs, 300))


def test_impossible_mixtures_are_refused(counted):
    for weights in ([], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="positive"):
            Mixture(*[(counted, weight) for weight in weights])
    with pytest.raises(ValueError, match="more than 1000 times"):
        Mixture((counted, 1e5), (counted, 1.0))
    with pytest.raises(ValueError, match="without clips"):
        Mixture((counted, 1.0), (counted[:0], 1.0))
    with pytest.raises(ValueError, match="mixture of mixtures"):
        Mixture((Mixture((counted, 1.0)), 1.0))
    with pytest.raises(ValueError, match=r"sets of \[\d+, 1\] channels"):
        Mixture((counted, 1.0), (replace(counted, latents=counted.latents[:, :1]), 1.0))


def test_latents_are_drawn_anew_each_epoch_from_their_posterior():
    data = counting(4, frames=50, scale=0.5)
    options = dict(batch_size=4, frames=50, seed=0)
    draws = list(islice(batches(data, **options), 200))
    noise = torch.stack([(b.latents - data.latents[b.index]) / 0.5 for b in draws])
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.flatten(1)[:, 7].unique().numel() == 200
    assert equal(draws[150], next(batches(data, start=150, **options)))
    means = next(batches(data, sample=False, **options))
    assert torch.equal(means.latents, data.latents[means.index])
    halves = [next(batches(data, rank=r, world=2, **options)) for r in (0, 1)]
    assert torch.equal(halves[1].latents, draws[0].latents[1::2])


class Ramps(Corpus):
    """Clip i has i + 3 frames of 4 samples; sample s of it is s."""

    key = {"name": "ramps"}  # noqa: RUF012

    def __len__(self):
        return 20

    def make(self, index):
        audio = torch.arange(4.0 * (index + 3))[None]
        return Clip(audio, 8, f"{index}", Metadata(), f"{index}", 5.0, 60.0)


def test_shards_of_clips_of_many_lengths_serve_the_same_batches(tmp_path):
    def encode(audio):
        return audio.unfold(1, 4, 4).mT, torch.ones(len(audio), 4, audio.shape[1] // 4)

    shards = encode_corpus(
        Ramps(), encode, tmp_path, key={}, hop_length=4, shard_clips=6, progress=False
    )
    options = dict(batch_size=10, frames=3, seed=0)
    offsets = {i: set() for i in range(20)}
    for batch in islice(batches(shards, sample=False, **options), 200):
        at = batch.latents[:, 0, 0] / 4
        assert torch.equal(batch.latents[:, 1, :], 4 * (at[:, None] + torch.arange(3)) + 1)
        assert torch.equal(batch.start, 5 + at / 2) and batch.total.unique().item() == 60
        for i, offset in zip(batch.index.tolist(), at.int().tolist(), strict=True):
            offsets[i].add(offset)
    assert all(max(found) <= i and len(found) > i / 2 for i, found in offsets.items())
    stream = BatchStream(shards, **options)
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    assert all(equal(a, b) for a, b in zip(islice(loader, 6), stream, strict=False))
    with pytest.raises(
        ValueError, match="frames is 5; 2 of 20 clips are shorter, the shortest has 3"
    ):
        batches(shards, batch_size=2, frames=5, seed=0)


def test_impossible_batches_are_refused_at_once(counted):
    wrong = [dict(frames=21), dict(frames=0), dict(batch_size=0), dict(start=-1)]
    wrong += [dict(world=2, rank=2), dict(rank=-1), dict(world=3, batch_size=4)]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"frames|batch_size"):
            batches(counted, **{"batch_size": 2, "frames": 5, "seed": 0, **bad})
