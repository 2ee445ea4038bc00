"""Cards of bundled weights: what made them, and what they measure on held-out songs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from presto_data import LatentSet, synthetic_corpus
from presto_distill.metrics import evaluate
from presto_distill.metrics.contrastive import ContrastiveEmbedder
from presto_distill.metrics.stereo import (
    EDGES,
    decorrelated,
    level_and_correlation,
    stereo_errors,
)
from presto_distill.provenance import commit, hardware
from presto_distill.rendered_clips import FULL
from presto_distill.trainer import TrainConfig
from presto_models import Autoencoder, MonoToStereo, PrestoDenoiser, TextEncoder
from presto_models.conditioning import condition
from presto_models.pipeline import Pipeline
from presto_models.precision import autocast
from presto_models.samplers import sample
from presto_models.sampling import Sampling
from presto_models.snapshot import write_atomic

if TYPE_CHECKING:
    from presto_distill.bundle.preset import BundlePreset


@torch.inference_mode()
def measure_stereo(model: MonoToStereo, *, held: np.ndarray, train: np.ndarray) -> dict[str, Any]:
    """Errors of widths on held-out clips: the model's, mono's, and those of a delayed mid that is
    as loud as the sides of training clips are in the middle."""
    real, known = (torch.from_numpy(part / np.float32(FULL)) for part in (held, train))
    level, _ = level_and_correlation(known)
    mid = real.mean(1, keepdim=True)
    widened = {
        "model": torch.cat([model(part) for part in mid.split(1)]),
        "mono": mid.expand(-1, 2, -1),
        "delayed mid": decorrelated(mid, gain=10 ** (level.median().item() / 20)),
    }
    errors = {name: stereo_errors(made, real) for name, made in widened.items()}
    return {"band_edges_hz": EDGES, "held_out_clips": len(held), **errors}


def measure_codec(folder: Path, *, seed: int, clips: int) -> dict[str, Any]:
    """Means over held-out rendered clips; `benchmarks/codec.py` measures recordings too."""
    from presto_distill.lab.autoencoder import round_trips

    codec = Autoencoder.from_pretrained(folder)
    music = synthetic_corpus(clips, seed=seed, seconds=6.0)
    trips = round_trips(codec, music, [codec.config.iterations])
    means = trips.mean(numeric_only=True).drop("iterations").round(3)
    return {"held_out_seed": seed, "rendered": {"clips": clips, **means.to_dict()}}


@torch.inference_mode()
def measure(
    model: PrestoDenoiser,
    held: LatentSet,
    out: Path,
    *,
    seed: int,
    sampling: dict[str, Sampling],
    samples: int = 128,
) -> dict[str, Any]:
    """Metrics of samples, of a Gaussian and of other real clips against real held-out clips."""
    samples, frames = min(samples, len(held) // 2), min(64, held.frames)
    embedder = ContrastiveEmbedder.from_pretrained(out / "embedder")
    text = TextEncoder.from_pretrained(out / "text")
    pipeline = Pipeline(model.cpu(), None, text, few_step=model.config.few_step)
    key = [held.tonality(i) for i in range(samples)] if model.config.dit.key else None
    cond = condition(text, held.captions[:samples], held.tempo[:samples], key=key)
    shape, seeds = (samples, held.latents.shape[1], frames), range(seed, seed + samples)
    clips = {"real": held.latents[:samples, :, :frames]}
    channels = held.latents.transpose(0, 1).flatten(1)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    clips["gaussian"] = noise * channels.std(1)[:, None] + channels.mean(1)[:, None]
    for name, how in sampling.items():
        with autocast(pipeline.device):
            clips[name] = sample(pipeline.denoise(shape, cond, seeds=seeds, sampling=how))
    reference = embedder.embed(held.latents[samples:, :, :frames])
    prompts = embedder.embed_text(held.captions[:samples])
    return {
        name: evaluate(
            embedder.embed(x), reference, text=prompts, seed=seed, embedder=embedder.name
        ).as_dict()
        for name, x in clips.items()
    }


def write_card(
    folder: Path,
    preset: BundlePreset,
    train: TrainConfig,
    records: list[dict[str, Any]],
    metrics: dict[str, Any],
    *,
    start: str | None = None,
    long_songs: bool = False,
) -> None:
    """What made these weights: command, commit, data, training, hardware, loss curve, metrics.

    Its wall-clock is that of the updates, those before a kill included.
    """
    every, machine = max(1, len(records) // 50), hardware()
    threads = f"{machine['threads']} threads"
    seconds = preset.clips * preset.clip_seconds
    longer = {}
    if long_songs:
        seconds += preset.long_clips * preset.long_seconds
        longer = {"long_clips": preset.long_clips}
    card = {
        "command": "presto " + " ".join(sys.argv[1:]),
        "data": {
            "corpus": "presto_data.synthetic_corpus",
            "seed": preset.seed,
            "clips": preset.clips,
            **longer,
            "hours": round(seconds / 3600, 2),
        },
        "train": asdict(train),
        "wall_clock_seconds": round(sum(row["seconds"] for row in records)),
        "commit": commit(),
        "hardware": ", ".join(filter(None, (machine["cpu"], threads, machine["gpu"]))),
        "torch": torch.__version__,
        "loss_curve": records[::every],
        "metrics": metrics,
    }
    if start:
        card["starts_from"] = json.loads((folder.parent / start / "card.json").read_text())
    text = json.dumps(card, indent=1, default=str) + "\n"
    write_atomic(folder / "card.json", lambda path: path.write_text(text))
