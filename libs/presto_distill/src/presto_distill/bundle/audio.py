"""Stages that know sound: codec, embedder with its prompt encoder, mono to stereo."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from presto_data import batches, synthetic_corpus
from presto_distill.bundle.cards import measure_codec, measure_stereo, write_card
from presto_distill.bundle.data import held_out_songs, kept, short_songs
from presto_distill.bundle.preset import BundlePreset
from presto_distill.fit import fit
from presto_distill.logs import Row
from presto_distill.metrics.clap_score import retrieval_accuracy
from presto_distill.metrics.contrastive import ContrastiveEmbedder
from presto_distill.objective import Batch
from presto_distill.objectives.autoencoding import (
    AdversarialDecoding,
    Autoencoding,
    Decoding,
    fit_linear_paths,
    standardise_latents,
)
from presto_distill.objectives.contrastive import Contrastive
from presto_distill.objectives.phasing import Phasing
from presto_distill.objectives.stereo import Widening
from presto_distill.rendered_clips import crops, log_bands, mid, rendered, stereo, windows
from presto_distill.trainer import Stream, TrainConfig, Trainer
from presto_models import Autoencoder
from presto_models.stereo import MonoToStereo


def train_codec_start(preset: BundlePreset, out: Path, device: str) -> None:
    """Train the codec from its best linear one, and standardise its latents."""
    songs = codec_songs(preset, out)
    torch.manual_seed(preset.seed)
    codec = Autoencoder()
    some = torch.tensor(songs[:: -(-len(songs) // 400)]).float().clamp_min(codec.floor)
    fit_linear_paths(codec, some)
    trainer = Trainer(Autoencoding(codec), preset.codec, device)
    stream = codec_stream(preset, songs)
    records = fit(trainer, stream, out / "codec_start.checkpoint", label="codec")
    codec = trainer.averages["autoencoder"].cpu()
    standardise_latents(codec, some)
    save_codec(codec, out / "codec_start", preset, preset.codec, records)


def train_codec_decoder(preset: BundlePreset, out: Path, device: str) -> None:
    """Train the codec's decoder on. Its encoder, and so every latent, stays as it is: a codec put
    into `codec_start` gets a new decoder without a new model of its latents."""
    codec = Autoencoder.from_pretrained(out / "codec_start", device=device)
    torch.manual_seed(preset.seed)
    against = preset.decoder_critic
    objective = AdversarialDecoding(codec, against) if against else Decoding(codec)
    trainer = Trainer(objective, preset.decoder, device)
    stream = codec_stream(preset, codec_songs(preset, out))
    records = fit(trainer, stream, out / "codec_decoder.checkpoint", label="decoder")
    codec.decoder.load_state_dict(trainer.averages["decoder"].state_dict())
    folder = out / "codec_decoder"
    save_codec(codec.cpu(), folder, preset, preset.decoder, records, "codec_start")


def train_codec(preset: BundlePreset, out: Path, device: str) -> None:
    """Train a learned phase for the codec in `codec_decoder`, all else of which stays as it is."""
    before = Autoencoder.from_pretrained(out / "codec_decoder")
    torch.manual_seed(preset.seed)
    codec = Autoencoder(replace(before.config, phase="learned", iterations=preset.iterations))
    codec.load_state_dict(codec.state_dict() | before.state_dict())
    size = {"seed": preset.seed, "seconds": preset.codec_seconds}
    corpus = synthetic_corpus(preset.phase_clips, **size)
    songs = rendered(corpus, kept(out, corpus, "mid"), mid, workers=preset.workers)
    batch, frames = preset.phase_batch
    samples = frames * codec.config.stft_hop
    trainer = Trainer(Phasing(codec.to(device)), preset.phase, device)
    stream = crops(songs, batch=batch, samples=samples, seed=preset.seed)
    records = fit(trainer, stream, out / "codec.checkpoint", label="phase")
    codec.phase.load_state_dict(trainer.averages["phase"].state_dict())
    seen = replace(preset, codec_clips=preset.phase_clips)
    save_codec(codec.cpu(), out / "codec", seen, preset.phase, records, "codec_decoder")


def codec_songs(preset: BundlePreset, out: Path) -> np.ndarray:
    """Log magnitudes of the songs that the codec is trained on."""
    corpus = synthetic_corpus(preset.codec_clips, seed=preset.seed, seconds=preset.codec_seconds)
    return rendered(corpus, kept(out, corpus, "bands"), log_bands, workers=preset.workers)


def codec_stream(preset: BundlePreset, songs: np.ndarray) -> Stream:
    """Windows of them."""
    batch, frames = preset.codec_batch
    return windows(songs, batch=batch, frames=frames, seed=preset.seed)


def save_codec(
    codec: Autoencoder,
    folder: Path,
    preset: BundlePreset,
    train: TrainConfig,
    records: list[Row],
    start: str | None = None,
) -> None:
    """Save a codec with its card; `start`: the folder beside it that it was trained on from."""
    codec.save_pretrained(folder, dtype=torch.bfloat16)
    metrics = measure_codec(folder, seed=preset.seed + 1000, clips=preset.codec_held_out)
    data = replace(preset, clips=preset.codec_clips, clip_seconds=preset.codec_seconds)
    write_card(folder, data, train, records, metrics, start=start)


def train_embedder(preset: BundlePreset, out: Path, device: str) -> None:
    """Train the contrastive embedder; its prompt encoder is saved for the models too."""
    data, held = short_songs(preset, out, device), held_out_songs(preset, out, device)
    torch.manual_seed(preset.seed)
    trainer = Trainer(Contrastive(ContrastiveEmbedder()), preset.embedder, device)

    def stream(start: int) -> Iterator[Batch]:
        size = {"batch_size": preset.embedder_batch, "frames": 64}
        for item in batches(data, **size, seed=preset.seed, start=start):
            yield Batch(item.latents, item.captions)

    records = fit(trainer, stream, out / "embedder.checkpoint", label="embedder")
    model = trainer.averages["embedder"]
    with torch.inference_mode():
        audio = model.embed(held.latents[..., :64].to(device)).cpu()
        text = model.embed_text(held.captions).cpu()
    hits, chance = retrieval_accuracy(audio, text, k=10)
    model.save_pretrained(out / "embedder", dtype=torch.float16)
    model.text.save_pretrained(out / "text", dtype=torch.float16)
    metrics = {"held_out_recall_at_10": hits, "chance": chance, "held_out_clips": len(held)}
    for name in ("embedder", "text"):
        write_card(out / name, preset, preset.embedder, records, metrics)


def train_stereo(preset: BundlePreset, out: Path, device: str) -> None:
    """Train mono to stereo on rendered stereo; compare it with mono and with a delayed mid."""
    splits = []
    for seed, clips in (
        (preset.seed, preset.stereo_clips),
        (preset.seed + 1000, preset.stereo_held_out),
    ):
        corpus = synthetic_corpus(clips, seed=seed, seconds=preset.stereo_seconds)
        path = kept(out, corpus, "stereo")
        splits.append(rendered(corpus, path, stereo, workers=preset.workers))
    torch.manual_seed(preset.seed)
    trainer = Trainer(Widening(MonoToStereo()), preset.stereo, device)
    batch, samples = preset.stereo_batch
    stream = crops(splits[0], batch=batch, samples=samples, seed=preset.seed)
    records = fit(trainer, stream, out / "stereo.checkpoint", label="stereo")
    model = trainer.averages["generator"]
    model.save_pretrained(out / "stereo", dtype=torch.bfloat16)
    metrics = measure_stereo(model.cpu(), held=splits[1], train=splits[0][:64])
    data = replace(preset, clips=preset.stereo_clips, clip_seconds=preset.stereo_seconds)
    write_card(out / "stereo", data, preset.stereo, records, metrics)
