"""Which blocks run, and how many at which noise level."""

import pytest
import torch

from presto_models.edm import LogNormal, sample_sigma
from presto_models.layer_schedule import (
    MILD,
    LayerSchedule,
    ScheduledDenoiser,
    ase_schedule,
    check_budgets,
    kept_blocks,
    presto_schedule,
    quantile_schedule,
)


@pytest.mark.parametrize(
    ("budget", "drop", "kept"),
    [
        (6, "shifted", [0, 1, 2, 3, 4, 5]),
        (4, "shifted", [0, 1, 2, 5]),
        (1, "shifted", [5]),
        (6, "tail", [0, 1, 2, 3, 4, 5]),
        (4, "tail", [0, 1, 2, 3]),
        (1, "tail", [0]),
    ],
)
def test_kept_blocks(budget, drop, kept):
    assert kept_blocks(budget, 6, drop) == kept


@pytest.mark.parametrize("depth", [1, 5, 24])
def test_presto_is_ase_with_its_last_block_moved_to_the_end(depth):
    for budget in range(1, depth + 1):
        shifted, tail = kept_blocks(budget, depth), kept_blocks(budget, depth, "tail")
        assert len(shifted) == len(tail) == budget
        assert shifted[-1] == depth - 1
        assert shifted[:-1] == tail[:-1]


@pytest.mark.parametrize("budget", [0, 7, -1])
def test_impossible_budgets_are_refused(budget):
    with pytest.raises(ValueError, match=rf"1\.\.6 blocks, got {budget}"):
        kept_blocks(budget, 6)


def test_an_edge_belongs_to_its_noisier_side():
    schedule = LayerSchedule(edges=(0.5, 2.0), budgets=(6, 4, 2))
    sigma = torch.tensor([0.001, 0.4999, 0.5, 1.9999, 2.0, 80.0])
    assert schedule(sigma).tolist() == [6, 6, 4, 4, 2, 2]


def test_bins_are_equally_probable_under_their_law():
    law = LogNormal(P_mean=0.3)
    schedule = quantile_schedule((5, 4, 3, 2, 1), law)
    probability = torch.arange(1, 5, dtype=torch.float64) / 5
    for shift, budgets in ((-1e-4, [5, 4, 3, 2]), (1e-4, [4, 3, 2, 1])):
        assert schedule(law.quantile(probability + shift).float()).tolist() == budgets
    n = 10_000
    drawn = schedule(sample_sigma(law, n, torch.Generator().manual_seed(0)))
    counts = drawn.bincount()[1:]
    assert (counts - n / 5).abs().max() < 4 * (n * 0.2 * 0.8) ** 0.5


def test_the_two_schedules():
    assert presto_schedule(24).budgets == (24, 20, 16, 12, 10)
    assert ase_schedule(28).budgets == (28, 28, 24, 24, 20, 20, 16, 16, 12, 12)
    assert len(presto_schedule(24).edges) == 4
    assert len(ase_schedule(28).edges) == 9


@pytest.mark.parametrize("schedule", [presto_schedule, ase_schedule])
@pytest.mark.parametrize("depth", [2, 4, 16, 24, 28])
def test_scaled_schedules_are_valid_and_fall_with_noise(schedule, depth):
    budgets = schedule(depth).budgets
    assert budgets[0] == depth
    assert sorted(budgets, reverse=True) == list(budgets)
    assert budgets[-1] >= 1


@pytest.mark.parametrize(
    ("edges", "budgets", "reason"),
    [((1.0,), (2,), "1 edges need 2 budgets"), ((2.0, 1.0), (3, 2, 1), "ascend")],
)
def test_a_malformed_schedule_is_refused(edges, budgets, reason):
    with pytest.raises(ValueError, match=reason):
        LayerSchedule(edges, budgets)


def test_scheduled_denoiser_asks_for_each_samples_budget():
    asked = []

    class Stub(torch.nn.Module):
        def forward(self, x, sigma, cond, *, budget):
            asked.append((budget.tolist(), cond))
            return x

    x = torch.zeros(3, 1, 2)
    schedule = LayerSchedule((1.0,), (4, 2))
    assert ScheduledDenoiser(Stub(), schedule)(x, torch.tensor([2.0, 0.5, 1.0]), "c") is x
    assert asked == [([2, 4, 2], "c")]


@pytest.mark.parametrize("budgets", [torch.tensor([4, 2]), torch.tensor(4)])
def test_each_sample_needs_a_budget_of_its_own(budgets):
    with pytest.raises(ValueError, match=r"budgets of shape .* for 3 samples"):
        check_budgets(budgets, 3)


def test_a_milder_schedule_drops_half_as_many():
    mild, full = presto_schedule(24, dropped=MILD), presto_schedule(24)
    assert mild.edges == full.edges
    assert [24 - b for b in full.budgets] == [2 * (24 - b) for b in mild.budgets]


def test_a_schedule_within_the_depth_is_itself_and_others_are_refused():
    schedule = LayerSchedule(edges=(1.0,), budgets=(6, 2))
    assert schedule.within(6) is schedule
    with pytest.raises(ValueError, match=r"within 1\.\.5 blocks, got 6"):
        schedule.within(5)
