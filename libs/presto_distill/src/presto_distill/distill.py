"""The command behind `presto distill METHOD`: one run in one folder, which no kill loses.

OUT/config.json       everything the result depends on; resuming under another one is refused
OUT/checkpoint.pt     to resume from
OUT/records.csv       losses and gradient norms of each step
OUT/health.csv, .png  what losses do not tell; see presto_distill.health
OUT/tensorboard       both, if asked for
OUT/student           the result, a snapshot
OUT/lock              held by the process that trains
"""

import importlib.util
import json
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_data.encode import claimed
from presto_distill.cli import RunOptions
from presto_distill.distributed import World
from presto_distill.distributed import start as start_processes
from presto_distill.dry_run import networks, one_step
from presto_distill.experiment import Lab
from presto_distill.fit import fit
from presto_distill.health import PROBED, probe
from presto_distill.logs import Row, check_tensorboard
from presto_distill.methods import METHODS, Plan, make_plan
from presto_distill.presets import Preset, Stage, check_gpu
from presto_distill.presets import preset as find_preset
from presto_distill.settings import Settings, differences, plain, with_pairs
from presto_distill.trainer import Trainer
from presto_models import PrestoDenoiser
from presto_models.pipeline import VARIANTS
from presto_models.precision import autocast
from presto_models.snapshot import find_snapshot, write_atomic

PROBED_CLIPS = 64  # held-out ones that every look at a run's health shares
PROBES = 5  # looks at it per run, if not asked otherwise


