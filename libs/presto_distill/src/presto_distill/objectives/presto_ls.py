"""Presto-LS: both. Presto-S whose generator runs only the blocks its noise level calls for, while
teacher and fake score run at full depth from the base weights.

The paper calls the best combination non-trivial; the order, first layers and then steps, and the
roles are our default. The other orders differ in the weights the generator starts from.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from presto_distill.choices import check_weights
from presto_distill.objective import Batch, Losses
from presto_distill.objectives.presto_l import full_depth_distance
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_models.denoiser import FeatureDenoiser, Tap
from presto_models.edm import add_noise
from presto_models.guidance import Null
from presto_models.layer_schedule import LayerSchedule, ScheduledDenoiser


@dataclass(frozen=True)
class PrestoLSConfig(PrestoSConfig):
    """Presto-S, and which networks drop layers. All our defaults, not stated in the paper."""

    # Weight of the generator's self-teacher term: for orders in which the generator has not met
    # dropped layers before (steps first, or both at once from the base model).
    nu: float = 0.0
    fake_score: Literal["full", "dropped"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "nu")


class PrestoLS(PrestoS):
    """Presto-S of `base` whose generator starts from `generator` and obeys `schedule`.

    Layers first: `generator` is a Presto-L student. Steps first: a Presto-S generator, with nu > 0.
    Jointly: the base model, with nu > 0. It must accept `budget` and `tap`. A dropped fake score
    starts from `generator`'s weights too.
    """

    def __init__(
        self,
        base: FeatureDenoiser,
        generator: nn.Module,
        null: Null,
        schedule: LayerSchedule,
        cfg: PrestoLSConfig = PrestoLSConfig(),
        *,
        depth: int,
        feature_layer: Tap,
        width: int,
    ):
        self.schedule, self.depth = schedule.within(depth), depth
        dropped = cfg.fake_score == "dropped"
        super().__init__(
            base,
            null,
            cfg,
            feature_layer=feature_layer,
            width=width,
            generator=generator,
            fake_score=ScheduledDenoiser(generator, self.schedule) if dropped else None,
        )
        # Every block the head reads must run whatever the budget; the last one always does.
        shallow, reads = min(self.schedule.budgets), cfg.features == "fake_score" and cfg.nu_2
        missing = [tap for tap in self.taps if shallow - 2 < tap < depth - 1]
        if dropped and reads and missing:
            raise ValueError(
                f"the head reads block {missing[0]} of a dropped fake score, which always runs "
                f"blocks 0..{shallow - 2} and the last one only"
            )

    def generate(self, batch: Batch, rng: torch.Generator) -> Float[Tensor, "b c *t"]:
        """As in Presto-S, with the blocks that the noise level calls for."""
        return self._generate(batch, rng)[0][0]

    def generator_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        dropped, noised, sigma, budget = self._generate(batch, rng)
        terms = self.matching_terms(dropped[0], batch, rng)
        if self.cfg.nu:
            distance = full_depth_distance(
                self.generator, dropped, noised, sigma, batch.cond, budget, depth=self.depth
            )
            terms["self_teacher"] = self.cfg.nu * distance.mean()
        return terms

    def _generate(self, batch: Batch, rng: torch.Generator) -> tuple[tuple, Tensor, Tensor, Tensor]:
        sigma = self._sigma(self.cfg.p_gen, batch, rng)
        noised, budget = add_noise(batch.x, sigma, rng), self.schedule(sigma)
        dropped = self.generator(noised, sigma, batch.cond, budget=budget, tap=-1)
        return dropped, noised, sigma, budget
