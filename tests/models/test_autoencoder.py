"""Identities of the codec's signal path and of its (untrained) bottleneck."""

import math

import pytest
import torch

from presto_models import phase
from presto_models.autoencoder import Autoencoder, AutoencoderConfig, Codec, band_centres
from presto_models.phase import (
    frame_spectra,
    griffin_lim,
    initial_phase,
    overlap_add,
    propagated_phase,
)

SMALL = AutoencoderConfig(channels=8, width=16, depth=1)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return Autoencoder(SMALL).eval()


def sine(hz, samples=8 * 2048, amplitude=0.5):
    return amplitude * torch.sin(2 * math.pi * hz * torch.arange(samples) / 44100)


def test_overlap_add_inverts_framing():
    signal, window = torch.randn(2, 16 * 64), torch.hann_window(256)
    frames = signal.unfold(-1, 256, 64) * window**2
    weight = overlap_add((window**2).expand(1, frames.shape[1], -1), 64)
    inside = slice(64, -64)
    torch.testing.assert_close(
        (overlap_add(frames, 64) / weight.clamp_min(1e-9))[:, inside], signal[:, inside]
    )


def test_propagated_phase_of_a_steady_sinusoid():
    window, hop, bin_ = torch.hann_window(4096), 1024, 100.25
    signal = sine(bin_ * 44100 / 4096, samples=4096 + 15 * hop)[None]
    spectra = frame_spectra(signal, window, hop)
    rotation = torch.angle(spectra * propagated_phase(spectra.abs(), hop, 4096)[0].conj())[
        0, :, 99:103
    ]
    # One phase for the whole main lobe; the interpolated frequency is good to 0.02 bins.
    torch.testing.assert_close(rotation, rotation[:, :1].expand_as(rotation), atol=2e-3, rtol=0)
    assert rotation.diff(dim=0).abs().max() < 2 * math.pi * 0.02 * hop / 4096


def test_audio_of_any_precision_is_encoded(codec):
    audio = 0.1 * torch.randn(1, 8192, dtype=torch.float64)
    assert torch.equal(codec.encode(audio), codec.encode(audio.float()))


def test_griffin_lim_approaches_the_magnitudes_of_a_chord():
    window = torch.hann_window(4096)
    signal = sum(sine(hz, samples=4096 + 15 * 1024) for hz in (440, 554, 660))[None]
    magnitude = frame_spectra(signal, window, 1024).abs()
    start, _ = propagated_phase(magnitude, 1024, 4096)
    errors = []
    for iterations in (0, 16):
        again = griffin_lim(magnitude, window, 1024, start=start, iterations=iterations)
        assert again.shape == signal.shape
        error = frame_spectra(again, window, 1024).abs() - magnitude
        errors.append((error.norm() / magnitude.norm()).item())
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.03


def test_griffin_lim_of_several_clips_at_once_is_that_of_each():
    window, rng = torch.hann_window(256), torch.Generator().manual_seed(0)
    magnitude = torch.rand(2, 12, 129, generator=rng)
    start = initial_phase(magnitude, 64, resolved=40)
    together = griffin_lim(magnitude, window, 64, start=start, iterations=4)
    for i, clip in enumerate(together):
        alone = griffin_lim(magnitude[[i]], window, 64, start=start[[i]], iterations=4)
        torch.testing.assert_close(clip[None], alone, atol=1e-5, rtol=1e-4)


def test_a_full_scale_sine_peaks_at_one_and_bands_return_to_bins(codec):
    hz = 100 * 44100 / 4096
    log_bands = codec.log_bands(sine(hz, amplitude=1)[None])
    bins = log_bands.exp() @ codec.to_bins
    inner = bins[0, 4:-4]
    assert inner.argmax(-1).eq(100).all()
    torch.testing.assert_close(inner[:, 100], torch.ones(len(inner)), atol=1e-3, rtol=0)


def test_bands_are_a_partition_that_keeps_a_flat_spectrum_flat(codec):
    centres = band_centres(SMALL)
    assert centres.diff().min() > 0
    assert centres[-1].item() == pytest.approx(SMALL.sample_rate / 2, rel=1e-5)
    flat = torch.ones(1, codec.to_bands.shape[0])
    torch.testing.assert_close(flat @ codec.to_bands @ codec.to_bins, flat)


@pytest.mark.parametrize("samples", [1, 2047, 2048, 2049, 40_000])
def test_latent_frames_and_decoded_length(codec, samples):
    latent = codec.encode(0.1 * torch.randn(2, samples))
    assert latent.shape == (2, codec.channels, math.ceil(samples / codec.hop_length))
    decoded = codec.decode(latent, iterations=1)
    assert decoded.shape == (2, latent.shape[-1] * codec.hop_length)
    assert decoded.isfinite().all()
    assert codec.spectrum(latent).shape == (2, 2 * latent.shape[-1], 2049)


