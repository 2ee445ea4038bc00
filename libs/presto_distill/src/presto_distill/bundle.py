"""Training of the bundled models from nothing but this repository: embedder and prompt encoder,
base model, the three students and mono to stereo. The codec is first (benchmarks/train_codec.py).

    presto train-bundle --out presto-small --stages embedder base
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch.utils._pytree import tree_map_only

from presto_data import LatentSet, Mixture, batches, encode_corpus, synthetic_corpus
from presto_distill.cards import measure, measure_stereo, write_card
from presto_distill.experiment import file_digest
from presto_distill.fit import fit
from presto_distill.metrics.clap_score import retrieval_accuracy
from presto_distill.metrics.contrastive import ContrastiveEmbedder
from presto_distill.objective import Batch, Objective
from presto_distill.objectives.contrastive import Contrastive
from presto_distill.objectives.denoising import Denoising
from presto_distill.objectives.presto_l import PrestoL
from presto_distill.objectives.presto_ls import PrestoLS, PrestoLSConfig
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.objectives.regression import (
    Regression,
    RegressionConfig,
    point_stream,
    solve,
)
from presto_distill.objectives.stereo import Widening
from presto_distill.presets import SMALL_LAYERS, SMALL_STEPS, SMALL_WARM_START
from presto_distill.stereo_clips import crops, rendered
from presto_distill.streams import conditioned, in_turn
from presto_distill.trainer import Stream, TrainConfig, Trainer
from presto_models import (
    Autoencoder,
    DiTConfig,
    PrestoDenoiser,
    PrestoDenoiserConfig,
    TextEncoder,
    presto_schedule,
)
from presto_models.conditioning import null_condition
from presto_models.pipeline import Sampling
from presto_models.precision import autocast
from presto_models.sizes import micro
from presto_models.stereo import MonoToStereo


@dataclass(frozen=True)
class BundlePreset:
    """What the bundled weights are trained on and for how long."""

    clips: int = 2400
    held_out: int = 512
    clip_seconds: float = 10.5
    long_clips: int = 360  # besides, so that models know 32 s too
    long_seconds: float = 33.0
    seed: int = 0  # of the training songs; held-out songs have seed + 1000
    dit: DiTConfig = replace(micro(), frame_rate=44_100 / 2048)
    tempo_dropout: float = 0.15  # of crops, so that a prompt need not state one
    embedder: TrainConfig = TrainConfig(steps=400, lr=1e-3, warmup=50, decay="cosine")
    embedder_batch: int = 64
    base: TrainConfig = TrainConfig(steps=14_000, lr=1e-3, warmup=200, decay="cosine", compile=True)
    layers: TrainConfig = replace(SMALL_LAYERS, steps=400, ema_decay=0.99)
    warm_start: TrainConfig = replace(SMALL_WARM_START, steps=600, ema_decay=0.97)
    steps: TrainConfig = replace(SMALL_STEPS, steps=60)
    guidance_scale: float = 1.0  # of the teacher of few-step generators; see presets.Preset
    frames_and_batch: tuple[tuple[int, int], ...] = (
        (64, 24),
        (216, 8),
        (64, 24),
        (216, 8),
        (689, 3),
    )
    trajectories: tuple[tuple[int, int, int], ...] = (  # frames, clips, batch
        (64, 1536, 32),
        (216, 384, 10),
        (689, 96, 3),
    )
    stereo: TrainConfig = TrainConfig(steps=1500, lr=1e-3, warmup=50, decay="cosine")
    stereo_clips: int = 400
    stereo_held_out: int = 48
    stereo_seconds: float = 6.0
    stereo_batch: tuple[int, int] = (6, 49_152)  # crops, samples of each
    workers: int = 2  # processes that render


def smallest() -> BundlePreset:
    """Every stage once, in a minute: for tests."""
    return BundlePreset(
        clips=24,
        held_out=16,
        long_clips=4,
        long_seconds=12.0,
        embedder=TrainConfig(steps=2, lr=1e-3),
        embedder_batch=8,
        base=TrainConfig(steps=2, lr=1e-3, compile=False),
        layers=replace(SMALL_LAYERS, steps=2),
        warm_start=replace(SMALL_WARM_START, steps=1),
        steps=replace(SMALL_STEPS, steps=1),
        frames_and_batch=((32, 4),),
        trajectories=((32, 8, 4),),
        stereo=TrainConfig(steps=2),
        stereo_clips=2,
        stereo_held_out=2,
        stereo_seconds=1.0,
        stereo_batch=(2, 16_384),
        workers=0,
    )


def encode_bundle_corpus(
    preset: BundlePreset, out: Path, *, seed: int, clips: int, seconds: float, device: str = "cpu"
) -> LatentSet:
    """Render and encode songs with the codec in `out`; kept in `out`/latents for the next stage."""
    codec = Autoencoder.from_pretrained(out / "codec", device=device)
    digest = file_digest(out / "codec" / "model.safetensors")
    corpus = synthetic_corpus(clips, seed=seed, seconds=seconds)
    shards = encode_corpus(
        corpus,
        lambda audio: codec.encode(audio.to(device)),
        out / "latents",
        key={"codec": digest},
        hop_length=codec.hop_length,
        workers=preset.workers,
    )
    return shards.load()


def encode_splits(
    preset: BundlePreset, out: Path, *, device: str = "cpu"
) -> tuple[list[LatentSet], LatentSet]:
    """Training songs, the short and the long ones, and held-out songs."""
    short, held, long = (
        encode_bundle_corpus(
            preset, out, seed=preset.seed + offset, clips=clips, seconds=seconds, device=device
        )
        for offset, clips, seconds in (
            (0, preset.clips, preset.clip_seconds),
            (1000, preset.held_out, preset.clip_seconds),
            (500, preset.long_clips, preset.long_seconds),
        )
    )
    return [short, long], held


def fitting(parts: list[LatentSet], frames: int) -> Mixture:
    """Songs that crops of so many frames can be cut from, drawn in proportion to their length."""
    sizes = [(part, part.lengths.sum()) for part in parts if part.lengths.min() >= frames]
    return Mixture(*sizes)


def train_embedder(preset: BundlePreset, out: Path, *, device: str = "cpu") -> None:
    """Train the contrastive embedder; its prompt encoder is saved for the models too."""
    (data, _), held = encode_splits(preset, out, device=device)
    torch.manual_seed(preset.seed)
    trainer = Trainer(Contrastive(ContrastiveEmbedder()), preset.embedder, device)

    def stream(start: int) -> Iterator[Batch]:
        size = {"batch_size": preset.embedder_batch, "frames": 64}
        for item in batches(data, **size, seed=preset.seed, start=start):
            yield Batch(item.latents, item.captions)

    started = time.perf_counter()
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
        write_card(out / name, preset, preset.embedder, records, metrics, started)


def train_base(preset: BundlePreset, out: Path, *, device: str = "cpu") -> None:
    """Train the base denoiser on crops of several lengths and measure its 24-step samples."""
    data, held = encode_splits(preset, out, device=device)
    text = TextEncoder.from_pretrained(out / "text")
    torch.manual_seed(preset.seed)
    model = PrestoDenoiser(PrestoDenoiserConfig(preset.dit))
    trainer = Trainer(Denoising(model, null_condition), preset.base, device)
    started = time.perf_counter()
    stream = mixed_lengths(data, text, preset)
    records = fit(trainer, stream, out / "base.checkpoint", label="base")
    model = trainer.averages["base"]
    model.save_pretrained(out / "base", dtype=torch.bfloat16)
    sampling = {"24 Heun steps": Sampling(24)}
    metrics = measure(model, held, out, seed=preset.seed, sampling=sampling)
    write_card(out / "base", preset, preset.base, records, metrics, started)


def mixed_lengths(data: list[LatentSet], text: TextEncoder, preset: BundlePreset) -> Stream:
    """Batches that take turns in length, so that one model knows short and long clips."""
    return in_turn(
        conditioned(
            fitting(data, frames),
            text,
            batch=batch,
            frames=frames,
            seed=preset.seed + i,
            tempo_dropout=preset.tempo_dropout,
        )
        for i, (frames, batch) in enumerate(preset.frames_and_batch)
    )


@dataclass
class Workbench:
    """What the distillations share: the data, prompt encoder and base model of one folder."""

    preset: BundlePreset
    out: Path
    device: str

    def __post_init__(self) -> None:
        self.data, self.held = encode_splits(self.preset, self.out, device=self.device)
        self.text = TextEncoder.from_pretrained(self.out / "text", device=self.device)
        self.base = self.load("base")
        self.schedule = presto_schedule(self.base.depth)
        self.cfg = PrestoSConfig(guidance_scale=self.preset.guidance_scale)
        self.taps = {"feature_layer": self.base.depth // 2 - 1, "width": self.base.config.dit.width}

    def load(self, name: str) -> PrestoDenoiser:
        return PrestoDenoiser.from_pretrained(self.out / name, device=self.device)

    def clips(self) -> Stream:
        """Real latents."""
        return mixed_lengths(self.data, self.text, self.preset)

    def points(self) -> Stream:
        """Points on the base model's trajectories, batches taking turns in length as above."""
        seed, cfg = self.preset.seed, RegressionConfig(guidance_scale=self.cfg.guidance_scale)
        streams = []
        for frames, clips, batch in self.preset.trajectories:
            songs, size = fitting(self.data, frames), {"batch": clips, "frames": frames}
            size |= {"tempo_dropout": self.preset.tempo_dropout}
            real = next(conditioned(songs, self.text, **size, seed=seed)(0))
            real = tree_map_only(torch.Tensor, lambda leaf: leaf.to(self.device), real)
            rng = torch.Generator(self.device).manual_seed(seed)
            with autocast(torch.device(self.device)):
                solved = solve(self.base, null_condition, real, rng, cfg)
            streams.append(point_stream(solved, batch=batch, seed=seed))
        return in_turn(streams)

    def train(
        self,
        name: str,
        player: str,
        objective: Callable[[], Objective],
        stream: Callable[[], Stream],
        train: TrainConfig,
        config: PrestoDenoiserConfig,
        start: str | None = None,
    ) -> None:
        """Train a student, measure it and write its card, unless that is done. The card holds
        that of the model it starts from, if it is not the base."""
        if (self.out / name / "card.json").exists():
            return
        started = time.perf_counter()
        torch.manual_seed(self.preset.seed)
        trainer = Trainer(objective(), train, self.device)
        records = fit(trainer, stream(), self.out / f"{name}.checkpoint", label=name)
        student = PrestoDenoiser(config)
        student.load_state_dict(trainer.averages[player].state_dict())
        student.save_pretrained(self.out / name, dtype=torch.bfloat16)
        sampling = {"4 steps": Sampling(4), "2 steps": Sampling(2)}
        sampling = sampling if config.few_step else {"24 Heun steps": Sampling(24)}
        metrics = measure(
            student.eval(), self.held, self.out, seed=self.preset.seed, sampling=sampling
        )
        write_card(self.out / name, self.preset, train, records, metrics, started, start=start)


