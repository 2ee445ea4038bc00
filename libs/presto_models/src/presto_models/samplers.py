"""Samplers: generators over any denoiser that yield every step, so plots and callbacks iterate.

    *_, last = heun(D, noise, karras_sigmas(40), cond)
    clean = last.x

`noise` has unit variance; the sampler scales it to the first noise level. `sigmas` descend, and the
sampler itself goes on from the last of them to 0, where the last estimate is the sample.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from presto_models.denoiser import Cond, Denoiser
from presto_models.edm import SIGMA_MAX, SIGMA_MIN, karras_sigmas
from presto_models.guidance import Null


class Step(NamedTuple):
    """What a sampler knows after one step."""

    index: int
    sigma: float  # the noise level this step started from
    denoised: Float[Tensor, "b c *t"]
    x: Float[Tensor, "b c *t"]  # the state after the step; after the last step, the sample


Sampler = Iterator[Step]
Rng = torch.Generator | Sequence[torch.Generator]
Seeds = int | torch.Generator | Sequence[int | torch.Generator]


def sample(steps: Sampler) -> Float[Tensor, "b c *t"]:
    """Run a sampler to its end and return the sample."""
    *_, last = steps
    return last.x


def randn(shape: Sequence[int], rng: Rng, device: torch.device | str = "cpu") -> Tensor:
    """Unit noise; with one generator per sample a clip does not depend on its batch."""
    if isinstance(rng, torch.Generator):
        return torch.randn(*shape, generator=rng, device=rng.device).to(device)
    if len(rng) != shape[0]:
        raise ValueError(f"{shape[0]} samples need as many generators, got {len(rng)}")
    return torch.stack([randn(shape[1:], one, device) for one in rng])


def generators(seeds: Seeds, n: int) -> list[torch.Generator]:
    """A generator for each of n samples: from seeds counted on from one, or from one for each."""
    if isinstance(seeds, Integral):
        seeds = range(int(seeds), int(seeds) + n)
    seeds = [seeds] if isinstance(seeds, torch.Generator) else list(seeds)
    if len(seeds) != n:
        raise ValueError(f"{n} samples need as many seeds or generators, got {len(seeds)}")
    return [
        seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(int(seed))
        for seed in seeds
    ]


def cfg_pp(D: Denoiser, scale: float, null: Null) -> Callable:
    """CFG++ (Chung et al. 2024): jump to the guided estimate, renoise along the unconditional one.

    Returns a callable for the samplers below that gives both, (guided, unconditional). Its scale
    is in [0, 1]; the paper samples the base model with 0.8.
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"a CFG++ scale is within 0..1, got {scale}")

    def origin(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return D(x, sigma, null(cond))

    def both(x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        D_null = origin(x, sigma, cond)
        if scale == 0:
            return D_null, D_null
        return D_null + scale * (D(x, sigma, cond) - D_null), D_null

    both.origin = origin  # for those who want to know the direction alone
    return both


def euler(D: Denoiser, noise: Tensor, sigmas: Tensor, cond: Cond = None) -> Sampler:
    """First-order solver of the probability-flow ODE: one network call per step."""
    x = noise * sigmas[0]
    for i, (sigma, after) in enumerate(_intervals(sigmas)):
        D_x, origin = _evaluate(D, x, sigma, cond)
        x = D_x + after * (x - origin) / sigma
        yield Step(i, sigma, D_x, x)


@dataclass(frozen=True)
class Churn:
    """Fresh noise before each step, which lets `heun` forget its earlier errors.

    S_churn is spread over all steps between the levels S_min and S_max; 0 adds none.
    """

    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0  # deviation of the noise; a little above 1 makes up for what is lost

    def __post_init__(self) -> None:
        if not (self.S_churn >= 0 and self.S_noise >= 0 and 0 <= self.S_min <= self.S_max):
            raise ValueError(f"need S_churn, S_noise >= 0 and 0 <= S_min <= S_max, got {self}")

    def level(self, sigma: float, steps: int) -> float:
        """The noise level to which a step from `sigma`, one of `steps`, first rises."""
        inside = self.S_min <= sigma <= self.S_max
        return sigma * (1 + inside * min(self.S_churn / steps, 2**0.5 - 1))


def heun(
    D: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    cond: Cond = None,
    *,
    churn: Churn = Churn(),
    rng: Rng | None = None,
) -> Sampler:
    """Second-order solver (Karras et al. 2022, algorithm 1; with churn algorithm 2): two calls per
    step, one in the last. `rng` is what churn draws from.

    Of CFG++, by our choice, the direction is of second order and the jump that of the step's first
    call, so the second needs no guidance. A step is guided if the level it starts from is.
    """
    if churn.S_churn and rng is None:
        raise ValueError(f"S_churn = {churn.S_churn:g} draws noise: give heun its rng")
    x = noise * sigmas[0]
    for i, (sigma, after) in enumerate(_intervals(sigmas)):
        level = churn.level(sigma, len(sigmas))
        if level > sigma:
            fresh = randn(x.shape, rng, x.device).to(x.dtype)
            x = x + churn.S_noise * (level**2 - sigma**2) ** 0.5 * fresh
        acting = D.at(level) if hasattr(D, "at") else D
        D_x, origin = _evaluate(acting, x, level, cond)
        slope, jump = (x - origin) / level, D_x - origin
        if after > 0:
            ahead = x + (after - level) * slope
            slope = (slope + (ahead - _direction(acting, ahead, after, cond)) / after) / 2
        x = x + (after - level) * slope + jump if after > 0 else D_x
        yield Step(i, sigma, D_x, x)


def dpmpp_2m(D: Denoiser, noise: Tensor, sigmas: Tensor, cond: Cond = None) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022): second order from one call per step, in -ln sigma."""
    x, previous = noise * sigmas[0], None
    intervals = _intervals(sigmas)
    for i, (sigma, after) in enumerate(intervals):
        D_x, origin = _evaluate(D, x, sigma, cond)
        target = D_x
        if previous is not None and after > 0:
            ratio = math.log(intervals[i - 1][0] / sigma) / math.log(sigma / after)
            target = D_x + (D_x - previous) / (2 * ratio)
        x = target + after / sigma * (x - origin - (target - D_x))
        previous = D_x
        yield Step(i, sigma, D_x, x)


def dpmpp_2s(D: Denoiser, noise: Tensor, sigmas: Tensor, cond: Cond = None) -> Sampler:
    """DPM-Solver++(2S) (Lu et al. 2022, r = 1/2): the estimate halfway in -ln sigma carries the
    whole step. Two calls per step, one in the last."""
    x = noise * sigmas[0]
    for i, (sigma, after) in enumerate(_intervals(sigmas)):
        target, origin = D_x, _ = _evaluate(D, x, sigma, cond)
        if after > 0:
            halfway = math.sqrt(sigma * after)
            ahead = D_x + halfway / sigma * (x - origin)
            target, origin = _evaluate(D, ahead, halfway, cond)
        x = target + after / sigma * (x - origin)
        yield Step(i, sigma, D_x, x)


SOLVERS = {solver.__name__: solver for solver in (euler, heun, dpmpp_2m, dpmpp_2s)}


def multistep(
    G: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    cond: Cond = None,
    *,
    rng: Rng,
    sigma_min: float = SIGMA_MIN,
) -> Sampler:
    """The few-step sampler of distilled generators: denoise at once, add noise, again.

    Any number of steps and any spacing, because the generator was trained on continuous noise.
    """
    x = noise * sigmas[0]
    for i, (sigma, after) in enumerate(_intervals(sigmas)):
        D_x = G(x, _full(x, sigma), cond)
        x = D_x
        if after > 0:
            fresh = randn(x.shape, rng, x.device).to(x.dtype)
            x = D_x + max(after**2 - sigma_min**2, 0.0) ** 0.5 * fresh
        yield Step(i, sigma, D_x, x)


def jumps(
    D: Callable,
    noise: Tensor,
    sigmas: Tensor,
    cond: Cond = None,
    *,
    rng: Rng,
    gamma: float = 0.0,
    sigma_min: float = SIGMA_MIN,
) -> Sampler:
    """The sampler of consistency trajectory models (Kim et al. 2024), which know where a jump is to
    end, with gamma: jump below the next level, then add the noise that is missing there.

    gamma = 0 jumps from level to level and draws nothing; gamma = 1 jumps to 0 each time, which is
    `multistep` of D at sigma_to = 0. A step's `denoised` is what D said.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be within 0..1, got {gamma}")
    x = noise * sigmas[0]
    for i, (sigma, after) in enumerate(_intervals(sigmas)):
        sigma_to = (1 - gamma**2) ** 0.5 * after
        D_x = D(x, _full(x, sigma), cond, sigma_to=_full(x, sigma_to))
        x = D_x if sigma_to == 0 else D_x + sigma_to / sigma * (x - D_x)
        if gamma and after > 0:
            fresh = randn(x.shape, rng, x.device).to(x.dtype)
            x = x + gamma * max(after**2 - sigma_min**2, 0.0) ** 0.5 * fresh
        yield Step(i, sigma, D_x, x)


def few_step_sigmas(
    steps: int, *, rho: float = 7.0, sigma_max: float = SIGMA_MAX
) -> Float[Tensor, " steps"]:
    """The levels `multistep` visits: Karras' grid of `steps` intervals without its last point."""
    return karras_sigmas(steps + 1, rho=rho, sigma_max=sigma_max)[:-1]


def _intervals(sigmas: Tensor) -> list[tuple[float, float]]:
    """The noise levels that each step leads from and to."""
    intervals = list(pairwise([*sigmas.tolist(), 0.0]))
    if not all(sigma > after for sigma, after in intervals):
        raise ValueError(
            "sigmas must descend to a last one above 0, from which samplers go on to 0 themselves"
        )
    return intervals


def _evaluate(D: Denoiser, x: Tensor, sigma: float, cond: Cond) -> tuple[Tensor, Tensor]:
    """Where to go, and the estimate that defines the direction; only CFG++ tells them apart."""
    D_x = D(x, _full(x, sigma), cond)
    return D_x if isinstance(D_x, tuple) else (D_x, D_x)


def _direction(D: Denoiser, x: Tensor, sigma: float, cond: Cond) -> Tensor:
    """The latter of the two alone, which `cfg_pp` has for one call instead of two."""
    if hasattr(D, "origin"):
        return D.origin(x, _full(x, sigma), cond)
    return _evaluate(D, x, sigma, cond)[1]


def _full(x: Tensor, sigma: float) -> Float[Tensor, " b"]:
    return torch.full((len(x),), sigma, device=x.device, dtype=torch.float32)
