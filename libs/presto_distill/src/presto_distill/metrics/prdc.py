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
    generated, reference = generated.double(), reference.double()
    generated_radii = _radii(generated, k, block)
    reference_radii = _radii(reference, k, block)

    balls = torch.zeros_like(generated_radii)
    recall, coverage = [], []
    for rows, radii in zip(reference.split(block), reference_radii.split(block), strict=True):
        distances = _distances(rows, generated)
        balls += (distances < radii[:, None]).sum(dim=0)
        recall.append((distances < generated_radii).any(dim=1))
        coverage.append(distances.amin(dim=1) < radii)
    return Neighbourhoods(
        precision=(balls > 0).double(),
        recall=torch.cat(recall).double(),
        density=balls / k,
        coverage=torch.cat(coverage).double(),
    )


def _radii(x: Float[Tensor, "n d"], k: int, block: int) -> Float[Tensor, " n"]:
    """Distance of each sample to its k-th neighbour; the first of k + 1 is the sample itself."""
    return torch.cat([_distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(block)])


def _distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Euclidean distances, not by matrix products: those leave a sample apart from itself."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
