"""Presto-L and base training: one loss in two guises, and a teacher that is the student itself."""

import pytest
import torch

from presto_distill import losses
from presto_distill.objective import Batch
from presto_distill.objectives.denoising import Denoising, DenoisingConfig, drop_condition
from presto_distill.objectives.presto_l import PrestoL, PrestoLConfig
from presto_distill.trainer import TrainConfig, Trainer
from presto_models.conditioning import null_condition
from presto_models.edm import Discrete, LogNormal, add_noise, sample_sigma
from presto_models.layer_schedule import LayerSchedule, presto_schedule

BATCH, CHANNELS, FRAMES, DEPTH = 6, 4, 8, 4
FULL = LayerSchedule(edges=(), budgets=(DEPTH,))
HALF = LayerSchedule(edges=(), budgets=(2,))
MIXED = LayerSchedule(edges=(0.6,), budgets=(DEPTH, 2))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def objective(tiny_denoiser):
    def build(schedule: LayerSchedule, **changes) -> PrestoL:
        cfg = PrestoLConfig(**{"taught": 1.0, **changes})
        return PrestoL(tiny_denoiser(), null_condition, schedule, cfg, depth=DEPTH)

    return build


def gradients(module) -> list[torch.Tensor | None]:
    return [p.grad for p in module.parameters()]


# --- base training -------------------------------------------------------------------------------


def test_denoising_is_the_edm_loss(tiny_denoiser, batch):
    D = tiny_denoiser()
    cfg = DenoisingConfig(condition_dropout=0.0)
    terms = Denoising(D, null_condition, cfg).loss(batch, rng(3))
    source = rng(3)
    sigma = sample_sigma(LogNormal(), BATCH, source)
    D_x = D(add_noise(batch.x, sigma, source), sigma, batch.cond)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    expected = (weight * (D_x - batch.x).pow(2).mean((1, 2))).mean()
    torch.testing.assert_close(terms, {"dsm": expected})


def test_the_loss_of_a_perfect_denoiser_is_zero(batch):
    class Oracle(torch.nn.Module):
        def forward(self, x, sigma, cond):
            return batch.x

    assert Denoising(Oracle(), null_condition).loss(batch, rng())["dsm"].item() == 0.0


def test_a_loaded_denoiser_is_trained_in_training_mode(tiny_denoiser):
    assert Denoising(tiny_denoiser().eval(), null_condition).players["base"].training


def test_ten_percent_of_the_conditions_are_dropped_whole(tiny_condition):
    n = 4000
    seconds = torch.arange(1.0, n + 1)
    told = {"key": torch.full((n,), 7), "start": seconds, "total": 2 * seconds, "beat": seconds}
    tags = torch.ones(n, 2, dtype=torch.bool)
    cond = tiny_condition(n)._replace(tempo=torch.full((n,), 99.0), tags=tags, **told)
    dropped = drop_condition(cond, null_condition, 0.1, rng())
    gone = dropped.tempo == 0
    assert abs(gone.sum() - 0.1 * n) < 4 * (n * 0.1 * 0.9) ** 0.5
    null = null_condition(cond)
    for kept, now, nothing in zip(cond, dropped, null, strict=True):
        assert torch.equal(now[gone], nothing[gone])
        assert torch.equal(now[~gone], kept[~gone])


@pytest.mark.parametrize(("rate", "gone"), [(0.0, 0), (1.0, BATCH)])
def test_dropout_rates_of_zero_and_one(batch, rate, gone):
    cond = batch.cond._replace(tempo=torch.full((BATCH,), 99.0))
    assert (drop_condition(cond, null_condition, rate, rng()).tempo == 0).sum() == gone
    for nothing in (None, {}, {"label": None}):
        assert drop_condition(nothing, null_condition, rate, rng()) is nothing


# --- Presto-L ------------------------------------------------------------------------------------


