"""Mono-to-stereo training: its terms, its measures against closed forms, and its bundle stage."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from presto_distill import Batch
from presto_distill.bundle import train_bundle
from presto_distill.bundle.preset import smallest
from presto_distill.metrics.stereo import (
    NARROWEST,
    WIDEST,
    decorrelated,
    level_and_correlation,
    stereo_errors,
)
from presto_distill.objectives.stereo import (
    Widening,
    channel_distance,
    mid_side,
    spectra,
    spectral_distance,
    view,
)
from presto_distill.rendered_clips import FULL, crops, log_bands, rendered, stereo, windows
from presto_distill.trainer import TrainConfig, Trainer
from presto_models import Autoencoder
from presto_models.stereo import MonoToStereo, MonoToStereoConfig

TINY = MonoToStereoConfig(window_length=256, bands_per_erb=1, width=8, depth=1)


def noise(*shape, seed=0):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_each_turn_is_finite_and_reaches_every_weight_of_its_player():
    objective, rng = Widening(MonoToStereo(TINY)), torch.Generator()
    assert [turn.player for turn in objective.turns] == ["critic", "generator"]
    for turn in objective.turns:
        terms = turn.loss(Batch(noise(2, 2, 8192)), rng)
        sum(terms.values()).backward()
        for term, value in terms.items():
            assert value.isfinite() and value > 0, term
        for name, weight in objective.players[turn.player].named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all(), name
            assert "leave" in name or weight.grad.any() or turn.player == "generator", name


def test_the_critics_turn_asks_nothing_of_the_generator():
    objective = Widening(MonoToStereo(TINY))
    objective.turns[0].loss(Batch(noise(1, 2, 4096)), torch.Generator())["critic"].backward()
    assert all(weight.grad is None for weight in objective.generator.parameters())


def test_distances_are_zero_for_the_same_and_logarithms_of_gains_otherwise():
    (x,) = spectra(noise(3, 4096), (512,))
    assert spectral_distance(x, x).eq(0).all()
    # 1 / 8 twice: the floor of -80 dB takes little from noise at -50 dB in every bin.
    expected = torch.full((3,), math.log(2))
    torch.testing.assert_close(spectral_distance(x, 2 * x), expected, atol=0.02, rtol=0)


def test_left_and_right_may_change_places():
    (m,), (s,) = spectra(noise(2, 4096), (512,)), spectra(noise(2, 4096, seed=1), (512,))
    torch.testing.assert_close(channel_distance(m, -s, s), torch.zeros(2), atol=1e-6, rtol=0)
    assert channel_distance(m, 0 * s, s).min() > 0.1


def test_the_critic_sees_where_a_sound_is_panned():
    (m,) = spectra(noise(1, 4096), (512,))
    for gain, cosine in ((0.5, 1.0), (-0.5, -1.0), (0.5j, 0.0)):
        seen = view(m, gain * m)[:, 2]
        torch.testing.assert_close(seen, torch.full_like(seen, cosine), atol=1e-3, rtol=0)


def test_training_narrows_the_distance_to_panned_noise():
    torch.manual_seed(0)
    mid = noise(2, 4096)
    panned = torch.stack([1.6 * mid, 0.4 * mid], 1)  # side = 0.6 mid
    objective = Widening(MonoToStereo(TINY))
    trainer = Trainer(objective, TrainConfig(steps=15, lr=1e-2, ema_decay=0.5))
    records = list(trainer.run(lambda start: iter(lambda: Batch(panned), None)))
    assert records[-1].losses["side"] < 0.5 * records[0].losses["side"]
    made = trainer.averages["generator"](mid[:, None])
    level, _ = level_and_correlation(made)
    assert (level - 20 * math.log10(0.6)).abs().mean() < 3  # dB; mono would be 55 away


def test_levels_and_correlations_of_known_signals():
    m, s = noise(1, 44_100), noise(1, 44_100, seed=1)
    apart = torch.stack([m, s], 1)  # uncorrelated and equally loud: side as loud as mid
    level, correlation = level_and_correlation(apart)
    torch.testing.assert_close(level, torch.zeros(1, 5), atol=1.5, rtol=0)
    torch.testing.assert_close(correlation, torch.zeros(1, 5), atol=0.15, rtol=0)
    level, correlation = level_and_correlation(torch.stack([1.5 * m, 0.5 * m], 1))
    torch.testing.assert_close(level, torch.full((1, 5), 20 * math.log10(0.5)), atol=1e-3, rtol=0)
    torch.testing.assert_close(correlation, torch.ones(1, 5))
    for mono in (torch.stack([m, m], 1), torch.zeros(1, 2, 4410)):
        level, correlation = level_and_correlation(mono)
        torch.testing.assert_close(level, torch.full((1, 5), NARROWEST))
        torch.testing.assert_close(correlation, torch.ones(1, 5))
    level, correlation = level_and_correlation(torch.stack([m, -m], 1))  # nothing in the middle
    torch.testing.assert_close(level, torch.full((1, 5), WIDEST))
    torch.testing.assert_close(correlation, -torch.ones(1, 5))


def test_errors_are_zero_for_the_same_and_a_delayed_mid_has_the_level_asked_for():
    real = noise(2, 2, 44_100)
    same = stereo_errors(real, real)
    assert same["side_level_error_db"] == same["correlation_error"] == 0
    mid, _ = mid_side(real)
    wide = decorrelated(mid[:, None], gain=0.5)
    torch.testing.assert_close(wide.mean(1), mid)
    level, _ = level_and_correlation(wide)
    torch.testing.assert_close(level, torch.full_like(level, -6.02), atol=0.5, rtol=0)


def test_crops_are_pieces_of_the_clips_and_resume_anywhere():
    audio = (np.arange(2 * 2 * 100).reshape(2, 2, 100) + 1).astype(np.int16)
    stream = crops(audio, batch=3, samples=10, seed=0)
    first = [batch.x for batch, _ in zip(stream(0), range(4), strict=False)]
    assert torch.equal(next(stream(2)).x, first[2]) and not torch.equal(first[1], first[2])
    assert first[0].shape == (3, 2, 10) and first[0].dtype == torch.float32
    steps = first[0].diff(dim=-1) * FULL  # the gain: clips rise by one a sample
    assert (steps <= 1.001).all() and (steps > 10 ** (-9.1 / 20)).all()
    gap = (first[0][:, 1] - first[0][:, 0]) * FULL / steps.mean((1, 2))[:, None]
    torch.testing.assert_close(gap, torch.full_like(gap, 100), atol=0.1, rtol=0)
    with pytest.raises(ValueError, match="samples is 101"):
        crops(audio, batch=1, samples=101, seed=0)


def test_rendered_clips_are_kept(tmp_path):
    from presto_data import synthetic_corpus

    corpus, path = synthetic_corpus(1, seconds=0.5), tmp_path / "clips.npy"
    audio = rendered(corpus, path, stereo)
    assert audio.shape == (1, 2, 22_050) and audio.dtype == np.int16
    torch.testing.assert_close(
        torch.from_numpy(audio[0] / np.float32(FULL)), corpus[0].audio, atol=2e-5, rtol=0
    )
    np.save(path, np.zeros((1, 2, 5), np.int16))
    assert rendered(corpus, path, stereo).shape == (1, 2, 5)
    codec = Autoencoder()
    bands = rendered(corpus, tmp_path / "bands.npy", log_bands)
    exact = codec.log_bands(corpus[0].mono().audio)
    torch.testing.assert_close(torch.tensor(bands).float(), exact, atol=0.01, rtol=0)


def test_windows_for_the_codec_are_tilted_pieces_of_the_clips_and_resume_anywhere():
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(4, 50, 6)).astype(np.float16)
    stream = windows(clips, batch=6, frames=8, seed=0)
    first = [batch.x for batch, _ in zip(stream(0), range(3), strict=False)]
    assert torch.equal(next(stream(2)).x, first[2]) and first[0].shape == (6, 8, 6)
    pieces = torch.from_numpy(clips).float().unfold(1, 8, 1).mT.flatten(0, 1)  # every window
    for window in first[0][2:]:  # a third are mixtures
        change = window - pieces  # of the right piece: the same in all frames, linear in frequency
        steady = (change - change[:, :1]).abs().amax((1, 2))
        assert steady.min() < 1e-3
        line = change[steady.argmin()][0]
        assert line.diff(n=2).abs().max() < 1e-3
        assert line.abs().max() <= 10.5 * np.log(10) / 20 + 1e-3


def test_the_stage_leaves_a_snapshot_and_a_card_with_both_baselines(tmp_path):
    preset = replace(smallest(), stereo_clips=2)
    train_bundle(preset, tmp_path, stages=("stereo",))
    model = MonoToStereo.from_pretrained(tmp_path / "stereo")
    assert (tmp_path / "stereo" / "model.safetensors").stat().st_size <= 3e6
    mid = noise(1, 1, 5000)
    assert model(mid).shape == (1, 2, 5000)
    card = json.loads((tmp_path / "stereo" / "card.json").read_text())
    assert card["data"]["clips"] == 2 and card["train"]["steps"] == len(card["loss_curve"]) == 2
    for name in ("model", "mono", "delayed mid"):
        assert len(card["metrics"][name]["side_level_error_db_by_band"]) == 5
    assert {"side", "channels", "gan", "features", "critic"} <= card["loss_curve"][0].keys()
