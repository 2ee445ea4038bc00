"""The notebook on samplers: equal evaluations, and figures and verdicts of made-up numbers."""

import pandas as pd
import pytest

from presto_distill.lab import samplers, studies
from presto_distill.lab.params import Samplers


def row(value: float, width: float = 0.01, **facts) -> dict:
    name = "frechet_distance"
    return {name: value, f"{name}_low": value - width, f"{name}_high": value + width, **facts}


@pytest.fixture(scope="module")
def base():
    rows = [
        row(distance / n, model="base", solver=solver, steps=n, calls=calls[n], rho=7.0)
        | {"evaluations": n}
        for solver, distance, calls in (
            ("Euler", 4.0, {3: 5, 9: 15}),  # guided at some noise levels only
            ("Heun", 6.0, {3: 6, 9: 17}),
            ("DPM-Solver++ 2M", 1.0, {3: 5, 9: 15}),
        )
        for n in (3, 9)
    ]
    rows += [{**one, "rho": 1000.0} for one in rows if one["evaluations"] == 9]
    long = row(0.05, model=samplers.REFERENCE, solver="Heun", steps=24, calls=83, rho=7.0)
    rows.append(long | {"evaluations": 47})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def few():
    values = {(7.0, 1): 0.9, (1000.0, 1): 0.9, (7.0, 2): 0.4, (1000.0, 2): 0.3}
    rows = [
        row(value, model="Presto-S", solver="few-step", steps=steps, calls=steps, rho=rho)
        for (rho, steps), value in values.items()
    ]
    return pd.DataFrame(rows)


def test_solvers_meet_at_equal_evaluations(tiny_denoiser):
    net = tiny_denoiser()
    for evaluations in (1, 3, 9):
        spent = {
            solver: studies.network_calls(net, samplers.at_evaluations(solver, evaluations))
            for solver in Samplers.solvers
        }
        heun = spent.pop("heun")
        assert set(spent.values()) == {2 * evaluations}  # guided
        assert heun == 2 * evaluations - evaluations // 2  # but not every second one
    with pytest.raises(ValueError, match="evaluations must be odd"):
        samplers.at_evaluations("heun", 4)


def test_solvers_against_evaluations(base):
    bounds = pd.DataFrame([row(0.02, model=studies.REAL)])
    (ax,) = samplers.evaluations_plot(base, bounds).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "Euler",
        "Heun",
        "DPM-Solver++ 2M",
    ]
    assert "evaluations" in ax.get_xlabel() and "Fréchet" in ax.get_ylabel()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["3", "9"]
    assert {text.get_text() for text in ax.texts} == {
        "Heun, 47 evaluations (24 steps)",
        "other real clips",
    }
    at = {text.get_text(): text.get_va() for text in ax.texts}  # never over each other
    assert at == {"Heun, 47 evaluations (24 steps)": "bottom", "other real clips": "top"}


def test_levels_are_those_the_sampler_visits():
    table = samplers.levels(Samplers(steps=(1, 4)))
    at = {
        rho: [round(sigma, 2) for sigma in rows["sigma"]]
        for rho, rows in table[table["steps"] == 4].groupby("rho")
    }
    assert at == {7.0: [80.0, 17.53, 2.52, 0.17], 1000.0: [80.0, 5.72, 0.41, 0.03]}
    (ax,) = samplers.levels_plot(table).axes
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == ["1 step, ρ = 7", "1 step, ρ = 1000", "4 steps, ρ = 7", "4 steps, ρ = 1000"]
    assert "σ" in ax.get_xlabel() and ax.get_xscale() == "log"


def test_both_models_by_rho(base, few):
    left, right = samplers.rho_plot(base, few).axes
    assert left.get_title(loc="left") == "Base model, 9 evaluations"
    assert len(left.containers) == len(right.containers) == 2
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["ρ = 7", "ρ = 1000"]
    assert right.get_xlabel() == "sampler steps"


def test_rho_is_free_unless_another_is_clearly_worse(few):
    found = samplers.rho_verdict(few)
    assert found["held"] and found["effect"] == pytest.approx(0.1)
    assert found["rule"] == "not below" and "clearly better" in found["evidence"]
    swapped = few.assign(rho=1007 - few["rho"]).iloc[::-1]
    swapped = samplers.rho_verdict(swapped.sort_values("rho"))
    assert swapped["held"] is False and swapped["effect"] == pytest.approx(-0.1)
    assert samplers.rho_verdict(few[few["steps"] == 1])["held"] is None


def test_a_duel_is_fought_at_the_most_evaluations_whatever_they_call(base):
    found = samplers.duel(base, "Euler", "Heun")
    assert found["held"] and found["effect"] == pytest.approx(2 / 9)
    assert found["evidence"].startswith("9 evaluations: Euler 0.444")
    assert "with 15 calls, Heun 0.667" in found["evidence"]
