"""What mono to stereo promises before any training: the mid stays, seams do not show."""

import math

import pytest
import torch

from presto_models.stereo import MonoToStereo, MonoToStereoConfig, left_right

TINY = MonoToStereoConfig(window_length=256, bands_per_erb=1, width=8, depth=2)


def noise(*shape, seed=0):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def stereo():
    torch.manual_seed(0)
    model = MonoToStereo(TINY).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    return model


def fixed(gains) -> MonoToStereo:
    """A network that ignores its input: `gains` are the real and imaginary gain of every tap."""
    model = MonoToStereo(TINY).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    bands = model.to_bands.shape[1]
    model.network.linear.bias.copy_(torch.tensor(gains).atanh().repeat_interleave(bands))
    return model


def test_the_mid_of_left_and_right_is_the_input_bit_for_bit_where_it_can_be():
    for bits in (16, 24):
        scale = 2.0 ** (bits - 1)
        mid = (noise(2, 1, 50_000) * scale).round() / scale
        left, right = left_right(mid, noise(2, 1, 50_000, seed=1)).chunk(2, 1)
        assert max(left.abs().max(), right.abs().max()) <= 1
        assert torch.equal((left + right) / 2, mid)
    mid = noise(2, 1, 50_000)
    side = mid * (2 * torch.rand(mid.shape) - 1)
    left, right = left_right(mid, side).chunk(2, 1)
    assert torch.equal((left + right) / 2, mid)


def test_elsewhere_the_mid_is_right_to_half_a_unit_in_the_last_place():
    mid, side = noise(2, 1, 50_000), noise(2, 1, 50_000, seed=1)
    both = left_right(mid, side)
    unit = torch.finfo(torch.float32).eps * both.abs().amax(1, keepdim=True)
    assert ((both.double().mean(1, keepdim=True) - mid).abs() <= unit / 2).all()
    assert not torch.equal(both.sum(1, keepdim=True) / 2, mid)  # or the claim above is too modest
    torch.testing.assert_close((both[:, :1] - both[:, 1:]) / 2, side, atol=1e-7, rtol=0)


def test_width_zero_is_mono_and_width_scales_the_side(stereo):
    mid = noise(2, 1, 10_001)
    assert torch.equal(stereo(mid, width=0), mid.expand(-1, 2, -1))
    left, right = stereo(mid, width=2).chunk(2, 1)
    torch.testing.assert_close((left - right) / 2, 2 * stereo.side(mid), atol=1e-6, rtol=0)


@pytest.mark.parametrize("samples", [1, 127, 128, 129, 5000])
def test_any_length_comes_out_in_float32_and_the_same_every_time(stereo, samples):
    mid = noise(1, 1, samples).double()
    out = stereo(mid)
    assert out.shape == (1, 2, samples) and out.dtype == torch.float32 and out.isfinite().all()
    assert torch.equal(out, stereo(mid))


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_chunks_are_the_whole(stereo, chunk):
    mid = noise(1, 1, 50 * 128 - 5)
    torch.testing.assert_close(stereo(mid, chunk=chunk), stereo(mid), atol=1e-6, rtol=0)


def test_a_constant_real_gain_is_amplitude_panning():
    mid, gain = noise(1, 1, 4000), 0.5
    side = fixed([gain, 0, 0, 0, 0, 0]).side(mid)
    torch.testing.assert_close(side, gain * mid, atol=1e-6, rtol=0)


def test_an_imaginary_gain_turns_a_sinusoid_and_a_tap_delays_it():
    mid = torch.sin(2 * math.pi * 20 / 256 * torch.arange(8192.0))[None, None]
    turned = fixed([0, 0.5, 0, 0, 0, 0]).side(mid)
    quarter = torch.cos(2 * math.pi * 20 / 256 * torch.arange(8192.0))[None, None]
    inside = slice(256, -256)
    torch.testing.assert_close(turned[..., inside], 0.5 * quarter[..., inside], atol=2e-3, rtol=0)
    white = noise(1, 1, 4096)
    delayed = fixed([0, 0, 0, 0, 0.25, 0]).side(white)
    torch.testing.assert_close(delayed[..., 256:], 0.25 * white[..., :-256], atol=1e-6, rtol=0)


def test_the_default_network_is_small():
    assert sum(weight.numel() for weight in MonoToStereo().parameters()) <= 1.5e6


def test_snapshot_round_trip(stereo, tmp_path):
    stereo.save_pretrained(tmp_path)
    again, mid = MonoToStereo.from_pretrained(tmp_path), noise(1, 1, 1000)
    assert again.config == TINY
    assert torch.equal(again(mid), stereo(mid))


def test_what_cannot_be_is_refused(stereo):
    for width in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="width must be at least 0"):
            stereo(noise(1, 1, 100), width=width)
    with pytest.raises(ValueError, match=r"mid must be floats \[b, 1, s\]"):
        stereo(torch.zeros(1, 1, 0))
    with pytest.raises(ValueError, match="window_length must be even, got 255"):
        MonoToStereoConfig(window_length=255)
    with pytest.raises(ValueError, match="bands_per_erb 6 leaves bands without a bin"):
        MonoToStereo(MonoToStereoConfig(window_length=256, bands_per_erb=6))
    with pytest.raises(ValueError, match="taps must be at least 1, got 0"):
        MonoToStereoConfig(taps=0)
