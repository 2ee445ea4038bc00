"""What a look at a run's health says, where the answer is known; and that looking changes
nothing."""

import pandas as pd
import pytest
import torch

from presto_distill.health import BUCKETS, probe
from presto_distill.lab.probe_plots import HEALTH, health_panel
from presto_distill.metrics.embed import LatentStatistics
from presto_distill.metrics.frechet import frechet_distance
from presto_distill.objective import Batch
from presto_distill.objectives.denoising import Denoising
from presto_distill.objectives.presto_l import PrestoL
from presto_distill.objectives.presto_ls import PrestoLS
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.trainer import TrainConfig, Trainer
from presto_models.conditioning import null_condition
from presto_models.edm import LogNormal, add_noise
from presto_models.layer_schedule import LayerSchedule

CLIPS = 6
TAPS = {"feature_layer": 1, "width": 16}
HALF_DEPTH = LayerSchedule((1.0,), (4, 2))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch(tiny_condition):
    return Batch(torch.randn(CLIPS, 4, 16, generator=rng(9)) * 0.5, tiny_condition(CLIPS))


@pytest.fixture
def presto_s(tiny_denoiser):
    """Presto-S whose three networks are equal, or with `fake` of other weights."""

    def build(*, fake=None, **changes) -> PrestoS:
        torch.manual_seed(0)
        cfg = PrestoSConfig(**{"guidance_scale": 1.0, **changes})
        objective = PrestoS(tiny_denoiser(), null_condition, cfg, **TAPS)
        if fake is not None:
            objective.fake_score.load_state_dict(fake.state_dict())
        return objective

    return build


def values(rows, measure: str) -> list[float]:
    return [row["value"] for row in rows if row["measure"] == measure]


def test_the_gap_is_zero_when_the_fake_score_is_the_teacher(presto_s, batch):
    assert values(probe(presto_s(), batch, rng()), "gap") == [0.0] * BUCKETS


def test_the_gap_is_one_when_the_fake_score_says_twice_what_the_teacher_says(presto_s, batch):
    objective = presto_s()
    teacher = objective.teacher
    objective.fake_score.forward = lambda *args: 2 * teacher(*args)
    assert values(probe(objective, batch, rng()), "gap") == pytest.approx([1.0] * BUCKETS)


def test_the_weight_is_one_over_the_mean_distance_to_the_teacher(presto_s, batch):
    objective = presto_s()
    objective.teacher = lambda x, sigma, cond: torch.zeros_like(x)
    objective.generate = lambda batch, rng: (
        torch.tensor([1.0, 2, 2, 2, 2, 4]).view(-1, 1, 1) * torch.ones_like(batch.x)
    )
    rows = probe(objective, batch, rng())
    assert values(rows, "dm_weight_mean") == pytest.approx([(1 + 4 * 0.5 + 0.25) / 6])
    assert values(rows, "dm_weight_max_over_median") == pytest.approx([2.0])


def test_scores_are_the_heads_means_and_left_out_where_it_learns_nothing(presto_s, batch):
    objective = presto_s()
    objective.head.forward = lambda hidden: torch.full((len(hidden[0]), 3), 0.25)
    rows = probe(objective, batch, rng())
    assert values(rows, "score_real") == values(rows, "score_fake") == [0.25] * BUCKETS
    assert not values(probe(presto_s(nu_1=0.0, nu_2=0.0), batch, rng()), "score_real")


def test_noise_levels_are_the_medians_of_equally_probable_buckets(presto_s, batch):
    rows = probe(presto_s(p_dmd=LogNormal(P_mean=0.0)), batch, rng())
    found = [row["sigma"] for row in rows if row["measure"] == "gap"]
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = normal.icdf(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])).exp()
    assert found == pytest.approx(expected.tolist(), rel=1e-3)


def test_one_step_samples_are_compared_with_the_batch(presto_s, batch):
    objective = presto_s()
    objective.generator.forward = lambda x, sigma, cond: 3 * batch.x
    embed = LatentStatistics.fit(batch.x, dim=4).embed
    rows = probe(objective, batch, rng(), embed)
    (real,), (ours,) = values(rows, "std_real"), values(rows, "std_generated")
    assert real == pytest.approx(batch.x.std().item()) and ours == pytest.approx(3 * real)
    expected = frechet_distance(embed(3 * batch.x), embed(batch.x))
    assert values(rows, "frechet") == pytest.approx([expected]) and expected > 0.1
    assert len(values(rows, "mmd")) == 1
    assert not values(probe(objective, batch, rng()), "frechet")


