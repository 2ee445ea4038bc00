"""Warm start of a few-step generator: regression on trajectories of the teacher's sampler.

Not part of Presto's published method. Where minutes are all there is, a generator that already
knows the teacher's map from noise to music leaves distribution matching less to do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_data.encode import claimed
from presto_distill import losses
from presto_distill.choices import check_weights
from presto_distill.objective import Batch, Losses, Turn, trainable
from presto_distill.trainer import Stream
from presto_models.conditioning import Condition
from presto_models.denoiser import Cond, Denoiser
from presto_models.edm import SIGMA_DATA, KarrasUniform, SigmaLaw
from presto_models.guidance import Null, guided_where_sound
from presto_models.samplers import dpmpp_2m
from presto_models.snapshot import write_atomic


@dataclass(frozen=True)
class RegressionConfig:
    """All our defaults; `p_gen` and `guidance_scale` as in Presto-S."""

    p_gen: SigmaLaw = KarrasUniform()
    guidance_scale: float = 4.5  # of the teacher; plain classifier-free guidance
    solver_steps: int = 16  # noise levels per trajectory
    sigma_data: float = SIGMA_DATA

    def __post_init__(self) -> None:
        check_weights(self, "guidance_scale")
        if self.solver_steps < 1:
            raise ValueError(f"solver_steps must be at least 1, got {self.solver_steps}")


class Trajectories(NamedTuple):
    """The teacher's way from noise to clean for n clips: `l` points each, and where it ends."""

    x: Float[Tensor, "l n c *t"]
    sigma: Float[Tensor, "l n"]
    end: Float[Tensor, "n c *t"]
    cond: Cond


class Point(NamedTuple):
    """What the generator is given: points of trajectories, their noise levels and conditions."""

    x: Float[Tensor, "b c *t"]
    sigma: Float[Tensor, " b"]
    cond: Cond


@torch.no_grad()
def solve(
    teacher: Denoiser,
    null: Null,
    clips: Batch,
    rng: torch.Generator,
    cfg: RegressionConfig = RegressionConfig(),
    *,
    chunk: int = 64,
) -> Trajectories:
    """Noise real clips to near sigma_max and follow the teacher's probability-flow ODE to zero.

    The levels are p_gen's quantiles, shifted by a random part of a step that each chunk of clips
    has in common: pooled they follow p_gen, the law Presto-S draws its generator's input by.
    """
    D = guided_where_sound(teacher, cfg.guidance_scale, null)
    parts = []
    for rows in torch.arange(len(clips.x)).split(chunk):
        x, cond = tree_map_only(Tensor, lambda leaf, rows=rows: leaf[rows], tuple(clips))
        u = torch.arange(cfg.solver_steps, dtype=torch.float64)
        u = (u + torch.rand(1, generator=rng, device=rng.device).item()) / cfg.solver_steps
        sigmas = cfg.p_gen.quantile(1 - u).float()
        eps = torch.randn(x.shape, generator=rng, device=x.device)
        noise = x / sigmas[0] + eps
        *states, end = [step.x for step in dpmpp_2m(D, noise, sigmas, cond)]
        x = torch.stack([noise * sigmas[0], *states])
        parts.append((x, sigmas[:, None].expand(x.shape[:2]).to(x.device), end))
    x, sigma, end = zip(*parts, strict=True)
    return Trajectories(torch.cat(x, 1), torch.cat(sigma, 1), torch.cat(end), clips.cond)


def kept(path: Path, solved: Callable[[], Trajectories]) -> Trajectories:
    """Trajectories under Presto's conditions, on the CPU: those in the file, which the first
    process that asks for it writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with claimed(path.with_suffix(".lock"), wait=True):
        if not path.exists():
            x, sigma, end, cond = solved()
            write_atomic(path, lambda new: torch.save([x, sigma, end, list(cond)], new))
    x, sigma, end, cond = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return Trajectories(x, sigma, end, Condition(*cond))


def point_stream(trajectories: Trajectories, *, batch: int, seed: int) -> Stream:
    """Endless batches of points, x being where their trajectories end; no point comes twice
    before the others have come (but for the remainder of a pass)."""
    x, sigma, end, cond = trajectories
    total = sigma.numel()
    per_pass = max(1, total // batch)

    def stream(start: int) -> Iterator[Batch]:
        for k in count(start):
            number, first = k // per_pass, k % per_pass * batch
            order = np.random.default_rng([seed, number]).permutation(total)
            place = torch.from_numpy(order[first : first + batch])
            level, clip = place // len(end), place % len(end)
            one = tree_map_only(Tensor, lambda leaf, clip=clip: leaf[clip], cond)
            yield Batch(end[clip], Point(x[level, clip], sigma[level, clip], one))

    return stream


class Regression:
    """One player, the generator: lambda(sigma) |G(x, sigma) - end of x's trajectory|^2 (Luhman &
    Luhman 2021). Its batches come from `point_stream`; the generator starts as a copy."""

    def __init__(self, generator: nn.Module, sigma_data: float = SIGMA_DATA):
        self.generator, self.sigma_data = trainable(generator), sigma_data
        self.players = {"generator": self.generator}
        self.turns = [Turn("generator", self.loss)]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        x, sigma, cond = batch.cond
        G_x = self.generator(x, sigma, cond)
        return {"regression": losses.denoising(G_x, batch.x, sigma, self.sigma_data).mean()}
