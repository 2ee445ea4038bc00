"""Fréchet distance between Gaussians fitted to two sets of embeddings (Heusel 2017, Kilgour 2019).

    d² = |μx - μy|² + tr Cx + tr Cy - 2 tr (Cx^½ Cy Cx^½)^½

No general matrix square root is taken: that one can turn complex or negative on a singular product.
The distance is biased upwards by a term of order 1/n, so compare only at equal sample counts, or
let `frechet_infinity` extrapolate that term away.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A mean and a factor A of the covariance AᵀA, which may have fewer rows than columns."""

    mean: Float[Tensor, " d"]
    factor: Float[Tensor, "r d"]

    @classmethod
    def fit(cls, samples: Float[Tensor, "n d"]) -> "Gaussian":
        """Mean and unbiased covariance in float64; the factor has min(n, d) rows.

        Raises ValueError below two samples.
        """
        if len(samples) < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {len(samples)}")
        samples = samples.double()
        mean = samples.mean(dim=0)
        centred = (samples - mean) / (len(samples) - 1) ** 0.5
        return cls(mean, torch.linalg.qr(centred, mode="r").R)

    @classmethod
    def of_moments(cls, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> "Gaussian":
        """From a mean and a covariance, whose eigenvalues within rounding of zero become zero."""
        eigenvalues, vectors = torch.linalg.eigh(covariance.double())
        eigenvalues = _without_rounding(eigenvalues)
        return cls(mean.double(), eigenvalues.sqrt()[:, None] * vectors.mT)


@dataclass(frozen=True)
class Extrapolation:
    """The line d²(n) = distance + slope / n, and the share of the variation that it explains."""

    distance: float
    slope: float
    r_squared: float


def frechet_distance(
    x: Float[Tensor, "n d"] | Gaussian, y: Float[Tensor, "m d"] | Gaussian
) -> float:
    """Squared Fréchet distance between two Gaussians, given or fitted to samples, in float64.

    With C = AᵀA the last trace is the sum of the singular values of Ax Ayᵀ, so no covariance has to
    be formed, and fewer samples than dimensions are no special case. Raises ValueError below two
    samples.
    """
    x, y = (z if isinstance(z, Gaussian) else Gaussian.fit(z) for z in (x, y))
    cross = torch.linalg.svdvals(x.factor @ y.factor.mT).sum()
    spread = x.factor.square().sum() + y.factor.square().sum() - 2 * cross
    return ((x.mean - y.mean).square().sum() + spread).clamp(min=0).item()


def gaussian_frechet_distance(
    mean_x: Float[Tensor, " d"],
    covariance_x: Float[Tensor, "d d"],
    mean_y: Float[Tensor, " d"],
    covariance_y: Float[Tensor, "d d"],
) -> float:
    """Squared Fréchet distance between two given Gaussians, the fast way: from their moments.

    Any A with Cx = AᵀA does in place of Cx^½: a Cholesky factor where there is one, since it costs
    a tenth of an eigendecomposition. With samples at hand prefer `frechet_distance`.
    """
    mean_x, covariance_x = mean_x.double(), covariance_x.double()
    mean_y, covariance_y = mean_y.double(), covariance_y.double()
    lower, failed = torch.linalg.cholesky_ex(covariance_x)
    factor = Gaussian.of_moments(mean_x, covariance_x).factor if failed else lower.mT
    product = _without_rounding(torch.linalg.eigvalsh(factor @ covariance_y @ factor.mT))
    spread = covariance_x.trace() + covariance_y.trace() - 2 * product.sqrt().sum()
    return ((mean_x - mean_y).square().sum() + spread).clamp(min=0).item()


def frechet_infinity(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"] | Gaussian,
    *,
    seed: int = 0,
    sizes: int = 10,
    repeats: int = 4,
) -> Extrapolation:
    """The distance of infinitely many samples of x to y, as FAD-infinity (Chong & Forsyth 2020).

    Distances of random subsets of x, sizes from n/4 to n equally spaced in 1/n, are averaged over
    `repeats` shuffles drawn by `seed` and extended to 1/n = 0 by least squares. As in Gui et al.
    (2024) y is taken as it is, so a small reference leaves its own bias. May fall below 0 where
    both agree; little is gained with n/4 below the dimension, where the line bends: see
    `r_squared`. Number and spacing of sizes are our defaults. Raises ValueError below 6 samples.
    """
    random = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(x), generator=random) for _ in range(repeats)])
    reference = y if isinstance(y, Gaussian) else Gaussian.fit(y)
    return extrapolate(x, reference, orders, sizes=sizes)


def extrapolate(
    x: Float[Tensor, "n d"], y: Gaussian, orders: Tensor, *, sizes: int = 10
) -> Extrapolation:
    """Fit the line through distances of the leading rows of each order of x (r, n) to y.

    Orders may repeat rows: the leading rows of a resample are themselves a smaller resample.
    """
    n = orders.shape[1]
    if n < 6 or sizes < 2:
        raise ValueError(f"an extrapolation needs 6 samples and 2 sizes, got {n} and {sizes}")
    counts = [max(2, round(n / share)) for share in torch.linspace(4, 1, sizes).tolist()]
    x = x.double()
    distances = [
        sum(_distance_from_few(x[order[:count]], y) for order in orders) / len(orders)
        for count in counts
    ]
    inverse, measured = 1 / torch.tensor(counts).double(), torch.stack(distances)
    along, above = inverse - inverse.mean(), measured - measured.mean()
    slope = (along @ above / (along @ along)).item()
    residual = (above - slope * along).square().sum() / above.square().sum().clamp(min=1e-300)
    return Extrapolation(
        distance=(measured.mean() - slope * inverse.mean()).item(),
        slope=slope,
        r_squared=(1 - residual).item(),
    )


def _distance_from_few(x: Float[Tensor, "n d"], y: Gaussian) -> Float[Tensor, ""]:
    """`frechet_distance` at the cost of the smaller of n, d: singular values by a Gram matrix."""
    centred = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    product = centred @ y.factor.mT
    gram = product @ product.mT if len(x) < product.shape[1] else product.mT @ product
    cross = _without_rounding(torch.linalg.eigvalsh(gram)).sqrt().sum()
    spread = centred.square().sum() + y.factor.square().sum() - 2 * cross
    return (x.mean(dim=0) - y.mean).square().sum() + spread


def _without_rounding(eigenvalues: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Zero where an eigenvalue is within rounding of zero; the root would magnify it to 1e-8."""
    noise = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.amax()
    return torch.where(eigenvalues > noise, eigenvalues, 0.0)
