"""Fréchet distance between Gaussians fitted to two sets of embeddings (Heusel 2017, Kilgour 2019).

    d² = |μx - μy|² + tr Cx + tr Cy - 2 tr (Cx^½ Cy Cx^½)^½

No general matrix square root is taken: that one can turn complex or negative on a singular product.
The distance is biased upwards by a term of order 1/n, so compare only at equal sample counts, or
let `frechet_infinity` extrapolate that term away.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
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
        return cls(samples.mean(dim=0), torch.linalg.qr(_centred(samples), mode="r").R)

    @classmethod
    def of_moments(cls, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> "Gaussian":
        """From a mean and a covariance, whose eigenvalues within rounding of zero become zero."""
        eigenvalues, vectors = torch.linalg.eigh(covariance.double())
        eigenvalues = _without_rounding(eigenvalues)
        return cls(mean.double(), eigenvalues.sqrt()[:, None] * vectors.mT)

    def draw(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """n samples of it."""
        shape = (n, len(self.factor))
        return torch.randn(shape, generator=rng, dtype=torch.float64) @ self.factor + self.mean


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """The lines d²(n) = distance + slope / n, and the share of the variation that they explain."""

    distance: Float[Tensor, "*r"]
    slope: Float[Tensor, "*r"]
    r_squared: Float[Tensor, "*r"]


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
    sizes: int = 6,
    repeats: int = 4,
) -> Extrapolation:
    """The distance of infinitely many samples of x to y, as FAD-infinity (Chong & Forsyth 2020).

    Distances of random subsets of x, sizes from n/4 to n equally spaced in 1/n, are averaged over
    `repeats` shuffles drawn by `seed` and extended to 1/n = 0 by least squares. As in Gui et al.
    (2024) y is taken as it is, so a small reference leaves its own bias. May fall below 0 where
    both agree. With n/4 below the dimension the line bends and the result is too low: see
    `r_squared`. Number and spacing of sizes are our defaults. Raises ValueError below 6 samples.
    """
    random = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(x), generator=random) for _ in range(repeats)])
    counts, distances = subset_distances(x, y, orders, sizes=sizes)
    return fit_line(counts, distances.mean(dim=0))


def subset_distances(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"] | Gaussian,
    orders: Int[Tensor, "r k"],
    *,
    sizes: int = 6,
) -> tuple[Int[Tensor, " s"], Float[Tensor, "r s"]]:
    """Sizes from k/4 to k, and the Fréchet distances to y of so many leading rows of each order.

    Orders may repeat rows: the leading rows of a resample are themselves a smaller resample.
    Raises ValueError for orders of fewer than 6 rows and for fewer than 2 sizes.
    """
    k = orders.shape[1]
    if k < 6 or sizes < 2:
        raise ValueError(f"an extrapolation needs 6 samples and 2 sizes, got {k} and {sizes}")
    y = y if isinstance(y, Gaussian) else Gaussian.fit(y)
    shifted = x.double() - y.mean
    product = shifted @ y.factor.mT  # singular values of its centred rows are those of Ax Ayᵀ
    counts = [max(2, round(k / share)) for share in torch.linspace(4, 1, sizes).tolist()]
    at_once = max(1, 2**24 // (k * x.shape[1]))  # orders, so that their rows stay below 128 MiB

    def distances(rows: Int[Tensor, "q c"]) -> Float[Tensor, " q"]:
        means, projected = shifted[rows].mean(dim=1), _centred(product[rows])
        # The smaller of the two Gram matrices: they share their eigenvalues other than zero.
        wide = projected.shape[1] < projected.shape[2]
        gram = projected @ projected.mT if wide else projected.mT @ projected
        cross = _without_rounding(torch.linalg.eigvalsh(gram)).sqrt().sum(dim=1)
        spread = _centred(shifted[rows]).square().sum(dim=(1, 2)) + y.factor.square().sum()
        return means.square().sum(dim=1) + spread - 2 * cross

    columns = [
        torch.cat([distances(part[:, :count]) for part in orders.split(at_once)])
        for count in counts
    ]
    return torch.tensor(counts), torch.stack(columns, dim=1)


def fit_line(counts: Int[Tensor, " s"], distances: Float[Tensor, "*r s"]) -> Extrapolation:
    """Least-squares lines through distances along 1 / counts."""
    inverse = 1 / counts.double()
    along, above = inverse - inverse.mean(), distances - distances.mean(dim=-1, keepdim=True)
    slope = above @ along / (along @ along)
    residual = (above - slope[..., None] * along).square().sum(dim=-1)
    return Extrapolation(
        distance=distances.mean(dim=-1) - slope * inverse.mean(),
        slope=slope,
        r_squared=1 - residual / above.square().sum(dim=-1).clamp(min=1e-300),
    )


def _centred(x: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n d"]:
    """Rows around their mean, scaled so that their Gram matrix is the unbiased covariance."""
    return (x - x.mean(dim=-2, keepdim=True)) / (x.shape[-2] - 1) ** 0.5


def _without_rounding(eigenvalues: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Zero where an eigenvalue is within rounding of zero; the root would magnify it to 1e-8."""
    largest = eigenvalues.amax(dim=-1, keepdim=True)
    noise = eigenvalues.shape[-1] * torch.finfo(eigenvalues.dtype).eps * largest
    return torch.where(eigenvalues > noise, eigenvalues, 0.0)
