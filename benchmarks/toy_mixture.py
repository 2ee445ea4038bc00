"""Few-step distillation of one small teacher on a 2-D mixture: CM, CTM, DMD-GAN and Presto-S.

    python benchmarks/toy_mixture.py --out toy-report [--quick]

Every method gets the same number of network evaluations: forward calls of any network, times the
batch, backward passes not counted. All start from the same teacher and sample from its moving
average's successor, at the same levels. Not guided, nothing is conditioned.

Measured: unbiased MMD^2 to fresh data (Gaussian kernel of fixed bandwidth) against sampling steps,
over seeds of distillation and sampling. A real set against another is the floor. This is a check of
the objectives on a problem whose answer is known, not evidence about music.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from presto_distill import (
    Batch,
    Denoising,
    DenoisingConfig,
    PrestoS,
    PrestoSConfig,
    TrainConfig,
    Trainer,
)
from presto_distill.baselines.consistency import ConsistencyConfig, ConsistencyDistillation
from presto_distill.baselines.dmd_gan import dmd_gan
from presto_distill.baselines.trajectory import TrajectoryConfig, TrajectoryDistillation, jumps
from presto_models.blocks import Fourier
from presto_models.edm import KarrasUniform, LogNormal, Mixture, Precondition
from presto_models.samplers import few_step_sigmas, multistep, sample

STEPS = (1, 2, 4, 8)
WIDTH, DEPTH, BATCH = 64, 4, 256
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


def batches(seed: int) -> Callable[[int], Iterator[Batch]]:
    return lambda start: (Batch(draw(BATCH, source(seed, i))) for i in count(start))


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

    def forward(self, x, c_noise, cond, *, tap=None, c_noise_to=None):
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


# ---------------------------------------------------------------------- methods


def nothing(cond):
    return cond


def consistency(teacher: nn.Module):
    return ConsistencyDistillation(teacher, nothing, ConsistencyConfig(guidance_scale=1.0))


def trajectory(teacher: nn.Module):
    cfg = TrajectoryConfig(guidance_scale=1.0)
    return TrajectoryDistillation(teacher, nothing, cfg, student=teacher)


def distribution(cfg: PrestoSConfig):
    cfg = replace(cfg, guidance_scale=1.0, head_layers=0)  # there is no time to look along
    return lambda teacher: PrestoS(teacher, nothing, cfg, feature_layer=DEPTH // 2, width=WIDTH)


def renoise(G: nn.Module, noise: Tensor, steps: int, rng: torch.Generator) -> Tensor:
    return sample(multistep(G, noise, few_step_sigmas(steps), rng=rng))


def along(G: nn.Module, noise: Tensor, steps: int, rng: torch.Generator) -> Tensor:
    return sample(jumps(G, noise, few_step_sigmas(steps), rng=rng))


@dataclass(frozen=True)
class Method:
    """How to distil, how to sample, which player generates, and Adam's learning rate."""

    objective: Callable
    draw: Callable[..., Tensor]
    player: str
    lr: float


METHODS = {
    "CM": Method(consistency, renoise, "student", 1e-3),
    "CTM": Method(trajectory, along, "student", 1e-3),
    "DMD-GAN": Method(distribution(dmd_gan(4)), renoise, "generator", 3e-4),
    "Presto-S": Method(distribution(PrestoSConfig()), renoise, "generator", 3e-4),
}


def train_teacher(steps: int) -> nn.Module:
    """Both noise laws, because some methods ask it at the sampling grid's levels too."""
    torch.manual_seed(0)
    law = Mixture((LogNormal(), KarrasUniform()), (0.7, 0.3))
    objective = Denoising(Precondition(Net()), nothing, DenoisingConfig(p_train=law))
    return run(objective, TrainConfig(steps, lr=2e-3, decay="cosine"), seed=0).averages["base"]


def distil(method: Method, teacher: nn.Module, evaluations: int, seed: int, lr: float) -> Trainer:
    """Train for as many steps as `evaluations` pay for, judging by the first twenty."""
    torch.manual_seed(seed)  # of the discriminator's head
    pilot = TrainConfig(20, lr=lr, seed=seed)
    Net.calls = 0
    run(method.objective(teacher), pilot, seed=seed)
    steps = round(evaluations / (Net.calls / 20))
    torch.manual_seed(seed)
    Net.calls = 0
    cfg = replace(pilot, steps=steps, decay="cosine")
    return run(method.objective(teacher), cfg, seed=seed)


def run(objective, cfg: TrainConfig, *, seed: int) -> Trainer:
    # bfloat16, which "auto" may choose, is far slower for a network as small as this.
    trainer = Trainer(objective, replace(cfg, precision="float32"))
    for _ in trainer.run(batches(seed)):
        pass
    return trainer
