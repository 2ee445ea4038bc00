"""How many blocks run at which noise level, and which ones.

ASE (Moon et al. 2024) and Presto-L share the idea that noisier inputs need fewer blocks. They
differ in which blocks stay: ASE drops the last ones, Presto-L keeps the last block always.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from presto_models.denoiser import BudgetDenoiser, Cond, Hidden, Tap, pass_on_facts, prepare
from presto_models.edm import LogNormal, SigmaLaw

Drop = Literal["shifted", "tail"]
PRESTO, MILD = (0, 4, 8, 12, 14), (0, 2, 4, 6, 7)  # of 24 blocks dropped per bin, cleanest first


def kept_blocks(budget: int, depth: int, drop: Drop = "shifted") -> list[int]:
    """Indices of the blocks that run when `budget` of `depth` may.

    "shifted" (Presto-L): the first budget-1 and the last one; "tail" (ASE): the first `budget`.
    """
    if not 1 <= budget <= depth:
        raise ValueError(f"budget must be within 1..{depth} blocks, got {budget}")
    if drop not in get_args(Drop):
        raise ValueError(f"no way to drop {drop!r}: choose {', '.join(get_args(Drop))}")
    if drop == "tail":
        return list(range(budget))
    return [*range(budget - 1), depth - 1]


def check_budgets(budgets: Tensor, batch: int) -> None:
    """ValueError unless there is one budget per sample."""
    if budgets.shape != (batch,):
        raise ValueError(f"budgets of shape {tuple(budgets.shape)} for {batch} samples")


@dataclass(frozen=True)
class LayerSchedule:
    """A step function from noise level to number of blocks: budgets[i] below edges[i].

    `edges` ascend; `budgets` (one more than edges) go from the cleanest bin to the noisiest.
    """

    edges: tuple[float, ...]
    budgets: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.budgets) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges need {len(self.edges) + 1} budgets")
        if list(self.edges) != sorted(self.edges):
            raise ValueError(f"edges must ascend, got {self.edges}")

    def within(self, depth: int) -> "LayerSchedule":
        """The schedule itself; ValueError where a budget is none of 1..depth."""
        if wrong := [budget for budget in self.budgets if not 1 <= budget <= depth]:
            raise ValueError(f"budgets must be within 1..{depth} blocks, got {wrong[0]}")
        return self

    def __call__(self, sigma: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Number of blocks to run for each sample, shape (b,)."""
        bins = torch.bucketize(sigma, torch.tensor(self.edges, device=sigma.device), right=True)
        return torch.tensor(self.budgets, device=sigma.device)[bins]


def quantile_schedule(budgets: tuple[int, ...], law: SigmaLaw) -> LayerSchedule:
    """Bins of equal probability under `law`, cleanest first."""
    inner = torch.arange(1, len(budgets), dtype=torch.float64) / len(budgets)
    return LayerSchedule(tuple(law.quantile(inner).tolist()), budgets)


def presto_schedule(
    depth: int, law: SigmaLaw = LogNormal(), dropped: tuple[int, ...] = PRESTO
) -> LayerSchedule:
    """Presto-L's schedule scaled to `depth`: `dropped` of 24 blocks per equal-probability bin of
    the training noise, cleanest first. Our default, not stated in the paper; `MILD` drops half."""
    return quantile_schedule(tuple(max(1, depth - round(n * depth / 24)) for n in dropped), law)


def ase_schedule(depth: int, law: SigmaLaw = LogNormal()) -> LayerSchedule:
    """ASE's public schedule scaled to `depth`: 28, 28, 24, 24, 20, 20, 16, 16, 12, 12 of 28 blocks
    per tenth of the process, clean to noisy. Tenths of the training noise law are our reading."""
    kept = (28, 28, 24, 24, 20, 20, 16, 16, 12, 12)
    return quantile_schedule(tuple(max(1, round(n * depth / 28)) for n in kept), law)


class ScheduledDenoiser(nn.Module):
    """A denoiser that spends on each sample the blocks its noise level calls for, unless told."""

    def __init__(self, denoiser: BudgetDenoiser, schedule: LayerSchedule):
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule
        pass_on_facts(self, denoiser)

    def forward(
        self,
        x: Float[Tensor, "b c *t"],
        sigma: Float[Tensor, " b"],
        cond: Cond = None,
        *,
        budget: int | Int[Tensor, " b"] | None = None,
        **options,
    ) -> Float[Tensor, "b c *t"] | tuple[Float[Tensor, "b c *t"], Hidden]:
        budget = self.schedule(sigma) if budget is None else budget
        return self.denoiser(x, sigma, cond, budget=budget, **options)

    def features(
        self, x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond = None, *, tap: Tap
    ) -> Hidden:
        """The hidden state after block `tap` of the pass that the schedule shortens."""
        return self(x, sigma, cond, tap=tap)[1]

    def prepare(self, cond: Cond) -> Cond:
        """The condition with what the denoiser can compute of it, once for all sampler steps."""
        return prepare(self.denoiser, cond)