def test_published_defaults():
    assert PrestoLConfig() == PrestoLConfig(nu=0.1, condition_dropout=0.1, p_train=LogNormal())


def test_with_the_full_budget_it_is_base_training(objective, tiny_denoiser, batch):
    terms = objective(FULL).loss(batch, rng(3))
    base = Denoising(tiny_denoiser(), null_condition).loss(batch, rng(3))
    assert terms["self_teacher"] == 0  # nothing was dropped, so there is nothing to be taught
    assert torch.equal(terms["dsm"], base["dsm"])


@pytest.mark.parametrize("schedule", [HALF, MIXED, presto_schedule(DEPTH)], ids=str)
def test_terms_in_closed_form(objective, batch, schedule):
    """The teacher's term over the whole batch: samples at full budget contribute zeros to it."""
    objective = objective(schedule, condition_dropout=0.0)
    terms = objective.loss(batch, rng(3))

    D, source = objective.student, rng(3)
    sigma = sample_sigma(LogNormal(), BATCH, source)
    noised = add_noise(batch.x, sigma, source)
    D_x, dropped = D(noised, sigma, batch.cond, budget=schedule(sigma), tap=-1)
    _, full = D(noised, sigma, batch.cond, tap=DEPTH - 1)
    distance = losses.self_teacher(dropped, full)
    # Grouping by budget changes the order of summation, so zero is up to rounding here.
    assert distance[schedule(sigma) == DEPTH].abs().sum() < 1e-8
    expected = {
        "dsm": losses.denoising(D_x, batch.x, sigma).mean(),
        "self_teacher": 0.1 * distance.mean(),
    }
    torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-6)
    assert terms["self_teacher"] > 1e-4


def test_nu_zero_leaves_the_term_out_and_nu_scales_it(objective, batch):
    nothing, once, twice = (objective(HALF, nu=nu).loss(batch, rng()) for nu in (0.0, 0.1, 0.2))
    assert nothing.keys() == {"dsm"}
    assert torch.equal(once["dsm"], nothing["dsm"])
    torch.testing.assert_close(2 * once["self_teacher"], twice["self_teacher"])


def test_the_full_pass_teaches_and_does_not_learn(objective, batch):
    """Blocks that only the full pass runs receive no gradient from the self-teacher's term."""
    objective = objective(HALF)
    objective.loss(batch, rng())["self_teacher"].backward()
    for i, block in enumerate(objective.student.inner.blocks):
        reached = [g is not None and bool(g.any()) for g in gradients(block)]
        assert all(reached) if i in (0, DEPTH - 1) else not any(reached)
    # The output head comes after the compared states.
    assert not any(g is not None and g.any() for g in gradients(objective.student.inner.output))


def test_the_full_pass_runs_for_shortened_samples_only(objective, batch):
    objective = objective(MIXED, p_train=Discrete((0.1, 10.0)))
    seen = []
    objective.student.inner.blocks[1].register_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0]))
    )
    objective.loss(batch, rng(1))
    source = rng(1)
    drop_condition(batch.cond, null_condition, 0.1, source)
    short = int((sample_sigma(Discrete((0.1, 10.0)), BATCH, source) > 1).sum())
    assert 0 < short < BATCH
    assert seen == [BATCH - short, short]  # block 1: the full-budget samples, then the teacher


def test_the_student_is_a_copy_that_drops_what_its_schedule_says(tiny_denoiser, batch):
    base = tiny_denoiser()
    objective = PrestoL(base, null_condition, HALF, depth=DEPTH)
    assert objective.student is not base
    assert objective.players == {"student": objective.student}
    sum(objective.loss(batch, rng()).values()).backward()
    assert all(g is None for g in gradients(base))
    assert all(g is None for g in gradients(objective.student.inner.blocks[1]))


def test_an_unconditional_batch_needs_no_condition(objective):
    x = torch.randn(BATCH, CHANNELS, FRAMES, generator=rng(9))
    terms = objective(MIXED).loss(Batch(x), rng(1))
    assert all(term.isfinite() for term in terms.values())
    assert terms.keys() == {"dsm", "self_teacher"}


