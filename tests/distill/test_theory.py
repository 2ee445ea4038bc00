"""What objectives must do where the answer is known: Gaussians and mixtures, exact denoisers."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from presto_distill import losses
from presto_distill.baselines.consistency import (
    ConsistencyConfig,
    ConsistencyDistillation,
    boundary_scalings,
)
from presto_distill.baselines.trajectory import TrajectoryConfig, TrajectoryDistillation
from presto_distill.objective import Batch
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.trainer import TrainConfig, Trainer
from presto_models.denoiser import score
from presto_models.edm import KarrasUniform, LogNormal, Mixture, Truncated, sample_sigma
from presto_models.samplers import few_step_sigmas, jumps, sample

MEAN = torch.tensor([0.4, -0.2])
COVARIANCE = torch.tensor([[0.30, 0.18], [0.18, 0.20]])  # of the data: correlated (0.73)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(cond):
    return cond


class Gaussian(nn.Module):
    """The exact denoiser of N(mean, factor factor^T) for latents (b, 2, 1); both may learn."""

    def __init__(self, mean: torch.Tensor, covariance: torch.Tensor):
        super().__init__()
        self.mean = nn.Parameter(mean.clone())
        self.factor = nn.Parameter(torch.linalg.cholesky(covariance))

    @property
    def covariance(self) -> torch.Tensor:
        return self.factor @ self.factor.T

    def forward(self, x, sigma, cond=None):
        noisy = self.covariance + sigma.view(-1, 1, 1) ** 2 * torch.eye(2, dtype=x.dtype)
        mean = self.mean[:, None]
        return mean + self.covariance @ torch.linalg.solve(noisy, x - mean)

    def features(self, x, sigma, cond, *, tap):
        raise AssertionError("without adversarial terms nobody reads features")


class Linear(nn.Module):
    """A generator that whitens noised data exactly, then gives it a mean and a covariance."""

    def __init__(self, mean: torch.Tensor, covariance: torch.Tensor):
        super().__init__()
        self.mean = nn.Parameter(mean.clone())
        self.factor = nn.Parameter(torch.linalg.cholesky(covariance))
        self.variances, self.axes = torch.linalg.eigh(COVARIANCE)

    def forward(self, x, sigma, cond=None):
        along = self.axes.T @ (x - MEAN[:, None])
        white = along / (self.variances[:, None] + sigma.view(-1, 1, 1) ** 2).sqrt()
        return self.mean[:, None] + self.factor @ white


def gaussian_batches(start: int):
    factor = torch.linalg.cholesky(COVARIANCE)
    while True:
        yield Batch(MEAN[:, None] + factor @ torch.randn(256, 2, 1, generator=rng(start)))
        start += 1


# --- distribution matching -----------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.7, 5.0])
def test_the_matching_gradient_is_that_of_the_reverse_kl_at_its_noise_level(sigma):
    """x = m + L z + sigma e in 2-D: 8 points with the moments of (z, e) make expectations exact."""
    fake = Gaussian(torch.tensor([-0.3, 0.5]), torch.tensor([[0.5, -0.2], [-0.2, 0.4]])).double()
    real = Gaussian(MEAN, COVARIANCE).double().requires_grad_(False)
    points = 2 * torch.cat([torch.eye(4), -torch.eye(4)]).double()  # sqrt(4) e_i: unit covariance
    assert torch.allclose(points.T @ points / 8, torch.eye(4).double())
    z, e = points.split(2, dim=1)
    level = torch.full((8,), sigma, dtype=torch.float64)

    x = fake.mean[:, None] + fake.factor @ z[..., None]
    with torch.no_grad():
        noised = x + sigma * e[..., None]
        D_fake, D_real = fake(noised, level), real(noised, level)
    matching = losses.distribution_matching(x, D_fake, D_real, level, weighting="none").mean()
    ours = torch.autograd.grad(matching, [fake.mean, fake.factor])

    noise = sigma**2 * torch.eye(2, dtype=torch.float64)
    kl = kl_divergence(
        MultivariateNormal(fake.mean, fake.covariance + noise),
        MultivariateNormal(real.mean, real.covariance + noise),
    )
    theirs = torch.autograd.grad(kl, [fake.mean, fake.factor])
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, sigma**2 / 2 * two, rtol=1e-5, atol=1e-7)  # 2 values each


@pytest.mark.parametrize("weighting", ["dmd", "edm", "none"])
def test_the_matching_gradient_is_exactly_zero_where_the_scores_agree(weighting):
    start = MEAN + 0.7, COVARIANCE + 0.3 * torch.eye(2)  # zero wherever the generator is
    objective = presto_s(Gaussian(MEAN, COVARIANCE), Linear(*start), weighting=weighting)
    objective.fake_score.requires_grad_(False)
    objective.generator_loss(next(gaussian_batches(0)), rng())["dm"].backward()
    assert not any(p.grad.any() for p in objective.generator.parameters())


def presto_s(teacher: nn.Module, generator: nn.Module, **changes) -> PrestoS:
    cfg = PrestoSConfig(nu_1=0.0, nu_2=0.0, guidance_scale=1.0, **changes)
    return PrestoS(teacher, same, cfg, feature_layer=0, width=8, generator=generator)


def test_presto_s_reaches_the_datas_mean_and_full_covariance():
    """Both players learn; the generator starts elsewhere, uncorrelated and of another size."""
    wrong = torch.tensor([-0.5, 0.6]), torch.diag(torch.tensor([0.05, 0.8]))
    objective = presto_s(Gaussian(MEAN, COVARIANCE), Linear(*wrong))
    cfg = TrainConfig(steps=100, lr=0.1, decay="cosine", precision="float32")
    for _ in Trainer(objective, cfg).run(gaussian_batches):
        pass
    made, tracked = objective.generator, objective.fake_score
    for player in (made, tracked):
        covariance = player.factor @ player.factor.T
        torch.testing.assert_close(player.mean.data, MEAN, rtol=0, atol=0.03)
        torch.testing.assert_close(covariance.data, COVARIANCE, rtol=0, atol=0.03)


class Modes:
    """A mixture of round Gaussians in 2-D: its density, and its denoiser by Bayes' rule."""

    def __init__(self, weights, centres, deviations):
        self.weights, self.centres, self.deviations = (
            torch.tensor(v, dtype=torch.float64) for v in (weights, centres, deviations)
        )

    def log_density(self, x, sigma):
        """log p_sigma at x (b, 2), for autograd to differentiate."""
        variance = self.deviations**2 + sigma[:, None] ** 2
        distance = (x[:, None] - self.centres).square().sum(-1)
        each = self.weights.log() - distance / (2 * variance) - (2 * math.pi * variance).log()
        return each.logsumexp(1)

    def __call__(self, x, sigma, cond=None):
        point, noise = x.squeeze(-1)[:, None], sigma[:, None] ** 2
        variance = self.deviations**2 + noise
        unnormalised = self.weights / variance
        unnormalised = (
            unnormalised * (-(point - self.centres).square().sum(-1) / (2 * variance)).exp()
        )
        posterior = (unnormalised / unnormalised.sum(1, keepdim=True))[..., None]
        share = (self.deviations**2 / variance)[..., None]
        return (posterior * (self.centres + share * (point - self.centres))).sum(1)[..., None]


