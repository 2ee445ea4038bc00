"""Guidance: what is computed, and that nothing is computed in vain."""

import pytest
import torch

from presto_models.editing import keeping
from presto_models.guidance import guided, guided_where_sound, guided_within
from presto_models.samplers import SOLVERS, cfg_pp, dpmpp_2s, heun, sample

SIGMA = torch.tensor([0.5, 2.0])


class Affine:
    """D(x, sigma, cond) = x / (1 + sigma) + cond, counting its calls."""

    def __init__(self):
        self.conditions = []

    def __call__(self, x, sigma, cond):
        self.conditions.append(cond)
        return x / (1 + sigma.view(-1, 1, 1)) + cond


def nothing(cond):
    return 0.0


@pytest.fixture
def x():
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("scale", "called_with"), [(1.0, [7.0]), (0.0, [0.0]), (1, [7.0])])
def test_no_half_is_computed_that_a_zero_multiplies(x, scale, called_with):
    D = Affine()
    D_x = guided(D, scale, nothing)(x, SIGMA, 7.0)
    assert D.conditions == called_with
    assert torch.equal(D_x, Affine()(x, SIGMA, called_with[0]))


@pytest.mark.parametrize("scale", [-0.5, 0.3, 4.5])
def test_guidance_extrapolates_from_null_to_cond(x, scale):
    D = Affine()
    torch.testing.assert_close(
        guided(D, scale, nothing)(x, SIGMA, 7.0), Affine()(x, SIGMA, 0.0) + scale * 7.0
    )
    assert sorted(D.conditions) == [0.0, 7.0]


@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_without_a_condition_to_follow_all_guidance_is_plain(x, sampler):
    """Where the null condition equals the condition, CFG and CFG++ are the denoiser itself."""
    sigmas = torch.tensor([10.0, 3.0, 1.0, 0.1])
    plain = sample(sampler(Affine(), x, sigmas, 1.0))
    for D in (cfg_pp(Affine(), 0.8, lambda c: c), guided(Affine(), 4.5, lambda c: c)):
        torch.testing.assert_close(sample(sampler(D, x, sigmas, 1.0)), plain)


@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_cfg_pp_renoises_along_the_null_direction(x, sampler):
    """One step to sigma' ends in D_w + sigma' (x - D_null) / sigma (for Euler, exactly)."""
    sigmas, w = torch.tensor([2.0, 0.5]), 0.8
    first = next(iter(sampler(cfg_pp(Affine(), w, nothing), x, sigmas, 7.0)))
    D_null = 2 * x / 3
    torch.testing.assert_close(first.denoised, D_null + w * 7.0)
    euler_step = D_null + w * 7.0 + 0.5 * (2 * x - D_null) / 2
    if sampler is heun:  # slopes of both ends of the null step; then the jump to the estimate
        ahead = D_null + 0.5 * (2 * x - D_null) / 2
        slopes = (2 * x - D_null) / 2, (ahead - ahead / 1.5) / 0.5
        euler_step = 2 * x - 1.5 * (slopes[0] + slopes[1]) / 2 + w * 7.0
    if sampler is dpmpp_2s:  # both parts of the step are taken halfway, at sigma = 1
        halfway = D_null + w * 7.0 + 1.0 * (2 * x - D_null) / 2
        euler_step = halfway / 2 + w * 7.0 + 0.5 * (2 * x - halfway / 2) / 2
    torch.testing.assert_close(first.x, euler_step)


@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_cfg_pp_of_constant_estimates_is_exact_for_every_solver(x, sampler):
    """Whatever the step: nothing of the jump may be taken for a part of the direction."""

    def D(x, sigma, cond):
        return torch.full_like(x, cond)

    for sigma, after in ((2.0, 0.5), (16.0, 1.0)):
        sigmas = torch.tensor([sigma, after])
        first = next(iter(sampler(cfg_pp(D, 0.8, lambda c: 1.0), x, sigmas, 6.0)))
        torch.testing.assert_close(first.x, 5.0 + after * (sigma * x - 1.0) / sigma)


@pytest.mark.parametrize("scale", [-0.1, 1.1])
def test_cfg_pp_interpolates_only(scale):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        cfg_pp(Affine(), scale, nothing)