def run(method: str, options: RunOptions) -> int:
    """Train `method` to its end, or only say what that would take (`options.dry_run`).

    Everything that can be wrong with the input is said, in one line, before training starts.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    if options.seed < 0:
        raise ValueError(f"seed must not be negative, got {options.seed}")
    if options.health is not None and options.health < 1:
        raise ValueError(f"health must be at least 1 step, got {options.health}")
    if not options.every >= 0:
        raise ValueError(f"every must be at least 0 seconds, got {options.every:g}")
    dropout = {"tempo_dropout": options.tempo_dropout, "key_dropout": options.key_dropout}
    preset = replace(find_preset(options.preset), **dropout)
    world = start_processes(options.strategy)
    if options.dry_run and world.size > 1:
        raise ValueError("a dry run is of one process: leave out torchrun")
    start = options.start and PrestoDenoiser.from_pretrained(check_start(options.start))
    settings = METHODS[method].settings(preset, start and start.config)
    settings = replace(settings, train=replace(settings.train, seed=options.seed))
    settings = with_pairs(settings, [pair for pairs in options.settings for pair in pairs])
    name = options.preset + (f"-{options.audio.name}" if options.audio else "")

    if options.dry_run:
        # A clip, and trajectories for a batch, in a place that does not last.
        less = replace(preset, clips=1, held_out=1, trajectories=settings.train.batch)
        with tempfile.TemporaryDirectory() as folder:
            lab, plan, config = prepare(method, settings, less, start, Path(folder), options, world)
            objective = plan.make()
            print(json.dumps(config, indent=2))
            print(networks(objective))
            check_gpu(preset)
            print(one_step(objective, plan.stream, settings.train, lab.device))
        return 0

    check_gpu(preset)
    out = options.out or Path("runs") / f"{method}-{name}-{options.seed}"
    world.agree(check_folder(out, resume=options.resume))  # before the first process writes
    if options.tensorboard:
        check_tensorboard()
    data = options.data or Path("runs") / name
    lab, plan, config = prepare(method, settings, preset, start, data, options, world)
    if options.resume:
        check_same(config, out, settings.train)
    train(lab, plan, settings, config, out, options, world)
    return 0


def prepare(
    method: str,
    settings: Settings,
    preset: Preset,
    start: PrestoDenoiser | None,
    data: Path,
    options: RunOptions,
    world: World,
) -> tuple[Lab, Plan, dict[str, Any]]:
    """Data and models, what to train, and the resolved config that names all of it."""
    with world.first_alone():  # it makes the data, the others load them
        facts = {"seed": options.seed, "out": data, "audio": options.audio, "model": options.model}
        lab = Lab.open(preset, **facts, device=str(world.device))
        lab.encode()
    for network in filter(None, (lab.teacher, start)):
        check_latents(network.to(lab.device), lab)
    torch.manual_seed(options.seed)  # of what starts from random weights
    plan = make_plan(method, lab, settings, start)
    models = {"base": lab.teacher, "codec": lab.codec, "text": lab.text}
    models |= {"start": start} if start else {}
    config = {
        "method": method,
        "preset": options.preset,
        "data": lab.source,
        **preset.dropout,
        "models": {name: model.digest for name, model in models.items()},
        **plain(settings),
        "student": plain(plan.config),
    }
    return lab, plan, config


def train(
    lab: Lab,
    plan: Plan,
    settings: Settings,
    config: dict[str, Any],
    out: Path,
    options: RunOptions,
    world: World,
) -> None:
    """Start or resume the run in `out`, and leave its student there."""
    trainer = Trainer(plan.make(), settings.train, lab.device, parallel=world)
    if world.leads:  # only now, after all that may be wrong with the input
        out.mkdir(parents=True, exist_ok=True)
    with claimed(out / "lock") if world.leads else nullcontext(True) as ours:
        if not ours:
            raise ValueError(f"another process is training in {out}")
        _train_alone(trainer, plan, lab, config, out, options)


def _train_alone(
    trainer: Trainer,
    plan: Plan,
    lab: Lab,
    config: dict[str, Any],
    out: Path,
    options: RunOptions,
) -> None:
    """The run itself, by the only process group that works in `out`."""
    objective, cfg, world = trainer.objective, trainer.cfg, trainer.parallel
    if world.leads:
        text = json.dumps(config, indent=2) + "\n"
        write_atomic(out / "config.json", lambda path: path.write_text(text))

    clips = min(PROBED_CLIPS, len(lab.held_out))
    batch = next(lab.conditioned(lab.held_out, batch=clips)(0))
    batch = tree_map_only(Tensor, lambda leaf: leaf.to(lab.device), batch)

    def look() -> list[Row]:
        rng = torch.Generator(lab.device).manual_seed(lab.seed)
        with trainer.gathered(), autocast(lab.device, cfg.precision):
            return probe(objective, batch, rng, lab.embedder.embed)

    fit(
        trainer,
        plan.stream,
        out / "checkpoint.pt",
        label=config["method"],
        every=options.every,
        keep=True,
        log=out / "records.csv",
        probe=look if isinstance(objective, PROBED) else None,
        probe_every=options.health or max(1, cfg.steps // PROBES),
        events=out / "tensorboard" if options.tensorboard else None,
    )
    weights = trainer.average_state(plan.player)
    if world.leads:
        plan.student(weights).save_pretrained(out / "student")
        draw_health(out)
        print(f"student: {out / 'student'}")


def check_start(name: str) -> str:
    """The name itself, or ValueError that lists the parts where it is a whole model or run."""
    folder = find_snapshot(name)
    if not (folder / "config.json").exists() or (folder / "student").is_dir():
        kinds = ("student", *VARIANTS)
        held = [f"{name}/{kind}" for kind in kinds if (folder / kind / "config.json").exists()]
        instead = " or ".join(held) or "a folder with config.json and model.safetensors"
        raise ValueError(f"{name} holds no snapshot itself: give {instead}")
    return name


def check_folder(out: Path, *, resume: bool) -> None:
    """ValueError unless `out` holds a run exactly if one is to be resumed."""
    holds = (out / "config.json").exists()
    if holds and not resume:
        raise ValueError(f"{out} already holds a run: add --resume to go on with it")
    if resume and not holds:
        raise ValueError(f"nothing to resume: {out} holds no config.json")


def check_same(config: dict[str, Any], out: Path, train: Stage) -> None:
    """ValueError with the differences unless the run in `out` has this config, but for what the
    trainer allows to change."""
    before = json.loads((out / "config.json").read_text())
    ignore = tuple(f"train.{name}" for name in train.free)
    if changes := differences(before, config, ignore=ignore):
        raise ValueError(f"cannot resume {out} under another config: {changes}")
    if train.steps < (known := before["train"]["steps"]):
        raise ValueError(f"cannot resume {out} to {train.steps} steps: it is a run of {known}")


def check_latents(denoiser: nn.Module, lab: Lab) -> None:
    """ValueError unless the network takes the data's latents, which one forward pass tells."""
    x, cond = next(lab.stream(1)(0))
    x, cond = tree_map_only(Tensor, lambda leaf: leaf.to(lab.device), (x, cond))
    channels = denoiser.config.dit.channels
    try:
        with torch.no_grad():
            denoiser(x, torch.ones(1, device=lab.device), cond)
    except RuntimeError as error:
        raise ValueError(
            f"latents of shape {(*x.shape,)} do not fit a network that takes "
            f"(b, {channels}, t): {str(error).splitlines()[0]}"
        ) from error


def draw_health(out: Path) -> None:
    """The health panel as an image, where the extra `notebooks` brought something to draw with."""
    if not importlib.util.find_spec("seaborn") or not (out / "health.csv").exists():
        return
    import pandas as pd

    from presto_distill.lab.probe_plots import health_panel

    health_panel(pd.read_csv(out / "health.csv")).savefig(out / "health.png", dpi=150)