REAL = Modes([0.5, 0.3, 0.2], [[0.6, 0.0], [-0.4, 0.5], [-0.3, -0.6]], [0.1, 0.2, 0.3])
FAKE = Modes([0.7, 0.3], [[0.1, 0.4], [-0.5, -0.2]], [0.3, 0.15])


def scored(modes: Modes, x, sigma):
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(modes.log_density(x.squeeze(-1), sigma).sum(), x)[0]


def test_the_matching_gradient_on_mixtures_is_the_difference_of_scores():
    """At a sample: sigma^2 (score of the fake - score of the real), over the latent's size."""
    n = 64
    x = torch.randn(n, 2, 1, generator=rng(), dtype=torch.float64).requires_grad_(True)
    sigma = sample_sigma(LogNormal(), n, rng(1)).double()
    noised = x.detach() + sigma.view(-1, 1, 1) * torch.randn(
        n, 2, 1, generator=rng(2), dtype=torch.float64
    )
    D_fake, D_real = FAKE(noised, sigma), REAL(noised, sigma)
    losses.distribution_matching(x, D_fake, D_real, sigma, weighting="none").sum().backward()
    difference = scored(FAKE, noised, sigma) - scored(REAL, noised, sigma)
    expected = sigma.view(-1, 1, 1) ** 2 * difference / 2
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-6)
    for modes, D_x in ((FAKE, D_fake), (REAL, D_real)):
        torch.testing.assert_close(score(D_x, noised, sigma), scored(modes, noised, sigma))