def test_one_step_samples_start_from_pure_noise_at_the_top(presto_s, batch):
    objective, seen = presto_s(), {}

    def generator(x, sigma, cond):
        seen.update(x=x, sigma=sigma)
        return x

    objective.generator.forward = generator
    probe(objective, batch, rng())
    assert seen["sigma"].tolist() == pytest.approx([80.0] * CLIPS)
    assert seen["x"].std().item() == pytest.approx(80.0, rel=0.2)


def test_layers_are_probed_once_per_bin(tiny_denoiser, batch):
    objective = PrestoL(tiny_denoiser(), null_condition, HALF_DEPTH, depth=4)
    rows = probe(objective, batch, rng())
    budgets = [(row["measure"], row["budget"]) for row in rows]
    names = ("denoising", "hidden_distance")
    assert budgets == [(name, budget) for budget in (4, 2) for name in names]
    full, short = values(rows, "hidden_distance")
    assert full == 0.0 and short > 0.0


def test_the_denoising_loss_of_layers_is_the_objectives_own(tiny_denoiser, batch):
    """At full depth it is lambda(sigma) times the mean squared error of a plain pass."""
    objective = PrestoL(tiny_denoiser(), null_condition, LayerSchedule((), (4,)), depth=4)
    row, _ = probe(objective, batch, rng())
    sigma = torch.full((CLIPS,), row["sigma"])
    with torch.no_grad():
        error = objective.student(add_noise(batch.x, sigma, rng()), sigma, batch.cond) - batch.x
    weight = (row["sigma"] ** 2 + 0.25) / (row["sigma"] * 0.5) ** 2
    assert row["value"] == pytest.approx(weight * error.square().mean().item(), rel=1e-4)


def test_both_is_probed_with_the_blocks_its_schedule_leaves(tiny_denoiser, batch):
    base, seen = tiny_denoiser(), []
    objective = PrestoLS(base, base, null_condition, HALF_DEPTH, depth=4, **TAPS)
    inner = objective.generator.forward

    def generator(x, sigma, cond=None, *, budget=None, **options):
        seen.append((sigma, budget))
        return inner(x, sigma, cond, budget=budget, **options)

    objective.generator.forward = generator
    assert values(probe(objective, batch, rng()), "gap")
    assert len(seen) == 2 and all(torch.equal(HALF_DEPTH(s), b) for s, b in seen)


def test_a_look_is_in_evaluation_mode_and_leaves_players_and_randomness_alone(presto_s, batch):
    objective, seen = presto_s(), []

    class Noisy(torch.nn.BatchNorm1d):
        def forward(self, x):
            seen.append(self.training)
            return super().forward(x) + torch.randn_like(x)

    norm, plain = Noisy(4), objective.generator.forward
    objective.generator.norm = norm
    objective.generator.forward = lambda x, *args, **options: plain(norm(x), *args, **options)
    objective.generator.inner.blocks[0].eval()
    before, state = norm.running_mean.clone(), torch.get_rng_state()
    rows = probe(objective, batch, rng())
    assert rows == probe(objective, batch, rng()) and seen == 4 * [False]
    assert torch.equal(norm.running_mean, before) and torch.equal(torch.get_rng_state(), state)
    assert objective.generator.training and not objective.generator.inner.blocks[0].training


def test_other_objectives_have_no_rows(tiny_denoiser, batch):
    assert probe(Denoising(tiny_denoiser(), null_condition), batch, rng()) == []


@pytest.mark.parametrize("kind", ["steps", "layers"])
def test_the_same_look_says_the_same_and_changes_no_training(kind, presto_s, tiny_denoiser, batch):
    def train(looks: int) -> list:
        objective = (
            presto_s(critic_updates=1)
            if kind == "steps"
            else PrestoL(tiny_denoiser(), null_condition, HALF_DEPTH, depth=4)
        )
        run = Trainer(objective, TrainConfig(steps=2)).run(lambda start: iter([batch] * 4))
        first = next(run)
        seen = [probe(objective, batch, rng()) for _ in range(looks)]
        assert all(rows == seen[0] for rows in seen)
        second = next(run)
        return [(record.losses, record.grad_norms) for record in (first, second)]

    assert train(looks=2) == train(looks=0)


def test_the_panel_asks_only_what_the_table_answers(presto_s, tiny_denoiser, batch):
    layers = PrestoL(tiny_denoiser(), null_condition, HALF_DEPTH, depth=4)
    few, titles = presto_s(fake=tiny_denoiser(seed=1)), list(HEALTH)
    for objective, asked in ((few, titles[:4]), (layers, titles[-2:])):
        rows = [{"step": k, **row} for k in (0, 1) for row in probe(objective, batch, rng())]
        figure = health_panel(pd.DataFrame(rows))
        assert [ax.get_title("left") for ax in figure.axes] == asked
        figure.canvas.draw()
