"""Samplers on Gaussian data, where the exact solution is known."""

import math
from itertools import pairwise

import pytest
import torch

from presto_models.edm import karras_sigmas
from presto_models.samplers import (
    dpmpp_2m,
    euler,
    few_step_sigmas,
    heun,
    multistep,
    randn,
    sample,
)

SD = 0.5  # deviation of the data, which has zero mean


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian:
    """The exact denoiser of N(0, SD^2), counting its calls."""

    calls = 0

    def __call__(self, x, sigma, cond):
        self.calls += 1
        return x * SD**2 / (SD**2 + sigma.double().view(-1, 1, 1) ** 2)


def flow_map(x, sigma, cond):
    """The perfect few-step generator of N(0, SD^2): the end of the probability flow through x."""
    return x * SD / (SD**2 + sigma.double().view(-1, 1, 1) ** 2).sqrt()


def error_at_sigma_min(sampler, steps: int) -> float:
    """Relative error of the (linear) flow before its last step, which alone goes on to zero."""
    sigmas = karras_sigmas(steps)
    *_, before_last, _ = sampler(Gaussian(), torch.ones(1, 1, 1, dtype=torch.float64), sigmas)
    top, bottom = sigmas[0].item(), sigmas[-1].item()
    exact = top * math.sqrt((SD**2 + bottom**2) / (SD**2 + top**2))
    return abs(before_last.x.item() / exact - 1)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (dpmpp_2m, 2)])
def test_convergence_order_on_gaussian_data(sampler, order):
    errors = [error_at_sigma_min(sampler, steps) for steps in (64, 128, 256)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("sampler", "tolerance"), [(euler, 0.08), (heun, 0.01), (dpmpp_2m, 0.012)])
def test_forty_steps_reach_the_standard_deviation_of_the_data(sampler, tolerance):
    noise = torch.randn(4, 2, 5000, dtype=torch.float64, generator=rng())
    x = sample(sampler(Gaussian(), noise, karras_sigmas(40)))
    assert (x.std() / noise.std()).item() == pytest.approx(SD, rel=tolerance)


@pytest.mark.parametrize(("sampler", "calls"), [(euler, 10), (heun, 19), (dpmpp_2m, 10)])
def test_number_of_network_calls(sampler, calls):
    D = Gaussian()
    steps = list(sampler(D, torch.ones(1, 1, 1), karras_sigmas(10)))
    assert D.calls == calls
    assert [step.index for step in steps] == list(range(10))
    torch.testing.assert_close(torch.tensor([step.sigma for step in steps]), karras_sigmas(10))


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m])
def test_a_single_step_is_the_denoised_noise(sampler):
    noise = torch.randn(2, 3, 4, generator=rng())
    expected = Gaussian()(noise * 80, torch.full((2,), 80.0), None)
    torch.testing.assert_close(sample(sampler(Gaussian(), noise, karras_sigmas(1))), expected)


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m])
def test_constant_denoisers_are_fixed_points(sampler):
    target = torch.randn(2, 3, 4, generator=rng())
    x = sample(sampler(lambda x, sigma, cond: target, torch.ones(2, 3, 4), karras_sigmas(7)))
    torch.testing.assert_close(x, target)


@pytest.mark.parametrize("rho", [7.0, 1000.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_multistep_with_the_flow_map_has_its_closed_form_variance(steps, rho):
    """v <- (v + sigma^2 - sigma_min^2) SD^2 / (SD^2 + sigma^2); from v = SD^2 it barely moves."""
    sigmas = few_step_sigmas(steps, rho=rho)
    noise = torch.randn(8, 4, 10_000, dtype=torch.float64, generator=rng(1))
    x = sample(multistep(flow_map, noise, sigmas, rng=rng(2)))
    variance, floor = 0.002**2, 0.002**2
    for sigma in sigmas.tolist():
        variance = (variance + sigma**2 - floor) * SD**2 / (SD**2 + sigma**2)
    assert x.var().item() == pytest.approx(variance, rel=0.015)
    assert variance == pytest.approx(SD**2, rel=1e-4)


def test_multistep_adds_exactly_the_generators_noise():
    sigmas, noise = few_step_sigmas(3), torch.randn(2, 3, 4, generator=rng(1))
    *renoised, last = multistep(flow_map, noise, sigmas, rng=rng(2))
    source = rng(2)
    for step, after in zip(renoised, sigmas[1:].tolist(), strict=True):
        fresh = (step.x - step.denoised) / math.sqrt(after**2 - 0.002**2)
        expected = torch.randn(2, 3, 4, generator=source).double()
        torch.testing.assert_close(fresh, expected, rtol=0, atol=1e-5)
    assert torch.equal(last.x, last.denoised)  # the last step adds none


def test_multistep_of_one_step_calls_the_generator_once_on_pure_noise():
    noise, source = torch.randn(2, 3, 4, generator=rng(1)), rng(2)
    before = source.get_state()
    x = sample(multistep(flow_map, noise, few_step_sigmas(1), rng=source))
    assert torch.equal(x, flow_map(80 * noise, torch.full((2,), 80.0), None))
    assert torch.equal(source.get_state(), before)  # and draws nothing


def test_multistep_adds_no_noise_at_or_below_sigma_min():
    first = next(multistep(flow_map, torch.ones(1, 1, 1), torch.tensor([80.0, 0.001]), rng=rng()))
    assert torch.equal(first.x, first.denoised)


def test_with_one_generator_per_sample_a_clip_does_not_depend_on_its_batch():
    def clips(seeds):
        sources = [rng(seed) for seed in seeds]
        noise = randn((len(seeds), 2, 6), sources)
        return sample(multistep(flow_map, noise, few_step_sigmas(4), rng=sources))

    batch = clips([5, 6, 7])
    assert torch.equal(batch, torch.cat([clips([seed]) for seed in (5, 6, 7)]))
    assert not torch.equal(batch[0], batch[1])


def test_generators_and_samples_must_be_as_many():
    with pytest.raises(ValueError, match="3 samples need as many generators, got 2"):
        randn((3, 2, 6), [rng(), rng()])


def test_few_step_levels_are_the_published_ones():
    torch.testing.assert_close(
        few_step_sigmas(4), torch.tensor([80, 17.5, 2.5, 0.17]), rtol=0.03, atol=0
    )
