"""A laboratory: what the runs of one preset and seed share, and a cache that never redoes work.

    lab = Lab.open(preset("quick"), seed=0, out=Path("runs/quick"))
    steps = lab.distill("steps", start=lab.warm_start())
    print(lab.evaluate(steps, Sampling(steps=4)))

Every run is keyed by its configuration. A finished run is loaded, an interrupted one resumes from
its checkpoint, and two notebooks that need the same run share it.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map_only

from presto_data import LatentSet, encode_corpus, folder_corpus, synthetic_corpus
from presto_data.clips import Corpus, Problem
from presto_data.encode import claimed
from presto_distill.fit import fit
from presto_distill.metrics import Scores, evaluate
from presto_distill.metrics.contrastive import ContrastiveEmbedder
from presto_distill.objectives.regression import RegressionConfig, Trajectories, kept, solve
from presto_distill.presets import Preset, Stage
from presto_distill.provenance import code_digest
from presto_distill.streams import conditioned
from presto_distill.trainer import Stream, Trainer
from presto_models import Autoencoder, PrestoDenoiser, TextEncoder
from presto_models.conditioning import Condition, condition, null_condition
from presto_models.pipeline import Pipeline, Sampling
from presto_models.precision import autocast
from presto_models.samplers import sample
from presto_models.snapshot import find_snapshot, write_atomic

HELD_OUT = 5  # every so many-th excerpt of recordings
EXCERPTS = 26  # of them at least: scores need six that are held out
PARTS = ("base", "codec", "text", "embedder")  # of a model folder, each needed here


@dataclass(frozen=True)
class Run:
    """A trained student and its training records (one dict per step)."""

    denoiser: PrestoDenoiser
    records: list[dict[str, Any]]
    key: str


@dataclass
class Lab:
    """Data, teacher, embedder and cache of one preset and seed. Make it with `Lab.open`."""

    preset: Preset
    seed: int
    out: Path  # of encoded data (latents/) and of runs (cache/)
    audio: Path | None
    teacher: PrestoDenoiser
    codec: Autoencoder
    codec_digest: str
    text: TextEncoder
    embedder: ContrastiveEmbedder
    device: torch.device = torch.device("cpu")
    watch: Callable[[list[dict[str, Any]]], bool] | None = None  # sees a training; True ends it

    @classmethod
    def open(
        cls,
        preset: Preset,
        *,
        seed: int = 0,
        out: Path,
        audio: Path | None = None,
        model: str | Path = "presto-small",
        device: str | None = None,
    ) -> "Lab":
        """Load the bundled model; the data are encoded when first asked for, once per `out`.

        `audio`: a folder of one's own recordings instead of the rendered corpus; every fifth of its
        excerpts is held out, from the recordings that the others are from.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder = find_snapshot(model)
        if missing := [part for part in PARTS if not (folder / part / "config.json").exists()]:
            lacks = ", ".join(f"{part}/" for part in missing)
            raise ValueError(
                f"{folder} lacks {lacks}: a model folder to distill holds base/, codec/, text/ and "
                "embedder/ (of the codec's latents), for stereo also stereo/"
            )
        return cls(
            preset=preset,
            seed=seed,
            out=out,
            audio=audio,
            teacher=PrestoDenoiser.from_pretrained(folder / "base", device=device),
            codec=Autoencoder.from_pretrained(folder / "codec", device=device),
            codec_digest=file_digest(folder / "codec" / "model.safetensors"),
            text=TextEncoder.from_pretrained(folder / "text", device=device),
            embedder=ContrastiveEmbedder.from_pretrained(folder / "embedder", device=device),
            device=torch.device(device),
        )

    # ------------------------------------------------------------------ data

    @property
    def cache(self) -> Path:
        """Where runs lie, a folder each."""
        return self.out / "cache"

    @cached_property
    def music(self) -> tuple[Corpus, Corpus]:
        """Training and held-out clips in sound: rendered songs, or excerpts of recordings.

        Raises ValueError where the recordings are too few.
        """
        seconds = self.preset.clip_seconds
        if self.audio is None:
            songs = {self.seed: self.preset.clips, self.seed + 1000: self.preset.held_out}
            return tuple(synthetic_corpus(n, seed=k, seconds=seconds) for k, n in songs.items())
        # None may overlap another, some of which are held out.
        corpus = folder_corpus(self.audio, seconds=seconds, last="drop")
        say_left_out(corpus.problems)
        if len(corpus) < EXCERPTS:
            raise ValueError(
                f"{self.audio} holds {len(corpus)} excerpts of {seconds:g} s: "
                f"at least {EXCERPTS} are needed"
            )
        rest = [row for row in range(len(corpus)) if row % HELD_OUT]
        return corpus.only(rest), corpus.only(range(0, len(corpus), HELD_OUT))

    def encode(self) -> None:
        """Encode all clips now, so that what is wrong with them is said before anything else."""
        _ = self.train, self.held_out

    @cached_property
    def train(self) -> LatentSet:
        """The clips to train on, encoded unless an earlier run did."""
        return self._encode(self.music[0])

    @cached_property
    def held_out(self) -> LatentSet:
        """The clips that nothing is trained on: references and prompts; likewise encoded once."""
        return self._encode(self.music[1])

    @cached_property
    def source(self) -> str:
        """What the data are, in words; recordings with a digest of what is known of their files."""
        if self.audio is None:
            return f"rendered music, songs {self.seed} (training) and {self.seed + 1000} (held out)"
        keys = json.dumps([corpus.key for corpus in self.music])
        digest, count = hashlib.sha256(keys.encode()).hexdigest()[:8], sum(map(len, self.music))
        seconds, name = self.preset.clip_seconds, self.audio.name
        return f"{count} excerpts of {seconds:g} s from {name} ({digest})"

    def _encode(self, corpus: Corpus) -> LatentSet:
        # In full precision, whoever asks first: data must not depend on it.
        with autocast(self.device, "float32"):
            shards = encode_corpus(
                corpus,
                lambda audio: self.codec.encode(audio.to(self.device)),
                self.out / "latents",
                key={"codec": self.codec_digest},
                hop_length=self.codec.hop_length,
            )
        say_left_out(shards.problems)
        return shards.load()

    def stream(self, batch: int) -> Stream:
        """Training batches with their conditions encoded."""
        return self.conditioned(self.train, batch=batch, **self.preset.dropout)

    def conditioned(
        self,
        data: LatentSet,
        *,
        batch: int,
        seed: int | None = None,
        tempo_dropout: float = 0.0,
        key_dropout: float = 0.0,
    ) -> Stream:
        """Batches of some clips, told all that the teacher can be told but for these shares of
        their tempi and keys; `seed`: default our own."""
        hidden = {"tempo_dropout": tempo_dropout}
        hidden["key_dropout"] = key_dropout if self.teacher.config.dit.key else None
        size = {"batch": batch, "frames": self.preset.frames}
        seed = self.seed if seed is None else seed
        return conditioned(data, self.text, **size, seed=seed, **hidden)

    @cached_property
    def prompts(self) -> Condition:
        """Conditions of the clips to generate: captions, tempi and keys of held-out clips."""
        held = self.held_out
        rows = [i % len(held) for i in range(self.preset.samples)]
        key = [held.tonality(i) for i in rows] if self.teacher.config.dit.key else None
        return condition(self.text, [held.captions[i] for i in rows], held.tempo[rows], key=key)

    @cached_property
    def reference(self) -> Float[Tensor, "n d"]:
        """Embeddings of the held-out clips, cut to the length of the generated ones."""
        return self._embed(self.held_out.latents[..., : self.preset.frames])

    @cached_property
    def prompt_embeddings(self) -> Float[Tensor, "n d"]:
        rows = [i % len(self.held_out) for i in range(self.preset.samples)]
        with torch.inference_mode():
            return self.embedder.embed_text([self.held_out.captions[i] for i in rows]).cpu()

    # ------------------------------------------------------------------ distillation

    def distill(
        self,
        method: str,
        *,
        start: Run | None = None,
        train: Stage | None = None,
        budgets: tuple[int, ...] = (),
        tap: tuple[int, ...] = (),
        **objective: Any,
    ) -> Run:
        """Train a student by one of `methods.METHODS`, or load what an equal call left.

        `start`: the student it starts from; None: the base model. `train` replaces the preset's
        stage, `budgets` the schedule's, `tap` the blocks that the discriminator reads; further
        arguments are fields of the objective's config: `lab.distill("steps", critic_updates=3)`.
        An interrupted run goes on where it stopped; one that `self.watch` ended is returned as far
        as it is.
        """
        from presto_distill.methods import METHODS, make_plan

        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
        settings = METHODS[method].settings(self.preset, start and start.denoiser.config)
        settings = replace(
            settings,
            objective=replace(settings.objective, **objective),
            train=replace(train or settings.train, seed=self.seed),
        )
        told = {name: value for name, value in {"budgets": budgets, "tap": tap}.items() if value}
        if told:
            settings = replace(settings, blocks=replace(settings.blocks, **told))
        key, folder = self._folder(
            method,
            {"settings": settings, "start": start.key if start else None},
        )
        log = folder / "records.json"
        with self._alone(log):
            if not log.exists():
                torch.manual_seed(self.seed)  # of heads and what else starts from random weights
                plan = make_plan(method, self, settings, start.denoiser if start else None)
                trainer = Trainer(plan.make(), settings.train, self.device)
                path = folder / "checkpoint.pt"
                records = fit(trainer, plan.stream, path, label=method, watch=self.watch)
                student = plan.student(trainer.average_state(plan.player))
                if trainer.step < settings.train.steps:  # its checkpoint stays, to go on from
                    student = student.to(self.device).eval()
                    return Run(student, records, f"{key}-step-{trainer.step}")
                student.save_pretrained(folder)
                write_atomic(log, lambda path: path.write_text(json.dumps(records)))
                for leftover in folder.glob("checkpoint.*"):
                    leftover.unlink()
        denoiser = PrestoDenoiser.from_pretrained(folder, device=self.device)
        return Run(denoiser, json.loads(log.read_text()), key)

    def warm_start(self, layers: Run | None = None) -> Run | None:
        """The regression that Presto-S starts from, with the blocks of `layers` if given; None
        where the preset starts from the base model."""
        return self.distill("warm-start", start=layers) if self.preset.warm_start else None

    def trajectories(self, cfg: RegressionConfig) -> Trajectories:
        """The teacher's trajectories from noised training clips, solved once for all students."""
        _, folder = self._folder("trajectories", {"cfg": cfg})
        path = folder / "trajectories.pt"

        def solved() -> Trajectories:
            clips = next(self.stream(self.preset.trajectories)(0))
            clips = tree_map_only(Tensor, lambda leaf: leaf.to(self.device), clips)
            rng = torch.Generator(self.device).manual_seed(self.seed)
            with autocast(self.device):
                return solve(self.teacher, null_condition, clips, rng, cfg)

        return kept(path, solved)

    # ------------------------------------------------------------------ evaluation

    def generate(
        self, denoiser: PrestoDenoiser, sampling: Sampling, *, draw: int = 0, batch: int = 32
    ) -> Float[Tensor, "n c t"]:
        """Latents for the held-out prompts; clip i of a draw always starts from the same noise."""
        seed = self._noise(draw)
        pipeline = Pipeline(denoiser, self.codec, self.text, few_step=denoiser.config.few_step)
        shape = (self.codec.channels, self.preset.frames)
        parts = []
        with torch.inference_mode(), autocast(self.device):
            for first in range(0, self.preset.samples, batch):
                rows = slice(first, first + batch)
                cond = tree_map_only(Tensor, lambda leaf, rows=rows: leaf[rows], self.prompts)
                n = len(cond.tempo)
                seeds = range(seed + first, seed + first + n)
                steps = pipeline.denoise((n, *shape), cond, seeds=seeds, sampling=sampling)
                parts.append(sample(steps).cpu())
        return torch.cat(parts)

    def latents(
        self, model: Run | None, sampling: Sampling, *, draw: int = 0
    ) -> Float[Tensor, "n c t"]:
        """What `generate` makes of a student (None: the base model), cached."""
        denoiser = model.denoiser if model else self.teacher
        path = self._scored(model, sampling, draw) / "latents.pt"
        return self._kept(path, lambda: self.generate(denoiser, sampling, draw=draw))

    def embeddings(
        self, model: Run | None, sampling: Sampling, *, draw: int = 0
    ) -> Float[Tensor, "n d"]:
        """Embeddings of those latents, cached."""
        path = self._scored(model, sampling, draw) / "embeddings.pt"
        if path.exists():  # no need for the latents, which may be gone
            return torch.load(path, weights_only=True)
        latents = self.latents(model, sampling, draw=draw)  # before waiting for the same folder
        return self._kept(path, lambda: self._embed(latents))

    def evaluate(self, model: Run | None, sampling: Sampling) -> Scores:
        """All metrics of a student (None: the base model) on the held-out prompts, cached."""
        return self.score(self.embeddings(model, sampling))

    def _scored(self, model: Run | None, sampling: Sampling, draw: int) -> Path:
        facts = {"run": model.key if model else "base", "sampling": sampling}
        facts |= {"noise": self._noise(draw), "embedder": self._digests["embedder"]}
        facts |= {"sampler": code_digest("presto_models")}  # unlike trainings, cheap to make anew
        return self._folder("scores", facts)[1]

    def _noise(self, draw: int) -> int:
        """The seed of the first clip's noise; no clip of another draw or lab shares its own."""
        return (1_000_000_000 * self.seed + 1_000_000 * draw) % 2**62

    def score(self, embeddings: Float[Tensor, "n d"], *, with_text: bool = True) -> Scores:
        """Metrics of embedded clips (generated for the held-out prompts) against held-out ones."""
        return evaluate(
            embeddings,
            self.reference,
            text=self.prompt_embeddings if with_text else None,
            seed=self.seed,
            embedder=self.embedder.name,
        )

    def real(self) -> Scores:
        """Real training clips scored as if generated: what sample size alone costs."""
        rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed))
        clips = self.train.latents[rows[: self.preset.samples], :, : self.preset.frames]
        return self.score(self._embed(clips), with_text=False)

    def gaussian(self) -> Scores:
        """Noise with the training latents' mean and deviation per channel: what is not music."""
        latents = self.train.latents
        mean, std = latents.mean((0, 2)), latents.std((0, 2))
        shape = (self.preset.samples, latents.shape[1], self.preset.frames)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        return self.score(self._embed(mean[:, None] + std[:, None] * noise), with_text=False)

    @torch.inference_mode()
    def _embed(self, latents: Float[Tensor, "n c t"]) -> Float[Tensor, "n d"]:
        parts = latents.to(self.device).split(256)
        return torch.cat([self.embedder.embed(part).cpu() for part in parts])

    # ------------------------------------------------------------------ cache

    @contextmanager
    def _alone(self, made: Path) -> Iterator[None]:
        """Wait while another process makes `made`; the system frees a dead one's lock."""
        if made.exists():
            yield
            return
        with claimed(made.parent / "lock", wait=True):
            yield

    def _kept(self, path: Path, make: Callable[[], Tensor]) -> Tensor:
        """The tensor in `path`, made by the first process that asks for it."""
        with self._alone(path):
            if not path.exists():
                made = make()
                write_atomic(path, lambda temporary: torch.save(made, temporary))
        return torch.load(path, weights_only=True)

    def _folder(self, kind: str, facts: dict[str, Any]) -> tuple[str, Path]:
        """The folder of a run, named by everything its result depends on."""
        size = ("frames", "samples", "clips", "held_out", "clip_seconds", "trajectories")
        facts = {
            **facts,
            "kind": kind,
            "seed": self.seed,
            "data": [self.source, *(getattr(self.preset, name) for name in size)],
            "dropout": self.preset.dropout,
            "codec": self.codec_digest,
            "teacher": self._digests["teacher"],
            "text": self._digests["text"],
        }
        text = json.dumps(facts, default=_plain, sort_keys=True)
        key = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        folder = self.cache / key
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "key.json", lambda path: path.write_text(text))
        return key, folder

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Of the networks that runs and their scores depend on."""
        return {name: getattr(self, name).digest for name in ("teacher", "text", "embedder")}


def say_left_out(problems: Sequence[Problem]) -> None:
    """Name what is not in the data, and why."""
    for name, reason in problems:
        print(f"left out {name}: {reason}", file=sys.stderr)


def file_digest(path: Path) -> str:
    """Twelve hexadecimal digits that name a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """Configurations as JSON, each with its class, so that equal fields do not collide."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    raise TypeError(f"{value!r} cannot be part of a key")
