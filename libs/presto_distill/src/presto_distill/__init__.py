"""Presto: distilling steps and layers of diffusion models (Novack et al. 2025)."""

from presto_distill.objective import Batch, Objective, Turn
from presto_distill.objectives.denoising import Denoising, DenoisingConfig
from presto_distill.objectives.presto_l import PrestoL, PrestoLConfig
from presto_distill.objectives.presto_ls import PrestoLS, PrestoLSConfig
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.trainer import Record, TrainConfig, Trainer

__all__ = [
    "Batch",
    "Denoising",
    "DenoisingConfig",
    "Objective",
    "PrestoL",
    "PrestoLConfig",
    "PrestoLS",
    "PrestoLSConfig",
    "PrestoS",
    "PrestoSConfig",
    "Record",
    "TrainConfig",
    "Trainer",
    "Turn",
]
