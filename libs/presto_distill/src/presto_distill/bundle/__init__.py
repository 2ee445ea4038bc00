"""Training of the bundled models from nothing but this repository, stage after stage.

    presto train-bundle --out presto-small --stages embedder base

A stage runs again only if its part of the preset, or a model it reads, has changed; killed, it
resumes.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from presto_data.encode import claimed
from presto_data.synthetic import VERSION
from presto_distill.bundle.audio import (
    train_codec,
    train_codec_decoder,
    train_codec_start,
    train_embedder,
    train_stereo,
)
from presto_distill.bundle.denoisers import (
    train_base,
    train_layers,
    train_layers_steps,
    train_steps,
)
from presto_distill.bundle.preset import PRESETS, BundlePreset
from presto_distill.experiment import file_digest
from presto_models.snapshot import write_atomic

__all__ = ["PRESETS", "STAGES", "BundlePreset", "Stage", "train_bundle"]


class Stage(NamedTuple):
    """How a stage is run, and all that its result depends on."""

    train: Callable[[BundlePreset, Path, str], None]
    makes: tuple[str, ...]  # folders, the last of which is written last
    reads: tuple[str, ...]  # folders of earlier stages
    uses: tuple[str, ...]  # fields of the preset


SONGS = ("seed", "clips", "held_out", "clip_seconds")
CROPS = (
    *SONGS,
    "training_seed",
    "long_clips",
    "long_seconds",
    "tempo_dropout",
    "key_dropout",
    "frames_and_batch",
)
FEW_STEPS = (
    *CROPS,
    "guidance_interval",
    "guidance_scale",
    "trajectories",
    "warm_start",
    "steps",
)
CODEC_SONGS = ("seed", "codec_clips", "codec_held_out", "codec_seconds", "codec_batch")
STAGES = {
    "codec_start": Stage(train_codec_start, ("codec_start",), (), (*CODEC_SONGS, "codec")),
    "codec_decoder": Stage(
        train_codec_decoder,
        ("codec_decoder",),
        ("codec_start",),
        (*CODEC_SONGS, "decoder", "decoder_critic"),
    ),
    "codec": Stage(
        train_codec,
        ("codec",),
        ("codec_decoder",),
        (
            "seed",
            "codec_held_out",
            "codec_seconds",
            "phase",
            "phase_clips",
            "phase_batch",
            "iterations",
        ),
    ),
    "embedder": Stage(
        train_embedder, ("embedder", "text"), ("codec",), (*SONGS, "embedder", "embedder_batch")
    ),
    "base": Stage(
        train_base,
        ("base",),
        ("codec", "text", "embedder"),
        (*CROPS, "dit", "base", "guidance_interval"),
    ),
    "layers": Stage(
        train_layers,
        ("layers",),
        ("codec", "text", "embedder", "base"),
        (*CROPS, "guidance_interval", "layers", "layers_guidance_scale"),
    ),
    "steps": Stage(
        train_steps,
        ("steps_warm_start", "steps"),
        ("codec", "text", "embedder", "base"),
        FEW_STEPS,
    ),
    "layers_steps": Stage(
        train_layers_steps,
        ("layers_steps_warm_start", "layers_steps"),
        ("codec", "text", "embedder", "base", "layers"),
        FEW_STEPS,
    ),
    "stereo": Stage(
        train_stereo,
        ("stereo",),
        (),
        ("seed", "stereo", "stereo_clips", "stereo_held_out", "stereo_seconds", "stereo_batch"),
    ),
}


def train_bundle(
    preset: BundlePreset, out: Path, stages: tuple[str, ...] = (), device: str = "cpu"
) -> None:
    """Run the stages in order; each reads what the earlier ones left in `out` and resumes."""
    if unknown := [name for name in stages if name not in STAGES]:
        raise ValueError(f"unknown stage {unknown[0]!r}: choose from {', '.join(STAGES)}")
    for name in stages or STAGES:
        facts = inputs(STAGES[name], preset, out)
        out.mkdir(parents=True, exist_ok=True)
        with claimed(out / f"{name}.lock", wait=True):  # while another process trains it
            train_stage(name, facts, preset, out, device)


def train_stage(
    name: str, facts: dict[str, Any], preset: BundlePreset, out: Path, device: str
) -> None:
    """Run a stage to its end, unless that was done with the same inputs."""
    stage, note = STAGES[name], out / f"{name}.inputs.json"
    same = note.exists() and json.loads(note.read_text()) == facts
    if same and (out / stage.makes[-1] / "card.json").exists():
        print(f"{name}: up to date")
        return
    if not same:  # nothing of another run may be taken for part of this one
        for made in stage.makes:
            (out / made / "card.json").unlink(missing_ok=True)
            (out / f"{made}.checkpoint").unlink(missing_ok=True)
        write_atomic(note, lambda path: path.write_text(json.dumps(facts)))
    stage.train(preset, out, device)


def inputs(stage: Stage, preset: BundlePreset, out: Path) -> dict[str, Any]:
    """What a stage's result depends on, as JSON; ValueError where an earlier stage is missing."""
    weights = {name: out / name / "model.safetensors" for name in stage.reads}
    if missing := [name for name, path in weights.items() if not path.exists()]:
        raise ValueError(f"{out} holds no {missing[0]}: train or copy it first")
    fields = {name: value for name, value in asdict(preset).items() if name in stage.uses}
    reads = {name: file_digest(path) for name, path in weights.items()}
    facts = {"corpus": VERSION, "preset": fields, "reads": reads}
    return json.loads(json.dumps(facts))