def train_layers(preset: BundlePreset, out: Path, *, device: str = "cpu") -> None:
    """Presto-L of the base model."""
    bench = Workbench(preset, out, device)
    base, schedule = bench.base, bench.schedule
    bench.train(
        "layers",
        "student",
        lambda: PrestoL(base, null_condition, schedule, depth=base.depth),
        bench.clips,
        preset.layers,
        replace(base.config, schedule=schedule),
    )


def train_steps(preset: BundlePreset, out: Path, *, device: str = "cpu") -> None:
    """Presto-S of the base model, from a warm start that is kept beside it."""
    bench = Workbench(preset, out, device)
    base, config = bench.base, replace(bench.base.config, few_step=True)

    def objective() -> Objective:
        start = bench.load("steps_warm_start")
        return PrestoS(base, null_condition, bench.cfg, generator=start, **bench.taps)

    warm = preset.warm_start
    bench.train(
        "steps_warm_start", "generator", lambda: Regression(base), bench.points, warm, config
    )
    bench.train(
        "steps", "generator", objective, bench.clips, preset.steps, config, start="steps_warm_start"
    )


def train_layers_steps(preset: BundlePreset, out: Path, *, device: str = "cpu") -> None:
    """Presto-LS: Presto-S with the blocks of the Presto-L student, likewise."""
    bench = Workbench(preset, out, device)
    layers, warm = bench.load("layers"), preset.warm_start
    config = replace(layers.config, few_step=True)

    def objective() -> Objective:
        start = bench.load("layers_steps_warm_start")
        return PrestoLS(
            bench.base,
            start,
            null_condition,
            layers.config.schedule,
            PrestoLSConfig(guidance_scale=preset.guidance_scale),
            depth=layers.depth,
            **bench.taps,
        )

    bench.train(
        "layers_steps_warm_start",
        "generator",
        lambda: Regression(layers),
        bench.points,
        warm,
        config,
    )
    bench.train(
        "layers_steps",
        "generator",
        objective,
        bench.clips,
        preset.steps,
        config,
        start="layers_steps_warm_start",
    )


