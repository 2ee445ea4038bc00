"""Classifier-free guidance as a combinator over denoisers."""

from collections.abc import Callable

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
