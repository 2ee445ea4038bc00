"""Classifier-free guidance as a combinator over denoisers."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from presto_models.denoiser import Cond, Denoiser

Null = Callable[[Cond], Cond]  # the condition of equal shape that says nothing


def guided(D: Denoiser, scale: float, null: Null) -> Denoiser:
    """The denoiser D(null) + scale (D(cond) - D(null)) (Ho & Salimans 2022).

    At scale 1 it is D itself, and at scale 0 D without its condition: neither pays for the half
    that a zero would multiply.
    """
    if scale == 1:
        return D

    def D_w(
        x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond, **options
    ) -> Tensor:
        D_null = D(x, sigma, null(cond), **options)
        return D_null if scale == 0 else D_null + scale * (D(x, sigma, cond, **options) - D_null)

    return D_w


def guided_within(interval: tuple[float, float], guided_D: Callable, D: Denoiser) -> Callable:
    """`guided_D` for noise levels in (low, high], D elsewhere (Kynkäänniemi et al. 2024).

    `guided_D` is what `guided` or `samplers.cfg_pp` made of D. They find guidance
    harmful at high noise and unnecessary at low noise. A batch all outside costs one call. `at` of
    what is returned tells who acts at a level.
    """
    low, high = interval
    if not 0 <= low < high:
        raise ValueError(f"a guidance interval needs 0 <= low < high, got {low:g} and {high:g}")

    def D_interval(
        x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond, **options
    ) -> Tensor | tuple[Tensor, Tensor]:
        inside = (sigma > low) & (sigma <= high)
        if inside.all():
            return guided_D(x, sigma, cond, **options)
        D_x = D(x, sigma, cond, **options)
        if not inside.any():
            return D_x
        D_w = guided_D(x, sigma, cond, **options)
        choose = inside.view(-1, *[1] * (x.ndim - 1))
        if isinstance(D_w, tuple):  # CFG++ tells the estimate and the direction's origin apart
            return torch.where(choose, D_w[0], D_x), torch.where(choose, D_w[1], D_x)
        return torch.where(choose, D_w, D_x)

    D_interval.at = lambda level: guided_D if low < level <= high else D
    return D_interval


def guided_where_sound(D: Denoiser, scale: float, null: Null) -> Denoiser:
    """`guided` at the noise levels where D says that guidance is sound: `D.guidance_interval`.

    At all of them where it says nothing. Teachers of few-step generators are guided so.
    """
    interval = getattr(D, "guidance_interval", None)
    if interval is None or scale == 1:
        return guided(D, scale, null)
    return guided_within(interval, guided(D, scale, null), D)
