"""The warm start against the closed form of a Gaussian's probability-flow ODE."""

import pytest
import torch
from torch import nn

from presto_distill.objective import Batch
from presto_distill.objectives.regression import (
    Regression,
    RegressionConfig,
    point_stream,
    solve,
)
from presto_distill.trainer import TrainConfig, Trainer

STD = 0.5


class Gaussian(nn.Module):
    """The exact denoiser of N(cond, STD^2): the posterior mean."""

    def forward(self, x, sigma, cond):
        mean, variance = cond[:, None, None], sigma[:, None, None] ** 2
        return mean + (x - mean) * STD**2 / (STD**2 + variance)


class Solution(nn.Module):
    """Where that denoiser's ODE carries x: the same quantile of the data, times a gain."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x, sigma, cond):
        mean, variance = cond[:, None, None], sigma[:, None, None] ** 2
        return mean + self.gain * (x - mean) * STD / (STD**2 + variance).sqrt()


def solved(*, guidance_scale=1.0, solver_steps=48, clips=40, chunk=16, interval=None):
    """Trajectories of clips whose conditions are their means."""
    teacher = Gaussian()
    teacher.guidance_interval = interval
    rng = torch.Generator().manual_seed(0)
    cond = torch.linspace(-1, 1, clips)
    x = cond[:, None, None] + STD * torch.randn(clips, 3, 8, generator=rng)
    cfg = RegressionConfig(guidance_scale=guidance_scale, solver_steps=solver_steps)
    return solve(teacher, torch.zeros_like, Batch(x, cond), rng, cfg, chunk=chunk)


def test_points_and_ends_of_trajectories_are_joined_by_the_exact_solution():
    x, sigma, end, cond = solved()
    assert x.shape == (48, 40, 3, 8) and sigma.shape == (48, 40) and end.shape == (40, 3, 8)
    for i in range(0, 48, 8):
        torch.testing.assert_close(Solution()(x[i], sigma[i], cond), end, rtol=0, atol=0.02)


def test_guidance_moves_where_trajectories_end():
    plain, guided = solved().end.mean((1, 2)), solved(guidance_scale=2.0).end.mean((1, 2))
    # For Gaussians of one width, guidance w moves the mean from m to w m.
    torch.testing.assert_close(guided - plain, torch.linspace(-1, 1, 40), rtol=0, atol=0.02)


def test_a_teacher_is_guided_only_where_it_says_that_guidance_is_sound():
    """In one step each, from levels of their own: it ends at the teacher's estimate."""
    x, sigma, end, cond = solved(guidance_scale=3.0, solver_steps=1, chunk=1, interval=(0.1, 5.0))
    x, sigma, mean = x[0], sigma[0].view(-1, 1, 1), cond.view(-1, 1, 1)
    inside = (sigma > 0.1) & (sigma <= 5.0)
    assert (sigma < 0.1).any() and inside.any() and (sigma > 5.0).any()
    share = STD**2 / (STD**2 + sigma**2)
    expected = share * x + (1 - share) * torch.where(inside, 3.0, 1.0) * mean
    torch.testing.assert_close(end, expected, rtol=1e-4, atol=1e-4)


def test_the_levels_follow_the_generators_noise_law():
    law = RegressionConfig().p_gen
    sigma = solved(solver_steps=20, clips=64, chunk=1).sigma
    assert (sigma.diff(dim=0) < 0).all()
    u = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    for level, fraction in zip(law.quantile(u), u, strict=True):
        assert (sigma < level).float().mean().item() == pytest.approx(fraction.item(), abs=0.01)


def test_a_pass_shows_every_point_once_and_passes_differ():
    trajectories = solved(solver_steps=5, clips=8)
    stream = point_stream(trajectories, batch=10, seed=0)
    batches = [batch for batch, _ in zip(stream(0), range(8), strict=False)]
    passes = [torch.cat([b.cond.sigma for b in part]) for part in (batches[:4], batches[4:])]
    assert torch.equal(passes[0].sort().values, trajectories.sigma.flatten().sort().values)
    assert not torch.equal(*passes)
    torch.testing.assert_close(next(stream(6)).x, batches[6].x, rtol=0, atol=0)


def test_the_exact_solution_has_no_loss_and_a_wrong_generator_finds_it():
    stream = point_stream(solved(), batch=32, seed=0)
    rng = torch.Generator().manual_seed(0)
    right = Regression(Solution()).loss(next(stream(0)), rng)["regression"]
    wrong = Regression(Solution(0.3))
    assert right < 0.01 * wrong.loss(next(stream(0)), rng)["regression"]
    for record in Trainer(wrong, TrainConfig(steps=120, lr=0.02)).run(stream):
        assert set(record.losses) == {"regression"}
    assert wrong.generator.gain.item() == pytest.approx(1.0, abs=0.02)
