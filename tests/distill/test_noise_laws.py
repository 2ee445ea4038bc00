"""Noise laws on a toy: many trainings as one, its exact distance, contrasts and figures."""

import pandas as pd
import pytest
import torch

from presto_distill.lab import noise_laws as nl
from presto_distill.lab import noise_laws_plots, params, studies, toy
from presto_distill.metrics.mmd import gaussian, mmd
from presto_models.edm import KarrasUniform, LogNormal, Precondition

SMALL = nl.sizes("smoke")


def test_the_distance_to_the_mixture_is_that_to_many_points_of_it():
    x = toy.draw(1500, toy.source(0)).squeeze(-1)
    real = toy.draw(4000, toy.source(1)).squeeze(-1)
    for shift in (0.0, 0.1):
        ours = toy.mmd_to_mixture(x + shift)
        assert ours == pytest.approx(mmd(x + shift, real, gaussian(toy.BANDWIDTH)), abs=2e-3)


def test_every_stretch_of_a_batch_has_its_own_law():
    u = torch.rand(6, generator=toy.source(0)).double()
    law = nl.EachItsOwn((LogNormal(), KarrasUniform(), nl.levels(2)))
    parts = [one.quantile(part) for one, part in zip(law.laws, u.split(2), strict=True)]
    assert torch.equal(law.quantile(u), torch.cat(parts))


def test_members_compute_what_each_network_computes_alone():
    torch.manual_seed(0)
    nets = [toy.Net() for _ in range(3)]
    for net in nets:  # they start out silent
        torch.nn.init.normal_(net.leave.weight)
    members = Precondition(nl.Nets(nets))
    x, sigma = torch.randn(6, 2, 1), torch.rand(6) + 0.1
    D_x, (hidden,) = members(x, sigma, None, tap=(1,))
    for i, net in enumerate(nets):
        mine = slice(2 * i, 2 * i + 2)
        alone, (state,) = Precondition(net)(x[mine], sigma[mine], None, tap=(1,))
        torch.testing.assert_close(D_x[mine], alone)
        torch.testing.assert_close(hidden[mine], state)
    assert not torch.equal(members.inner.weights[0][0], members.inner.weights[0][1])


def test_a_member_does_not_depend_on_the_others_laws():
    """Which laws the second and third have decides nothing about the first."""
    teacher = toy.train_teacher(1)
    first, sizes = tuple(nl.LAWS["train"] for _ in nl.PLAYERS), SMALL
    made = []
    for law in ("train", "inf"):
        others = tuple(nl.LAWS[law] for _ in nl.PLAYERS)
        made.append(nl.distill(teacher, [first, others, others], sizes, seed=0))
    before, after = (net.inner.weights for net in made)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(one[0], two[0])
    assert any(not torch.equal(one[1], two[1]) for one, two in zip(before, after, strict=True))


@pytest.fixture(scope="module")
def table():
    return nl.toy_quality(SMALL, seed=0)


def test_the_table_holds_every_combination_and_is_reproducible(table):
    assert len(nl.with_law()) == 16 and nl.PUBLISHED in nl.with_law(gen="inf", dmd="train")
    assert set(table["laws"]) == {*nl.combinations(), "start"}
    assert len(table) == (20 * SMALL.replicas + 1) * len(nl.STEPS)
    assert (table["mmd"] >= 0).all()
    pd.testing.assert_frame_equal(table, nl.toy_quality(SMALL, seed=0))


def planted(spread: float) -> pd.DataFrame:
    """p_dmd = σ_inf costs 0.2 everywhere; two replicas `spread` apart."""
    rows = [
        (name, replica, steps, 0.3 + 0.2 * (name.split()[1] == "inf") + spread * (replica - 0.5))
        for name in nl.with_law()
        for replica in (0, 1)
        for steps in nl.STEPS
    ]
    return pd.DataFrame(rows, columns=["laws", "replica", "steps", "mmd"])


def test_contrasts_find_what_was_planted():
    quiet, loud = planted(0.01), planted(2.0)
    dmd = nl.with_law(dmd="train"), nl.with_law(dmd="inf")
    assert nl.contrast(quiet, *dmd).value == pytest.approx(0.2)
    assert nl.contrast(quiet, *dmd).positive is True
    assert nl.contrast(quiet, *reversed(dmd), 2).positive is False
    assert nl.contrast(loud, *dmd).positive is None
    gan = nl.with_law(gan="train"), nl.with_law(gan="inf")
    assert nl.contrast(quiet, *gan).positive is None
    assert nl.against(quiet, "inf inf inf inf")[0].value == pytest.approx(0.2)
    with pytest.raises(ValueError, match="at least 2"):
        nl.contrast(quiet[quiet["replica"] == 0], *dmd)


def test_figures_name_what_they_show(table):
    left, right = noise_laws_plots.table_one(table).axes
    assert "MMD" in left.get_xlabel() and right.get_xlabel() == "sampler steps"
    assert {text.get_text() for text in left.texts} >= {*nl.PLAYERS, "published"}
    named = [text.get_text() for text in right.get_legend().get_texts()]
    assert named == ["p_gen", "p_dmd", "p_dsm", "p_gan"]
    (ax,) = noise_laws_plots.conditioning(table).axes
    names = {text.get_text() for text in ax.texts}
    assert names == {"continuous", *(f"discrete, {steps}" for steps in nl.STEPS)}
    assert "MMD" in ax.get_ylabel()


def test_laws_by_name():
    assert nl.chosen(params.NoiseLaws(preset="quick")) == ("published", "discrete 2")
    assert nl.chosen(params.NoiseLaws(laws="all σ_inf"))[-1] == "all σ_inf"
    with pytest.raises(ValueError, match="unknown 'all', choose from published"):
        nl.chosen(params.NoiseLaws(laws="all"))


def test_growth_compares_the_quarters_of_a_training():
    assert studies.growth([{"dsm": value} for value in (1, 1, 2, 3)]) == (1, 3)
    assert studies.divergence([{"dsm": value} for value in (1, 1, 2, 3)]) == ""
