"""The rendered songs that bundled models are trained on, and the streams cut from them."""

import json
from hashlib import sha256
from pathlib import Path

from presto_data import Corpus, LatentSet, Mixture, encode_corpus, synthetic_corpus
from presto_distill.bundle.preset import BundlePreset
from presto_distill.experiment import file_digest
from presto_distill.streams import conditioned, in_turn
from presto_distill.trainer import Stream
from presto_models import Autoencoder, TextEncoder


def encoded(
    preset: BundlePreset, out: Path, *, seed: int, clips: int, seconds: float, device: str
) -> LatentSet:
    """Render and encode songs with the codec in `out`; kept in `out`/latents for the next stage."""
    codec = Autoencoder.from_pretrained(out / "codec", device=device)
    shards = encode_corpus(
        synthetic_corpus(clips, seed=seed, seconds=seconds),
        lambda audio: codec.encode(audio.to(device)),
        out / "latents",
        key={"codec": file_digest(out / "codec" / "model.safetensors")},
        hop_length=codec.hop_length,
        workers=preset.workers,
    )
    return shards.load()


def short_songs(preset: BundlePreset, out: Path, device: str) -> LatentSet:
    """Training songs of `clip_seconds`."""
    size = {"clips": preset.clips, "seconds": preset.clip_seconds}
    return encoded(preset, out, seed=preset.seed, **size, device=device)


def long_songs(preset: BundlePreset, out: Path, device: str) -> LatentSet:
    """Training songs of `long_seconds`."""
    size = {"clips": preset.long_clips, "seconds": preset.long_seconds}
    return encoded(preset, out, seed=preset.seed + 500, **size, device=device)


def held_out_songs(preset: BundlePreset, out: Path, device: str) -> LatentSet:
    """Songs of `clip_seconds` that no model is trained on."""
    size = {"clips": preset.held_out, "seconds": preset.clip_seconds}
    return encoded(preset, out, seed=preset.seed + 1000, **size, device=device)


def fitting(parts: list[LatentSet], frames: int) -> Mixture:
    """Songs that crops of so many frames can be cut from, drawn in proportion to their length."""
    return Mixture(*((part, part.lengths.sum()) for part in parts if part.lengths.min() >= frames))


def mixed_lengths(parts: list[LatentSet], text: TextEncoder, preset: BundlePreset) -> Stream:
    """Batches that take turns in length, so that one model knows short and long clips."""
    return in_turn(
        conditioned(
            fitting(parts, frames),
            text,
            batch=batch,
            frames=frames,
            seed=preset.training_seed + i,
            **preset.dropout,
        )
        for i, (frames, batch) in enumerate(preset.frames_and_batch)
    )


def kept(out: Path, corpus: Corpus, what: str) -> Path:
    """Where what is rendered of a corpus is kept."""
    name = sha256(json.dumps([what, corpus.key]).encode()).hexdigest()[:16]
    return out / "latents" / f"{name}.npy"