def test_decoding_is_deterministic_and_treats_clips_one_by_one(codec):
    latents = torch.randn(2, codec.channels, 6, generator=torch.Generator().manual_seed(0))
    together = codec.decode(latents)
    alone = torch.cat([codec.decode(latent[None]) for latent in latents])
    assert torch.equal(together, alone)


def test_silence_stays_finite_and_quiet(codec):
    codec = Autoencoder(SMALL)
    torch.nn.init.zeros_(codec.decoder.linear.weight)
    torch.nn.init.zeros_(codec.decoder.linear.bias)
    codec.band_mean.fill_(codec.floor)
    decoded = codec.decode(codec.encode(torch.zeros(1, 8192)))
    assert decoded.abs().max() < 1e-3


def test_standardisation_is_an_affine_change_of_units_that_decoding_undoes(codec):
    audio = 0.1 * torch.randn(1, 20_480)
    raw, raw_scale = codec.encode_bands(codec.log_bands(audio))
    moved = Autoencoder(SMALL).eval()
    moved.load_state_dict(codec.state_dict())
    moved.latent_mean.copy_(torch.randn(8))
    moved.latent_std.copy_(torch.rand(8) + 0.5)
    mean, scale = moved.encode_distribution(audio)
    unit = (0.5 / moved.latent_std)[:, None]
    torch.testing.assert_close(mean, (raw - moved.latent_mean[:, None]) * unit)
    torch.testing.assert_close(scale, raw_scale * unit)
    torch.testing.assert_close(moved.spectrum(mean), codec.decode_bands(raw).exp() @ codec.to_bins)


def test_encode_is_the_mean_and_a_generator_draws_from_the_posterior(codec):
    audio = 0.1 * torch.randn(1, 100_000)
    mean, scale = codec.encode_distribution(audio)
    torch.testing.assert_close(codec.encode(audio), mean)
    draws = [codec.encode(audio, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    torch.testing.assert_close(*draws, rtol=0, atol=0)
    assert ((draws[0] - mean) / scale).std().item() == pytest.approx(1, abs=0.15)


def test_no_audio_is_refused(codec):
    with pytest.raises(ValueError, match="audio must be"):
        codec.encode(torch.zeros(1, 0))


def test_snapshot_round_trip(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    again = Autoencoder.from_pretrained(tmp_path)
    assert again.config == SMALL
    audio = 0.1 * torch.randn(1, 8192)
    torch.testing.assert_close(again.encode(audio), codec.encode(audio), rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [3, 8, 25])
def test_long_audio_in_chunks_equals_the_whole(codec, chunk):
    audio = 0.1 * torch.randn(1, 60 * 2048 - 700, generator=torch.Generator().manual_seed(0))
    whole, pieces = codec.encode_distribution(audio), codec.encode_distribution(audio, chunk=chunk)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
    sounds = [codec.decode(whole[0], iterations=iterations) for iterations in (0, 4)]
    assert not torch.allclose(*sounds, atol=1e-3)
    for iterations, sound in zip((0, 4), sounds, strict=True):
        again = codec.decode(whole[0], iterations=iterations, chunk=chunk)
        torch.testing.assert_close(again, sound, atol=1e-4 * sound.abs().max().item(), rtol=0)


def test_an_output_of_encoding_depends_on_no_more_than_the_overlap(codec):
    audio = (0.1 * torch.randn(1, 20 * 2048)).requires_grad_()
    codec.encode(audio)[0, :, 10].sum().backward()
    reached = (audio.grad[0] != 0).nonzero().flatten() // codec.hop_length
    assert 10 - (SMALL.depth + 1) <= reached.min() and reached.max() <= 10 + SMALL.depth + 1


def test_initial_phase_does_not_know_its_blocks(monkeypatch):
    magnitude = torch.rand(2, 50, 65, generator=torch.Generator().manual_seed(0))
    whole = initial_phase(magnitude, 32, resolved=40)
    torch.testing.assert_close(whole.abs(), torch.ones(2, 50, 65))
    monkeypatch.setattr(phase, "BLOCK", 7)
    torch.testing.assert_close(initial_phase(magnitude, 32, resolved=40), whole, atol=2e-3, rtol=0)


def test_initial_phase_asks_no_peaks_far_above_the_resolved_bins():
    magnitude = torch.rand(1, 20, 2049, generator=torch.Generator().manual_seed(0))
    everywhere, _ = propagated_phase(magnitude, 1024, 4096)
    start = initial_phase(magnitude, 1024, resolved=371)
    assert torch.equal(start[..., :371], everywhere[..., :371])


def test_the_codec_follows_the_protocol_and_compiling_is_a_flag(codec, tmp_path, monkeypatch):
    assert isinstance(codec, Codec)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda fn, **_: compiled.append(fn) or fn)
    codec.save_pretrained(tmp_path)
    Autoencoder.from_pretrained(tmp_path)
    assert not compiled
    Autoencoder.from_pretrained(tmp_path, compile=True)
    assert phase.corrected in compiled
