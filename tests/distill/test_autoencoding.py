"""Codec training: its losses, and the critic that its decoder is trained against."""

import json
from dataclasses import replace

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
)
from presto_distill.spectrogram_critic import SpectrogramCritic, critic_loss, generator_losses
from presto_models import Autoencoder


def test_the_autoencoding_loss_is_finite_and_reaches_every_weight():
    codec = Autoencoder()
    terms = Autoencoding(codec).loss(Batch(torch.randn(1, 16_384) * 0.1), torch.Generator())
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    for name, weight in codec.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name


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
