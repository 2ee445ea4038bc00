"""Presto-LS: whose layers drop, who teaches whom, and what the orders have in common."""

import pytest
import torch

from presto_distill.objectives.presto_l import full_depth_distance
from presto_distill.objectives.presto_ls import PrestoLS, PrestoLSConfig
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_models.conditioning import null_condition
from presto_models.edm import KarrasUniform, add_noise, sample_sigma
from presto_models.layer_schedule import LayerSchedule

BATCH, CHANNELS, FRAMES, WIDTH, DEPTH, TAP = 4, 4, 16, 16, 4, 1
MIXED = LayerSchedule(edges=(1.0,), budgets=(4, 2))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def objective(tiny_denoiser):
    def build(schedule=MIXED, tap=TAP, **changes) -> PrestoLS:
        torch.manual_seed(0)
        return PrestoLS(
            tiny_denoiser(seed=1),
            tiny_denoiser(seed=2),
            null_condition,
            schedule,
            PrestoLSConfig(**changes),
            depth=DEPTH,
            feature_layer=tap,
            width=WIDTH,
        )

    return build


def test_presto_ls_drops_layers_in_the_generator_only(objective, tiny_denoiser, batch):
    schedule = MIXED
    base, student = tiny_denoiser(seed=1), tiny_denoiser(seed=2)
    objective = objective()
    sigma, x, cond = torch.tensor([0.1, 5.0, 0.3, 80.0]), batch.x, batch.cond
    source = rng(7)
    drawn = sample_sigma(KarrasUniform(), BATCH, source)
    expected = student(add_noise(x, drawn, source), drawn, cond, budget=schedule(drawn))
    assert torch.equal(objective.generate(batch, rng(7)), expected)
    assert torch.equal(objective.fake_score(x, sigma, cond), base(x, sigma, cond, budget=4))
    D, D_null = base(x, sigma, cond, budget=4), base(x, sigma, null_condition(cond), budget=4)
    torch.testing.assert_close(objective.teacher(x, sigma, cond), D_null + 4.5 * (D - D_null))

    objective.players["critic"].requires_grad_(False)
    sum(objective.generator_loss(batch, rng()).values()).backward()
    assert objective.generator.inner.blocks[-1].mlp.down.weight.grad.any()


def test_at_full_budget_it_is_presto_s(objective, tiny_denoiser, batch):
    both = objective(LayerSchedule(edges=(), budgets=(DEPTH,)))
    torch.manual_seed(0)
    steps = PrestoS(
        tiny_denoiser(seed=1),
        null_condition,
        PrestoSConfig(),
        feature_layer=TAP,
        width=WIDTH,
        generator=tiny_denoiser(seed=2),
    )
    for loss in ("critic_loss", "generator_loss"):
        ours, theirs = getattr(both, loss)(batch, rng(3)), getattr(steps, loss)(batch, rng(3))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_generators_self_teacher_in_closed_form(objective, batch):
    objective = objective(nu=0.2)
    terms = objective.generator_loss(batch, rng(5))
    source, G = rng(5), objective.generator
    sigma = sample_sigma(KarrasUniform(), BATCH, source)
    noised, budget = add_noise(batch.x, sigma, source), MIXED(sigma)
    dropped = G(noised, sigma, batch.cond, budget=budget, tap=-1)
    distance = full_depth_distance(G, dropped, noised, sigma, batch.cond, budget, depth=DEPTH)
    assert distance[budget < DEPTH].all() and not distance[budget == DEPTH].any()
    torch.testing.assert_close(terms["self_teacher"], 0.2 * distance.mean())
    assert "self_teacher" not in objective.critic_loss(batch, rng())


def test_a_dropped_fake_score_starts_from_the_generator_and_drops_with_it(objective, batch):
    schedule = LayerSchedule(edges=(1.0,), budgets=(4, 3))
    objective = objective(schedule, fake_score="dropped")
    sigma = torch.tensor([0.1, 5.0, 0.3, 80.0])
    expected = objective.generator(batch.x, sigma, batch.cond, budget=schedule(sigma))
    assert torch.equal(objective.fake_score(batch.x, sigma, batch.cond), expected)
    _, hidden = objective.fake_score(batch.x, sigma, batch.cond, tap=(TAP,))
    alone = objective.fake_score.features(batch.x, sigma, batch.cond, tap=(TAP,))
    assert torch.equal(hidden[0], alone[0])
    sum(objective.critic_loss(batch, rng()).values()).backward()
    assert all(p.grad is not None for p in objective.head.parameters())


def test_the_head_reads_a_block_that_always_runs(objective):
    said = r"block 1 of a dropped fake score.*blocks 0\.\.0 and the last one only"
    with pytest.raises(ValueError, match=said):
        objective(fake_score="dropped")


@pytest.mark.parametrize(
    ("tap", "changes"),
    [(0, {}), (DEPTH - 1, {}), (-1, {}), (1, {"features": "teacher"}), (1, {"nu_1": 0, "nu_2": 0})],
)
def test_a_dropped_fake_score_is_read_where_it_runs_or_not_at_all(objective, batch, tap, changes):
    built = objective(tap=tap, fake_score="dropped", head_layers=1, **changes)
    assert all(term.isfinite() for term in built.critic_loss(batch, rng()).values())


@pytest.mark.parametrize("budgets", [(5, 2), (4, 0)])
def test_budgets_beyond_the_network_are_refused(objective, budgets):
    with pytest.raises(ValueError, match=r"within 1\.\.4 blocks, got [50]"):
        objective(LayerSchedule(edges=(1.0,), budgets=budgets))
