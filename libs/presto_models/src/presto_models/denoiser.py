"""A denoiser is a callable; this file names what it must do and what unlocks more.

D(x, sigma, cond) -> clean estimate     samplers, guidance, metrics, base training, teacher
D.features(...), D(..., tap=block)      the adversarial half of Presto-S
D(..., budget=blocks)                   Presto-L and Presto-LS
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Cond = Any  # opaque: a pytree of tensors whose first dimension is the batch


@runtime_checkable
class Denoiser(Protocol):
    """Estimates the clean latent x0 from x = x0 + sigma * noise."""

    def __call__(
        self, x: Float[Tensor, "b c t"], sigma: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b c t"]: ...


@runtime_checkable
class FeatureDenoiser(Protocol):
    """A denoiser that also shows its hidden states, which Presto-S's discriminator reads."""

    def __call__(
        self, x: Float[Tensor, "b c t"], sigma: Float[Tensor, " b"], cond: Cond, *, tap: int
    ) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b n d"]]:
        """The denoised latent and the hidden state after block `tap` (-1: entering the head)."""
        ...

    def features(
        self, x: Float[Tensor, "b c t"], sigma: Float[Tensor, " b"], cond: Cond, *, tap: int
    ) -> Float[Tensor, "b n d"]:
        """The hidden state after block `tap`, running no block beyond it."""
        ...


@runtime_checkable
class BudgetDenoiser(Protocol):
    """A denoiser that can run fewer of its blocks, which Presto-L trains and Presto-LS uses."""

    def __call__(
        self,
        x: Float[Tensor, "b c t"],
        sigma: Float[Tensor, " b"],
        cond: Cond,
        *,
        budget: int | Int[Tensor, " b"],
    ) -> Float[Tensor, "b c t"]: ...


def score(
    denoised: Float[Tensor, "b c t"], x: Float[Tensor, "b c t"], sigma: Float[Tensor, " b"]
) -> Float[Tensor, "b c t"]:
    """Score of the noised density at x (Tweedie's formula)."""
    return (denoised - x) / sigma.view(-1, 1, 1) ** 2
