"""Embedders of audio: the unlearned one on known signals, the others against their own parts."""

import hashlib
import math
import re
import shutil
import sys
import types

import pytest
import torch

from presto_distill.metrics.clap import LaionClap, TransformersClap, windows
from presto_distill.metrics.embed import (
    AudioEmbedder,
    JointEmbedder,
    LatentStatistics,
    LogMelStatistics,
    ThroughCodec,
    channel_statistics,
    open_embedder,
)
from presto_distill.metrics.frechet import frechet_distance
from presto_models import Autoencoder
from presto_models.snapshot import find_snapshot

RATE = 44100


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Log-mel statistics


def test_log_mel_peaks_in_the_band_of_a_sine_at_its_level():
    embedder = LogMelStatistics()
    mel = 2595 * torch.log10(1 + torch.tensor([440.0, 3000.0, 22050.0]) / 700)
    for hz, at in zip((440.0, 3000.0), mel, strict=False):
        sine = 0.5 * torch.sin(2 * math.pi * hz * torch.arange(RATE) / RATE)
        means, deviations = embedder.embed(sine[None, None])[0].split(80)
        assert means.argmax() == round((at / mel[2] * 81).item()) - 1
        assert means.max().exp() > 0.25  # of 0.5: no band's triangle peaks exactly there
        assert deviations[means.argmax()] < 0.01


def test_gain_moves_the_means_of_log_mel_by_its_logarithm():
    embedder, audio = LogMelStatistics(), noise(2, 1, RATE // 2)
    soft, loud = embedder.embed(audio), embedder.embed(2 * audio)
    torch.testing.assert_close(loud[:, :80] - soft[:, :80], torch.full((2, 80), math.log(2)))
    torch.testing.assert_close(loud[:, 80:], soft[:, 80:])


def test_log_mel_hears_the_mono_mix_and_silence_as_its_floor():
    embedder, audio = LogMelStatistics(), noise(1, 2, 9000)
    mono = audio.mean(1, keepdim=True)
    torch.testing.assert_close(embedder.embed(audio), embedder.embed(mono))
    out_of_phase = torch.cat([mono, -mono], dim=1)
    silent = torch.cat([torch.full((1, 80), math.log(1e-5)), torch.zeros(1, 80)], dim=1)
    torch.testing.assert_close(embedder.embed(out_of_phase), silent, atol=1e-4, rtol=0)
    assert embedder.dim == 160
    assert embedder.name == "log-mel statistics (80 bands, 44100 Hz)"
    coarse = LogMelStatistics(window=4096, floor=1e-4)
    assert coarse.name == "log-mel statistics (80 bands, 44100 Hz, window 4096, floor 0.0001)"
    with pytest.raises(ValueError, match="2048 samples, got 2000"):
        embedder.embed(noise(1, 1, 2000))


# Statistics of latents


def test_channel_statistics_of_known_sequences():
    alternating = torch.tensor([3.0, -1.0]).repeat(50)  # mean 1, deviation 2
    features = channel_statistics(alternating.expand(1, 1, 100))[0]
    expected = torch.tensor([1, math.log(2), -0.99 / 0.99, math.log(16)])
    torch.testing.assert_close(features.float(), expected, atol=1e-5, rtol=1e-5)


def test_latent_statistics_embeds_its_reference_as_standard_and_decorrelated():
    latents = normal(200, 5, 40) * torch.arange(1, 6)[None, :, None] + normal(200, 5, 1, seed=1)
    embedder = LatentStatistics.fit(latents, dim=12)
    embedded = embedder.embed(latents)
    assert embedded.shape == (200, embedder.dim) and "latent-statistics-12 (" in embedder.name
    assert embedder.name != LatentStatistics.fit(latents[1:], dim=12).name  # scores do not compare
    torch.testing.assert_close(embedded.mean(0), torch.zeros(12).double(), atol=1e-9, rtol=0)
    covariance = embedded.T.cov()
    torch.testing.assert_close(covariance, torch.diag(covariance.diag()), atol=1e-9, rtol=0)
    assert (covariance.diag().diff() <= 1e-12).all()


def test_latent_statistics_hear_what_smoothing_does():
    latents = normal(60, 3, 64)
    embedder = LatentStatistics.fit(latents)
    assert embedder.dim == 12
    smooth = torch.nn.functional.avg_pool1d(latents, 3, stride=1, padding=1)
    fresh = embedder.embed(normal(60, 3, 64, seed=1))
    reference = embedder.embed(latents)
    assert frechet_distance(embedder.embed(smooth), reference) > 10 * frechet_distance(
        fresh, reference
    )


# The bundled embedder


def test_presto_small_embeds_what_the_codec_makes_of_the_mono_mix():
    embedder, audio = open_embedder("presto-small"), noise(2, 2, RATE)
    assert isinstance(embedder, ThroughCodec) and isinstance(embedder, JointEmbedder)
    codec = Autoencoder.from_pretrained(find_snapshot("presto-small") / "codec")
    with torch.inference_mode():
        latents = codec.encode(audio.mean(1))
        torch.testing.assert_close(embedder.embed(audio), embedder.embedder.embed(latents))
        assert embedder.embed_text(["jazz"]).shape == (1, embedder.dim)


# CLAP


@pytest.fixture(scope="module")
def tiny_clap(tmp_path_factory):
    """A random CLAP of a few thousand weights that hears one second, saved as transformers do."""
    import transformers as hf

    folder = tmp_path_factory.mktemp("clap") / "tiny-clap"
    torch.manual_seed(0)
    audio = hf.ClapAudioConfig(
        spec_size=64, num_mel_bins=16, patch_embeds_hidden_size=8, hidden_size=16,
        depths=[1, 1], num_attention_heads=[1, 2], num_hidden_layers=2, projection_dim=12,
    )  # fmt: skip
    text = hf.ClapTextConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, projection_dim=12, max_position_embeddings=40,
    )  # fmt: skip
    config = hf.ClapConfig(
        text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=12
    )
    hf.ClapModel(config).eval().save_pretrained(folder)
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*marks, *"abcdefghijklmnopqrstuvwxyzĠ"])}
    tokenizer = hf.RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=32)
    heard = hf.ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation="rand_trunc")
    hf.ClapProcessor(heard, tokenizer).save_pretrained(folder)
    return folder