# --- teachers, features, schedules ---------------------------------------------------------------


def distance_to(teacher, objective, batch, compare="state") -> torch.Tensor:
    """The self-teacher's term by hand, with the draws of `rng(3)`."""
    source = rng(3)
    sigma = sample_sigma(LogNormal(), BATCH, source)
    noised = add_noise(batch.x, sigma, source)
    D_x, dropped = objective.student(noised, sigma, batch.cond, budget=2, tap=-1)
    D_full, full = teacher(noised, sigma, batch.cond, budget=DEPTH, tap=-1)
    if compare == "output":
        return 0.1 * losses.denoising(D_x, D_full, sigma).mean()
    return 0.1 * losses.self_teacher(dropped, full, normalise=compare == "state").mean()


@pytest.mark.parametrize("compare", ["state", "raw_state", "output"])
def test_what_is_compared_is_a_choice(objective, batch, compare):
    objective = objective(HALF, condition_dropout=0.0, compare=compare)
    term = objective.loss(batch, rng(3))["self_teacher"]
    expected = distance_to(objective.student, objective, batch, compare)
    torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-6)


def test_compared_outputs_are_weighed_by_the_models_own_sigma_data(objective, batch):
    how = {"condition_dropout": 0.0, "compare": "output", "nu": 1.0}
    terms = [
        objective(HALF, **how, p_train=Discrete((2.0,)), sigma_data=data).loss(batch, rng(3))
        for data in (0.5, 1.0)
    ]
    weights = [(2.0**2 + data**2) / (2.0 * data) ** 2 for data in (0.5, 1.0)]
    ratio = terms[0]["self_teacher"] / terms[1]["self_teacher"]
    torch.testing.assert_close(ratio, torch.tensor(weights[0] / weights[1]))


@pytest.mark.parametrize("teacher", ["ema", "base"])
def test_another_teacher_teaches_and_never_learns(objective, tiny_denoiser, batch, teacher):
    objective = objective(HALF, condition_dropout=0.0, teacher=teacher)
    trainer = Trainer(objective, TrainConfig(steps=1))
    for net in (objective.student, trainer.averages["student"]):  # both away from the base
        net.load_state_dict(tiny_denoiser(seed=5 + (net is objective.student)).state_dict())
    net = trainer.averages["student"] if teacher == "ema" else tiny_denoiser()
    term = objective.loss(batch, rng(3))["self_teacher"]
    torch.testing.assert_close(term, distance_to(net, objective, batch), rtol=1e-4, atol=1e-6)
    term.backward()
    teachers = [*trainer.averages.values(), *objective.fixed.values()]
    assert all(p.grad is None for net in teachers for p in net.parameters())


def test_an_average_that_nobody_keeps_is_refused(objective, batch):
    with pytest.raises(ValueError, match="needs a Trainer"):
        objective(HALF, teacher="ema").loss(batch, rng())


def test_budgets_beyond_the_network_are_refused(objective):
    with pytest.raises(ValueError, match=r"within 1\.\.4 blocks, got 5"):
        objective(LayerSchedule(edges=(), budgets=(DEPTH + 1,)))


def test_teaching_in_a_share_of_the_steps_is_unbiased(objective, batch):
    """A quarter of the steps says four times as much as every step would, the others nothing."""
    always, sometimes = (objective(HALF, taught=share) for share in (1.0, 0.25))
    whole, part = (
        torch.stack([one.loss(batch, rng(seed))["self_teacher"] for seed in range(60)])
        for one in (always, sometimes)
    )
    taught = part != 0
    assert 8 <= taught.sum() <= 22  # 15 expected, deviation 3.4
    torch.testing.assert_close(part[taught], 4 * whole[taught])
    with pytest.raises(ValueError, match="taught must be"):
        PrestoLConfig(taught=0.0)
