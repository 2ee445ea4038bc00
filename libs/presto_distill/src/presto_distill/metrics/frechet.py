"""Fréchet distance between Gaussians fitted to two sets of embeddings (Heusel 2017, Kilgour 2019).

    d² = |μx - μy|² + tr Cx + tr Cy - 2 tr (Cx^½ Cy Cx^½)^½

No general matrix square root is taken: that one can turn complex or negative on a singular product.
The distance is biased upwards by a term of order 1/n, so compare only at equal sample counts.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two samples, in float64.

    With C = AᵀA the last trace is the sum of the singular values of Ax Ayᵀ, so no covariance has to
    be formed, and fewer samples than dimensions are no special case. Raises ValueError below two
    samples.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(x)} and {len(y)}")
    mean_x, factor_x = _mean_and_factor(x)
    mean_y, factor_y = _mean_and_factor(y)
    cross = torch.linalg.svdvals(factor_x @ factor_y.mT).sum()
    spread = factor_x.square().sum() + factor_y.square().sum() - 2 * cross
    return ((mean_x - mean_y).square().sum() + spread).clamp(min=0).item()


def gaussian_frechet_distance(
    mean_x: Float[Tensor, " d"],
    covariance_x: Float[Tensor, "d d"],
    mean_y: Float[Tensor, " d"],
    covariance_y: Float[Tensor, "d d"],
) -> float:
    """Squared Fréchet distance between two given Gaussians, by symmetric eigendecomposition.

    For published or stored reference statistics; with samples at hand prefer `frechet_distance`.
    """
    mean_x, covariance_x = mean_x.double(), covariance_x.double()
    mean_y, covariance_y = mean_y.double(), covariance_y.double()
    eigenvalues, vectors = torch.linalg.eigh(covariance_x)
    root_x = (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.mT
    cross = torch.linalg.eigvalsh(root_x @ covariance_y @ root_x).clamp(min=0).sqrt().sum()
    spread = covariance_x.trace() + covariance_y.trace() - 2 * cross
    return ((mean_x - mean_y).square().sum() + spread).clamp(min=0).item()


def _mean_and_factor(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "r d"]]:
    """The mean, and a factor A with AᵀA the unbiased covariance and at most min(n, d) rows."""
    x = x.double()
    mean = x.mean(dim=0)
    centred = (x - mean) / (len(x) - 1) ** 0.5
    return mean, torch.linalg.qr(centred, mode="r").R
