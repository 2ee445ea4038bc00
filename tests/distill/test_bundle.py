"""The recipe of the bundled weights, once through with almost no steps, and what is bundled."""

import json
from dataclasses import replace
from threading import Thread

import pytest
import torch

from presto_data import LatentSet, Metadata, batches, synthetic_corpus
from presto_data.encode import claimed
from presto_distill import Batch
from presto_distill.bundle import STAGES, inputs, train_bundle
from presto_distill.bundle.data import fitting, mixed_lengths
from presto_distill.bundle.preset import smallest
from presto_distill.metrics.contrastive import ContrastiveConfig, ContrastiveEmbedder
from presto_distill.metrics.stereo import decorrelated, stereo_errors
from presto_distill.objectives.autoencoding import AdversarialConfig
from presto_distill.objectives.contrastive import Contrastive
from presto_distill.provenance import commit
from presto_models import (
    Autoencoder,
    DiTConfig,
    MonoToStereo,
    Pipeline,
    PrestoDenoiser,
    TextEncoder,
)
from presto_models.conditioning import KEYS
from presto_models.pipeline import VARIANTS
from presto_models.snapshot import find_snapshot

TINY = replace(
    smallest(),
    dit=DiTConfig(width=32, depth=4, heads=2, text_attention=False, key=True),
    decoder_critic=AdversarialConfig(critic_width=4),
    clips=16,
)


def test_every_stage_leaves_weights_and_a_card_and_the_pipeline_plays_them(tmp_path, capsys):
    train_bundle(TINY, tmp_path)
    heard = ("codec_start", "codec_decoder", "codec", "stereo")
    for name in (*heard, "text", "embedder", *VARIANTS):
        card = json.loads((tmp_path / name / "card.json").read_text())
        clips = 2 if name in heard else 16
        assert card["data"]["clips"] == clips and card["loss_curve"] and card["metrics"]
        assert card["commit"] == commit() and card["hardware"]
    card = json.loads((tmp_path / "steps" / "card.json").read_text())
    assert "regression" in card["starts_from"]["loss_curve"][0]
    for variant in VARIANTS:
        pipeline = Pipeline.from_pretrained(tmp_path, variant=variant)
        assert pipeline.few_step == (variant in ("steps", "layers_steps"))
        made = pipeline("jazz --bpm 90 --key A minor", seconds=0.5)
        assert made.audios.shape == (1, 1, 22_050) and made.audios.isfinite().all()
        interval = None if pipeline.few_step else TINY.guidance_interval
        assert made.metadata[0].get("guidance_interval") == interval
        scale = {"base": 0.8, "layers": TINY.layers_guidance_scale}.get(variant)
        assert made.metadata[0].get("guidance_scale") == scale

    (solved,) = (tmp_path / "trajectories").glob("*.pt")  # once, for both few-step students

    # Of what is done only that is done again which something has changed for.
    capsys.readouterr()
    train_bundle(TINY, tmp_path)
    assert capsys.readouterr().out == "".join(f"{name}: up to date\n" for name in STAGES)
    before = (tmp_path / "layers_steps" / "model.safetensors").read_bytes()
    longer = replace(TINY, layers=replace(TINY.layers, steps=3))
    train_bundle(longer, tmp_path, ("base", "layers", "steps", "layers_steps"))
    assert capsys.readouterr().out == "base: up to date\nsteps: up to date\n"
    assert (tmp_path / "layers_steps" / "model.safetensors").read_bytes() != before
    before = (tmp_path / "steps" / "model.safetensors").read_bytes()
    train_bundle(replace(TINY, training_seed=1), tmp_path, ("steps",))
    assert (tmp_path / "steps" / "model.safetensors").read_bytes() != before
    assert list((tmp_path / "trajectories").glob("*.pt")) == [solved]  # of the same songs
    train_bundle(replace(TINY, guidance_scale=2.0), tmp_path, ("base", "steps"))
    assert capsys.readouterr().out == "base: up to date\n"
    both = set((tmp_path / "trajectories").glob("*.pt"))
    assert solved in both and len(both) == 2  # another teacher's trajectories


def test_the_codec_gets_a_decoder_then_a_phase_and_keeps_its_latents(tmp_path):
    names = "codec_start", "codec_decoder", "codec"
    train_bundle(TINY, tmp_path, names)
    start, decoder, codec = (Autoencoder.from_pretrained(tmp_path / name) for name in names)
    audio = 0.3 * torch.randn(1, 44_100, generator=torch.Generator().manual_seed(0))
    latents = start.encode(audio)
    assert torch.equal(decoder.encode(audio), latents)
    assert not torch.equal(decoder.spectrum(latents), start.spectrum(latents))
    assert torch.equal(codec.encode(audio), latents)
    assert torch.equal(codec.spectrum(latents), decoder.spectrum(latents))
    assert decoder.phases == ("griffin-lim",) and codec.config.phase == "learned"


def test_a_stage_whose_inputs_are_missing_says_which(tmp_path):
    with pytest.raises(ValueError, match="holds no codec"):
        train_bundle(TINY, tmp_path, ("base",))


