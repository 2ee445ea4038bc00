"""Unbiased squared maximum mean discrepancy between two sets of embeddings (Gretton 2012).

The default kernel is the cubic polynomial of KID, our default.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]


def polynomial(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """(x·y / d + 1)³, which has no bandwidth to choose (KID, Bińkowski 2018)."""
    return (x @ y.mT / x.shape[1] + 1) ** 3


def gaussian(bandwidth: float) -> Kernel:
    """exp(-|x - y|² / 2 bandwidth²)."""
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    return lambda x, y: torch.exp(-torch.cdist(x, y).square() / (2 * bandwidth**2))


def mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], kernel: Kernel = polynomial) -> float:
    """Unbiased MMD² in float64; it scatters around 0, below it too, when both sets agree."""
    if min(len(x), len(y)) < 2:
        raise ValueError(f"unbiased MMD needs at least 2 samples, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    return weighted_mmd(x, y, x.new_ones(1, len(x)), y.new_ones(1, len(y)), kernel=kernel).item()


def weighted_mmd(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    weights_x: Float[Tensor, "r n"],
    weights_y: Float[Tensor, "r m"],
    *,
    kernel: Kernel = polynomial,
) -> Float[Tensor, " r"]:
    """MMD² of r reweightings of the same samples, at the cost of one set of kernel matrices.

    With the counts of r resamplings as weights this is the bootstrap. A sample is never paired with
    its own copies: those pairs would push every resampled value above the estimate.
    """

    def within(samples: Tensor, weights: Tensor) -> Tensor:
        pairs = kernel(samples, samples).fill_diagonal_(0)
        total = weights.sum(1).square() - weights.square().sum(1)
        return (weights @ pairs * weights).sum(1) / total

    between = (weights_x @ kernel(x, y) * weights_y).sum(1) / (weights_x.sum(1) * weights_y.sum(1))
    return within(x, weights_x) + within(y, weights_y) - 2 * between
