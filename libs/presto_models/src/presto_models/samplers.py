"""Samplers: generators over any denoiser that yield every step, so plots and callbacks iterate.

    *_, last = heun(D, noise, karras_sigmas(40), cond)
    clean = last.x

`noise` has unit variance; the sampler scales it to the first noise level.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from presto_models.denoiser import Cond, Denoiser
from presto_models.edm import SIGMA_MIN, karras_sigmas
from presto_models.guidance import Null


class Step(NamedTuple):
    """What a sampler knows after one step."""

    index: int
    sigma: float  # the noise level this step started from
    denoised: Float[Tensor, "b c *t"]
    x: Float[Tensor, "b c *t"]  # the state after the step; after the last step, the sample


Sampler = Iterator[Step]
Rng = torch.Generator | Sequence[torch.Generator]


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


def cfg_pp(D: Denoiser, scale: float, null: Null) -> Callable:
    """CFG++ (Chung et al. 2024): jump to the guided estimate, renoise along the unconditional one.

    Returns a callable for the samplers below that gives both, (guided, unconditional). Its scale
    is in [0, 1]; the paper samples the base model with 0.8.
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"a CFG++ scale is within 0..1, got {scale}")

    def both(x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        D_null = D(x, sigma, null(cond))
        if scale == 0:
            return D_null, D_null
        return D_null + scale * (D(x, sigma, cond) - D_null), D_null

    return both


def euler(D: Denoiser, noise: Tensor, sigmas: Tensor, cond: Cond = None) -> Sampler:
    """First-order solver of the probability-flow ODE: one network call per step."""
    x = noise * sigmas[0]
    for i, (sigma, after) in enumerate(pairwise([*sigmas.tolist(), 0.0])):
        D_x, origin = _evaluate(D, x, sigma, cond)
        x = D_x + after * (x - origin) / sigma
        yield Step(i, sigma, D_x, x)


def heun(D: Denoiser, noise: Tensor, sigmas: Tensor, cond: Cond = None) -> Sampler:
    """Second-order solver without churn (Karras et al. 2022, algorithm 1): two calls per step,
    one in the last."""
    x = noise * sigmas[0]
    for i, (sigma, after) in enumerate(pairwise([*sigmas.tolist(), 0.0])):
        D_x, origin = _evaluate(D, x, sigma, cond)
        slope, jump = (x - origin) / sigma, D_x - origin
        if after > 0:
            ahead = x + (after - sigma) * slope + jump
            _, origin = _evaluate(D, ahead, after, cond)
            slope = (slope + (ahead - origin) / after) / 2
        x = x + (after - sigma) * slope + jump
        yield Step(i, sigma, D_x, x)


def dpmpp_2m(D: Denoiser, noise: Tensor, sigmas: Tensor, cond: Cond = None) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022): second order from one call per step, in -ln sigma."""
    x, previous = noise * sigmas[0], None
    levels = [*sigmas.tolist(), 0.0]
    for i, (sigma, after) in enumerate(pairwise(levels)):
        D_x, origin = _evaluate(D, x, sigma, cond)
        target = D_x
        if previous is not None and after > 0:
            ratio = _log_ratio(levels[i - 1], sigma) / _log_ratio(sigma, after)
            target = D_x + (D_x - previous) / (2 * ratio)
        x = target + after / sigma * (x - origin - (target - D_x))
        previous = D_x
        yield Step(i, sigma, D_x, x)


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
    for i, (sigma, after) in enumerate(pairwise([*sigmas.tolist(), 0.0])):
        D_x = G(x, _full(x, sigma), cond)
        x = D_x
        if after > 0:
            fresh = randn(x.shape, rng, x.device).to(x.dtype)
            x = D_x + max(after**2 - sigma_min**2, 0.0) ** 0.5 * fresh
        yield Step(i, sigma, D_x, x)


def few_step_sigmas(steps: int, *, rho: float = 7.0) -> Float[Tensor, " steps"]:
    """The levels `multistep` visits: Karras' grid of `steps` intervals without its last point."""
    return karras_sigmas(steps + 1, rho=rho)[:-1]


def _evaluate(D: Denoiser, x: Tensor, sigma: float, cond: Cond) -> tuple[Tensor, Tensor]:
    """Where to go, and the estimate that defines the direction; only CFG++ tells them apart."""
    D_x = D(x, _full(x, sigma), cond)
    return D_x if isinstance(D_x, tuple) else (D_x, D_x)


def _full(x: Tensor, sigma: float) -> Float[Tensor, " b"]:
    return torch.full((len(x),), sigma, device=x.device, dtype=torch.float32)


def _log_ratio(sigma: float, after: float) -> float:
    return torch.tensor(sigma / after, dtype=torch.float64).log().item()
