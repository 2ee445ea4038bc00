"""A denoiser is a callable; this file names what it must do and what unlocks more.

D(x, sigma, cond) -> clean estimate     samplers, guidance, metrics, base training, teacher
D.features(...), D(..., tap=block)      the adversarial half of Presto-S
D(..., budget=blocks)                   Presto-L and Presto-LS
D(..., sigma_to=sigma)                  consistency trajectories
D.prepare(cond) -> cond                 what needs no noise, computed once for all steps
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Cond = Any  # opaque: a pytree of tensors whose first dimension is the batch
Tap = int | tuple[int, ...]  # a block or several; -1: the hidden state entering the output head
Hidden = Float[Tensor, "b n d"] | tuple[Float[Tensor, "b n d"], ...]  # one per tapped block


@runtime_checkable
class Denoiser(Protocol):
    """Estimates the clean latent x0 from x = x0 + sigma * noise."""

    def __call__(
        self, x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b c *t"]: ...


@runtime_checkable
class FeatureDenoiser(Protocol):
    """A denoiser that also shows its hidden states, which Presto-S's discriminator reads."""

    def __call__(
        self, x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond, *, tap: Tap
    ) -> tuple[Float[Tensor, "b c *t"], Hidden]:
        """The denoised latent and the hidden state after block `tap` (-1: entering the head)."""
        ...

    def features(
        self, x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond, *, tap: Tap
    ) -> Hidden:
        """The hidden state after block `tap`, running no block beyond it."""
        ...


@runtime_checkable
class BudgetDenoiser(Protocol):
    """A denoiser that can run fewer of its blocks, which Presto-L trains and Presto-LS uses."""

    def __call__(
        self,
        x: Float[Tensor, "b c *t"],
        sigma: Float[Tensor, " b"],
        cond: Cond,
        *,
        budget: int | Int[Tensor, " b"],
    ) -> Float[Tensor, "b c *t"]: ...


def pass_on_facts(wrapper: Any, D: Any) -> None:
    """Give a wrapper of D what pipelines ask of a denoiser and it does not say itself; None where
    D does not either."""
    for fact in ("depth", "guidance_interval", "guidance_scale", "trajectory"):
        if not hasattr(wrapper, fact):
            setattr(wrapper, fact, getattr(D, fact, None))


def prepare(D: Any, cond: Cond) -> Cond:
    """The condition with all that D can compute of it before it sees any noise.

    D gives the same result for it, in less time; a D without `prepare` gets it as it is.
    """
    return D.prepare(cond) if hasattr(D, "prepare") else cond


def score(
    denoised: Float[Tensor, "b c *t"], x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"]
) -> Float[Tensor, "b c *t"]:
    """Score of the noised density at x (Tweedie's formula)."""
    return (denoised - x) / per_sample(sigma, x) ** 2


def per_sample(value: Float[Tensor, " b"], like: Float[Tensor, "b *n"]) -> Tensor:
    """One value per sample, shaped to be multiplied with a batch of any number of dimensions."""
    return value.view(-1, *[1] * (like.ndim - 1))
