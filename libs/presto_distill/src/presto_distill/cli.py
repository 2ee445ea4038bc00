"""The command line; `presto --help` lists what it does."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from presto_distill.data_command import data
from presto_distill.devices import check_device
from presto_distill.generate import GenerateOptions
from presto_distill.listen_command import listen
from presto_distill.reproduce_command import Out, report, reproduce


def generate(
    prompt: tyro.conf.Positional[str] = "",
    options: Annotated[GenerateOptions, tyro.conf.arg(name="")] = GenerateOptions(),
) -> int:
    """Make music from words, e.g. presto generate "slow jazz trio" --bpm 90 --steps 4 -o out.wav

    Args:
        prompt: What it should sound like; may end in "--bpm NUMBER --key KEY" itself.
        options: How.
    """
    from presto_distill import generate as command

    return command.run(prompt, options)


def demo(*, model: str = "presto-small", device: str = "cpu", port: int = 7860) -> int:
    """Open a page in the browser to make music from words (needs the extra `demo`).

    Args:
        model: A bundled model or a model folder.
        device: cpu or cuda.
        port: Where the page is served, at http://127.0.0.1:PORT.
    """
    from presto_distill.demo import launch

    check_device(device)
    launch(model, device=device, port=port)
    return 0


def info(model: tyro.conf.Positional[str] = "presto-small") -> int:
    """Print a model's parts, parameters, budgets, operations per step, licence and origin.

    Args:
        model: A bundled model, a model folder or one snapshot in it.
    """
    from presto_models.info import describe

    print(describe(model))
    return 0


@dataclass(frozen=True)
class RunOptions:
    """What `presto distill` and `presto train` share."""

    preset: str = "quick"
    """smoke, quick, cpu, gpu or a100_paper."""
    seed: int = 0
    """Of data, training and samples."""
    out: Out = None
    """Folder of this run; default runs/METHOD-PRESET[-AUDIO]-SEED."""
    model: str = "presto-small"
    """A bundled model or a model folder: base/ (the teacher), codec/, text/ and embedder/."""
    start: str | None = None
    """A snapshot (OUT/student of another run) that the student starts from instead of the base."""
    audio: Path | None = None
    """A folder of your own recordings instead of the rendered corpus."""
    data: Path | None = None
    """Folder where encoded data are kept for other runs; default runs/PRESET[-AUDIO]."""
    tempo_dropout: float = 0.15
    """Share of crops that hide their tempo, so that prompts need not state one."""
    key_dropout: float = 0.5
    """Likewise of keys, where the model can be told one."""
    settings: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.arg(name="set", metavar="NAME=VALUE"),
        tyro.conf.UseAppendAction,
    ] = ()
    """Settings of the method (critic_updates=3) or of training (train.steps=100)."""
    resume: bool = False
    """Go on with the run in OUT."""
    dry_run: bool = False
    """Only print the resolved config, parameters, memory and the time of a step."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How processes that torchrun started share the work; needs train.micro_batches."""
    every: float = 30.0
    """Seconds of training between checkpoints."""
    health: int | None = None
    """Steps between looks at the run's health; default a fifth of the run."""
    tensorboard: bool = False
    """Log to OUT/tensorboard too (needs the extra `tensorboard`)."""


Options = Annotated[RunOptions, tyro.conf.arg(name="")]


def distill(method: tyro.conf.Positional[str], options: Options = RunOptions()) -> int:
    """Distill a model in a run that survives a kill, e.g. presto distill steps --out runs/mine

    Args:
        method: steps (Presto-S), layers (Presto-L), both (Presto-LS), warm-start, base, or a
            baseline: dmd-gan, consistency, soundctm, ditto-ctm, ase.
        options: How.
    """
    from presto_distill import distill as command

    return command.run(method, options)


def train(options: Options = RunOptions()) -> int:
    """Train a base model from scratch, as `presto distill base` does.

    Args:
        options: How.
    """
    return distill("base", options)


def train_bundle(
    *,
    out: Out = None,
    stages: tuple[str, ...] = (),
    preset: str = "cpu",
    training_seed: int = 0,
    device: str = "cpu",
) -> int:
    """Train codec, embedder, base model, students and stereo from nothing but the repository.

    Stages whose preset and inputs have not changed are left as they are; killed, it resumes.

    Args:
        out: Folder that receives the models; default runs/presto-small.
        stages: Some of codec_start, codec_decoder, codec, embedder, base, layers, steps,
            layers_steps, stereo; default all, in this order.
        preset: cpu, gpu or smallest, which trains almost nothing, to try the command.
        training_seed: Of the denoisers' initialisation, order of crops and noise; songs stay.
        device: cpu or cuda.
    """
    from presto_distill import bundle

    if preset not in bundle.PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose from {', '.join(bundle.PRESETS)}")
    check_device(device)
    chosen = replace(bundle.PRESETS[preset](), training_seed=training_seed)
    bundle.train_bundle(chosen, out or Path("runs/presto-small"), stages, device=device)
    return 0


def eval_folder(
    generated: tyro.conf.Positional[Path],
    *,
    reference: Path | None = None,
    embedder: str = "presto-small",
    prompts: Path | None = None,
    paired: bool = False,
    seconds: float = 10.0,
    seed: int = 0,
    save_reference: Path | None = None,
    out: Out = None,
) -> int:
    """Measure a folder of generated audio against recordings and prompts.

    Args:
        generated: The folder of audio files to measure.
        reference: A folder of real audio, or a file that --save-reference wrote.
        embedder: presto-small, log-mel or clap:PATH (a folder, a hub id or a .pt checkpoint).
        prompts: A CSV of what was asked: column file and any of prompt, bpm, key.
        paired: Clip i of both folders belong together, by order of name; adds KL on tags.
        seconds: Files are cut into clips this long; shorter ones are repeated to fill one. Clips
            of one file count as independent, which makes intervals too narrow.
        seed: Of resampling.
        save_reference: Keep the statistics of the reference in this file.
        out: Also write the scores to this .json file.
    """
    from presto_distill.evaluate import EvalConfig, evaluate_folder
    from presto_models.snapshot import write_atomic

    for path in filter(None, (out, save_reference)):
        if not path.parent.is_dir():
            raise ValueError(f"cannot write {path}: no folder {path.parent}")
    config = EvalConfig(
        generated,
        reference=reference,
        embedder=embedder,
        prompts=prompts,
        paired=paired,
        seconds=seconds,
        seed=seed,
        save_reference=save_reference,
    )
    evaluation = evaluate_folder(config)
    print(evaluation)
    if out:
        write_atomic(out, lambda to: to.write_text(evaluation.as_json()))
    return 0


def main() -> None:
    """Run a command; what is wrong with its input is said in one line, exit code 2."""
    commands = {
        "reproduce": reproduce,
        "report": report,
        "generate": generate,
        "demo": demo,
        "info": info,
        "distill": distill,
        "train": train,
        "eval": eval_folder,
        "data": data,
        "listen": listen,
        "train-bundle": train_bundle,
    }
    try:
        code = tyro.extras.subcommand_cli_from_dict(commands, prog="presto", description=__doc__)
    except KeyboardInterrupt as stop:  # a run that stopped itself says where
        if str(stop):
            print(f"presto: {stop}", file=sys.stderr)
        code = getattr(stop, "code", 130)
    except (ValueError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"presto: {lines[0]}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
