"""The laboratory: runs are keyed by what they depend on, shared, and resumed after a kill."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from presto_distill import Batch, PrestoLConfig, PrestoSConfig, TrainConfig, Trainer
from presto_distill.baselines.trajectory import with_trajectory
from presto_distill.experiment import Lab
from presto_distill.fit import fit
from presto_distill.methods import METHODS, make_plan
from presto_distill.metrics.contrastive import ContrastiveConfig, ContrastiveEmbedder
from presto_distill.objectives.denoising import Denoising
from presto_distill.objectives.regression import Trajectories
from presto_distill.presets import PRESETS, preset, smoke
from presto_models import (
    Autoencoder,
    DiTConfig,
    PrestoDenoiser,
    PrestoDenoiserConfig,
    Sampling,
    TextEncoder,
    null_condition,
)
from presto_models.pipeline import Pipeline
from presto_models.snapshot import find_snapshot

TINY = PrestoDenoiserConfig(DiTConfig(width=32, depth=4, heads=2, text_attention=False))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder with a tiny random base and the bundled codec."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    embedder = ContrastiveEmbedder(ContrastiveConfig(width=32, depth=2))
    Autoencoder.from_pretrained(find_snapshot("presto-small") / "codec").save_pretrained(
        folder / "codec"
    )
    TextEncoder().save_pretrained(folder / "text")
    embedder.save_pretrained(folder / "embedder")
    PrestoDenoiser(TINY).save_pretrained(folder / "base")
    return folder


@pytest.fixture(scope="module")
def lab(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("lab")
    return Lab.open(replace(smoke(), clips=12, held_out=8), out=out, model=model)


def test_every_preset_is_named_as_it_is_found():
    assert [preset(name).name for name in PRESETS] == list(PRESETS)
    with pytest.raises(ValueError, match=r"huge.*smoke, quick"):
        preset("huge")


def test_published_hyper_parameters_stand_in_the_paper_preset():
    paper = preset("a100_paper")
    assert (paper.steps.lr, paper.steps.steps, paper.steps.batch) == (5e-7, 32_000, 80)
    assert (paper.layers.lr, paper.layers.steps, paper.layers.batch) == (8e-5, 60_000, 12)
    assert paper.warm_start is None
    assert PrestoSConfig().critic_updates == 5
    assert (PrestoSConfig().nu_1, PrestoSConfig().nu_2) == (0.01, 0.005)
    assert (PrestoLConfig().nu, PrestoSConfig().guidance_scale) == (0.1, 4.5)
    assert paper.guidance_scale == 4.5


def test_a_finished_run_is_loaded_and_another_configuration_is_another_run(lab):
    first = lab.distill("steps")
    again = lab.distill("steps")
    other = lab.distill("steps", critic_updates=1)
    assert first.key == again.key != other.key
    assert first.records == again.records and len(first.records) == lab.preset.ablation_steps.steps
    for a, b in zip(first.denoiser.parameters(), again.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.denoiser.config.few_step
    assert lab.distill("steps", tap=(0,)).key != first.key
    with pytest.raises(ValueError, match="tap 9 does not exist"):
        lab.distill("steps", tap=(9,))


def test_layers_and_both_keep_the_schedule(lab):
    layers = lab.distill("layers")
    both = lab.distill("both", start=lab.warm_start(layers))
    assert layers.denoiser.config.schedule == both.denoiser.config.schedule
    assert max(layers.denoiser.config.schedule.budgets) == 4
    assert not layers.denoiser.config.few_step and both.denoiser.config.few_step
    budgets = layers.denoiser.config.schedule.budgets
    ase = lab.distill("ase", budgets=budgets)
    assert ase.denoiser.config.dit.drop == "tail" and ase.key != layers.key
    assert ase.denoiser.config.schedule == layers.denoiser.config.schedule


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_command_is_one_of_the_lab(lab, method):
    once = replace(METHODS[method].settings(lab.preset, None).train, steps=1)
    run = lab.distill(method, train=once)
    assert len(run.records) == 1 and lab.distill(method, train=once).key == run.key
    assert run.denoiser.config.few_step == (method not in ("layers", "ase", "base"))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"layers", "ase", "base"}))
def test_teachers_are_guided_as_the_preset_says(method):
    settings = METHODS[method].settings(replace(smoke(), guidance_scale=2.25), None)
    assert settings.objective.guidance_scale == 2.25


def test_an_unknown_method_or_setting_is_refused(lab):
    with pytest.raises(ValueError, match="unknown method 'step': choose one of steps, layers"):
        lab.distill("step")
    with pytest.raises(TypeError, match="critic_update"):
        lab.distill("steps", critic_update=1)


def test_presto_s_starts_where_it_is_told(lab):
    start = lab.warm_start()
    nowhere = replace(lab.preset.steps, lr=0.0)
    student = lab.distill("steps", start=start, train=nowhere)
    from_base = lab.distill("steps", train=nowhere)
    assert student.key != from_base.key
    for moved, origin in ((student.denoiser, start.denoiser), (from_base.denoiser, lab.teacher)):
        for a, b in zip(moved.parameters(), origin.parameters(), strict=True):
            assert torch.equal(a, b)


def test_scores_carry_what_they_rest_on_and_are_repeatable(lab):
    student = lab.distill("steps")
    scores = lab.evaluate(student, Sampling(steps=2))
    assert scores.generated_count == lab.preset.samples
    assert scores.embedder == lab.embedder.name and scores.seed == lab.seed
    fresh = lab.generate(student.denoiser, Sampling(steps=2))
    assert torch.equal(lab._embed(fresh), lab._embed(lab.generate(student.denoiser, Sampling(2))))
    assert lab.evaluate(student, Sampling(steps=2)) == scores


def test_an_interrupted_fit_goes_on_from_its_checkpoint(tmp_path):
    def stream(start):
        k = start
        while True:
            yield Batch(torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(k)))
            k += 1

    def trainer():
        torch.manual_seed(0)
        return Trainer(Denoising(PrestoDenoiser(TINY), null_condition), TrainConfig(steps=4))

    whole = trainer()
    records = fit(whole, stream, tmp_path / "whole", label="whole")

    class Killed(Exception):
        pass

    def dying(start):
        for k, batch in enumerate(stream(start)):
            if k == 2:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        fit(trainer(), dying, tmp_path / "part", label="part", every=0)
    resumed = trainer()
    again = fit(resumed, stream, tmp_path / "part", label="part")
    assert [r["dsm"] for r in again] == [r["dsm"] for r in records]
    a, b = whole.averages["base"].state_dict(), resumed.averages["base"].state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_model_folder_without_all_its_parts_names_them(tmp_path):
    Pipeline.from_pretrained(variant="base").save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match="mine lacks embedder/: a model folder to distill holds"):
        Lab.open(smoke(), out=tmp_path, model=tmp_path / "mine")


def test_a_folder_of_recordings_that_is_too_small_says_so(model, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "one.wav", 0.1 * torch.randn(44_100 * 4).numpy(), 44_100)
    with pytest.raises(ValueError, match="1 excerpts of 3 s: at least 26"):
        _ = Lab.open(smoke(), out=tmp_path / "out", audio=tmp_path, model=model).source


def test_other_recordings_of_the_same_name_and_number_are_other_data(model, tmp_path):
    import soundfile

    audio, sources = tmp_path / "audio", []
    audio.mkdir()
    for level in (0.1, 0.2):
        sound = level * np.random.default_rng(0).standard_normal((44_100 * 80, 1))
        soundfile.write(audio / "one.wav", sound, 44_100)
        lab = Lab.open(smoke(), out=tmp_path / "out", audio=audio, model=model)
        sources.append(lab.source)
    assert all(source.startswith("26 excerpts of 3 s from audio (") for source in sources)
    assert sources[0] != sources[1]
    spans = [(clip.start, clip.start + 3) for part in lab.music for clip in part.excerpts]
    assert all(end <= start for (_, end), (start, _) in pairwise(sorted(spans)))
    assert [len(part) for part in lab.music] == [20, 6]


def test_runs_and_scores_know_of_all_they_depend_on(model, tmp_path, monkeypatch):
    lab, changed = Lab.open(smoke(), out=tmp_path, model=model), {}
    for name in ("teacher", "text", "embedder"):
        other = copy.copy(lab)
        network = copy.deepcopy(getattr(lab, name))
        next(network.parameters()).data += 1
        setattr(other, name, network)
        other.__dict__.pop("_digests", None)
        keys = [lab._folder("steps", {})[1], lab._scored(None, Sampling(steps=1), 0)]
        theirs = [other._folder("steps", {})[1], other._scored(None, Sampling(steps=1), 0)]
        changed[name] = [a != b for a, b in zip(keys, theirs, strict=True)]
    assert changed == {"teacher": [True] * 2, "text": [True] * 2, "embedder": [False, True]}
    assert other.embedder.name != lab.embedder.name  # printed beside numbers
    sampled = lab._scored(None, Sampling(steps=1), 0)
    monkeypatch.setattr("presto_distill.experiment.code_digest", lambda package: "a mended sampler")
    assert lab._scored(None, Sampling(steps=1), 0) != sampled


def test_a_preset_may_hide_tempi_and_keys_from_training_alone(lab, model, tmp_path):
    torch.manual_seed(0)
    with_key = PrestoDenoiser(replace(TINY, dit=replace(TINY.dit, key=True)))
    hiding = copy.copy(lab)
    hiding.preset = replace(lab.preset, tempo_dropout=1.0, key_dropout=1.0)
    for one in (hiding, told := copy.copy(lab)):
        one.teacher = with_key
    shown = next(told.stream(8)(0)).cond
    hidden = next(hiding.stream(8)(0)).cond
    assert shown.tempo.all() and shown.key.any() and not hidden.tempo.any() and not hidden.key.any()
    torch.testing.assert_close(hidden.text, shown.text)
    assert next(hiding.conditioned(lab.held_out, batch=8)(0)).cond.tempo.all()
    assert hiding._folder("base", {}) != told._folder("base", {})
    with pytest.raises(ValueError, match=r"key_dropout must be within 0\.\.1, got 1\.5"):
        replace(lab.preset, key_dropout=1.5)


@pytest.mark.parametrize("method", METHODS)
def test_a_student_says_how_it_is_sampled_whatever_it_started_from(lab, method):
    teacher = lab.teacher.config
    generator = PrestoDenoiser(replace(teacher, few_step=True))
    settings = METHODS[method].settings(lab.preset, generator.config)
    denoisers = ("layers", "ase", "base")
    jumping = with_trajectory(lab.teacher)
    if method == "warm-start":  # which solves trajectories first
        lab = copy.copy(lab)
        lab.trajectories = lambda cfg: Trajectories(*3 * [torch.zeros(1, 1)], None)
    made = make_plan(method, lab, settings, generator)
    assert made.config.few_step == (method not in denoisers)
    if method in ("soundctm", "ditto-ctm"):
        assert make_plan(method, lab, settings, jumping).config.dit.trajectory
    else:
        with pytest.raises(ValueError, match=f"any noise level, which {method} does not train"):
            make_plan(method, lab, settings, jumping)


def test_base_training_continues_a_copy(model, tmp_path):
    lab = Lab.open(smoke(), out=tmp_path, model=model)
    settings = METHODS["base"].settings(lab.preset, lab.teacher.config)
    objective = METHODS["base"].plan(lab, settings, lab.teacher).make()
    assert objective.players["base"] is not lab.teacher
    fresh = METHODS["base"].plan(lab, settings, None)
    assert fresh.config.dit == lab.teacher.config.dit
    wrong = replace(settings, objective=replace(settings.objective, sigma_data=1.0))
    with pytest.raises(ValueError, match=r"sigma_data is 1, the model's 0\.5: set sigma_data=0\.5"):
        make_plan("base", lab, wrong, None)


def test_no_clip_of_another_lab_or_draw_starts_from_the_same_noise(model, tmp_path):
    labs = [Lab.open(smoke(), seed=seed, out=tmp_path, model=model) for seed in (0, 1)]
    made = [
        lab.generate(lab.teacher, Sampling(steps=1), draw=draw) for lab in labs for draw in (0, 1)
    ]
    first = {tuple(clip[0, :3].tolist()) for clips in made for clip in clips}
    assert len(first) == sum(map(len, made))