def test_clap_by_transformers_embeds_audio_and_text_at_unit_length(tiny_clap):
    embedder = open_embedder(f"clap:{tiny_clap}")
    assert isinstance(embedder, TransformersClap)
    assert isinstance(embedder, AudioEmbedder) and isinstance(embedder, JointEmbedder)
    assert re.fullmatch(r"LAION-CLAP tiny-clap \(transformers, [0-9a-f]{6}\)", embedder.name)
    assert (embedder.sample_rate, embedder.dim) == (48000, 12)
    audio, text = embedder.embed(noise(3, 2, 48000)), embedder.embed_text(["jazz", "slow rock"])
    assert audio.shape == (3, 12) and text.shape == (2, 12)
    torch.testing.assert_close(torch.cat([audio, text]).norm(dim=1), torch.ones(5))
    # Padding to the longer prompt leaves the shorter one as it was.
    torch.testing.assert_close(text[:1], embedder.embed_text(["jazz"]), atol=1e-5, rtol=0)


def test_clap_of_other_weights_has_another_name(tiny_clap, tmp_path):
    import transformers as hf

    other = tmp_path / tiny_clap.name
    shutil.copytree(tiny_clap, other)
    model = hf.ClapModel.from_pretrained(other)
    model.logit_scale_a.data += 1
    model.save_pretrained(other)
    again, changed = TransformersClap(str(tiny_clap)), TransformersClap(str(other))
    assert TransformersClap(str(tiny_clap)).name == again.name != changed.name


def test_clap_takes_the_mean_over_windows_of_long_audio(tiny_clap):
    embedder, audio = TransformersClap(str(tiny_clap)), noise(1, 1, 72000)
    parts = [embedder.embed(audio[..., at : at + 48000]) for at in (0, 24000)]
    torch.testing.assert_close(embedder.embed(audio), torch.stack(parts).mean(0))
    torch.testing.assert_close(embedder.embed(audio), embedder.embed(audio), atol=0, rtol=0)


@pytest.mark.parametrize(("length", "count"), [(7, 1), (10, 1), (11, 2), (20, 2), (25, 3)])
def test_windows_cover_audio_and_end_with_it(length, count):
    audio = torch.arange(float(length))[None]
    parts = windows(audio, 10)
    assert parts.shape == (1, count, min(length, 10))
    assert set(parts.flatten().tolist()) == set(range(length))
    assert parts[0, -1, -1] == length - 1


def test_a_pt_checkpoint_goes_through_the_package_of_its_authors(tmp_path, monkeypatch):
    """With a stand-in for that package: what is asked of it, not what it answers."""
    calls = {}

    class CLAP_Module:
        def __init__(self, enable_fusion, device, amodel):
            calls["made"] = (enable_fusion, device, amodel)

        def load_ckpt(self, path, verbose):
            calls["loaded"] = path

        def get_audio_embedding_from_data(self, x):
            calls["heard"] = x.shape
            return x[:, :512]

    module = types.ModuleType("laion_clap")
    module.CLAP_Module = CLAP_Module
    monkeypatch.setitem(sys.modules, "laion_clap", module)
    path = tmp_path / "music_audioset_epoch_15_esc_90.14.pt"
    path.write_bytes(b"weights")
    embedder = open_embedder(f"clap:{path}")
    assert isinstance(embedder, LaionClap)
    digest = hashlib.sha256(b"weights").hexdigest()[:6]
    assert embedder.name == f"LAION-CLAP {path.name} (laion_clap, {digest})"
    audio = noise(2, 1, 600_000)
    expected = (audio[:, 0, :512] + audio[:, 0, 120_000:120_512]) / 2
    torch.testing.assert_close(embedder.embed(audio), expected)
    assert calls == {
        "made": (False, "cpu", "HTSAT-base"),
        "loaded": str(path),
        "heard": (4, 480_000),
    }


def test_what_cannot_be_opened_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "laion_clap", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "some.pt").touch()
    (tmp_path / "folder").mkdir()
    for name, message in {
        "vggish": "unknown embedder 'vggish'",
        "clap:nowhere.pt": "no checkpoint nowhere.pt",
        f"clap:{tmp_path}/some.pt": "pip install laion_clap",
        "clap:./nowhere": "no folder './nowhere'",
        f"clap:{tmp_path}/folder": "presto-distill\\[clap\\]",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_embedder(name)
