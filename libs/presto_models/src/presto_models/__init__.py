"""EDM diffusion transformer, 44.1 kHz autoencoder, samplers and pipeline for text-to-music."""

from presto_models.adapters import DropBlocks, FeatureTap, from_eps, from_flow, from_v
from presto_models.autoencoder import Autoencoder, AutoencoderConfig, Codec
from presto_models.compiled import Compiled
from presto_models.conditioning import Condition, TextEncoder, TextEncoderConfig, null_condition
from presto_models.denoiser import BudgetDenoiser, Denoiser, FeatureDenoiser
from presto_models.dit import DiT, DiTConfig, PrestoDenoiser, PrestoDenoiserConfig
from presto_models.edm import Discrete, KarrasUniform, LogNormal, Precondition, karras_sigmas
from presto_models.guidance import guided, guided_within
from presto_models.layer_schedule import LayerSchedule, ase_schedule, presto_schedule
from presto_models.oobleck import Oobleck, OobleckConfig
from presto_models.pipeline import Pipeline
from presto_models.sampling import Sampling
from presto_models.snapshot import Snapshot, SnapshotError
from presto_models.stereo import MonoToStereo, MonoToStereoConfig
from presto_models.text_encoders import Cached, ClapText, SentenceText, T5Text

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "BudgetDenoiser",
    "Cached",
    "ClapText",
    "Codec",
    "Compiled",
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
    "MonoToStereo",
    "MonoToStereoConfig",
    "Oobleck",
    "OobleckConfig",
    "Pipeline",
    "Precondition",
    "PrestoDenoiser",
    "PrestoDenoiserConfig",
    "Sampling",
    "SentenceText",
    "Snapshot",
    "SnapshotError",
    "T5Text",
    "TextEncoder",
    "TextEncoderConfig",
    "ase_schedule",
    "from_eps",
    "from_flow",
    "from_v",
    "guided",
    "guided_within",
    "karras_sigmas",
    "null_condition",
    "presto_schedule",
]
