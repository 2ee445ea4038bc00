"""Choices inside Presto-L and Presto-LS: what each variant trains; verdicts of made-up numbers."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from presto_distill.experiment import Lab, Run
from presto_distill.lab import combined_choices, layer_choices, plots, studies, teacher_guidance
from presto_distill.lab.params import LayerChoices
from presto_distill.presets import smoke
from presto_models import presto_schedule

DEPTH = 4


class Asked(Lab):
    """Notes what is asked to be trained, and hands back the network it would start from."""

    def __init__(self, base, student):
        self.teacher, self.student, self.asked = base, student, []
        self.preset, self.device = smoke(), torch.device("cpu")

    def distill(self, method, *, start=None, **options):
        self.asked.append((method, start.key if start else None, options))
        return Run(start.denoiser if start else self.student, [], method)


@pytest.fixture
def lab(tiny_denoiser):
    return Asked(tiny_denoiser(), tiny_denoiser(schedule=presto_schedule(DEPTH)))


def scored(model: str, value: float, **facts) -> dict:
    name = "frechet_distance"
    return {
        "model": model,
        name: value,
        f"{name}_low": value - 1,
        f"{name}_high": value + 1,
    } | facts


# --- layer_choices -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", layer_choices.VARIANTS)
def test_every_variant_is_the_base_model_at_full_depth(tiny_denoiser, tiny_condition, name):
    base = tiny_denoiser()
    student = layer_choices.student_of(base, layer_choices.VARIANTS[name])
    x, sigma, cond = torch.randn(2, 4, 8), torch.ones(2), tiny_condition(2)
    torch.testing.assert_close(student(x, sigma, cond), base(x, sigma, cond))
    last = name in (layer_choices.KEPT, layer_choices.OURS)
    assert student.config.dit.drop == ("shifted" if last else "tail")
    assert student.config.dit.budget_embedding is (name != layer_choices.ASE)


def test_variants_differ_in_what_they_are_told_alone(lab):
    for variant in layer_choices.VARIANTS.values():
        layer_choices.trained(lab, variant)
    starts = [start for _, start, _ in lab.asked]
    assert len(set(starts)) == len(starts)  # the cache keeps them apart
    assert [(how["nu"], how["taught"]) for _, _, how in lab.asked] == [(0, 1)] * 3 + [(0.1, 0.25)]
    assert {how["budgets"] for _, _, how in lab.asked} == {presto_schedule(DEPTH).budgets}


def test_so_many_blocks_at_every_noise_level(lab, tiny_denoiser, monkeypatch):
    seen = []

    def quality(lab, entries):
        seen.extend(entries)
        return pd.DataFrame({"model": [entry.model for entry in entries]})

    monkeypatch.setattr(studies, "quality", quality)
    trained = Run(tiny_denoiser(schedule=presto_schedule(DEPTH)), [], "run")
    params = LayerChoices(shares=(0.1, 0.5, 1.0))
    table = layer_choices.by_blocks(lab, {"base": None, "ours": trained}, params)
    assert table["blocks"].tolist() == [1, 2, 4] * 2
    sigma = torch.tensor([0.01, 50.0])
    assert [e.run.denoiser.schedule(sigma).tolist() for e in seen] == [[1, 1], [2, 2], [4, 4]] * 2
    assert len({entry.run.key for entry in seen}) == len(seen)
    assert lab.teacher.schedule is None and trained.denoiser.schedule == presto_schedule(DEPTH)


def test_quality_against_blocks():
    rows = [scored(model, 4 / n + 1.5, blocks=n) for model in ("base", "ASE") for n in (2, 4)]
    (ax,) = layer_choices.blocks_plot(pd.DataFrame(rows)).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["base", "ASE"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "4"]
    assert "blocks" in ax.get_xlabel() and "Fréchet" in ax.get_ylabel()


def test_each_change_is_judged_by_the_loss_where_blocks_are_dropped():
    losses = dict(zip(layer_choices.VARIANTS, (0.7, 0.7, 0.5, 0.6), strict=True))
    rows = [
        {"model": name, "bin_budget": budget, "loss": 9.0 if budget == DEPTH else loss}
        for name, loss in losses.items()
        for budget in (2, DEPTH)
    ]
    found = layer_choices.verdicts(pd.DataFrame(rows), DEPTH)
    assert [round(one["effect"], 6) for one in found] == [0, 0.2, -0.1]
    assert all(one["held"] is None for one in found)  # one seed decides nothing


# --- combined_choices ----------------------------------------------------------------------------


def test_each_variant_changes_one_choice(lab):
    variants = combined_choices.variants(lab)
    asked = {}
    for name, train in variants.items():
        lab.asked.clear()
        train()
        asked[name] = [*lab.asked]
    both = {name: calls[-1] for name, calls in asked.items()}
    assert all(method == "both" for method, _, _ in both.values())
    starts = {name: start for name, (_, start, _) in both.items()}
    assert starts == {
        combined_choices.DEFAULT: "layers",
        combined_choices.STEPS_FIRST: "steps",
        combined_choices.AT_ONCE: None,
        combined_choices.FROM_BASE: None,
        combined_choices.DROPPED: "layers",
        combined_choices.MILDER: "layers",
    }
    options = {name: how for name, (_, _, how) in both.items()}
    assert all(how["train"] == smoke().ablation_steps for how in options.values())
    shallow = min(presto_schedule(DEPTH).budgets)
    assert {how["tap"] for how in options.values()} == {(shallow - 2,)}  # runs in every network
    assert options[combined_choices.DROPPED]["fake_score"] == "dropped"
    milder, ours = (
        options[name]["budgets"] for name in (combined_choices.MILDER, combined_choices.DEFAULT)
    )
    assert all(one >= other for one, other in zip(milder, ours, strict=True)) and milder != ours
    taught = [name for name, how in options.items() if how["nu"]]
    assert taught == [combined_choices.STEPS_FIRST, combined_choices.AT_ONCE]


def test_blocks_of_a_clip_are_those_of_its_noise_levels(tiny_denoiser):
    runs = {"all": Run(tiny_denoiser(schedule=presto_schedule(DEPTH)), [], "")}
    table = combined_choices.with_blocks(pd.DataFrame({"model": ["all"]}), runs, steps=2)
    sigmas = torch.tensor([80.0, 2.5153])
    assert table["blocks"].item() == presto_schedule(DEPTH)(sigmas).sum().item()


def test_choices_are_judged_against_the_default():
    names = (
        combined_choices.DEFAULT,
        combined_choices.STEPS_FIRST,
        combined_choices.AT_ONCE,
        combined_choices.FROM_BASE,
        combined_choices.DROPPED,
        combined_choices.MILDER,
    )
    values = (5.0, 9.0, 6.0, 6.5, 2.0, 4.5)
    rows = [scored(name, value) for name, value in zip(names, values, strict=True)]
    found = combined_choices.verdicts(pd.DataFrame(rows))
    assert [one["held"] for one in found] == [True, None, None, False, None]
    assert [one["effect"] for one in found] == [4.0, 1.0, 0.5, -3.0, 0.5]


# --- teacher_guidance ----------------------------------------------------------------------------


def test_regression_and_matching_have_the_same_teacher(lab):
    teacher_guidance.student(lab, 2.0)
    assert lab.asked == [
        ("warm-start", None, {"guidance_scale": 2.0}),
        ("steps", "warm-start", {"guidance_scale": 2.0}),
    ]
    lab.asked.clear()
    lab.preset = replace(lab.preset, warm_start=None)
    teacher_guidance.student(lab, 4.5)
    assert lab.asked == [("steps", None, {"guidance_scale": 4.5})]


@pytest.fixture
def by_scale():
    """Guidance 2 helps prompts and costs diversity; of distances nothing can be said."""
    rows = []
    for scale, prompts, recall, distance in ((1.0, 0.4, 0.9, 0.10), (2.0, 0.6, 0.7, 0.11)):
        row = {"model": "S", "scale": scale}
        for metric, value in zip(teacher_guidance.CLAIMS, (prompts, recall, distance), strict=True):
            row |= {metric: value, f"{metric}_low": value - 0.05, f"{metric}_high": value + 0.05}
        rows.append(row)
    return pd.DataFrame(rows)


def test_each_scale_is_judged_against_the_first(by_scale):
    prompts, recall, distance = teacher_guidance.verdicts(by_scale, "S")
    assert (prompts["held"], recall["held"], distance["held"]) == (True, False, True)
    effects = [verdict["effect"] for verdict in (prompts, recall, distance)]
    assert effects == pytest.approx([0.2, -0.2, -0.01])
    assert "0.6 [0.55, 0.65] with it, 0.4 [0.35, 0.45] with one guided at 1" in prompts["evidence"]


def test_three_metrics_by_scale(by_scale):
    axes = plots.metrics_by_scale(by_scale).axes
    assert [ax.get_ylabel() for ax in axes] == list(plots.BY_SCALE.values())
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == ["S"]
