"""EDM diffusion transformer, 44.1 kHz autoencoder, samplers and pipeline for text-to-music."""

from presto_models.adapters import DropBlocks, FeatureTap, from_eps, from_flow, from_v
from presto_models.autoencoder import Autoencoder, AutoencoderConfig
from presto_models.conditioning import Condition, TextEncoder, TextEncoderConfig, null_condition
from presto_models.denoiser import BudgetDenoiser, Denoiser, FeatureDenoiser
from presto_models.dit import DiT, DiTConfig, PrestoDenoiser, PrestoDenoiserConfig
from presto_models.edm import Discrete, KarrasUniform, LogNormal, Precondition, karras_sigmas
from presto_models.guidance import guided
from presto_models.layer_schedule import LayerSchedule, ase_schedule, presto_schedule
from presto_models.pipeline import Pipeline, Sampling
from presto_models.snapshot import Snapshot, SnapshotError

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "BudgetDenoiser",
    "Condition",
    "Denoiser",
    "DiT",
    "DiTConfig",
    "Discrete",
    "DropBlocks",
    "FeatureDenoiser",
    "FeatureTap",
    "KarrasUniform",
    "LayerSchedule",
    "LogNormal",
    "Pipeline",
    "Precondition",
    "PrestoDenoiser",
    "PrestoDenoiserConfig",
    "Sampling",
    "Snapshot",
    "SnapshotError",
    "TextEncoder",
    "TextEncoderConfig",
    "ase_schedule",
    "from_eps",
    "from_flow",
    "from_v",
    "guided",
    "karras_sigmas",
    "null_condition",
    "presto_schedule",
]
