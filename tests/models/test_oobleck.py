"""A tiny Oobleck: the same numbers as diffusers', in our units and in chunks."""

import sys

import pytest
import torch

from presto_models.autoencoder import Codec
from presto_models.oobleck import Oobleck, OobleckConfig, decoder_reach, encoder_reach
from presto_models.snapshot import SnapshotError

TINY = OobleckConfig(
    encoder_hidden_size=8,
    downsampling_ratios=(2, 4, 4),
    channel_multiples=(1, 1, 2),
    decoder_channels=4,
    decoder_input_channels=4,
)
HOP = 32


def tiny(**changes) -> Oobleck:
    torch.manual_seed(0)
    codec = Oobleck(OobleckConfig(**{**vars(TINY), **changes})).eval()
    with torch.no_grad():
        for weight in codec.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        codec.latent_mean.copy_(torch.randn(4))
        codec.latent_std.copy_(torch.rand(4) + 0.5)
    return codec.requires_grad_(False)


@pytest.fixture(scope="module")
def codec():
    return tiny()


def noise(*shape):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_encoding_and_decoding_are_those_of_diffusers_in_other_units(codec):
    audio = noise(2, 2, 20 * HOP)
    mean, scale = codec.encode_distribution(audio)
    theirs = codec.vae.encode(audio).latent_dist
    unit = (0.5 / codec.latent_std)[:, None]
    torch.testing.assert_close(mean, (theirs.mean - codec.latent_mean[:, None]) * unit)
    torch.testing.assert_close(scale, theirs.std * unit)
    torch.testing.assert_close(codec.encode(audio), mean, rtol=0, atol=0)
    torch.testing.assert_close(codec.decode(mean), codec.vae.decode(theirs.mean).sample)


def test_a_generator_draws_from_the_posterior(codec):
    mean, scale = codec.encode_distribution(noise(1, 2, 400 * HOP))
    rng = torch.Generator().manual_seed(0)
    drawn = codec.encode(noise(1, 2, 400 * HOP), generator=rng)
    assert ((drawn - mean) / scale).std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("channels", [1, 2])
def test_it_follows_the_protocol_mono_and_stereo(channels):
    codec = tiny(audio_channels=channels)
    assert isinstance(codec, Codec)
    assert (codec.sample_rate, codec.hop_length, codec.channels) == (44100, HOP, 4)
    audio = noise(2, 2, 5 * HOP - 3)[:, :channels].squeeze(1)
    latent = codec.encode(audio)
    assert latent.shape == (2, 4, 5)
    assert codec.decode(latent).shape == (*audio.shape[:-1], 5 * HOP)


@pytest.mark.parametrize("chunk", [1, 16, 30])
def test_chunks_are_the_whole(codec, chunk):
    audio = noise(1, 2, 90 * HOP)
    whole = codec.encode_distribution(audio)
    torch.testing.assert_close(
        codec.encode_distribution(audio, chunk=chunk), whole, atol=1e-5, rtol=0
    )
    sound, pieces = codec.decode(whole[0]), codec.decode(whole[0], chunk=chunk)
    torch.testing.assert_close(pieces, sound, atol=1e-5 * sound.abs().max().item(), rtol=0)


def test_the_overlap_is_what_the_network_sees_and_hardly_more(codec):
    audio = noise(1, 2, 60 * HOP).requires_grad_()
    codec.encode(audio)[0, :, 30].sum().backward()
    seen = (audio.grad[0].abs().sum(0) != 0).nonzero().flatten() // HOP - 30
    assert encoder_reach(TINY) - 1 <= max(-seen.min(), seen.max()) <= encoder_reach(TINY)
    latent = noise(1, 4, 60).requires_grad_()
    codec.decode(latent)[..., 30 * HOP : 31 * HOP].sum().backward()
    seen = (latent.grad[0].abs().sum(0) != 0).nonzero().flatten() - 30
    assert decoder_reach(TINY) - 1 <= max(-seen.min(), seen.max()) <= decoder_reach(TINY)
    assert (encoder_reach(OobleckConfig()), decoder_reach(OobleckConfig())) == (9, 10)


def test_standardised_latents_have_mean_zero_and_std_sigma_data(codec):
    codec, clips = tiny(), [noise(2, 2, 50 * HOP), noise(1, 2, 70 * HOP)]
    before = codec.decode(codec.encode(clips[0]))
    codec.standardise(clips)
    latents = torch.cat([codec.encode(clip).mT.flatten(0, 1) for clip in clips])
    torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.full((4,), 0.5))
    torch.testing.assert_close(codec.decode(codec.encode(clips[0])), before, atol=1e-5, rtol=1e-4)


def test_weights_come_from_diffusers_and_statistics_stay_in_our_snapshot(codec, tmp_path):
    codec.vae.save_pretrained(tmp_path / "theirs" / "vae")
    loaded = Oobleck.from_diffusers(tmp_path / "theirs")
    assert loaded.config == TINY and not loaded.training
    latent = noise(1, 4, 7)
    torch.testing.assert_close(loaded.decode(latent), codec.vae.decode(2 * latent).sample)
    codec.save_pretrained(tmp_path / "ours")
    again = Oobleck.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(again.decode(latent), codec.decode(latent), rtol=0, atol=0)


def test_what_cannot_be_is_refused_in_a_line(codec, tmp_path, monkeypatch):
    for bad in (torch.zeros(1, 64), torch.zeros(1, 1, 64), torch.zeros(1, 2, 0)):
        with pytest.raises(ValueError, match=r"audio must be \[b, 2, s\]"):
            codec.encode(bad)
    with pytest.raises(ValueError, match="audio_channels must be 1 or 2, got 3"):
        OobleckConfig(audio_channels=3)
    with pytest.raises(ValueError, match="must be even"):
        OobleckConfig(downsampling_ratios=(2, 5))
    with pytest.raises(SnapshotError, match="no Oobleck VAE in") as caught:
        Oobleck.from_diffusers(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"presto-models\[diffusers\]"):
        Oobleck(TINY)
