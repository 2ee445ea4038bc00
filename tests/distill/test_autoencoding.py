"""Codec training: its losses, and the critic that its decoder is trained against."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d

from presto_distill import Batch
from presto_distill.bundle import train_bundle
from presto_distill.bundle.preset import smallest
from presto_distill.objectives.autoencoding import (
    AdversarialConfig,
    AdversarialDecoding,
    Autoencoding,
    Decoding,
    band_weights,
    standardise_latents,
)
from presto_distill.spectrogram_critic import SpectrogramCritic, critic_loss, generator_losses
from presto_models import Autoencoder, AutoencoderConfig
from presto_models.autoencoder import band_centres


def test_the_autoencoding_loss_is_finite_and_reaches_every_weight():
    codec = Autoencoder()
    terms = Autoencoding(codec).loss(Batch(torch.randn(1, 16_384) * 0.1), torch.Generator())
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    for name, weight in codec.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name


def test_standardised_latents_have_mean_0_and_deviation_sigma_data_in_every_channel():
    torch.manual_seed(0)
    codec = Autoencoder(AutoencoderConfig(channels=4, width=16, depth=1))
    audio = torch.randn(68, 8192) * torch.logspace(-3, 0, 68)[:, None]  # the last are the loudest
    standardise_latents(codec, codec.log_bands(audio))
    latents = codec.encode(audio)
    torch.testing.assert_close(latents.mean((0, 2)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2)), torch.full((4,), 0.5), rtol=1e-4, atol=0)


def test_a_band_weighs_as_the_root_of_its_share_of_an_auditory_filter():
    """One bin of 24.7 (1 + 0.00437 Hz) up to 4 kHz, and from there the same 6th for all bands."""
    codec = Autoencoder()
    weights, hz = band_weights(codec), band_centres(codec.config)
    bin_hz = 44_100 / 4096
    share = torch.where(hz < 4000 - bin_hz, bin_hz / (24.7 * (1 + 4.37e-3 * hz)), 1 / 6)
    expected = share.sqrt() / share.sqrt().mean()
    torch.testing.assert_close(weights, expected, rtol=0.01, atol=0)
    assert weights.mean().item() == pytest.approx(1)
    assert weights.min() < 0.9 < 1.5 < weights.max()

    x, objective = torch.zeros(1, 32, codec.bands), Autoencoding(codec)
    for band in (0, 200, codec.bands - 1):
        y = x.clone()
        y[..., band] += 3
        distance = objective.distances(x, y)["spectrum"]
        torch.testing.assert_close(distance, 3 * weights[band] / codec.bands)


def test_the_encoder_gathers_no_gradients_while_the_decoder_learns():
    codec = Autoencoder()
    terms = Decoding(codec).loss(Batch(torch.randn(1, 32, codec.bands)), torch.Generator())
    sum(terms.values()).backward()
    assert all(weight.grad is None for weight in codec.encoder.parameters())
    assert all(weight.grad is not None for weight in codec.decoder.parameters())


def test_the_decoder_is_trained_against_a_critic_each_in_its_turn_and_the_encoder_never():
    codec, rng = Autoencoder(), torch.Generator()
    objective, batch = AdversarialDecoding(codec), Batch(torch.randn(1, 32, codec.bands))
    parts = {"critic": objective.critic, "decoder": codec.decoder}
    assert [turn.player for turn in objective.turns] == list(parts)
    for turn in objective.turns:
        objective.autoencoder.zero_grad()
        objective.critic.zero_grad()
        terms = turn.loss(batch, rng)
        sum(terms.values()).backward()
        assert all(term.isfinite() and term > 0 for term in terms.values())
        for name, weight in parts[turn.player].named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert all(weight.grad is None for weight in codec.encoder.parameters())
    assert set(terms) == {"spectrum", "mel", "gan", "features"}


def test_a_critic_tells_a_smoothed_spectrogram_from_a_rough_one():
    torch.manual_seed(0)
    critic = SpectrogramCritic(1, 1, 4)
    adam = torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(40):
        rough = torch.randn(4, 1, 32, 64)
        smooth = avg_pool2d(rough, 3, stride=1, padding=1)
        fake, real = critic([smooth]), critic([rough])
        loss = critic_loss(fake, real)
        adam.zero_grad()
        loss.backward()
        adam.step()
    gan, features = generator_losses(fake, real)
    assert loss < 0.1 < 0.8 < gan and features > 0.5
    gan, features = generator_losses(real, real)
    assert gan < 0.1 and features == 0


def test_a_preset_with_a_critic_trains_the_decoder_against_it_and_no_latent_moves(tmp_path):
    preset = replace(smallest(), decoder_critic=AdversarialConfig(critic_width=4))
    train_bundle(preset, tmp_path, ("codec_start", "codec_decoder"))
    card = json.loads((tmp_path / "codec_decoder" / "card.json").read_text())
    assert {"critic", "spectrum", "mel", "gan", "features"} <= set(card["loss_curve"][0])
    before, after = (
        Autoencoder.from_pretrained(tmp_path / name) for name in ("codec_start", "codec_decoder")
    )
    audio = torch.randn(1, 16_384) * 0.1
    assert torch.equal(before.encode(audio), after.encode(audio))
    latent = before.encode(audio)
    assert not torch.equal(before.spectrum(latent), after.spectrum(latent))
