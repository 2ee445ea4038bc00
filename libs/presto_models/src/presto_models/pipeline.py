"""From a prompt to sound: text, denoising, decoding."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from presto_models.autoencoder import Autoencoder
from presto_models.conditioning import (
    Condition,
    TextEncoder,
    check_tempo,
    condition,
    null_condition,
    parse_prompt,
)
from presto_models.dit import PrestoDenoiser
from presto_models.edm import karras_sigmas
from presto_models.precision import Precision, autocast
from presto_models.samplers import (
    Sampler,
    Step,
    cfg_pp,
    few_step_sigmas,
    heun,
    multistep,
    randn,
)
from presto_models.snapshot import SnapshotError, find_snapshot

VARIANTS = ("layers_steps", "steps", "layers", "base")  # fastest first
MAX_SECONDS = 32.0


@dataclass(frozen=True)
class Sampling:
    """How to sample. `steps` None: 4 for a few-step generator, 40 Heun steps for the others.

    CFG++ with scale 0.8 is published for the base model; 40 Heun steps are our default.
    """

    steps: int | None = None
    guidance_scale: float = 0.8  # of CFG++; few-step generators carry theirs in their weights
    rho: float = 7.0


class Output(NamedTuple):
    """Generated clips, and what they cost."""

    audios: Float[Tensor, "b 1 s"]  # in [-1, 1]
    latents: Float[Tensor, "b c t"]
    sample_rate: int
    stage_seconds: dict[str, float]  # wall-clock of text, denoise, decode


class Pipeline:
    """Prompt -> condition -> latent -> audio, from interchangeable parts.

    `text_encoder(captions) -> (tokens, mask)`; `denoiser` is any denoiser; `autoencoder` decodes
    (None where `denoise` alone is wanted).
    """

    def __init__(
        self,
        denoiser: nn.Module,
        autoencoder: Autoencoder | None,
        text_encoder: nn.Module,
        *,
        few_step: bool,
    ):
        self.denoiser, self.autoencoder, self.text_encoder = denoiser, autoencoder, text_encoder
        self.few_step = few_step

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "presto-small",
        *,
        variant: str | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load `codec`, `text` and one denoiser of a model folder, or of a bundled model.

        `variant` is one of VARIANTS; None takes the fastest the folder holds.
        """
        folder = find_snapshot(name_or_path)
        held = [name for name in VARIANTS if (folder / name / "config.json").exists()]
        if not held:
            raise SnapshotError(f"{folder} holds no denoiser: it needs one of {VARIANTS}")
        variant = held[0] if variant is None else variant
        if variant not in held:
            raise ValueError(f"no variant {variant!r} in {folder.name}: it holds {', '.join(held)}")
        denoiser = PrestoDenoiser.from_pretrained(folder / variant, device=device)
        return cls(
            denoiser,
            Autoencoder.from_pretrained(folder / "codec", device=device),
            TextEncoder.from_pretrained(folder / "text", device=device),
            few_step=denoiser.config.few_step,
        )

    @property
    def device(self) -> torch.device:
        """Where the denoiser lives."""
        return next(self.denoiser.parameters()).device

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        bpm: float | None = None,
        seconds: float = 10.0,
        seed: int = 0,
        sampling: Sampling = Sampling(),
        precision: Precision = "auto",
        callback: Callable[[Step], None] | None = None,
    ) -> Output:
        """Generate one clip per prompt. Clip i has seed `seed + i`, whatever batch it is in.

        `bpm` overrides a tempo in the prompt ("driving techno --bpm 140"). Raises ValueError for
        what cannot be: an empty prompt, no or too many seconds, no steps.
        """
        if not 0 < seconds <= MAX_SECONDS:
            raise ValueError(
                f"seconds must be above 0 and at most {MAX_SECONDS:g}, got {seconds:g}"
            )
        watch = Stopwatch(self.device)
        cond = self.condition([prompt] if isinstance(prompt, str) else prompt, bpm=bpm)
        watch.lap("text")

        codec = self.autoencoder
        samples = round(seconds * codec.sample_rate)
        shape = (len(cond.tempo), codec.channels, -(-samples // codec.hop_length))
        seeds = range(seed, seed + shape[0])
        with autocast(self.device, precision):
            for step in self.denoise(shape, cond, seeds=seeds, sampling=sampling):
                if callback is not None:
                    callback(step)
        watch.lap("denoise")

        audio = codec.decode(step.x)[:, :samples]
        audio = audio / audio.abs().amax(1, keepdim=True).clamp(min=1.0)
        watch.lap("decode")
        return Output(audio[:, None], step.x, codec.sample_rate, watch.seconds)

    def condition(self, prompts: list[str], *, bpm: float | None = None) -> Condition:
        """Parse prompts ("words --bpm 120 --key A minor") and encode them."""
        parsed = [parse_prompt(prompt) for prompt in prompts]
        tempo = [one.tempo if bpm is None else check_tempo(bpm) for one in parsed]
        key = [one.key for one in parsed]
        words = [one.words for one in parsed]
        return condition(self.text_encoder, words, tempo, key=key if any(key) else None)

    def denoise(
        self, shape: tuple[int, int, int], cond: Condition, *, seeds: range, sampling: Sampling
    ) -> Sampler:
        """The sampler this denoiser wants, as a generator of steps."""
        if sampling.steps is not None and sampling.steps < 1:
            raise ValueError(f"steps must be at least 1, got {sampling.steps}")
        rng = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = randn(shape, rng, self.device)
        if self.few_step:
            sigmas = few_step_sigmas(sampling.steps or 4, rho=sampling.rho)
            return multistep(self.denoiser, noise, sigmas, cond, rng=rng)
        sigmas = karras_sigmas(sampling.steps or 40, rho=sampling.rho)
        guided = cfg_pp(self.denoiser, sampling.guidance_scale, null_condition)
        return heun(guided, noise, sigmas, cond)


class Stopwatch:
    """Wall-clock of consecutive stages, waiting for the device at each lap."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {}
        self.start = self._now()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on `stage`."""
        now = self._now()
        self.seconds[stage], self.start = now - self.start, now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
