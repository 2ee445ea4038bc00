"""Presets: how much of everything a run spends. A preset is a function, an ablation a `replace`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from presto_distill.trainer import TrainConfig


@dataclass(frozen=True)
class Preset:
    """Sizes of one `presto reproduce`. Lengths in latent frames (21.5 per second)."""

    name: str
    clips: int  # rendered to train on
    held_out: int  # rendered as reference and prompts; other songs than the training clips
    clip_seconds: float
    frames: int  # crop length in training and evaluation
    batch: int
    samples: int  # generated per evaluation
    base_steps: int  # Heun steps of the base model in quality evaluations
    steps: TrainConfig  # Presto-S and Presto-LS; one step is one generator update
    layers: TrainConfig  # Presto-L
    ablation_steps: int  # generator updates of each Presto-S ablation
    ablation_layers: int  # steps of each Presto-L ablation
    seeds: tuple[int, ...] = (0,)
    # Of the teacher inside distillation. Published: 4.5. Ours for the bundled model: single trials
    # during development put few-step samples closest to real clips without guidance.
    guidance_scale: float = 1.0


# Distillation of the small bundled model in minutes. Our defaults: the published learning rates
# (5e-7 for steps, 8e-5 for layers) belong to tens of thousands of iterations.
SMALL_STEPS = TrainConfig(steps=55, lr=1e-4, betas=(0.0, 0.99), ema_decay=0.9)
SMALL_LAYERS = TrainConfig(steps=150, lr=3e-4, warmup=10, decay="cosine", ema_decay=0.95)


def smoke() -> Preset:
    """Every part once, in under three minutes on two cores: for CI, not for reading numbers."""
    return Preset(
        name="smoke",
        clips=32,
        held_out=16,
        clip_seconds=3.0,
        frames=32,
        batch=4,
        samples=8,
        base_steps=4,
        steps=replace(SMALL_STEPS, steps=2),
        layers=replace(SMALL_LAYERS, steps=2),
        ablation_steps=1,
        ablation_layers=1,
    )


def quick() -> Preset:
    """The default: under 15 minutes on two cores."""
    return Preset(
        name="quick",
        clips=512,
        held_out=256,
        clip_seconds=4.0,
        frames=64,
        batch=12,
        samples=96,
        base_steps=24,
        steps=SMALL_STEPS,
        layers=SMALL_LAYERS,
        ablation_steps=10,
        ablation_layers=24,
    )


def cpu() -> Preset:
    """Three seeds; meant for 90 minutes on two cores. Sized by estimate; not yet run."""
    return replace(
        quick(),
        name="cpu",
        clips=2048,
        samples=192,
        steps=replace(SMALL_STEPS, steps=120),
        layers=replace(SMALL_LAYERS, steps=300),
        ablation_steps=30,
        ablation_layers=120,
        seeds=(0, 1, 2),
    )


def gpu() -> Preset:
    """About an hour on one GPU. Sized by estimate; not yet run."""
    return replace(
        quick(),
        name="gpu",
        clips=8192,
        held_out=1024,
        clip_seconds=10.0,
        frames=128,
        batch=80,
        samples=1024,
        base_steps=40,
        steps=replace(SMALL_STEPS, steps=3000, lr=2e-5, ema_decay=0.999),
        layers=replace(SMALL_LAYERS, steps=6000, lr=8e-5, ema_decay=0.999),
        ablation_steps=800,
        ablation_layers=2000,
        seeds=(0, 1, 2),
    )


def a100_paper() -> Preset:
    """The published learning rates (5e-7 steps, 8e-5 layers), iterations and total batch of 80.

    Published for 16 A100 and 32 s of audio; needs a base model of that size. The layers' own
    published batch of 12 and several GPUs are not supported yet. Never run.
    """
    return replace(
        gpu(),
        name="a100_paper",
        clip_seconds=32.0,
        frames=689,
        steps=TrainConfig(steps=32_000, lr=5e-7, betas=(0.9, 0.999), precision="bfloat16"),
        layers=TrainConfig(steps=60_000, lr=8e-5, betas=(0.9, 0.999), precision="bfloat16"),
        ablation_steps=32_000,
        ablation_layers=60_000,
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
