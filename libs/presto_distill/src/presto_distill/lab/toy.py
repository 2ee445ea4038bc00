"""A toy whose answer is known: a small network and a 2-D mixture of Gaussians to learn."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from presto_distill import Batch, Denoising, DenoisingConfig, TrainConfig, Trainer
from presto_distill.metrics.mmd import gaussian
from presto_distill.objective import Objective
from presto_distill.trainer import Stream
from presto_models.blocks import Fourier
from presto_models.edm import KarrasUniform, LogNormal, Mixture, Precondition
from presto_models.samplers import few_step_sigmas, multistep, sample

WIDTH, DEPTH, BATCH = 64, 3, 256
BANDWIDTH = 0.1  # of the kernel; the modes' deviations are about 0.05


# ---------------------------------------------------------------------- data


def mixture() -> tuple[Tensor, Tensor, Tensor]:
    """Weights, centres and deviations: eight modes on a ring, the first four times as heavy as the
    last, and a broad one off centre; shifted and scaled to mean 0 and deviation 0.5."""
    angle = torch.arange(8) * math.pi / 4
    centres = torch.cat([torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([[0.25, 0.1]])])
    weights = torch.cat([torch.linspace(4, 1, 8), torch.tensor([3.0])])
    weights, deviations = weights / weights.sum(), torch.tensor([0.08] * 8 + [0.2])
    centres = centres - weights @ centres
    variance = (weights * (centres.square().mean(1) + deviations**2)).sum()
    return weights, centres * 0.5 / variance**0.5, deviations * 0.5 / variance**0.5


def draw(n: int, rng: torch.Generator) -> Tensor:
    """n points as latents of shape (n, 2, 1)."""
    weights, centres, deviations = mixture()
    mode = torch.multinomial(weights, n, replacement=True, generator=rng)
    x = centres[mode] + deviations[mode, None] * torch.randn(n, 2, generator=rng)
    return x[..., None]


def mmd_to_mixture(x: Float[Tensor, "n 2"], bandwidth: float = BANDWIDTH) -> float:
    """Unbiased MMD² of points to the mixture itself, whose side of a Gaussian kernel's means has a
    closed form: nothing is drawn from it."""
    weights, centres, deviations = (part.double() for part in mixture())
    x, kernel = x.double(), gaussian(bandwidth)

    def smoothed(points: Tensor, variance: Tensor) -> Tensor:
        """The kernel's mean over a point and each mode, whose variances add up to `variance`."""
        wide = bandwidth**2 + variance
        squares = torch.cdist(points, centres).square()
        return bandwidth**2 / wide * torch.exp(-squares / (2 * wide))

    among = kernel(x, x).fill_diagonal_(0).sum() / (len(x) * (len(x) - 1))
    between = (smoothed(x, deviations**2) @ weights).mean()
    own = weights @ smoothed(centres, deviations**2 + deviations[:, None] ** 2) @ weights
    return (among - 2 * between + own).item()


def batches(seed: int, batch: int = BATCH) -> Stream:
    return lambda start: (Batch(draw(batch, source(seed, i))) for i in count(start))


def source(*words: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


# ---------------------------------------------------------------------- network


class Net(nn.Module):
    """Residual blocks told the noise level, and where a jump is to end; `Net.calls` counts runs."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 2)
        self.noise, self.noise_to = Fourier(WIDTH), Fourier(WIDTH)
        self.modulation = nn.Linear(WIDTH, 2 * DEPTH * WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH))
            for _ in range(DEPTH)
        )
        for quiet in (self.leave, self.noise_to.out):
            nn.init.zeros_(quiet.weight)
            nn.init.zeros_(quiet.bias)

    def forward(self, x, c_noise, cond=None, *, tap=None, c_noise_to=None):
        states = self._run(x, c_noise, c_noise_to)
        F_x = self.leave(F.layer_norm(states[-1], (WIDTH,)))[..., None]
        return F_x if tap is None else (F_x, tuple(states[i][:, None] for i in tap))

    def features(self, x, c_noise, cond, *, tap):
        return tuple(self._run(x, c_noise, None, 1 + max(tap))[i][:, None] for i in tap)

    def _run(self, x, c_noise, c_noise_to, depth: int = DEPTH) -> list[Tensor]:
        Net.calls += 1
        told = self.noise(c_noise)
        if c_noise_to is not None:
            told = told + self.noise_to(c_noise_to)
        modulation = self.modulation(F.silu(told)).unflatten(-1, (DEPTH, 2, WIDTH))
        h, states = self.enter(x.squeeze(-1)), []
        for i, block in enumerate(self.blocks[:depth]):
            scale, shift = modulation[:, i].unbind(1)
            h = h + block(F.layer_norm(h, (WIDTH,)) * (1 + scale) + shift)
            states.append(h)
        return states


# ---------------------------------------------------------------------- training


def nothing(cond):
    return cond


def train_teacher(steps: int) -> nn.Module:
    """Both noise laws, because some methods ask it at the sampling grid's levels too."""
    torch.manual_seed(0)
    law = Mixture((LogNormal(), KarrasUniform()), (0.7, 0.3))
    objective = Denoising(Precondition(Net()), nothing, DenoisingConfig(p_train=law))
    return run(objective, TrainConfig(steps, lr=2e-3, decay="cosine"), batches(0)).averages["base"]


def run(objective: Objective, cfg: TrainConfig, stream: Stream) -> Trainer:
    # bfloat16, which "auto" may choose, is far slower for a network as small as this.
    trainer = Trainer(objective, replace(cfg, precision="float32"))
    for _ in trainer.run(stream):
        pass
    return trainer


def renoise(G: nn.Module, noise: Tensor, steps: int, rng: torch.Generator) -> Tensor:
    return sample(multistep(G, noise, few_step_sigmas(steps), rng=rng))
