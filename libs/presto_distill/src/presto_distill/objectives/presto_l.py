"""Presto-L: layer distillation. One network learns to denoise with as many blocks as its noise
level calls for, and to end in the hidden state it would have reached with all of them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_distill import losses
from presto_distill.objective import Batch, Losses, Turn, trainable
from presto_distill.objectives.denoising import drop_condition
from presto_models.edm import SIGMA_DATA, LogNormal, SigmaLaw, add_noise, sample_sigma
from presto_models.guidance import Null
from presto_models.layer_schedule import LayerSchedule


@dataclass(frozen=True)
class PrestoLConfig:
    """Published: nu = 0.1, last block always kept, budget conditioning, condition dropout 10 %.

    `normalise_state` is our default, not stated in the paper. Which blocks are kept and whether the
    budget is embedded are options of the network itself.
    """

    p_train: SigmaLaw = LogNormal()
    nu: float = 0.1  # weight of the self-teacher term; 0 leaves it out
    normalise_state: bool = True  # compare hidden states as the output head's layer norm sees them
    condition_dropout: float = 0.1
    sigma_data: float = SIGMA_DATA


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
        self.null, self.schedule, self.cfg, self.depth = null, schedule, cfg, depth
        self.student = trainable(base)
        self.players = {"student": self.student}
        self.turns = [Turn("student", self.loss)]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        x, cfg = batch.x, self.cfg
        cond = drop_condition(batch.cond, self.null, cfg.condition_dropout, rng)
        sigma = sample_sigma(cfg.p_train, len(x), rng, x.device)
        noised = add_noise(x, sigma, rng)

        # Denoise with the blocks this noise level calls for; samples are grouped by budget.
        budget = self.schedule(sigma)
        D_x, dropped = self.student(noised, sigma, cond, budget=budget, tap=-1)
        terms = {"dsm": losses.denoising(D_x, x, sigma, cfg.sigma_data).mean()}

        # The same network at full depth teaches the hidden state that enters the output head.
        # Samples that dropped nothing would teach themselves: they cost no second pass.
        short = (budget < self.depth).nonzero().squeeze(1)
        if cfg.nu and len(short):
            rest = tree_map_only(Tensor, lambda leaf: leaf[short], (noised, sigma, cond))
            with torch.no_grad():
                full = self.student.features(*rest, tap=self.depth - 1)
            distance = losses.self_teacher(dropped[short], full, normalise=cfg.normalise_state)
            terms["self_teacher"] = cfg.nu * distance.sum() / len(x)
        return terms
