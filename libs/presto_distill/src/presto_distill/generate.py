"""`presto generate`: a prompt to a sound file, or lines of JSON to files and lines of JSON."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from os.path import normpath
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from presto_distill.devices import check_device
from presto_distill.sound_files import check_folder, check_kind, load_mono, tags_of, write_audio
from presto_models.conditioning import check_key, check_tempo, parse_prompt
from presto_models.editing import check_edit
from presto_models.pipeline import MAX_SECONDS, Output, Pipeline, check_seconds
from presto_models.sampling import Sampling

SECONDS = 10.0
SAMPLE_RATE = 44_100  # at which a recording is read to learn its length
LIST = "clips.jsonl"  # in a batch's folder
FIELDS = {"prompt": str, "bpm": (int, float), "seconds": (int, float), "seed": int, "out": str}


@dataclass(frozen=True)
class GenerateOptions:
    """What to make, how and where."""

    batch: Path | None = None
    """Instead of a prompt, a file of JSON lines: prompt and, if wanted, bpm, seconds, seed, out."""
    bpm: float | None = None
    """Tempo in beats per minute."""
    key: str | None = None
    """A minor, Bb major, Am …; for models that can be told a key."""
    seconds: float | None = None
    """Length of the clip; default 10, or that of the recording to vary."""
    steps: int | None = None
    """Sampling steps; default 4 for distilled generators, 40 for the others."""
    budget: int | None = None
    """Blocks of the network to run in every step; default as the model's layer schedule says."""
    solver: str | None = None
    """euler, heun (default), dpmpp_2m or dpmpp_2s, for models that are not few-step generators."""
    guidance_scale: float | None = None
    """Of CFG++, 0 to 1, for models that are not few-step generators; default the model's
    own, else 0.8."""
    negative_prompt: str | None = None
    """What guidance leads away from, for models that are not few-step generators."""
    rho: float = 7.0
    """Spacing of the noise levels; 7 is Karras', 1000 nearly log-uniform."""
    init: Path | None = None
    """A recording to vary (with --strength) or to continue (with --keep-seconds)."""
    strength: float | None = None
    """How far the variation goes, from just above 0 (the recording) to 1 (anything)."""
    keep_seconds: float | None = None
    """Length of the beginning to keep from the recording; the rest is new."""
    mono: bool = False
    """One channel, also where the model has a stereo part."""
    width: float = 1.0
    """Level of the stereo part's side signal; 0 sounds mono."""
    seed: int = 0
    """Same seed, same clip. Lines of a batch without one of their own count on from it."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A .wav or .flac file, default out.wav; of a batch a folder, default generated."""
    model: str = "presto-small"
    """A bundled model or a model folder."""
    variant: str | None = None
    """layers_steps, steps, layers or base; default the fastest there is."""
    device: str = "cpu"
    """cpu or cuda."""


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    prompt: str
    bpm: float | None
    seconds: float
    seed: int
    out: Path


def run(prompt: str, options: GenerateOptions) -> int:
    """Make and write every clip; what can be known to be wrong is said before the model loads."""
    check_device(options.device)
    sampling = Sampling(
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        rho=options.rho,
        solver=options.solver,
        budget=options.budget,
    )
    if options.negative_prompt is not None:
        parse_prompt(options.negative_prompt)
    if not 0 <= options.width < float("inf"):
        raise ValueError(f"width must be at least 0, got {options.width:g}")
    if options.width != 1 and options.mono:
        raise ValueError(f"width {options.width:g} is for stereo: leave out --mono")
    init = None if options.init is None else load_mono(options.init, SAMPLE_RATE)
    jobs = list(read_jobs(prompt, options, init))
    pipeline = Pipeline.from_pretrained(
        options.model, variant=options.variant, device=options.device
    )
    if not pipeline.denoiser.config.dit.key:
        texts = [*(job.prompt for job in jobs), options.negative_prompt]
        for text in filter(None, texts):
            if parse_prompt(text).key:
                raise ValueError(f"{text!r}: {options.model} cannot be told a key, leave it out")
    if options.width != 1 and pipeline.stereo is None:
        raise ValueError(f"width {options.width:g} is for stereo: {options.model} is mono")
    if init is not None and pipeline.autoencoder.sample_rate != SAMPLE_RATE:
        rate = pipeline.autoencoder.sample_rate
        init = load_mono(options.init, rate)
        if options.strength is not None:  # as long as the recording; resampling rounds
            held = init.shape[1] / rate
            jobs = [replace(job, seconds=min(job.seconds, held)) for job in jobs]
    write = write_one if options.batch is None else write_batch
    write(pipeline, jobs, options, {"sampling": sampling, "init_audio": init})
    return 0


def write_one(pipeline: Pipeline, jobs: list[Job], options: GenerateOptions, given: dict) -> None:
    """Make a clip and say what it cost."""
    (job,) = jobs
    made, _ = make(pipeline, job, options, given)
    stages = ", ".join(f"{name} {value:.2f} s" for name, value in made.stage_seconds.items())
    total = sum(made.stage_seconds.values())
    print(f"{job.out}: {job.seconds:g} s of audio in {total:.2f} s ({stages})")
    factor = job.seconds / total
    print(f"real-time factor {factor:.1f} (seconds of audio per second; higher is faster)")


