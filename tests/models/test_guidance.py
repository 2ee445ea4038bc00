"""Guidance: what is computed, and that nothing is computed in vain."""

import pytest
import torch

from presto_models.guidance import guided
from presto_models.samplers import cfg_pp, dpmpp_2m, euler, heun, sample

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


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m])
def test_without_a_condition_to_follow_all_guidance_is_plain(x, sampler):
    """Where the null condition equals the condition, CFG and CFG++ are the denoiser itself."""
    sigmas = torch.tensor([10.0, 3.0, 1.0, 0.1])
    plain = sample(sampler(Affine(), x, sigmas, 1.0))
    for D in (cfg_pp(Affine(), 0.8, lambda c: c), guided(Affine(), 4.5, lambda c: c)):
        torch.testing.assert_close(sample(sampler(D, x, sigmas, 1.0)), plain)


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m])
def test_cfg_pp_renoises_along_the_null_direction(x, sampler):
    """One step to sigma' ends in D_w + sigma' (x - D_null) / sigma (for Euler, exactly)."""
    sigmas, w = torch.tensor([2.0, 0.5]), 0.8
    first = next(iter(sampler(cfg_pp(Affine(), w, nothing), x, sigmas, 7.0)))
    D_null = 2 * x / 3
    torch.testing.assert_close(first.denoised, D_null + w * 7.0)
    euler_step = D_null + w * 7.0 + 0.5 * (2 * x - D_null) / 2
    if sampler is heun:  # the corrector averages both slopes; the jump to the estimate stays
        slopes = (2 * x - D_null) / 2, (euler_step - euler_step / 1.5) / 0.5
        euler_step = 2 * x - 1.5 * (slopes[0] + slopes[1]) / 2 + w * 7.0
    torch.testing.assert_close(first.x, euler_step)


@pytest.mark.parametrize("scale", [-0.1, 1.1])
def test_cfg_pp_interpolates_only(scale):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        cfg_pp(Affine(), scale, nothing)
