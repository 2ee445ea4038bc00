"""The notebook on the base model: figures and choices of made-up numbers."""

import pandas as pd
import pytest

from presto_distill.lab import base_model, plots
from presto_distill.lab.params import BaseModel

SIGNS = ["P_mean = −0.4", "P_mean = +0.4"]


@pytest.fixture(scope="module")
def loss():
    rows = [
        {"model": model, "sigma": sigma, "loss": 0.5, "loss_low": 0.4, "loss_high": 0.6}
        for model in (base_model.BUNDLED, base_model.WITHOUT, *SIGNS)
        for sigma in (0.02, 1.0, 80.0)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def guided():
    rows = []
    for kind, scale, value in (
        ("cfg++", 0.8, 0.2),
        ("cfg", 1.0, 0.4),
        ("cfg", 2.0, 0.3),
        (base_model.EVERYWHERE, 0.8, 0.5),
    ):
        row = {"guidance": kind, "scale": scale}
        for name in plots.BY_SCALE:
            row |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
        rows.append(row)
    return pd.DataFrame(rows)


def test_both_signs_are_named_and_neither_is_hidden():
    assert [base_model.name_of(value) for value in BaseModel.P_means] == SIGNS


def test_loss_by_noise_level_above_the_laws(loss):
    (ax,) = base_model.loss_plot(loss, [-0.4, 0.4], models=SIGNS).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == SIGNS
    assert [text.get_text() for text in ax.texts[:2]] == [f"noise law, {name}" for name in SIGNS]
    assert ax.get_xlabel() == "noise level σ" and "loss" in ax.get_ylabel()
    assert len(ax.collections) == 4  # two densities, two bands
    both = [base_model.BUNDLED, base_model.WITHOUT]
    (ax,) = base_model.loss_plot(loss, [-0.4], models=both).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == both
    assert len(ax.collections) == 3


def test_three_metrics_by_guidance(guided):
    axes = base_model.guidance_plot(guided).axes
    assert [ax.get_ylabel() for ax in axes] == list(plots.BY_SCALE.values())
    assert all(ax.get_xlabel() == "guidance scale w" and len(ax.containers) == 3 for ax in axes)
    names = [text.get_text() for text in axes[-1].get_legend().get_texts()]
    assert names == ["CFG++", "CFG", "CFG++ at every noise level"]


def test_a_kind_of_guidance_at_a_scale(guided):
    assert base_model.at(guided, "cfg", 1.0)["recall"] == 0.4


def test_without_guidance_a_step_costs_one_call(tiny_denoiser):
    from dataclasses import replace

    from presto_distill.lab.studies import network_calls

    sampling = base_model.judged(BaseModel(solver_steps=5))
    assert network_calls(tiny_denoiser(), sampling) == 10
    alone = replace(sampling, guidance="cfg", guidance_scale=1.0)
    assert network_calls(tiny_denoiser(), alone) == 5
