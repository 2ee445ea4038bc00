"""The command behind `presto distill METHOD`: one run in one folder, which no kill loses.

OUT/config.json       everything the result depends on; resuming under another one is refused
OUT/checkpoint.pt     to resume from
OUT/records.csv       losses and gradient norms of each step
OUT/health.csv, .png  what losses do not tell; see presto_distill.health
OUT/tensorboard       both, if asked for
OUT/student           the result, a snapshot
"""

import importlib.util
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_distill import checkpoint
from presto_distill.cli import RunOptions
from presto_distill.dry_run import dry_run
from presto_distill.experiment import Lab, file_digest
from presto_distill.fit import fit, is_first_process
from presto_distill.health import PROBED, probe
from presto_distill.logs import Row
from presto_distill.methods import METHODS, Plan
from presto_distill.presets import preset as find_preset
from presto_distill.settings import Settings, differences, plain, with_pairs
from presto_distill.streams import conditioned
from presto_distill.trainer import Trainer
from presto_models import PrestoDenoiser
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
    preset, start = find_preset(options.preset), options.start
    settings = METHODS[method].settings(preset, start)
    settings = replace(settings, train=replace(settings.train, seed=options.seed))
    settings = with_pairs(settings, [pair for pairs in options.settings for pair in pairs])
    name = options.preset + (f"-{options.audio.name}" if options.audio else "")
    out = options.out or Path("runs") / f"{method}-{name}-{options.seed}"
    if not options.dry_run:
        check_folder(out, resume=options.resume)

    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path("runs") / name
        if options.dry_run:  # a batch of data, in a place that does not last
            n, data = settings.train.batch, Path(temporary)
            preset = replace(preset, clips=n, held_out=1, trajectories=n)
        lab = Lab.open(
            preset, seed=options.seed, out=data, audio=options.audio, model=options.model
        )
        first = start and PrestoDenoiser.from_pretrained(start, device=lab.device)
        check_latents(first or lab.teacher, lab)
        torch.manual_seed(options.seed)  # of what starts from random weights
        plan = METHODS[method].plan(lab, settings, first)
        config = {
            "method": method,
            "preset": options.preset,
            "data": lab.source,
            "model": digests(find_snapshot(options.model), "base", "codec", "text"),
            "start": digests(find_snapshot(start).parent, start.name) if start else None,
            **plain(settings),
        }
        if options.dry_run:
            print(json.dumps(config, indent=2))
            print(dry_run(plan.make(), plan.stream, settings.train, lab.device))
            return 0
    train(plan, settings, config, lab, out, options)
    return 0


def train(
    plan: Plan,
    settings: Settings,
    config: dict[str, Any],
    lab: Lab,
    out: Path,
    options: RunOptions,
) -> None:
    """Start or resume the run in `out`, and leave its student there."""
    keep_config(config, out)
    objective, cfg = plan.make(), settings.train
    trainer = Trainer(objective, cfg, lab.device)
    clips = min(PROBED_CLIPS, len(lab.held_out))
    fixed = {"batch": clips, "frames": lab.preset.frames, "seed": lab.seed}
    batch = next(conditioned(lab.held_out, lab.text, **fixed)(0))
    batch = tree_map_only(Tensor, lambda leaf: leaf.to(lab.device), batch)

    def look() -> list[Row]:
        rng = torch.Generator(lab.device).manual_seed(lab.seed)
        with autocast(lab.device, cfg.precision):
            return probe(objective, batch, rng, lab.embedder.embed)

    fit(
        trainer,
        plan.stream,
        out / "checkpoint.pt",
        label=config["method"],
        every=options.every,
        log=out / "records.csv",
        probe=look if isinstance(objective, PROBED) else None,
        probe_every=options.health or max(1, cfg.steps // PROBES),
        events=out / "tensorboard" if options.tensorboard else None,
    )
    checkpoint.save(trainer, out / "checkpoint.pt")
    if is_first_process():
        student = PrestoDenoiser(plan.student)
        student.load_state_dict(trainer.averages[plan.player].state_dict())
        student.save_pretrained(out / "student")
        draw_health(out)
        print(f"student: {out / 'student'}")


def check_folder(out: Path, *, resume: bool) -> None:
    """ValueError unless `out` holds a run exactly if one is to be resumed."""
    holds = (out / "config.json").exists()
    if holds and not resume:
        raise ValueError(f"{out} already holds a run: add --resume to go on with it")
    if resume and not holds:
        raise ValueError(f"nothing to resume: {out} holds no config.json")


def keep_config(config: dict[str, Any], out: Path) -> None:
    """Write config.json; ValueError with the differences if another one is there."""
    path = out / "config.json"
    if path.exists():
        before = json.loads(path.read_text())
        # More steps are no other run: the trainer goes on to them.
        if changes := differences(before, config, ignore="train.steps"):
            raise ValueError(f"cannot resume {out} under another config: {changes}")
    if is_first_process():
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2) + "\n"
        write_atomic(path, lambda temporary: temporary.write_text(text))


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


def digests(folder: Path, *names: str) -> dict[str, str]:
    """What the weights of snapshots in `folder` are, by name."""
    return {name: file_digest(folder / name / "model.safetensors") for name in names}


def draw_health(out: Path) -> None:
    """The health panel as an image, where the extra `notebooks` brought something to draw with."""
    if not importlib.util.find_spec("seaborn") or not (out / "health.csv").exists():
        return
    import pandas as pd

    from presto_distill.lab.plots import health_panel

    health_panel(pd.read_csv(out / "health.csv")).savefig(out / "health.png", dpi=150)
