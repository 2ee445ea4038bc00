"""Stages that make denoisers: the base model and its three students."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch.utils._pytree import tree_map_only

from presto_distill.bundle.cards import measure, write_card
from presto_distill.bundle.data import (
    fitting,
    held_out_songs,
    long_songs,
    mixed_lengths,
    short_songs,
)
from presto_distill.bundle.preset import BundlePreset
from presto_distill.experiment import file_digest
from presto_distill.fit import fit
from presto_distill.objective import Objective
from presto_distill.objectives.denoising import Denoising
from presto_distill.objectives.presto_l import PrestoL
from presto_distill.objectives.presto_ls import PrestoLS, PrestoLSConfig
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.objectives.regression import (
    Regression,
    RegressionConfig,
    Trajectories,
    kept,
    point_stream,
    solve,
)
from presto_distill.streams import conditioned, in_turn
from presto_distill.trainer import Stream, TrainConfig, Trainer
from presto_models import PrestoDenoiser, PrestoDenoiserConfig, TextEncoder, presto_schedule
from presto_models.compiled import compile_blocks
from presto_models.conditioning import null_condition
from presto_models.pipeline import Sampling
from presto_models.precision import autocast


def train_base(preset: BundlePreset, out: Path, device: str) -> None:
    """Train the base denoiser on crops of several lengths and measure its 24-step samples."""
    data = [short_songs(preset, out, device), long_songs(preset, out, device)]
    held = held_out_songs(preset, out, device)
    text = TextEncoder.from_pretrained(out / "text")
    torch.manual_seed(preset.training_seed)
    config = PrestoDenoiserConfig(preset.dit, guidance_interval=preset.guidance_interval)
    model = PrestoDenoiser(config)
    train = replace(preset.base, seed=preset.training_seed)
    trainer = Trainer(Denoising(model, null_condition), train, device)
    stream = mixed_lengths(data, text, preset)
    records = fit(trainer, stream, out / "base.checkpoint", label="base")
    model = trainer.averages["base"]
    model.save_pretrained(out / "base", dtype=torch.bfloat16)
    sampling = {"24 Heun steps": Sampling(24)}
    metrics = measure(model, held, out, seed=preset.seed, sampling=sampling)
    write_card(out / "base", preset, train, records, metrics, long_songs=True)


@dataclass
class Workbench:
    """What the distillations share: the data, prompt encoder and base model of one folder."""

    preset: BundlePreset
    out: Path
    device: str

    def __post_init__(self) -> None:
        where = self.preset, self.out, self.device
        self.data, self.held = [short_songs(*where), long_songs(*where)], held_out_songs(*where)
        self.text = TextEncoder.from_pretrained(self.out / "text")
        self.base = self.load("base")
        self.schedule = presto_schedule(self.base.depth)
        self.cfg = PrestoSConfig(guidance_scale=self.preset.guidance_scale)
        self.taps = {"feature_layer": self.base.depth // 2 - 1, "width": self.base.config.dit.width}

    def load(self, name: str) -> PrestoDenoiser:
        return PrestoDenoiser.from_pretrained(self.out / name, device=self.device)

    def presto_s(self, generator: PrestoDenoiser) -> PrestoS:
        return PrestoS(self.base, null_condition, self.cfg, generator=generator, **self.taps)

    def presto_ls(self, generator: PrestoDenoiser) -> PrestoLS:
        return PrestoLS(
            self.base,
            generator,
            null_condition,
            generator.config.schedule,
            PrestoLSConfig(guidance_scale=self.preset.guidance_scale),
            depth=generator.depth,
            **self.taps,
        )

    def clips(self) -> Stream:
        """Real latents."""
        return mixed_lengths(self.data, self.text, self.preset)

    def points(self) -> Stream:
        """Points on the base model's trajectories, batches taking turns in length as above."""
        seed = self.preset.training_seed
        return in_turn(
            point_stream(self.trajectories(frames, clips), batch=batch, seed=seed)
            for frames, clips, batch in self.preset.trajectories
        )

    def trajectories(self, frames: int, clips: int) -> Trajectories:
        """The base model's from so many noised crops, solved once for both few-step students."""
        cfg = RegressionConfig(guidance_scale=self.preset.guidance_scale)
        seed, size = self.preset.seed, {"batch": clips, "frames": frames}
        size |= self.preset.dropout
        real = next(conditioned(fitting(self.data, frames), self.text, **size, seed=seed)(0))
        # Not the conditions themselves: they are computed, and threads may change their last bits.
        files = ("base/config.json", "base/model.safetensors", "text/model.safetensors")
        facts = repr((cfg, size, seed, [file_digest(self.out / file) for file in files]))
        name = sha256(facts.encode() + real.x.numpy().tobytes()).hexdigest()[:12]

        def solved() -> Trajectories:
            teacher = self.load("base")
            if self.preset.warm_start.compile:
                compile_blocks(teacher, dynamic=True)
            crops = tree_map_only(torch.Tensor, lambda leaf: leaf.to(self.device), real)
            rng = torch.Generator(self.device).manual_seed(seed)
            with autocast(torch.device(self.device)):
                return solve(teacher, null_condition, crops, rng, cfg)

        return kept(self.out / "trajectories" / f"{frames}-frames-{name}.pt", solved)

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
        torch.manual_seed(self.preset.training_seed)
        train = replace(train, seed=self.preset.training_seed)
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
        write_card(
            self.out / name, self.preset, train, records, metrics, start=start, long_songs=True
        )


def train_layers(preset: BundlePreset, out: Path, device: str) -> None:
    """Presto-L of the base model."""
    bench = Workbench(preset, out, device)
    base, schedule = bench.base, bench.schedule
    bench.train(
        "layers",
        "student",
        lambda: PrestoL(base, null_condition, schedule, depth=base.depth),
        bench.clips,
        preset.layers,
        replace(base.config, schedule=schedule, guidance_scale=preset.layers_guidance_scale),
    )


def train_steps(preset: BundlePreset, out: Path, device: str) -> None:
    """Presto-S of the base model, from a warm start that is kept beside it."""
    bench = Workbench(preset, out, device)
    base, config = bench.base, replace(bench.base.config, few_step=True)

    def objective() -> Objective:
        return bench.presto_s(bench.load("steps_warm_start"))

    warm = preset.warm_start
    bench.train(
        "steps_warm_start", "generator", lambda: Regression(base), bench.points, warm, config
    )
    bench.train(
        "steps", "generator", objective, bench.clips, preset.steps, config, start="steps_warm_start"
    )


def train_layers_steps(preset: BundlePreset, out: Path, device: str) -> None:
    """Presto-LS: Presto-S with the blocks of the Presto-L student, likewise."""
    bench = Workbench(preset, out, device)
    layers, warm = bench.load("layers"), preset.warm_start
    config = replace(layers.config, few_step=True)

    def objective() -> Objective:
        return bench.presto_ls(bench.load("layers_steps_warm_start"))

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
