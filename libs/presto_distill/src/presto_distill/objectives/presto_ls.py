"""Presto-LS: both. First layers (Presto-L), then steps (Presto-S) with a generator that keeps the
layer schedule, while teacher and fake score run at full depth from the base weights.

The paper calls the best combination non-trivial; this order and these roles are our default.
"""

from torch import nn

from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_models.denoiser import FeatureDenoiser
from presto_models.guidance import Null


class PrestoLS(PrestoS):
    """Presto-S of `base` whose generator starts from `layer_student`, a denoiser that Presto-L
    trained and that picks its own budget from the noise level (a denoiser with a schedule)."""

    def __init__(
        self,
        base: FeatureDenoiser,
        layer_student: nn.Module,
        null: Null,
        cfg: PrestoSConfig = PrestoSConfig(),
        *,
        feature_layer: int,
        width: int,
    ):
        super().__init__(
            base, null, cfg, feature_layer=feature_layer, width=width, generator=layer_student
        )