@pytest.mark.parametrize(
    ("sigma", "called_with"), [(0.5, [7.0]), (0.6, [0.0, 7.0]), (2.0, [0.0, 7.0]), (2.1, [7.0])]
)
def test_guidance_acts_in_its_interval_and_costs_nothing_outside(x, sigma, called_with):
    D, sigma = Affine(), torch.full((2,), sigma)
    D_x = guided_within((0.5, 2.0), guided(D, 4.5, nothing), D)(x, sigma, 7.0)
    assert D.conditions == called_with
    plain = guided(Affine(), 4.5 if len(called_with) == 2 else 1, nothing)
    assert torch.equal(D_x, plain(x, sigma, 7.0))


def test_a_teacher_is_guided_where_it_says_that_guidance_is_sound(x):
    D = Affine()
    assert torch.equal(
        guided_where_sound(D, 4.5, nothing)(x, SIGMA, 7.0), guided(D, 4.5, nothing)(x, SIGMA, 7.0)
    )
    D.guidance_interval = (1.0, 3.0)
    limited = guided_within((1.0, 3.0), guided(D, 4.5, nothing), D)
    assert torch.equal(guided_where_sound(D, 4.5, nothing)(x, SIGMA, 7.0), limited(x, SIGMA, 7.0))
    assert guided_where_sound(D, 1, nothing) is D


def test_an_interval_is_each_samples_own(x):
    """Of a batch on both sides of an end, each sample gets what it would get alone."""
    D = Affine()
    for guided_D in (guided(D, 4.5, nothing), cfg_pp(D, 0.8, nothing)):
        both = guided_within((1.0, 3.0), guided_D, D)(x, SIGMA, 7.0)
        inside, outside = guided_D(x, SIGMA, 7.0), D(x, SIGMA, 7.0)
        if not isinstance(both, tuple):
            both, inside = (both,), (inside,)
        for part, expected in zip(both, inside, strict=True):
            assert torch.equal(part[0], outside[0])  # sigma 0.5
            assert torch.equal(part[1], expected[1])  # sigma 2


@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_an_interval_over_everything_or_nothing_is_guidance_or_none(x, sampler):
    sigmas, D = torch.tensor([10.0, 3.0, 1.0, 0.1]), Affine()
    for guided_D in (guided(D, 4.5, nothing), cfg_pp(D, 0.8, nothing)):
        for interval, expected in (((0.0, 80.0), guided_D), ((80.0, 90.0), D)):
            limited = guided_within(interval, guided_D, D)
            ends = [sample(sampler(one, x, sigmas, 7.0)) for one in (limited, expected)]
            assert torch.equal(*ends)


def test_a_step_of_heun_is_guided_if_it_starts_inside_and_computes_nothing_in_vain(x):
    """Levels 10 and 3 lie outside: both their calls are plain, though the second of 3 is at 1. Of a
    guided step the second call only asks for the direction."""
    D = Affine()
    limited = guided_within((0.0, 2.0), cfg_pp(D, 0.8, nothing), D)
    kept = keeping(limited, torch.zeros(2, 3, 4), torch.tensor([False, False, False, True]))
    sigmas = torch.tensor([10.0, 3.0, 1.0, 0.1])
    for guided_D in (limited, kept):
        D.conditions.clear()
        steps = list(heun(guided_D, x, sigmas, 7.0))
        assert D.conditions == [7.0, 7.0, 7.0, 7.0, 0.0, 7.0, 0.0, 0.0, 7.0]
        outside = steps[1].x
        assert torch.equal(outside[..., :3], list(heun(Affine(), x, sigmas, 7.0))[1].x[..., :3])


@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_a_guided_denoiser_may_be_wrapped_in_any_callable(x, sampler):
    D, sigmas = cfg_pp(Affine(), 0.8, nothing), torch.tensor([10.0, 3.0, 1.0, 0.1])
    ends = [sample(sampler(one, x, sigmas, 7.0)) for one in (D, lambda *args: D(*args))]
    assert torch.equal(*ends)


@pytest.mark.parametrize("interval", [(2.0, 1.0), (-1.0, 1.0), (1.0, 1.0)])
def test_an_interval_ascends_from_zero_or_more(interval):
    with pytest.raises(ValueError, match=f"0 <= low < high, got {interval[0]:g}"):
        guided_within(interval, Affine(), Affine())
