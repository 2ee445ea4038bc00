"""Presets: how much of everything a run spends. A preset is a function, an ablation a `replace`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from presto_distill.choices import check_share
from presto_distill.trainer import TrainConfig


@dataclass(frozen=True)
class Stage(TrainConfig):
    """How to train one student: optimiser and length, and the global batch of a turn."""

    batch: int = 12  # clips, over all micro-batches and ranks

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1 or self.batch % self.micro_batches:
            raise ValueError(f"{self.micro_batches} micro-batches do not divide batch {self.batch}")

    @property
    def micro_batch(self) -> int:
        """Clips in each batch of the stream."""
        return self.batch // self.micro_batches


@dataclass(frozen=True)
class Preset:
    """Sizes of one `presto reproduce`. Lengths in latent frames (21.5 per second)."""

    name: str
    clips: int  # rendered to train on
    held_out: int  # rendered as reference and prompts; other songs than the training clips
    clip_seconds: float
    frames: int  # crop length in training and evaluation
    samples: int  # generated per evaluation
    base_steps: int  # Heun steps of the base model in quality evaluations
    warm_start: Stage | None  # regression that Presto-S and Presto-LS start from; None: the base
    trajectories: int  # of the teacher, for that regression
    steps: Stage  # Presto-S and Presto-LS; one step is one generator update
    layers: Stage  # Presto-L
    ablation_steps: Stage  # each Presto-S ablation, from the base
    ablation_layers: Stage  # each Presto-L ablation
    seeds: tuple[int, ...] = (0,)
    tempo_dropout: float = 0.0  # above 0, prompts need not state a tempo
    key_dropout: float = 0.0
    # Of the teacher inside distillation. Published: 4.5. Ours for the bundled model: none, which
    # keeps few-step samples most diverse (notebook teacher_guidance).
    guidance_scale: float = 1.0
    notebooks: tuple[str, ...] = ()  # that `presto reproduce` runs if none is named; empty: all
    parameters: dict[str, Any] = field(default_factory=dict)  # of notebooks that know them

    def __post_init__(self) -> None:
        for name, share in self.dropout.items():
            check_share(name, share)

    @property
    def dropout(self) -> dict[str, float]:
        """Shares of training crops that keep to themselves what their network could be told."""
        return {"tempo_dropout": self.tempo_dropout, "key_dropout": self.key_dropout}


# The main study and the paper's ablations; the others run by name or in larger presets.
QUICK_NOTEBOOKS = (
    "00_tour",
    "data_and_augmentation",
    "autoencoder",
    "combined_acceleration",
    "fake_score_updates",
    "noise_laws",
    "nu_weights",
    "layer_distillation",
    "listening_test",
    "your_own_model",
)

# Less of everything that the preset smoke leaves to the notebooks themselves.
SMOKE_PARAMETERS = {
    "steps": [1, 4],
    "evaluations": [1, 3],
    "iterations": [0, 2],
    "levels": 3,
    "solver_steps": 2,
    "cfg_pp_scales": [0.8],
    "cfg_scales": [1.0, 2.0],
    "scales": [1.0, 2.0],
    "seconds": 1.0,
    "repeats": 1,
    "prompts": ["slow jazz with piano"],
    "critic_updates": [3, 5],
    "nu_pairs": [[0.0, 0.0], [0.01, 0.005]],
    "nus": [0.0, 0.1],
    "heun_steps": 2,
    "shares": [0.5, 1.0],
    "batches": [1, 2],
    "best_of": [1, 2],
    "clips": 2,
}

# Distillation of the small bundled model in minutes. Our defaults: the published learning rates
# (5e-7 for steps, 8e-5 for layers) belong to tens of thousands of iterations.
SMALL_WARM_START = Stage(steps=120, lr=1e-3, warmup=5, decay="cosine", ema_decay=0.9, batch=32)
SMALL_STEPS = Stage(
    steps=20, lr={"generator": 5e-6, "critic": 1e-4}, betas=(0.0, 0.99), ema_decay=0.95
)
SMALL_STEPS_FROM_BASE = replace(
    SMALL_STEPS, steps=6, lr={"generator": 1e-4, "critic": 3e-4}, ema_decay=0.9
)
SMALL_LAYERS = Stage(steps=150, lr=3e-4, warmup=10, decay="cosine", ema_decay=0.95)


def smoke() -> Preset:
    """Every part once, in under three minutes on two cores: for CI, not for reading numbers."""
    return Preset(
        name="smoke",
        clips=32,
        held_out=16,
        clip_seconds=3.0,
        frames=32,
        samples=8,
        base_steps=4,
        warm_start=replace(SMALL_WARM_START, steps=2, batch=4),
        trajectories=16,
        steps=replace(SMALL_STEPS, steps=2, batch=4),
        layers=replace(SMALL_LAYERS, steps=2, batch=4),
        ablation_steps=replace(SMALL_STEPS_FROM_BASE, steps=1, batch=4),
        ablation_layers=replace(SMALL_LAYERS, steps=1, batch=4),
        parameters=SMOKE_PARAMETERS,
    )


def quick() -> Preset:
    """The default: 7 to 18 minutes on two cores."""
    return Preset(
        name="quick",
        clips=512,
        held_out=256,
        clip_seconds=4.0,
        frames=64,
        samples=96,
        base_steps=24,
        warm_start=SMALL_WARM_START,
        trajectories=768,
        steps=SMALL_STEPS,
        layers=SMALL_LAYERS,
        ablation_steps=SMALL_STEPS_FROM_BASE,
        ablation_layers=replace(SMALL_LAYERS, steps=24),
        notebooks=QUICK_NOTEBOOKS,
    )


def cpu() -> Preset:
    """Every notebook with three seeds, more samples than quick: some two hours on two cores."""
    return replace(
        quick(),
        name="cpu",
        notebooks=(),
        clips=768,
        samples=128,
        steps=replace(SMALL_STEPS, steps=30),
        ablation_steps=replace(SMALL_STEPS_FROM_BASE, steps=10),
        ablation_layers=replace(SMALL_LAYERS, steps=40),
        seeds=(0, 1, 2),
    )


def gpu() -> Preset:
    """About an hour on one GPU. Sized by estimate; not yet run."""
    return replace(
        quick(),
        name="gpu",
        notebooks=(),
        clips=8192,
        held_out=1024,
        clip_seconds=10.0,
        frames=128,
        samples=1024,
        base_steps=40,
        warm_start=replace(SMALL_WARM_START, steps=2000, batch=80),
        trajectories=8192,
        steps=replace(SMALL_STEPS, steps=3000, lr=1e-5, ema_decay=0.999, batch=80),
        layers=replace(SMALL_LAYERS, steps=6000, lr=8e-5, ema_decay=0.999, batch=80),
        ablation_steps=replace(SMALL_STEPS_FROM_BASE, steps=800, lr=2e-5, batch=80),
        ablation_layers=replace(SMALL_LAYERS, steps=2000, lr=8e-5, batch=80),
        seeds=(0, 1, 2),
    )


def a100_paper() -> Preset:
    """The published learning rates (5e-7 steps, 8e-5 layers), iterations and batches (80 and 12).

    Published for 16 A100; the length of training clips is not stated, 32 s are ours. Needs a base
    model of that size (docs/paper_scale.md). Never run.
    """
    paper = {"betas": (0.9, 0.999), "precision": "bfloat16"}
    steps = Stage(steps=32_000, lr=5e-7, batch=80, **paper)
    layers = Stage(steps=60_000, lr=8e-5, batch=12, **paper)
    return replace(
        gpu(),
        name="a100_paper",
        clip_seconds=32.0,
        frames=689,
        warm_start=None,
        steps=steps,
        layers=layers,
        ablation_steps=steps,
        ablation_layers=layers,
        guidance_scale=4.5,
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    function.__name__: function for function in (smoke, quick, cpu, gpu, a100_paper)
}


def preset(name: str) -> Preset:
    """The preset of that name; ValueError lists the others."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()


def check_gpu(preset: Preset) -> None:
    """Raises ValueError where a preset needs a GPU and torch sees none."""
    import torch

    if preset.name in ("gpu", "a100_paper") and not torch.cuda.is_available():
        raise ValueError(
            f"preset {preset.name} needs a GPU and torch sees none (nvidia-smi shows what the "
            "driver sees; uv sync installs torch with CUDA): or use --preset cpu"
        )