def test_the_matching_gradient_on_mixtures_is_that_of_an_integrated_kl():
    """Shifting the generator's mixture: the KL on a grid, differentiated, against its loss."""
    sigma, side = 0.4, torch.linspace(-5, 5, 401, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    level = torch.full((len(x),), sigma, dtype=torch.float64)
    area = (side[1] - side[0]) ** 2

    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    log_q, log_p = FAKE.log_density(x - shift, level), REAL.log_density(x, level)
    kl = (log_q.exp() * (log_q - log_p)).sum() * area
    expected = torch.autograd.grad(kl, shift)[0]

    latent = x[..., None].requires_grad_(True)
    D_fake, D_real = (modes(latent.detach(), level) for modes in (FAKE, REAL))
    matching = losses.distribution_matching(latent, D_fake, D_real, level, weighting="none")
    (log_q.detach().exp() * area * matching).sum().backward()
    ours = latent.grad.sum(0).squeeze(-1)  # every generated point moves with the shift
    torch.testing.assert_close(ours, sigma**2 / 2 * expected, rtol=1e-4, atol=1e-6)


# --- consistency and trajectories on a Gaussian --------------------------------------------------


def flow(x, sigma, sigma_to):
    """The probability flow's exact map of N(MEAN, COVARIANCE) from one noise level to another."""
    variances, axes = torch.linalg.eigh(COVARIANCE.double())
    start, end = (level.double().view(-1, 1, 1) ** 2 for level in (sigma, sigma_to))
    mean, variances = MEAN.double()[:, None], variances[:, None]
    gain = ((variances + end) / (variances + start)).sqrt()
    return mean + axes @ (gain * (axes.T @ (x.double() - mean)))


class ExactConsistency(nn.Module):
    """The denoiser whose consistency function is the flow to sigma_min."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))

    def forward(self, x, sigma, cond=None):
        of_x, of_D = (c.view(-1, 1, 1) for c in boundary_scalings(sigma))
        f = flow(x, sigma, torch.full_like(sigma, 0.002))
        return (f - of_x * x) / of_D.clamp(min=1e-12) + self.idle


class ExactTrajectory(nn.Module):
    """The g whose jumps are the flow; where a jump has no length, the denoiser."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))
        self.D = Gaussian(MEAN, COVARIANCE).double()

    def forward(self, x, sigma, cond=None, *, sigma_to):
        r = (sigma_to / sigma).view(-1, 1, 1)
        g = (flow(x, sigma, sigma_to) - r * x) / (1 - r).clamp(min=1e-12)
        return torch.where(r == 1, self.D(x, sigma.double()), g) + self.idle


def exact_batch(n: int = 2000) -> Batch:
    factor = torch.linalg.cholesky(COVARIANCE.double())
    noise = torch.randn(n, 2, 1, generator=rng(4), dtype=torch.float64)
    return Batch(MEAN.double()[:, None] + factor @ noise)


def orders(losses_: list[float]) -> list[float]:
    """Of the error (the loss is its square), each loss being at twice the levels before it."""
    return [math.log2(a / b) / 2 for a, b in pairwise(losses_)]


def test_the_exact_consistency_function_has_no_loss_but_the_solvers():
    """One Heun step between neighbours: the local error is of third order in the step."""
    found = []
    for levels in (20, 40, 80):
        cfg = ConsistencyConfig(levels=levels, guidance_scale=1.0, target="stop_gradient")
        teacher = Gaussian(MEAN, COVARIANCE).double()
        objective = ConsistencyDistillation(teacher, same, cfg, student=ExactConsistency())
        found.append(objective.loss(exact_batch(), rng())["consistency"].item())
    assert found[0] < 1e-5
    assert orders(found) == pytest.approx([3, 3], abs=0.5)


@pytest.mark.parametrize("compare", ["trajectory", "sample"])
@pytest.mark.parametrize(("heun_steps", "order"), [(1, 3), (None, 2)])
def test_the_exact_trajectory_map_has_no_loss_but_the_solvers(compare, heun_steps, order):
    """Third order over one interval of the grid, second over any stretch of it."""
    found = []
    for levels in (20, 40, 80):
        cfg = TrajectoryConfig(
            levels=levels,
            heun_steps=heun_steps or levels - 1,
            guidance_scale=1.0,
            target="stop_gradient",
            compare=compare,
            dsm=0.0,
        )
        teacher = Gaussian(MEAN, COVARIANCE).double()
        objective = TrajectoryDistillation(teacher, same, cfg, student=ExactTrajectory())
        draws = 1 if heun_steps else 12  # of how many intervals
        terms = [objective.loss(exact_batch(), rng(i))["consistency"] for i in range(draws)]
        found.append(sum(terms).item() / draws)
    assert orders(found) == pytest.approx([order, order], abs=0.7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_exact_jumps_sample_the_data_whatever_the_share_of_fresh_noise(gamma):
    noise = torch.randn(40_000, 2, 1, generator=rng(1), dtype=torch.float64)
    x = sample(jumps(ExactTrajectory(), noise, few_step_sigmas(4), rng=rng(2), gamma=gamma))
    torch.testing.assert_close(x.mean(0).squeeze(1), MEAN.double(), rtol=0, atol=0.02)
    torch.testing.assert_close(x.squeeze(-1).T.cov(), COVARIANCE.double(), rtol=0, atol=0.01)


# --- noise laws ----------------------------------------------------------------------------------


def karras_cdf(sigma, low=0.002, high=80.0):
    low, high = low ** (1 / 7), high ** (1 / 7)
    return ((sigma ** (1 / 7) - low) / (high - low)).clamp(0, 1)


def lognormal_cdf(sigma):
    normal = torch.distributions.Normal(-0.4, 1.0)
    low, high = (normal.cdf(torch.tensor(s).log()) for s in (0.002, 80.0))
    return ((normal.cdf(sigma.log()) - low) / (high - low)).clamp(0, 1)


LAWS = [
    (Truncated(KarrasUniform(), 0.02, 0.98), lambda s: (karras_cdf(s) - 0.02) / 0.96),
    (Truncated(LogNormal(), 0.3, 0.6), lambda s: (lognormal_cdf(s) - 0.3) / 0.3),
    (
        Mixture((LogNormal(), KarrasUniform()), (0.7, 0.3)),
        lambda s: 0.7 * lognormal_cdf(s) + 0.3 * karras_cdf(s),
    ),
    (
        Mixture((Truncated(KarrasUniform(), 0.0, 0.5), LogNormal()), (0.4, 0.6)),
        lambda s: 0.4 * (karras_cdf(s) / 0.5).clamp(max=1) + 0.6 * lognormal_cdf(s),
    ),
]


@pytest.mark.parametrize(("law", "cdf"), LAWS, ids=[str(law) for law, _ in LAWS])
def test_truncations_and_mixtures_draw_what_they_say(law, cdf):
    """Kolmogorov-Smirnov distance below its 1 % critical value, and no atom anywhere."""
    n = 20_000
    sigma = sample_sigma(law, n, rng(3)).double().sort().values
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    at = cdf(sigma)
    assert (
        torch.maximum((at - steps[:-1]).abs().max(), (steps[1:] - at).abs().max()) < 1.63 / n**0.5
    )
    _, repeats = sigma.unique(return_counts=True)
    assert repeats.max() <= 3  # float32 draws repeat by chance; an atom holds hundreds
    assert (at <= 0).sum() == 0 and (at >= 1).sum() == 0  # none at the ends of its support
