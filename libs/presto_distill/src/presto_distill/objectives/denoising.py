"""Base training: the EDM denoising loss with condition dropout."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from presto_distill import losses
from presto_distill.choices import check_share
from presto_distill.objective import Batch, Losses, Turn
from presto_models.denoiser import Cond
from presto_models.edm import SIGMA_DATA, LogNormal, SigmaLaw, add_noise, sample_sigma
from presto_models.guidance import Null


@dataclass(frozen=True)
class DenoisingConfig:
    """Published: the noise law's P_std and range, sigma_data, 10 % condition dropout."""

    p_train: SigmaLaw = LogNormal()
    condition_dropout: float = 0.1
    sigma_data: float = SIGMA_DATA

    def __post_init__(self) -> None:
        check_share("condition_dropout", self.condition_dropout)


class Denoising:
    """Trains a denoiser on lambda(sigma) |D(x + sigma eps, sigma, cond) - x|^2."""

    def __init__(self, denoiser: nn.Module, null: Null, cfg: DenoisingConfig = DenoisingConfig()):
        self.denoiser, self.null, self.cfg = denoiser.train(), null, cfg
        self.players = {"base": denoiser}
        self.turns = [Turn("base", self.loss)]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        x, cfg = batch.x, self.cfg
        cond = drop_condition(batch.cond, self.null, cfg.condition_dropout, rng)
        sigma = sample_sigma(cfg.p_train, len(x), rng, x.device)
        D_x = self.denoiser(add_noise(x, sigma, rng), sigma, cond)
        return {"dsm": losses.denoising(D_x, x, sigma, cfg.sigma_data).mean()}


def drop_condition(cond: Cond, null: Null, rate: float, rng: torch.Generator) -> Cond:
    """Replace each sample's condition by the null condition with probability `rate`."""
    leaf = next((leaf for leaf in tree_leaves(cond) if leaf is not None), None)
    if leaf is None or rate == 0:
        return cond
    drop = torch.rand(len(leaf), generator=rng, device=leaf.device) < rate

    def pick(kept, nothing):
        if kept is None:  # never stated
            return None
        return torch.where(drop.view(-1, *[1] * (kept.ndim - 1)), nothing, kept)

    return tree_map(pick, cond, null(cond))
