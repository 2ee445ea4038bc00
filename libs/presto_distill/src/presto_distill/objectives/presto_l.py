"""Presto-L: layer distillation. One network learns to denoise with as many blocks as its noise
level calls for, and to end in the hidden state it would have reached with all of them."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_distill import losses
from presto_distill.choices import check_choices, check_share, check_weights
from presto_distill.objective import Batch, Losses, Turn, frozen, trainable
from presto_distill.objectives.denoising import drop_condition
from presto_models.denoiser import Cond
from presto_models.edm import SIGMA_DATA, LogNormal, SigmaLaw, add_noise, sample_sigma
from presto_models.guidance import Null
from presto_models.layer_schedule import LayerSchedule


@dataclass(frozen=True)
class PrestoLConfig:
    """Published: nu = 0.1, last block always kept, budget conditioning, condition dropout 10 %.

    Our defaults, not stated in the paper: `teacher`, `compare` and `taught`. Which blocks are kept
    and whether the budget is embedded are options of the network itself.
    """

    p_train: SigmaLaw = LogNormal()
    nu: float = 0.1  # weight of the self-teacher term; 0 leaves it out
    teacher: Literal["self", "ema", "base"] = "self"  # who runs at full depth to teach
    # What is compared: the hidden state entering the output head, as the head's layer norm sees
    # it or raw, or the denoised outputs.
    compare: Literal["state", "raw_state", "output"] = "state"
    # Share of the micro-batches that teach, weighed up for the rest. A full pass in every one takes
    # back what dropping blocks saves (docs/results.md); ranks wait for the one that makes it.
    taught: float = 0.25
    condition_dropout: float = 0.1
    sigma_data: float = SIGMA_DATA

    def __post_init__(self) -> None:
        check_choices(self)
        check_weights(self, "nu")
        check_share("condition_dropout", self.condition_dropout)
        if not 0 < self.taught <= 1:
            raise ValueError(f"taught must be within 0..1 and not 0, got {self.taught}")


class PrestoL:
    """Player: the student, a copy of the base model that accepts `budget` and `tap`."""

    def __init__(
        self,
        base: nn.Module,
        null: Null,
        schedule: LayerSchedule,
        cfg: PrestoLConfig = PrestoLConfig(),
        *,
        depth: int,
    ):
        self.null, self.cfg, self.depth = null, cfg, depth
        self.schedule = schedule.within(depth)
        self.student = trainable(base)
        self.fixed = {"base": frozen(base)} if cfg.teacher == "base" else {}
        self.averages: dict[str, nn.Module] = {}  # the trainer's
        self.players = {"student": self.student}
        self.turns = [Turn("student", self.loss)]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        x, cfg = batch.x, self.cfg
        cond = drop_condition(batch.cond, self.null, cfg.condition_dropout, rng)
        sigma = sample_sigma(cfg.p_train, len(x), rng, x.device)
        noised = add_noise(x, sigma, rng)

        # Denoise with the blocks this noise level calls for; samples are grouped by budget.
        budget = self.schedule(sigma)
        dropped = self.student(noised, sigma, cond, budget=budget, tap=-1)
        terms = {"dsm": losses.denoising(dropped[0], x, sigma, cfg.sigma_data).mean()}

        # A network at full depth teaches what the dropped pass should have come to.
        if cfg.nu:
            terms["self_teacher"] = sigma.new_zeros(())
            if torch.rand((), generator=rng, device=rng.device) < cfg.taught:
                call = (self._teacher(), dropped, noised, sigma, cond, budget)
                how = {"compare": cfg.compare, "sigma_data": cfg.sigma_data}
                distance = full_depth_distance(*call, depth=self.depth, **how)
                terms["self_teacher"] = cfg.nu / cfg.taught * distance.mean()
        return terms

    def _teacher(self) -> nn.Module:
        if self.cfg.teacher == "ema" and not self.averages:
            raise ValueError('teacher="ema" needs a Trainer, which keeps the moving averages')
        teachers = {"self": self.student, "ema": self.averages.get("student"), **self.fixed}
        return teachers[self.cfg.teacher]


def full_depth_distance(
    teacher: nn.Module,
    dropped: tuple[Float[Tensor, "b c *t"], Float[Tensor, "b n d"]],
    noised: Float[Tensor, "b c *t"],
    sigma: Float[Tensor, " b"],
    cond: Cond,
    budget: Int[Tensor, " b"],
    *,
    depth: int,
    compare: str = "state",
    sigma_data: float = SIGMA_DATA,
) -> Float[Tensor, " b"]:
    """Per sample, how far a dropped pass (output, hidden state) is from the teacher's full one.

    Samples that dropped nothing cost no second pass and count as 0: they are what they learn.
    """
    distance = sigma.new_zeros(len(sigma))
    short = (budget < depth).nonzero().squeeze(1)
    if not len(short):
        return distance
    rest = tree_map_only(Tensor, lambda leaf: leaf[short], (noised, sigma, cond))
    with torch.no_grad():
        D_full, full = teacher(*rest, budget=depth, tap=-1)
    D_x, hidden = (leaf[short] for leaf in dropped)
    if compare == "output":
        distance[short] = losses.denoising(D_x, D_full, rest[1], sigma_data)
    else:
        same_scale = compare == "state"
        distance[short] = losses.self_teacher(hidden, full, normalise=same_scale)
    return distance