def train_stereo(preset: BundlePreset, out: Path, *, device: str = "cpu") -> None:
    """Train mono to stereo on rendered stereo; compare it with mono and with a delayed mid."""
    splits = []
    for seed, clips in (
        (preset.seed, preset.stereo_clips),
        (preset.seed + 1000, preset.stereo_held_out),
    ):
        corpus = synthetic_corpus(clips, seed=seed, seconds=preset.stereo_seconds)
        name = sha256(json.dumps(corpus.key).encode()).hexdigest()[:16]
        splits.append(rendered(corpus, out / "latents" / f"{name}.npy", workers=preset.workers))
    torch.manual_seed(preset.seed)
    trainer = Trainer(Widening(MonoToStereo()), preset.stereo, device)
    batch, samples = preset.stereo_batch
    started = time.perf_counter()
    stream = crops(splits[0], batch=batch, samples=samples, seed=preset.seed)
    records = fit(trainer, stream, out / "stereo.checkpoint", label="stereo")
    model = trainer.averages["generator"]
    model.save_pretrained(out / "stereo", dtype=torch.bfloat16)
    metrics = measure_stereo(model.cpu(), held=splits[1], train=splits[0][:64])
    data = replace(preset, clips=preset.stereo_clips, clip_seconds=preset.stereo_seconds)
    write_card(out / "stereo", data, preset.stereo, records, metrics, started)


STAGES = {
    "embedder": train_embedder,
    "base": train_base,
    "layers": train_layers,
    "steps": train_steps,
    "layers_steps": train_layers_steps,
    "stereo": train_stereo,
}


def train_bundle(
    preset: BundlePreset, out: Path, stages: tuple[str, ...] = (), device: str = "cpu"
) -> None:
    """Run the stages in order; each reads what the earlier ones left in `out` and resumes."""
    for stage in stages or STAGES:
        if stage not in STAGES:
            raise ValueError(f"unknown stage {stage!r}: choose from {', '.join(STAGES)}")
        STAGES[stage](preset, out, device=device)
