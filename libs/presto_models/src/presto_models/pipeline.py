"""From a prompt to sound: text, denoising, decoding, stereo."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from presto_models.autoencoder import Autoencoder
from presto_models.compiled import Compiled
from presto_models.conditioning import (
    Condition,
    TextEncoder,
    check_tempo,
    condition,
    null_condition,
    parse_prompt,
)
from presto_models.denoiser import pass_on_facts, prepare
from presto_models.dit import PrestoDenoiser
from presto_models.editing import Edit, check_edit, continuation, variation
from presto_models.edm import SIGMA_MAX
from presto_models.limiter import limit
from presto_models.precision import Precision, autocast, in_force
from presto_models.samplers import Sampler, Seeds, Step, generators, randn
from presto_models.sampling import Sampling
from presto_models.snapshot import Snapshot, SnapshotError, find_snapshot, own_folder, read_header

VARIANTS = ("layers_steps", "steps", "layers", "base")  # fastest first
MAX_SECONDS = 32.0


class Output(NamedTuple):
    """Generated clips, and what they cost."""

    audios: Float[Tensor, "b ch s"]  # in [-1, 1]; one channel, or two of a stereo call
    latents: Float[Tensor, "b c t"]
    sample_rate: int
    stage_seconds: dict[str, float]  # wall-clock of text, (encode,) denoise, decode(, stereo)
    metadata: tuple[dict[str, Any], ...]  # per clip, what it takes to make it again


class Pipeline:
    """Prompt -> condition -> latent -> audio -> stereo, from interchangeable parts.

    `text_encoder(captions) -> (tokens, mask)`; `denoiser` is any denoiser; `autoencoder` decodes
    (None where `denoise` alone is wanted); `stereo(mid, width=)`, if there is one, makes [b, 1, s]
    [b, 2, s]. `variant`, one of VARIANTS, is the name under which the denoiser is saved.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        autoencoder: Autoencoder | None,
        text_encoder: nn.Module,
        *,
        few_step: bool,
        variant: str | None = None,
        stereo: nn.Module | None = None,
    ):
        if autoencoder is not None and autoencoder.audio_channels != 1:
            raise ValueError("a pipeline's codec is mono: `stereo` makes the second channel")
        if isinstance(denoiser, PrestoDenoiser) and autoencoder is not None:
            _check_fit(denoiser, autoencoder)
        if isinstance(inner := getattr(denoiser, "module", None), nn.Module):
            pass_on_facts(denoiser, inner)  # DistributedDataParallel and AveragedModel hide them
        self.denoiser, self.autoencoder, self.text_encoder = denoiser, autoencoder, text_encoder
        self.few_step, self.stereo = few_step, stereo
        self.variant = variant or ("steps" if few_step else "base")
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r}: choose from {', '.join(VARIANTS)}")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "presto-small",
        *,
        variant: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load `codec`, `text`, one denoiser and, if held, `stereo` of a model folder, or of a
        bundled model.

        `variant` is one of VARIANTS; None takes the fastest the folder holds. `dtype` is that of
        the denoiser's weights; what it returns is float32 all the same.
        """
        folder = find_snapshot(name_or_path)
        held = held_variants(folder)
        variant = held[0] if variant is None else variant
        if variant not in held:
            raise ValueError(f"no variant {variant!r} in {folder.name}: it holds {', '.join(held)}")
        denoiser = PrestoDenoiser.from_pretrained(folder / variant, device=device).to(dtype)
        return cls(
            denoiser,
            _load_codec(folder / "codec", device),
            TextEncoder.from_pretrained(folder / "text", device=device),
            few_step=denoiser.config.few_step,
            variant=variant,
            stereo=_load_stereo(folder / "stereo", device),
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write every part as a snapshot, so that `from_pretrained(folder)` gives this pipeline.

        Pipelines that differ in their variant can share a folder.
        """
        folder = own_folder(folder)
        parts = {"codec": self.autoencoder, "text": self.text_encoder, self.variant: self.denoiser}
        parts |= {"stereo": self.stereo} if self.stereo is not None else {}
        for name, part in parts.items():
            if not isinstance(part, Snapshot):
                raise ValueError(f"{name} is a {type(part).__name__}, which is no Snapshot to save")
        if self.denoiser.config.few_step != self.few_step:
            raise ValueError(
                f"few_step is {self.few_step} here and not in the denoiser's config, "
                "which is what is saved: change it there"
            )
        for name, part in parts.items():
            part.save_pretrained(folder / name)
        return folder

    def to(self, device: str | torch.device) -> Self:
        """Move every part to a device."""
        for part in (self.denoiser, self.autoencoder, self.text_encoder, self.stereo):
            if part is not None:
                part.to(device)
        return self

    def compile(self) -> Self:
        """Compile every part that has something to gain. The first clip of a length takes a minute
        on a CPU and less on CUDA, where whole passes are recorded as graphs; the next ones are
        fast. Weights must stay where they are."""
        self.denoiser = Compiled(self.denoiser)
        for part in (self.autoencoder, self.stereo):
            if part is not None:
                part.compile()
        return self

    @property
    def device(self) -> torch.device:
        """Where the denoiser lives."""
        return next((weight.device for weight in self.denoiser.parameters()), torch.device("cpu"))

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        bpm: float | None = None,
        negative_prompt: str | None = None,
        seconds: float = 10.0,
        seed: int | Sequence[int] = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sampling: Sampling = Sampling(),
        init_audio: Float[Tensor, "#b n"] | None = None,
        strength: float | None = None,
        keep_seconds: float | None = None,
        stereo: bool = False,
        width: float = 1.0,
        precision: Precision = "auto",
        progress: bool = False,
        callback: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> Output:
        """Generate one clip per prompt, the same whatever batch it is in.

        `bpm` overrides a tempo in the prompt ("driving techno --bpm 140"). Clip i has seed
        `seed + i`, or its own of a list, or its own `generator`. Any field of `sampling` can be
        given by its name: `steps=4`. Guidance leads away from `negative_prompt`.

        `init_audio` (mono, at the codec's rate, one for all or one per prompt) is varied by
        `strength` in (0, 1], or continued after `keep_seconds`, whose latents stay as they are.

        Raises ValueError, in one line, for what cannot be: no prompt or an empty one, no or too
        many seconds, no steps, stereo without a stereo part.
        """
        if (codec := self.autoencoder) is None:
            raise ValueError("this pipeline has no codec to play by: `denoise` makes latents")
        samples = round(check_seconds(seconds) * codec.sample_rate)
        if samples < 1:
            raise ValueError(f"{seconds:g} seconds are less than a sample")
        sampling = self._resolved(replace(sampling, **settings))
        self._check(sampling, negative_prompt, stereo)
        precision = self._precision(precision)
        edited = {"strength": strength, "keep_seconds": keep_seconds}
        check_edit(init_audio is not None, **edited, seconds=seconds)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not prompts:
            raise ValueError("no prompts: at least one is needed")
        rng = generators(seed if generator is None else generator, len(prompts))

        watch = Stopwatch(self.device)
        cond = self.condition(prompts, bpm=bpm)
        null = None if negative_prompt is None else self.condition([negative_prompt] * len(prompts))
        watch.lap("text")

        shape, edit = (len(prompts), codec.channels, -(-samples // codec.hop_length)), None
        if init_audio is not None:
            edit = self._edit(init_audio, shape, samples=samples, **edited)
            watch.lap("encode")

        with autocast(self.device, precision):
            steps = self.denoise(shape, cond, seeds=rng, sampling=sampling, null=null, edit=edit)
            for step in _with_bar(steps, sampling.steps) if progress else steps:
                if callback is not None:
                    callback(step)
        watch.lap("denoise")

        audio = codec.decode(step.x)[:, None, :samples]
        if stereo:
            watch.lap("decode")
            audio = self.stereo(audio, width=width)
        audio = limit(audio, codec.sample_rate)
        watch.lap("stereo" if stereo else "decode")

        facts = {"negative_prompt": negative_prompt, "seconds": seconds, "variant": self.variant}
        facts |= (
            {"precision": precision}
            | sampling.in_force()
            | edited
            | ({"width": width} if stereo else {})
        )
        # Nobody knows how far along a caller's generator was.
        seeds = [source.initial_seed() if generator is None else None for source in rng]
        metadata = tuple(
            {"prompt": words, "bpm": bpm or parse_prompt(words).tempo, "seed": seed, **facts}
            for words, seed in zip(prompts, seeds, strict=True)
        )
        return Output(audio, step.x, codec.sample_rate, watch.seconds, metadata)

    def condition(self, prompts: list[str], *, bpm: float | None = None) -> Condition:
        """Parse prompts ("words --bpm 120 --key A minor") and encode them."""
        parsed = [parse_prompt(prompt) for prompt in prompts]
        tempo = [one.tempo if bpm is None else check_tempo(bpm) for one in parsed]
        key = [one.key for one in parsed]
        words = [one.words for one in parsed]
        return condition(self.text_encoder, words, tempo, key=key if any(key) else None)

    def denoise(
        self,
        shape: tuple[int, int, int],
        cond: Condition,
        *,
        seeds: Seeds,
        sampling: Sampling,
        null: Condition | None = None,
        edit: Edit | None = None,
    ) -> Sampler:
        """The sampler this denoiser wants, as a generator of steps.

        `null`: what guidance leads away from; by default the condition that says nothing.
        """
        sampling = self._resolved(sampling)
        rng = generators(seeds, shape[0])
        D, noise = self.denoiser, randn(shape, rng, self.device)
        share = partial(prepare, D)  # what all steps can share of a prompt
        if sampling.budget is not None:
            D = partial(D, budget=sampling.budget)
        if not self.few_step:
            unguided = share(null_condition(cond) if null is None else null)
            D = sampling.guide(D, lambda _: unguided)
        sigma_max = SIGMA_MAX if edit is None else edit.sigma
        if edit is not None:
            D, noise = edit.applied(D, noise)
        how = {"sigma_max": sigma_max, "trajectory": getattr(self.denoiser, "trajectory", False)}
        return sampling.start(D, noise, share(cond), rng=rng, **how)

    def _resolved(self, sampling: Sampling) -> Sampling:
        return sampling.resolved(self.denoiser, few_step=self.few_step)

    def _precision(self, precision: Precision) -> Precision:
        """What is in force; autocast has no bfloat16 for a network in float16, which needs none."""
        if next(self.denoiser.parameters()).dtype != torch.float16:
            return in_force(self.device, precision)
        if precision == "bfloat16":
            raise ValueError("weights in float16 cannot be multiplied in bfloat16: load others")
        return "float32"

    def _check(self, sampling: Sampling, negative_prompt: str | None, stereo: bool) -> None:
        """Refuse what this pipeline's parts cannot do, before any of them runs."""
        if self.few_step and negative_prompt is not None:
            raise ValueError(
                "a negative prompt steers guidance, which a few-step generator has in its weights: "
                "use the variant 'base' or 'layers'"
            )
        if stereo and self.stereo is None:
            raise ValueError("this model has no stereo part: only mono can be made")
        if sampling.budget is not None:
            if not (depth := getattr(self.denoiser, "depth", None)):
                raise ValueError(
                    "a budget needs a denoiser with a depth, whose blocks can be left out"
                )
            if sampling.budget > depth:
                raise ValueError(f"budget must be within 1..{depth} blocks, got {sampling.budget}")

    def _edit(
        self,
        audio: Float[Tensor, "n s"],
        shape: tuple[int, int, int],
        *,
        samples: int,
        strength: float | None,
        keep_seconds: float | None,
    ) -> Edit:
        """The clip to vary, or the whole latent frames of it to keep."""
        codec, (batch, _, frames) = self.autoencoder, shape
        if audio.ndim != 2 or len(audio) not in (1, batch) or not audio.is_floating_point():
            raise ValueError(
                "init_audio must be floats [b, samples], b = 1 or the number of prompts; "
                f"got {audio.dtype} {[*audio.shape]}"
            )
        needed = round(keep_seconds * codec.sample_rate) if strength is None else samples
        if audio.shape[1] < needed:
            has, wants = audio.shape[1] / codec.sample_rate, needed / codec.sample_rate
            raise ValueError(f"init_audio of {has:g} s is shorter than the {wants:g} s asked for")
        latent = codec.encode(audio[:, :samples].float().to(self.device)).expand(batch, -1, -1)
        if strength is not None:
            return variation(latent, strength=strength)
        return continuation(latent[..., : needed // codec.hop_length], frames=frames)


def _check_fit(denoiser: PrestoDenoiser, codec: Autoencoder) -> None:
    """ValueError where the denoiser was made for other latents than the codec's."""
    dit, rate = denoiser.config.dit, codec.sample_rate / codec.hop_length
    for fact, wanted, given in (
        ("channels", dit.channels, codec.channels),
        ("sigma_data", denoiser.sigma_data, codec.sigma_data),
        ("frame rate", dit.frame_rate or rate, rate),
    ):
        if abs(wanted - given) > 1e-3 * given:
            raise ValueError(f"denoiser and codec differ in {fact}: {wanted:g} and {given:g}")


def check_seconds(seconds: float) -> float:
    """The length itself, or ValueError where no clip has it."""
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"seconds must be above 0 and at most {MAX_SECONDS:g}, got {seconds:g}")
    return seconds


def held_variants(folder: Path) -> list[str]:
    """Those of VARIANTS that a model folder holds, fastest first; SnapshotError for none."""
    held = [name for name in VARIANTS if (folder / name / "config.json").exists()]
    if not held:
        wanted = ", ".join(VARIANTS)
        if (folder / "config.json").exists():
            raise SnapshotError(
                f"{folder.resolve()} is one part of a model: give the folder that holds it, codec/ "
                f"and text/, and as variant which of {wanted} it is there"
            )
        raise SnapshotError(f"{folder.resolve()} holds no denoiser: it needs one of {wanted}")
    return held


def _load_codec(folder: Path, device: str | torch.device) -> nn.Module:
    """Our codec, or Stable Audio's where that was saved."""
    if read_header(folder)["class"] == "Oobleck":
        from presto_models.oobleck import Oobleck

        return Oobleck.from_pretrained(folder, device=device)
    return Autoencoder.from_pretrained(folder, device=device)


def _load_stereo(folder: Path, device: str | torch.device) -> nn.Module | None:
    """The stereo part of a model folder, if it has one."""
    if not (folder / "config.json").exists():
        return None
    from presto_models.stereo import MonoToStereo

    return MonoToStereo.from_pretrained(folder, device=device)


def _with_bar(steps: Sampler, total: int) -> Iterator[Step]:
    """The same steps, counted on the terminal."""
    from tqdm.auto import tqdm

    return iter(tqdm(steps, total=total, unit="step", leave=False))


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
