"""The baselines: maps at the ends of a trajectory, losses in closed form, and who may move."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from presto_distill.baselines.ase import ase, ase_denoiser
from presto_distill.baselines.consistency import (
    ConsistencyConfig,
    ConsistencyDistillation,
    ConsistencyFunction,
    boundary_scalings,
    distance,
    heun_step,
)
from presto_distill.baselines.dmd_gan import dmd_gan
from presto_distill.baselines.trajectory import (
    TrajectoryConfig,
    TrajectoryDistillation,
    ditto_ctm,
    feature_distance,
    jump,
    soundctm,
    with_trajectory,
)
from presto_distill.objective import Objective
from presto_distill.objectives.presto_l import PrestoL
from presto_distill.objectives.presto_s import PrestoS
from presto_distill.trainer import TrainConfig, Trainer
from presto_models.conditioning import null_condition
from presto_models.dit import PrestoDenoiser
from presto_models.edm import (
    SIGMA_MIN,
    KarrasUniform,
    Precondition,
    add_noise,
    karras_sigmas,
    sample_sigma,
    scalings,
)
from presto_models.guidance import guided
from presto_models.layer_schedule import LayerSchedule, ase_schedule
from presto_models.samplers import few_step_sigmas, heun, jumps, multistep, sample

BATCH, CHANNELS, FRAMES, WIDTH, DEPTH = 4, 4, 16, 16, 4
SIGMA = torch.tensor([0.002, 0.3, 2.5, 80.0])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def g(tiny_denoiser):
    """A network that jumps, its weights random, and so its words about where a jump ends."""
    return tiny_denoiser(seed=2, trajectory=True)


@pytest.fixture
def objectives(tiny_denoiser, g):
    """Builds each baseline by name, its student other than its teacher."""
    teacher, student = tiny_denoiser(seed=1), tiny_denoiser(seed=2)

    def build(name: str, **changes) -> Objective:
        torch.manual_seed(0)
        if name == "dmd_gan":
            options = dict(feature_layer=1, width=WIDTH, generator=student)
            return PrestoS(teacher, null_condition, dmd_gan(), **options)
        if name == "ase":
            cfg, schedule = ase(DEPTH)
            return PrestoL(ase_denoiser(teacher), null_condition, schedule, cfg, depth=DEPTH)
        if name == "consistency":
            cfg = ConsistencyConfig(**changes)
            return ConsistencyDistillation(teacher, null_condition, cfg, student=student)
        presets = {"soundctm": soundctm(), "ditto_ctm": ditto_ctm()}
        cfg = presets.get(name) or TrajectoryConfig(**{"levels": 4, "heun_steps": 2, **changes})
        return TrajectoryDistillation(teacher, null_condition, cfg, student=g)

    return build


ALL = ["dmd_gan", "consistency", "trajectory", "soundctm", "ditto_ctm", "ase"]


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def equal(module: nn.Module, before: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True)]


# --- who moves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_the_turns_player_and_nobody_else(objectives, batch, name):
    objective = objectives(name)
    trainer = Trainer(objective, TrainConfig(steps=1))
    assert isinstance(objective, Objective)
    for player, turn in {turn.player: turn for turn in objective.turns}.items():
        others = [net for other, net in objective.players.items() if other != player]
        others += [*objective.fixed.values(), *trainer.averages.values()]
        before = [weights(net) for net in others]
        trainer._take(turn, 0, iter([batch]))
        assert sum(p.grad is not None and bool(p.grad.any()) for p in weights_of(objective, player))
        moved = [net for net, old in zip(others, before, strict=True) if not all(equal(net, old))]
        assert moved == [trainer.averages[player]]  # by its own rule
        assert all(p.grad is None for net in others for p in net.parameters())
        objective.players[player].zero_grad()


def weights_of(objective: Objective, player: str) -> list[nn.Parameter]:
    return list(objective.players[player].parameters())


@pytest.mark.parametrize("name", ["consistency", "trajectory"])
def test_the_moving_average_moves_by_its_rule_and_the_teacher_not_at_all(objectives, batch, name):
    objective = objectives(name)
    trainer = Trainer(objective, TrainConfig(steps=3, lr=1e-3, ema_decay=0.5))
    teacher, expected = weights(objective.fixed["teacher"]), weights(objective.student)
    for record in trainer.run(lambda start: iter([batch] * 3)):
        d = min(0.5, record.step / (9 + record.step))  # the trainer's decay before this step
        expected = [
            d * old + (1 - d) * p
            for old, p in zip(expected, weights(objective.student), strict=True)
        ]
    assert objective.averages["student"] is trainer.averages["student"]
    torch.testing.assert_close(weights(trainer.averages["student"]), expected)
    assert not all(equal(trainer.averages["student"], weights(objective.student)))
    assert all(equal(objective.fixed["teacher"], teacher))


@pytest.mark.parametrize("name", ["consistency", "trajectory"])
def test_a_moving_average_as_target_needs_a_trainer(objectives, batch, name):
    with pytest.raises(ValueError, match=r'target="ema" needs a Trainer'):
        objectives(name).loss(batch, rng())


@pytest.mark.parametrize("name", ["consistency", "trajectory"])
@pytest.mark.parametrize(
    ("interval", "scales"),
    [((1.0, 2.0), (4.5, 1.0)), ((0.1, 1.0), (1.0, 4.5)), ((0.5, 2.0), (4.5, 1.0))],
)
def test_the_teacher_is_guided_only_where_it_says_that_guidance_is_sound(
    tiny_denoiser, g, batch, name, interval, scales
):
    """By its step from one level to another, both of whose slopes are guided or not."""
    D, (x, cond), source = tiny_denoiser(seed=1, guidance_interval=interval), batch, rng(5)
    low, high = torch.full((BATCH,), 0.5), torch.full((BATCH,), 2.0)
    ends = dict(levels=2, sigma_min=0.5, sigma_max=2.0, target="stop_gradient")
    if name == "consistency":
        cfg, student = ConsistencyConfig(**ends), tiny_denoiser(seed=2)
        objective = ConsistencyDistillation(D, null_condition, cfg, student=student)
        torch.randint(1, (BATCH,), generator=source)
    else:
        cfg = TrajectoryConfig(**ends, heun_steps=1, compare="trajectory", dsm=0.0)
        objective = TrajectoryDistillation(D, null_condition, cfg, student=g)
        objective._levels(BATCH, source, "cpu")
    noised = add_noise(x, high, source)

    def slope(x, sigma, scale):
        D_x, D_null = D(x, sigma, cond), D(x, sigma, null_condition(cond))
        return (x - D_null - scale * (D_x - D_null)) / sigma.view(-1, 1, 1)

    first = slope(noised, high, scales[0])
    solved = noised - 1.5 * (first + slope(noised - 1.5 * first, low, scales[1])) / 2
    if name == "consistency":
        here = objective.student(noised, high, cond)
    else:
        here = jump(g, noised, high, low, cond)
    terms = objective.loss(batch, rng(5))
    torch.testing.assert_close(terms["consistency"], (here - solved).square().mean())


# --- DMD-GAN -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [7.0, 1000.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_discrete_generator_trains_at_exactly_the_levels_its_sampler_visits(steps, rho):
    visited = []

    def G(x, sigma, cond):
        visited.append(sigma.unique().item())
        return x

    noise = torch.randn(2, CHANNELS, FRAMES, generator=rng())
    sample(multistep(G, noise, few_step_sigmas(steps, rho=rho), rng=rng()))
    trained = sample_sigma(dmd_gan(steps, rho=rho).p_gen, 200, rng()).unique()
    assert trained.tolist() == sorted(visited)


def test_dmd_gan_is_dmd2s_imagenet_setting():
    cfg = dmd_gan()
    assert (cfg.nu_1, cfg.nu_2, cfg.critic_updates) == (3e-3, 1e-2, 5)
    assert (cfg.gan, cfg.pooled, cfg.weighting) == ("softplus", True, "dmd")
    assert cfg.p_dsm == cfg.p_gan == KarrasUniform()
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    inner = KarrasUniform().quantile(torch.tensor([0.02, 0.98], dtype=torch.float64))
    torch.testing.assert_close(cfg.p_dmd.quantile(ends), inner)


def test_dmd_gan_scores_a_clip_with_one_number(objectives, batch):
    objective = objectives("dmd_gan")
    assert objective._score(batch.x, batch.cond, rng()).shape == (BATCH, 1)


# --- consistency ---------------------------------------------------------------------------------


def test_boundary_scalings_are_consistency_models_own_parameterisation(batch):
    """c_skip'(s) x + c_out'(s) F, written for the raw network, equals what is made of D."""
    sigma, x = SIGMA.double(), batch.x.double()
    s = sigma.view(-1, 1, 1)
    F_x = torch.randn(x.shape, generator=rng(), dtype=torch.float64)
    c_skip, c_out, _, _ = (c.view(-1, 1, 1) for c in scalings(sigma))
    of_x, of_D = (c.view(-1, 1, 1) for c in boundary_scalings(sigma))
    published = 0.25 / ((s - 0.002) ** 2 + 0.25) * x
    published = published + 0.5 * (s - 0.002) / (0.25 + s**2).sqrt() * F_x
    torch.testing.assert_close(of_x * x + of_D * (c_skip * x + c_out * F_x), published)


def test_any_denoiser_becomes_the_identity_at_sigma_min(tiny_denoiser, batch):
    f, lowest = ConsistencyFunction(tiny_denoiser()), karras_sigmas(40)[-1].expand(BATCH)
    assert torch.equal(f(batch.x, lowest, batch.cond), batch.x)
    assert not torch.allclose(f(batch.x, 2 * lowest, batch.cond), batch.x, atol=1e-7, rtol=0)


def test_a_consistency_function_is_a_denoiser_for_multistep(tiny_denoiser, batch):
    f = ConsistencyFunction(tiny_denoiser())
    first, last = multistep(f, batch.x, few_step_sigmas(2), batch.cond, rng=rng())
    high = torch.full((BATCH,), 80.0)
    assert torch.equal(first.denoised, f(80 * batch.x, high, batch.cond))
    assert last.x.shape == batch.x.shape


def test_a_heun_step_between_levels_of_each_sample_is_the_samplers(tiny_denoiser, batch):
    D, after = tiny_denoiser(), SIGMA[:3]
    sigma, x = SIGMA[1:], batch.x[:3]
    cond = tree_map_only(torch.Tensor, lambda leaf: leaf[:3], batch.cond)
    together = heun_step(D, x, sigma, after, cond)
    for i in range(3):
        one = tree_map_only(torch.Tensor, lambda leaf, i=i: leaf[i : i + 1], cond)
        levels = torch.stack([sigma[i], after[i]])
        alone = next(heun(D, x[i : i + 1] / sigma[i], levels, one)).x
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", ["uniform", "inverse_step"])
@pytest.mark.parametrize("metric", ["squared", "pseudo_huber"])
def test_on_two_levels_the_answer_is_the_guided_teachers_own_step(
    objectives, tiny_denoiser, batch, metric, weight
):
    """From sigma_max to sigma_min, where the target's answer is the teacher's solution itself."""
    options = dict(levels=2, target="stop_gradient", metric=metric, weight=weight)
    terms = objectives("consistency", **options).loss(batch, rng(5))
    source, high = rng(5), torch.full((BATCH,), 80.0)
    torch.randint(1, (BATCH,), generator=source)
    noised = add_noise(batch.x, high, source)
    D = guided(tiny_denoiser(seed=1), 4.5, null_condition)
    solved = next(heun(D, noised / 80, torch.tensor([80, 0.002]), batch.cond)).x
    error = ConsistencyFunction(tiny_denoiser(seed=2))(noised, high, batch.cond) - solved
    if metric == "squared":
        expected = error.square().mean()
    else:
        c2 = 0.00054**2 * CHANNELS * FRAMES
        expected = ((error.square().sum((1, 2)) + c2).sqrt() - c2**0.5).mean()
    if weight == "inverse_step":
        expected = expected / (80 - 0.002)
    torch.testing.assert_close(terms, {"consistency": expected}, rtol=1e-4, atol=1e-5)


def test_pseudo_huber_is_quadratic_near_zero_and_a_norm_far_away():
    a, direction = torch.zeros(1, 2, 8), torch.randn(1, 2, 8, generator=rng())
    c = 0.1 * 16**0.5
    near, far = 1e-3 * direction, 1e3 * direction
    quadratic = near.square().sum() / (2 * c)
    torch.testing.assert_close(distance(a, near, "pseudo_huber", huber=0.1)[0], quadratic,
                               rtol=1e-2, atol=1e-7)  # fmt: skip
    torch.testing.assert_close(distance(a, far, "pseudo_huber", huber=0.1)[0], far.norm() - c)


def test_fewer_than_two_levels_have_no_neighbours():
    with pytest.raises(ValueError, match="at least 2 levels, got 1"):
        ConsistencyConfig(levels=1)


# --- trajectories --------------------------------------------------------------------------------


def test_a_jump_of_no_length_is_the_identity_and_one_to_zero_is_the_network(g, batch):
    zero = torch.zeros(BATCH)
    assert torch.equal(jump(g, batch.x, SIGMA, SIGMA, batch.cond), batch.x)
    expected = g(batch.x, SIGMA, batch.cond, sigma_to=zero)
    assert torch.equal(jump(g, batch.x, SIGMA, zero, batch.cond), expected)


def test_with_trajectory_ignores_the_end_of_a_jump_until_it_has_learnt(tiny_denoiser, batch):
    base = tiny_denoiser(schedule=LayerSchedule(edges=(1.0,), budgets=(4, 2)))
    before, student = weights(base), with_trajectory(base)
    x, cond = batch
    for sigma_to in (0 * SIGMA, SIGMA / 2, SIGMA):
        D_x = student(x, SIGMA, cond, sigma_to=sigma_to)
        assert torch.equal(D_x, base(x, SIGMA, cond))
    student(x, SIGMA, cond, sigma_to=SIGMA / 2).square().sum().backward()
    assert student.inner.noise_to.out.weight.grad.any()  # and it can
    nn.init.ones_(student.inner.noise_to.out.weight)
    assert not torch.equal(student(x, SIGMA, cond, sigma_to=SIGMA / 2), base(x, SIGMA, cond))
    student.requires_grad_(False).inner.input.weight.zero_()
    assert all(equal(base, before))  # a copy


@pytest.mark.parametrize(("levels", "heun_steps"), [(2, 1), (5, 1), (6, 4)])
def test_levels_are_in_order_on_the_grid_and_every_place_occurs(objectives, levels, heun_steps):
    objective = objectives("trajectory", levels=levels, heun_steps=heun_steps)
    grid, source, seen = objective.grid.tolist(), rng(), set()
    for _ in range(60):
        t, between, s = objective._levels(20, source, "cpu")
        assert len(between) <= heun_steps
        path = torch.stack([t, *between]).T.tolist()
        for levels_of_one, last in zip(path, s.tolist(), strict=True):
            places = [grid.index(level) for level in levels_of_one]
            assert places == list(range(places[0], places[-1] - 1, -1))  # neighbour by neighbour
            assert grid.index(last) <= places[-1]
            seen.add((places[0], places[-1], grid.index(last)))
    expected = {
        (t, u, s)
        for t in range(levels)
        for u in range(max(0, t - heun_steps), t)
        for s in range(u + 1)
    }
    assert seen == expected


@pytest.mark.parametrize("compare", ["trajectory", "sample", "features"])
def test_a_jump_is_compared_where_the_config_says(objectives, tiny_denoiser, g, batch, compare):
    """On two levels the other way round is the teacher's step from sigma_max to sigma_min."""
    options = dict(levels=2, heun_steps=1, target="stop_gradient", compare=compare, dsm=0.0)
    objective = objectives("trajectory", **options)
    terms = objective.loss(batch, rng(5))
    source, cond = rng(5), batch.cond
    low, high = (torch.full((BATCH,), level) for level in (0.002, 80.0))
    torch.randint(1, 2, (), generator=source)
    torch.randint(1, 2, (BATCH,), generator=source)
    torch.rand(BATCH, generator=source)
    noised = add_noise(batch.x, high, source)
    D = guided(tiny_denoiser(seed=1), 4.5, null_condition)
    there = next(heun(D, noised / 80, torch.tensor([80, 0.002]), cond)).x
    here = jump(g, noised, high, low, cond)
    if compare == "sample":
        here, there = (g(x, low, cond, sigma_to=torch.zeros(BATCH)) for x in (here, there))
    expected = (here - there).square().mean()
    if compare == "features":
        net = tiny_denoiser(seed=1)
        here, there = (net.features(x, low, cond, tap=(-1,)) for x in (here, there))
        cosine = nn.functional.cosine_similarity(here[0], there[0], dim=-1)
        expected = (2 - 2 * cosine).mean()
    torch.testing.assert_close(terms, {"consistency": expected}, rtol=1e-3, atol=1e-5)