def write_batch(pipeline: Pipeline, jobs: list[Job], options: GenerateOptions, given: dict) -> None:
    """Make clips one after the other, each with its line in the folder's list as soon as it is."""
    path = batch_folder(options) / LIST
    for number, job in enumerate(jobs):
        made, facts = make(pipeline, job, options, given)
        facts = {"out": str(job.out), **facts, "stage_seconds": made.stage_seconds}
        path.parent.mkdir(exist_ok=True)  # clips may lie elsewhere
        with open(path, "a" if number else "w", encoding="utf-8") as lines:
            lines.write(json.dumps(facts, ensure_ascii=False) + "\n")
    print(f"{len(jobs)} clips; settings and times are in {path}")


def make(
    pipeline: Pipeline, job: Job, options: GenerateOptions, given: dict
) -> tuple[Output, dict[str, Any]]:
    """Generate a clip and write it with the facts of its making as tags."""
    made = pipeline(
        job.prompt,
        bpm=job.bpm,
        seconds=job.seconds,
        seed=job.seed,
        negative_prompt=options.negative_prompt,
        strength=options.strength,
        keep_seconds=options.keep_seconds,
        stereo=pipeline.stereo is not None and not options.mono,
        width=options.width,
        progress=sys.stderr.isatty(),
        **given,
    )
    facts = {**made.metadata[0], "model": options.model, "version": version("presto-models")}
    facts |= {} if options.init is None else {"init": str(options.init)}
    job.out.parent.mkdir(parents=True, exist_ok=True)
    write_audio(job.out, made.audios[0], made.sample_rate, tags_of(facts))
    return made, facts


# ---------------------------------------------------------------------- what is asked for


def read_jobs(prompt: str, options: GenerateOptions, init: Tensor | None) -> Iterator[Job]:
    """The clips asked for, each of them possible; ValueError names the line of a batch."""
    seconds = options.seconds
    key = "" if options.key is None else f" --key {check_key(options.key)}"  # of a prompt
    if seconds is None:
        vary = init is not None and options.strength is not None
        seconds = min(init.shape[1] / SAMPLE_RATE, MAX_SECONDS) if vary else SECONDS
    if options.batch is None:
        out = check_folder(check_kind(options.out or Path("out.wav")))
        yield check_job(Job(prompt + key, options.bpm, seconds, options.seed, out), options, init)
        return
    if prompt:
        raise ValueError(f"a prompt ({prompt!r}) and --batch {options.batch}: give one of them")
    folder, taken = batch_folder(options), set()
    if (folder / LIST).resolve() == options.batch.resolve():
        raise ValueError(f"{options.batch} would be overwritten by the list of clips: name it anew")
    for number, fields in read_lines(options.batch):
        try:
            job = Job(
                fields["prompt"] + key,
                fields.get("bpm", options.bpm),
                fields.get("seconds", seconds),
                fields.get("seed", options.seed + number - 1),
                check_kind(folder / fields.get("out", f"{number:04d}.wav")),
            )
            if (place := normpath(job.out)) in taken:
                raise ValueError(f"{job.out} is written twice")
            taken.add(place)
            yield check_job(job, options, init)
        except ValueError as error:
            raise ValueError(f"{options.batch}, line {number}: {error}") from error
    if not taken:
        raise ValueError(f"{options.batch} holds no prompts")


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and fields of every line that is not blank."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error})") from error
        if not isinstance(fields, dict) or "prompt" not in fields:
            raise ValueError(f"{path}, line {number}: needs an object with a prompt")
        for name, value in fields.items():
            if name not in FIELDS:
                known = ", ".join(FIELDS)
                raise ValueError(f"{path}, line {number}: unknown field {name!r}: use {known}")
            if not isinstance(value, FIELDS[name]) or isinstance(value, bool):
                raise ValueError(f"{path}, line {number}: {name} cannot be {value!r}")
        yield number, fields


def check_job(job: Job, options: GenerateOptions, init: Tensor | None) -> Job:
    """The job itself, or ValueError where no such clip can be made."""
    parse_prompt(job.prompt)
    if job.bpm is not None:
        check_tempo(job.bpm)
    check_seconds(job.seconds)
    if not 0 <= job.seed < 2**63:
        raise ValueError(f"seed must be within 0..2^63 - 1, got {job.seed}")
    edit = {"strength": options.strength, "keep_seconds": options.keep_seconds}
    check_edit(options.init is not None, **edit, seconds=job.seconds)
    needed = job.seconds if options.keep_seconds is None else options.keep_seconds
    if init is not None and (has := init.shape[1] / SAMPLE_RATE) < needed:
        raise ValueError(f"{options.init} of {has:g} s is shorter than the {needed:g} s asked for")
    return job


def batch_folder(options: GenerateOptions) -> Path:
    """Where the clips of a batch go; ValueError where no folder can be."""
    folder = options.out or Path("generated")
    if not folder.parent.is_dir() or folder.is_file():
        raise ValueError(f"cannot write to {folder}: no folder, and none can be made there")
    return folder
