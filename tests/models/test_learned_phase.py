"""Learned phase against closed forms: what differences of phase are, and phasors made from them."""

import math
from dataclasses import replace

import pytest
import torch

from presto_models.autoencoder import Autoencoder, AutoencoderConfig
from presto_models.learned_phase import (
    PhaseDifferences,
    climb,
    interpolated,
    settle,
    true_differences,
    unit,
)
from presto_models.phase import frame_spectra

LENGTH, HOP = 4096, 1024
WINDOW = torch.hann_window(LENGTH)
SMALL = AutoencoderConfig(channels=8, width=16, depth=1, phase="learned", iterations=1)


def spectra_of(signal):
    return frame_spectra(signal[None].double(), WINDOW.double(), HOP)


def noise(*shape, seed=0):
    angle = 2 * math.pi * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return torch.polar(torch.ones_like(angle), angle)


@pytest.mark.parametrize("off", [0.0, 0.25, -0.4])
def test_the_difference_in_time_is_how_far_a_tone_lies_off_the_middle_of_its_bin(off):
    n = torch.arange(LENGTH + 5 * HOP, dtype=torch.float64)
    tone = torch.cos(2 * math.pi * (100 + off) / LENGTH * n + 0.7)
    time, _ = true_differences(spectra_of(tone), LENGTH, HOP)
    turned = torch.full((5,), 2 * math.pi * off * HOP / LENGTH, dtype=torch.float64)
    torch.testing.assert_close(time[0, 1:, 100].angle(), turned, atol=1e-5, rtol=0)


@pytest.mark.parametrize("late", [0, 300, -500])
def test_the_difference_in_frequency_is_how_far_a_click_lies_off_the_middle_of_the_window(late):
    click = torch.zeros(LENGTH, dtype=torch.float64)
    click[LENGTH // 2 + late] = 1
    _, frequency = true_differences(spectra_of(click), LENGTH, HOP)
    expected = unit(
        torch.polar(torch.ones(2048), torch.full((2048,), -2 * math.pi * late / LENGTH))
    )
    torch.testing.assert_close(frequency[0, 0, 1:].to(expected), expected, atol=1e-5, rtol=0)


def test_phasors_settle_into_the_differences_they_are_told():
    """From noise to a chord with a click: nearly all magnitude then agrees, of noise nothing."""
    n = torch.arange(LENGTH + 12 * HOP) / 44_100
    sound = sum(torch.sin(2 * math.pi * hz * n) for hz in (220.0, 277.2, 331.1))
    sound[len(sound) // 2] += 30
    spectra = spectra_of(sound)[..., :300].to(torch.complex64)
    told, start = true_differences(spectra, LENGTH, HOP), noise(*spectra.shape)

    def agreement(phasors):
        time, frequency = true_differences(phasors, LENGTH, HOP)
        loud = spectra.abs()
        along, across = loud[:, 1:] * loud[:, :-1], loud[..., 1:] * loud[..., :-1]
        shares = [
            ((time * told.time.conj()).real[:, 1:] * along).sum() / along.sum(),
            ((frequency * told.frequency.conj()).real[..., 1:] * across).sum() / across.sum(),
        ]
        return [share.item() for share in shares]

    settled = settle(told, start, spectra.abs(), LENGTH, HOP, sweeps=300)
    torch.testing.assert_close(settled.abs(), torch.ones(settled.shape))
    assert max(agreement(start)) < 0.2
    assert min(agreement(settled)) > 0.95
    already = settle(told, unit(spectra), spectra.abs(), LENGTH, HOP)
    torch.testing.assert_close(already, unit(spectra), atol=1e-3, rtol=0)


def test_phases_climb_as_they_are_sure_and_at_random_where_they_are_not():
    step = torch.polar(torch.ones(1, 4, 50), torch.full((1, 4, 50), 0.3))
    below, random = noise(1, 4, 1), noise(1, 4, 50, seed=1)
    turns = torch.arange(1, 51) * (0.3 + math.pi)
    torch.testing.assert_close(
        climb(step, below, random), below * torch.polar(torch.ones(50), turns), atol=1e-4, rtol=0
    )
    unsure = climb(0 * step, below, random)
    torch.testing.assert_close(unsure, below * random.cumprod(-1), atol=1e-4, rtol=0)


def test_expectations_do_not_depend_on_loudness_and_keep_their_shape():
    torch.manual_seed(0)
    net = PhaseDifferences(13)
    bands = torch.randn(2, 7, 13)
    one, louder = net(bands), net(bands + 3)
    for part, other in zip(one, louder, strict=True):
        assert part.shape == bands.shape and part.is_complex()
        torch.testing.assert_close(part, other, atol=1e-5, rtol=0)


def test_bands_that_are_bins_keep_their_differences_and_the_others_lie_between():
    codec = Autoencoder(SMALL)
    bands = noise(1, 3, codec.bands)
    bins = interpolated(bands, codec.to_bins)
    known = codec.resolved
    torch.testing.assert_close(bins[..., :known], bands[..., :known])
    others = interpolated(bands[..., known - 1 :], codec.to_bins[known - 1 :, known:])
    torch.testing.assert_close(bins[..., known:], others)


@pytest.mark.parametrize("chunk", [8, 25])
def test_a_learned_phase_knows_no_chunks(chunk):
    torch.manual_seed(0)
    codec = Autoencoder(SMALL).eval()
    latent = torch.randn(1, 8, 60)
    with torch.inference_mode():
        whole, pieces = codec.decode(latent), codec.decode(latent, chunk=chunk)
        assert not torch.equal(whole, codec.decode(latent, phase="griffin-lim"))
    torch.testing.assert_close(pieces, whole, atol=1e-4 * whole.abs().max().item(), rtol=0)


def test_a_codec_that_has_learned_no_phase_says_so(tmp_path):
    codec = Autoencoder(replace(SMALL, phase="griffin-lim"))
    assert codec.phases == ("griffin-lim",)
    with pytest.raises(ValueError, match="has learned no phase"):
        codec.decode(torch.zeros(1, 8, 4), phase="learned")
    Autoencoder(SMALL).save_pretrained(tmp_path)
    assert Autoencoder.from_pretrained(tmp_path).phases == ("griffin-lim", "learned")