def test_in_sample_space_the_gradient_passes_through_the_target_but_not_into_it(
    objectives, g, batch
):
    """The same network as student and target, against a frozen copy of it as target."""
    one = objectives("trajectory", target="stop_gradient", dsm=0.0)
    two = objectives("trajectory", target="ema", dsm=0.0)
    two.averages = {"student": objectives("trajectory").student.requires_grad_(False)}
    for objective in (one, two):
        objective.loss(batch, rng(3))["consistency"].backward()
    for p, q in zip(one.student.parameters(), two.student.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    reached = [p.grad is not None and bool(p.grad.any()) for p in one.student.parameters()]
    assert sum(reached) > 0.8 * len(reached)


def test_the_denoising_term_has_its_weight_and_can_be_left_out(objectives, batch):
    nothing, once, twice = (
        objectives("trajectory", dsm=dsm, target="stop_gradient").loss(batch, rng())
        for dsm in (0.0, 1.0, 2.0)
    )
    assert nothing.keys() == {"consistency"}
    torch.testing.assert_close(2 * once["dsm"], twice["dsm"])
    assert torch.equal(once["consistency"], nothing["consistency"])


def test_equal_features_are_at_no_distance_whatever_their_scale():
    hidden = (torch.randn(2, 5, 8, generator=rng()), torch.randn(2, 5, 8, generator=rng(1)))
    scaled = tuple(3 * state for state in hidden)
    torch.testing.assert_close(feature_distance(hidden, scaled), torch.zeros(2))
    opposite = tuple(-state for state in hidden)
    torch.testing.assert_close(feature_distance(hidden, opposite), torch.full((2,), 8.0))  # 2 x 2^2


@pytest.mark.parametrize("steps", [0, 18])
def test_more_heun_steps_than_intervals_are_refused(steps):
    with pytest.raises(ValueError, match=rf"within 1\.\.17 of 18 levels, got {steps}"):
        TrajectoryConfig(heun_steps=steps)


def test_a_network_that_cannot_be_told_where_to_jump_needs_a_student_that_can():
    with pytest.raises(ValueError, match="a Precondition cannot be given a sigma_to: give `stu"):
        TrajectoryDistillation(Precondition(torch.nn.Linear(8, 8)), null_condition)


def test_jumps_with_full_renoising_are_multistep(g, batch):
    def G(x, sigma, cond):
        return g(x, sigma, cond, sigma_to=torch.zeros(len(x)))

    sigmas, (noise, cond) = few_step_sigmas(3), batch
    one = jumps(g, noise, sigmas, cond, rng=rng(1), gamma=1.0)
    two = multistep(G, noise, sigmas, cond, rng=rng(1))
    for ours, theirs in zip(one, two, strict=True):
        assert ours[:2] == theirs[:2]
        assert torch.equal(ours.denoised, theirs.denoised)
        assert torch.equal(ours.x, theirs.x)


def test_jumps_without_noise_follow_one_trajectory(g, batch):
    sigmas, source = few_step_sigmas(3), rng(1)
    before, x = source.get_state(), batch.x * 80
    levels = [*sigmas, torch.tensor(0.0)]
    steps = jumps(g, batch.x, sigmas, batch.cond, rng=source)
    for step, sigma, after in zip(steps, levels, levels[1:], strict=False):
        x = jump(g, x, sigma.expand(BATCH), after.expand(BATCH), batch.cond)
        torch.testing.assert_close(step.x, x, rtol=1e-4, atol=1e-4)
    assert torch.equal(source.get_state(), before)  # nothing was drawn


@pytest.mark.parametrize("gamma", [-0.1, 1.5])
def test_gamma_is_a_fraction(g, batch, gamma):
    with pytest.raises(ValueError, match=rf"within 0\.\.1, got {gamma}"):
        next(jumps(g, batch.x, few_step_sigmas(2), batch.cond, rng=rng(), gamma=gamma))


# --- ASE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [False, True])
def test_ase_at_full_budget_is_the_base_model(tiny_denoiser, batch, told):
    base = tiny_denoiser(budget_embedding=told)
    student, (x, cond) = ase_denoiser(base), batch
    ours, theirs = student(x, SIGMA, cond, budget=DEPTH), base(x, SIGMA, cond)
    if told:  # an embedding became part of a bias, in another order of summation
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(ours, theirs)


def test_ase_drops_the_last_blocks_and_says_nothing_of_it(tiny_denoiser, batch):
    base = tiny_denoiser(budget_embedding=False)
    student, (x, cond) = ase_denoiser(base), batch
    cut = student(x, SIGMA, cond, budget=2)
    student.inner.blocks[3] = student.inner.blocks[2] = None  # they do not run
    assert torch.equal(student(x, SIGMA, cond, budget=2), cut)
    assert student.inner.budget is None
    assert not torch.equal(cut, base(x, SIGMA, cond, budget=2))  # which keeps its last block


def test_ase_is_presto_l_without_a_teacher_on_its_own_schedule(objectives, batch):
    objective = objectives("ase")
    assert objective.loss(batch, rng()).keys() == {"dsm"}
    assert objective.schedule == ase_schedule(DEPTH)
    assert ase(28)[1].budgets == (28, 28, 24, 24, 20, 20, 16, 16, 12, 12)


# --- what is kept of a student -------------------------------------------------------------------


def test_a_boundary_in_the_config_is_the_consistency_function(tiny_denoiser, batch):
    """A consistency student is published as a denoiser whose scalings return x at sigma_min."""
    D = tiny_denoiser()
    kept = PrestoDenoiser(replace(D.config, boundary=SIGMA_MIN))
    kept.load_state_dict(D.state_dict())
    for level in (SIGMA_MIN, 0.01, 1.0, 80.0):
        sigma = torch.full((len(batch.x),), level)
        expected = ConsistencyFunction(D)(batch.x, sigma, batch.cond)
        torch.testing.assert_close(kept(batch.x, sigma, batch.cond), expected, rtol=1e-5, atol=1e-5)
    at_the_boundary = kept(batch.x, torch.full((len(batch.x),), SIGMA_MIN), batch.cond)
    assert torch.equal(at_the_boundary, batch.x)


def test_a_trajectory_student_that_is_told_nothing_jumps_to_zero(tiny_denoiser, batch):
    D, sigma = tiny_denoiser(trajectory=True), torch.ones(len(batch.x))
    told = D(batch.x, sigma, batch.cond, sigma_to=torch.zeros_like(sigma))
    assert torch.equal(D(batch.x, sigma, batch.cond), told)
    assert not torch.allclose(told, D(batch.x, sigma, batch.cond, sigma_to=sigma))
