"""Precision, recall, density and coverage from nearest neighbours (Kynkäänniemi 2019, Naeem 2020).

A ball around each sample reaches to its k-th nearest neighbour in its own set. Precision and
density ask how real the generated samples are, recall and coverage how much of the reference they
reach.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Neighbourhoods:
    """What each sample contributes; the four numbers are the means of these four vectors."""

    precision: Float[Tensor, " m"]  # 1 where a generated sample lies in some reference ball
    recall: Float[Tensor, " n"]  # 1 where a reference sample lies in some generated ball
    density: Float[Tensor, " m"]  # reference balls around a generated sample, over k; may pass 1
    coverage: Float[Tensor, " n"]  # 1 where a reference ball holds some generated sample


def prdc(
    generated: Float[Tensor, "m d"], reference: Float[Tensor, "n d"], *, k: int = 5
) -> dict[str, float]:
    """Precision, recall, density and coverage by name; higher is better for all four."""
    return {
        name: v.mean().item() for name, v in vars(neighbourhoods(generated, reference, k=k)).items()
    }


def neighbourhoods(
    generated: Float[Tensor, "m d"],
    reference: Float[Tensor, "n d"],
    *,
    k: int = 5,
    block: int = 1024,
) -> Neighbourhoods:
    """Per-sample contributions, in float64 and never more than `block` rows of distances at once.

    Raises ValueError unless both sets hold more than k samples.
    """
    if not 1 <= k < min(len(generated), len(reference)):
        raise ValueError(f"k={k} must be in [1, {min(len(generated), len(reference)) - 1}]")
    # Distances do not depend on the origin; their rounding does, and is least with the mean there.
    centre = reference.double().mean(dim=0)
    generated, reference = generated.double() - centre, reference.double() - centre
    generated_radii = _radii(generated, k, block)
    reference_radii = _radii(reference, k, block)

    balls = torch.zeros_like(generated_radii)
    recall, coverage = [], []
    for rows, radii in zip(reference.split(block), reference_radii.split(block), strict=True):
        distances = _squared_distances(rows, generated, strict=True)
        inside = distances < radii[:, None]
        balls += inside.sum(dim=0)
        coverage.append(inside.any(dim=1))
        recall.append((distances < generated_radii).any(dim=1))
    return Neighbourhoods(
        precision=(balls > 0).double(),
        recall=torch.cat(recall).double(),
        density=balls / k,
        coverage=torch.cat(coverage).double(),
    )


def _radii(x: Float[Tensor, "n d"], k: int, block: int) -> Float[Tensor, " n"]:
    """Squared distance of each sample to its k-th nearest neighbour, itself not counted."""
    radii = []
    for first, rows in zip(range(0, len(x), block), x.split(block), strict=True):
        distances = _squared_distances(rows, x)
        distances.diagonal(first).fill_(torch.inf)
        radii.append(distances.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(radii)


def _squared_distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, strict: bool = False
) -> Float[Tensor, "n m"]:
    """|x|² + |y|² - 2 x·y by one matrix product, many times faster than pair by pair.

    With `strict` the sum is larger by what rounding can take from it, so that a sample on the rim
    of a ball is outside in whatever order the product was added up.
    """
    rounding = 2 * x.shape[1] * torch.finfo(x.dtype).eps if strict else 0.0
    lengths = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return torch.addmm(lengths, x, y.mT, beta=1 + rounding, alpha=-2).clamp_(min=0)