def test_a_stage_waits_while_another_process_trains_it(tmp_path):
    train = Thread(target=train_bundle, args=(TINY, tmp_path, ("stereo",)))
    with claimed(tmp_path / "stereo.lock"):
        train.start()
        train.join(timeout=1.0)
        assert train.is_alive() and not (tmp_path / "stereo.inputs.json").exists()
    train.join()
    assert (tmp_path / "stereo" / "card.json").exists()


def test_what_sampling_reads_of_the_preset_makes_presto_l_anew(tmp_path):
    for name in STAGES["layers"].reads:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    other = replace(TINY, guidance_interval=(0.0, 10.0))
    same, changed = (inputs(STAGES["layers"], preset, tmp_path) for preset in (TINY, other))
    assert same == inputs(STAGES["layers"], TINY, tmp_path) != changed


def test_crops_are_cut_from_the_songs_that_are_long_enough():
    short, long = (
        LatentSet(torch.full((n, 2, t), float(t)), ["song"] * n, [Metadata()] * n)
        for n, t in ((30, 20), (10, 60))
    )
    both, one = fitting([short, long], 20), fitting([short, long], 21)
    assert (len(both), len(one)) == (40, 10)
    drawn = next(batches(both, batch_size=1000, frames=20, seed=0)).latents[:, 0, 0]
    assert (drawn == 60).sum() == 500  # as many hours of either


def test_the_stream_of_mixed_lengths_resumes_anywhere(tmp_path):
    data = LatentSet(torch.randn(10, 4, 64), [f"clip {i}" for i in range(10)], [Metadata()] * 10)
    preset = replace(TINY, frames_and_batch=((16, 3), (32, 2), (16, 3)))
    stream = mixed_lengths([data], TextEncoder(), preset)
    first = [batch for batch, _ in zip(stream(0), range(9), strict=False)]
    for start in range(9):
        assert torch.equal(next(stream(start)).x, first[start].x)


def test_a_network_with_a_key_hears_that_of_some_crops():
    facts = [Metadata(tempo=100.0, key="A", mode="minor"), Metadata(tempo=100.0)]
    data = LatentSet(torch.randn(2, 4, 64), ["x", "y"], facts)
    preset = replace(TINY, frames_and_batch=((16, 200),), key_dropout=0.25)
    told = next(mixed_lengths([data], TextEncoder(), preset)(0)).cond
    assert told.key.unique().tolist() == [0, 1 + KEYS.index("A minor")]
    assert 60 < told.key.count_nonzero() < 90  # of 100
    without = replace(preset, dit=replace(preset.dit, key=False))
    untold = next(mixed_lengths([data], TextEncoder(), without)(0)).cond
    assert untold.key is None and torch.equal(untold.tempo, told.tempo)


def test_matching_pairs_are_what_the_contrastive_loss_rewards():
    embedder = ContrastiveEmbedder(ContrastiveConfig(width=32, depth=1, dim=2))
    east, west = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])
    place = {"east": east, "west": west}
    embedder.embed = lambda x: torch.stack([east, west])
    embedder.embed_text = lambda captions: torch.stack([place[caption] for caption in captions])
    loss = Contrastive(embedder).loss
    batch, rng = torch.zeros(2, 64, 16), torch.Generator()
    right = loss(Batch(batch, ["east", "west"]), rng)["contrastive"]
    wrong = loss(Batch(batch, ["west", "east"]), rng)["contrastive"]
    scale = embedder.log_temperature.exp()
    assert right.item() == pytest.approx(torch.log1p((-2 * scale).exp()).item(), abs=1e-6)
    assert (wrong - right).item() == pytest.approx(2 * scale.item(), rel=1e-5)


def test_the_bundled_weights_are_small_and_load():
    folder = find_snapshot("presto-small")
    files = list(folder.rglob("*.safetensors"))
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= 16e6 and sum(sizes) <= 60e6
    for variant in VARIANTS:
        denoiser = PrestoDenoiser.from_pretrained(folder / variant)
        assert denoiser.depth >= 16  # deep enough for layer ablations
        assert json.loads((folder / variant / "card.json").read_text())["loss_curve"]


def test_the_bundled_stereo_part_is_nearer_to_rendered_stereo_than_mono_or_a_delay():
    stereo = MonoToStereo.from_pretrained(find_snapshot("presto-small") / "stereo")
    corpus = synthetic_corpus(6, seed=7000, seconds=3.0)
    real = torch.stack([clip.audio for clip in corpus])
    mid = real.mean(1, keepdim=True)
    with torch.inference_mode():
        wide = {
            "model": stereo(mid),
            "mono": mid.expand(-1, 2, -1),
            "delayed": decorrelated(mid, gain=0.25),
        }
    errors = {name: stereo_errors(made, real) for name, made in wide.items()}
    for name in ("side_level_error_db", "correlation_error"):
        assert errors["model"][name] < min(errors["mono"][name], errors["delayed"][name])
