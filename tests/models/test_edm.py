"""Preconditioning and noise laws against their closed forms."""

import math

import pytest
import torch
from torch import nn

from presto_models.denoiser import score
from presto_models.edm import (
    Discrete,
    KarrasUniform,
    LogNormal,
    Precondition,
    add_noise,
    karras_sigmas,
    loss_weight,
    sample_sigma,
    scalings,
)

SIGMA = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0])
LAWS = [
    LogNormal(),
    LogNormal(P_mean=0.4),
    LogNormal(P_mean=0.0, sigma_min=0.5, sigma_max=2.0),  # a third of the mass is cut off
    KarrasUniform(),
    KarrasUniform(rho=1000.0),
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cdf(law, sigma):
    """The distribution function, written independently of the quantile function."""
    if isinstance(law, KarrasUniform):
        power = 1 / law.rho
        low, high = law.sigma_min**power, law.sigma_max**power
        return (sigma**power - low) / (high - low)

    def normal(s):
        return 0.5 * (1 + torch.erf((s.log() - law.P_mean) / (law.P_std * math.sqrt(2))))

    low, high = (normal(torch.tensor(s, dtype=sigma.dtype)) for s in (law.sigma_min, law.sigma_max))
    return (normal(sigma) - low) / (high - low)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_quantile_rises_from_sigma_min_to_sigma_max(law):
    sigma = law.quantile(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert (sigma.diff() > 0).all()
    ends = torch.tensor([law.sigma_min, law.sigma_max], dtype=torch.float64)
    torch.testing.assert_close(sigma[[0, -1]], ends, rtol=1e-6, atol=0)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_samples_follow_the_truncated_law(law):
    """Kolmogorov-Smirnov distance below its 1 % critical value; clamping would exceed it."""
    n = 20_000
    sigma = sample_sigma(law, n, rng()).double().sort().values
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    F = cdf(law, sigma)
    distance = torch.maximum((F - steps[:-1]).abs().max(), (steps[1:] - F).abs().max())
    assert distance < 1.63 / math.sqrt(n)
    at_the_ends = (sigma <= law.sigma_min) | (sigma >= law.sigma_max)
    assert at_the_ends.sum() == 0  # truncated, not clamped


def test_discrete_law_puts_equal_mass_on_its_levels():
    law = Discrete((80.0, 0.5, 3.0))
    values, counts = sample_sigma(law, 9000, rng()).unique(return_counts=True)
    assert values.tolist() == [0.5, 3.0, 80.0]
    assert (counts - 3000).abs().max() < 4 * math.sqrt(9000 * 2 / 9)
    assert law.quantile(torch.tensor([0.0, 1.0])).tolist() == [0.5, 80.0]


def test_sampling_depends_on_the_generator_alone():
    first, again = (sample_sigma(LogNormal(), 8, rng(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample_sigma(LogNormal(), 8, rng(4)))


@pytest.mark.parametrize("law", [LogNormal, KarrasUniform])
@pytest.mark.parametrize(("low", "high"), [(0.0, 80.0), (80.0, 0.002), (-1.0, 1.0)])
def test_an_impossible_range_is_refused(law, low, high):
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        law(sigma_min=low, sigma_max=high)


@pytest.mark.parametrize(
    ("rho", "published"), [(7.0, [80, 17.5, 2.5, 0.17]), (1000.0, [80, 5.7, 0.41, 0.029])]
)
def test_karras_grid_has_the_published_levels(rho, published):
    sigmas = karras_sigmas(5, rho=rho)
    torch.testing.assert_close(sigmas[:-1], torch.tensor(published), rtol=0.03, atol=0)
    torch.testing.assert_close(sigmas[-1], torch.tensor(0.002))


def test_karras_grid_of_one_step_is_pure_noise():
    assert karras_sigmas(1).tolist() == [80.0]
    with pytest.raises(ValueError, match="at least 1"):
        karras_sigmas(0)


def test_scalings_and_loss_weight_identities():
    c_skip, c_out, c_in, c_noise = scalings(SIGMA, 0.5)
    ones = torch.ones_like(SIGMA)
    torch.testing.assert_close(loss_weight(SIGMA, 0.5) * c_out**2, ones)
    torch.testing.assert_close(c_in**2 * (SIGMA**2 + 0.25), ones)  # unit-variance input
    target_variance = ((1 - c_skip) ** 2 * 0.25 + c_skip**2 * SIGMA**2) / c_out**2
    torch.testing.assert_close(target_variance, ones)
    torch.testing.assert_close(c_noise.mul(4).exp(), SIGMA)


class Constant(nn.Module):
    """F(x, c_noise) = mu c_out(sigma) / sigma_data^2, and a record of what it was given."""

    def __init__(self, mean: float, sigma_data: float):
        super().__init__()
        self.mean, self.sigma_data = mean, sigma_data

    def forward(self, x, c_noise, cond, **options):
        self.seen = (x, c_noise, cond, options)
        sigma = (4 * c_noise).exp()
        F = self.mean * sigma / (self.sigma_data * (sigma**2 + self.sigma_data**2).sqrt())
        return F.view(-1, 1, 1).expand_as(x).to(torch.bfloat16 if options else x.dtype)


@pytest.mark.parametrize("mean", [0.0, 1.5])
def test_preconditioning_gives_the_posterior_mean_of_gaussian_data(mean):
    """For N(mu, sd^2) it is (sd^2 x + sigma^2 mu) / (sd^2 + sigma^2); mu = 0 needs F = 0."""
    D = Precondition(Constant(mean, 0.7), 0.7)
    x = torch.randn(5, 2, 3, generator=rng())
    s = SIGMA.view(-1, 1, 1)
    exact = (0.49 * x + s**2 * mean) / (0.49 + s**2)
    torch.testing.assert_close(D(x, SIGMA), exact, rtol=1e-4, atol=1e-5)
    # Its score is that of N(mu, sd^2 + sigma^2).
    at = SIGMA > 0.05  # dividing by sigma^2 magnifies rounding below
    torch.testing.assert_close(
        score(D(x, SIGMA), x, SIGMA)[at], ((mean - x) / (0.49 + s**2))[at], rtol=1e-3, atol=1e-4
    )


def test_precondition_scales_the_input_and_hands_on_options_in_float32():
    inner = Constant(1.0, 0.5)
    x, cond = torch.randn(5, 2, 3, generator=rng()), object()
    D_x = Precondition(inner, 0.5)(x, SIGMA, cond, budget=2)
    seen, c_noise, seen_cond, options = inner.seen
    torch.testing.assert_close(seen, x / (SIGMA**2 + 0.25).sqrt().view(-1, 1, 1))
    torch.testing.assert_close(c_noise, SIGMA.log() / 4)
    assert seen_cond is cond
    assert options == {"budget": 2}
    assert D_x.dtype == torch.float32  # although the network answered in bfloat16


def test_noise_has_the_asked_deviation():
    x, sigma = torch.ones(2, 4, 5000), torch.tensor([0.1, 10.0])
    noise = add_noise(x, sigma, rng()) - x
    torch.testing.assert_close(noise.flatten(1).std(1), sigma, rtol=0.03, atol=0)
    assert torch.equal(add_noise(x, sigma, rng(1)), add_noise(x, sigma, rng(1)))


def test_a_spacing_is_above_zero():
    with pytest.raises(ValueError, match="rho must be above 0, got 0"):
        karras_sigmas(5, rho=0.0)
