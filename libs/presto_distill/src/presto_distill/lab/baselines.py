"""Retrained baselines at equal network evaluations, other systems' clips, and their figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from pandas import DataFrame, Series
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_data import folder_corpus
from presto_distill.experiment import Lab, Run
from presto_distill.lab.plots import canvas, colour_of
from presto_distill.lab.studies import Entry, below, quality
from presto_distill.methods import METHODS
from presto_distill.presets import Stage
from presto_distill.trainer import Diverged, Trainer
from presto_models import PrestoDenoiser, Sampling, presto_schedule
from presto_models.blocks import Block

OURS = "Presto-S"
# Few-step systems by the method that trains them; Presto-S sets what all may spend.
FEW_STEP = {
    OURS: "steps",
    "Presto-LS": "both",
    "CM": "consistency",
    "SoundCTM": "soundctm",
    "DITTO-CTM": "ditto-ctm",
    "DMD-GAN": "dmd-gan",
}
# Judged by Heun's method; trained as the notebook layer_distillation trains them.
LAYERS = {"Presto-L": ("layers", 0.1), "ASE": ("ase", 0.0)}
METRICS = ("density", "recall", "coverage")  # higher is better
FEWEST = 10  # updates below which a rival has hardly left its teacher; our rule
UPDATES = 64  # of one clip each, on which evaluations are counted


@contextmanager
def counted(depth: int) -> Iterator[list[float]]:
    """Passes of one clip through `depth` blocks, by any network, while the context is open.

    Counting blocks prices dropped layers, features of half a network and guidance alike. Backward
    passes are not counted.
    """
    spent = [0.0]

    def count(module: nn.Module, args: tuple, _: object) -> None:
        if isinstance(module, Block):
            spent[0] += len(args[0]) / depth

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        yield spent
    finally:
        handle.remove()


def evaluations(lab: Lab, method: str) -> float:
    """Network evaluations that one update of a method takes per clip of its batch: the mean of a
    few updates, since some methods draw how much they ask of the teacher.

    A network as deep and much thinner stands in for the teacher: it is called as often.
    """
    dit = replace(lab.teacher.config.dit, width=32, heads=2)
    thin = PrestoDenoiser(replace(lab.teacher.config, dit=dit)).to(lab.device)
    lab = replace(lab, teacher=thin)
    settings = METHODS[method].settings(lab.preset, None)
    train = replace(settings.train, batch=1, micro_batches=1, seed=lab.seed)
    settings = replace(settings, train=train)
    torch.manual_seed(lab.seed)
    plan = METHODS[method].plan(lab, settings, None)
    # The trainer gives moving averages to those who learn from them; nothing is learned here.
    turns = Trainer(plan.make(), train, lab.device).objective.turns
    clips, rng = plan.stream(0), torch.Generator(lab.device).manual_seed(lab.seed)
    with counted(lab.teacher.depth) as spent, torch.no_grad():
        for turn in [*turns] * UPDATES:
            batch = tree_map_only(Tensor, lambda leaf: leaf.to(lab.device), next(clips))
            turn.loss(batch, rng)
    return spent[0] / UPDATES


def costs(lab: Lab) -> DataFrame:
    """Per few-step system: evaluations per update and clip, and the updates and batch at which
    all spend what the preset's Presto-S ablation spends."""
    rows, ours = [], lab.preset.ablation_steps
    for system, method in FEW_STEP.items():
        each, batch = evaluations(lab, method), stage_of(lab, method).batch
        budget = rows[0]["evaluations"] if rows else each * ours.steps * ours.batch
        updates = max(1, round(budget / (each * batch)))
        spent = each * updates * batch
        facts = {"model": system, "per_update": each, "updates": updates, "batch": batch}
        rows.append({**facts, "evaluations": spent})
    return DataFrame(rows)


def stage_of(lab: Lab, method: str) -> Stage:
    """How the method trains from the base model by default: learning rate, schedule, batch."""
    return METHODS[method].settings(lab.preset, None).train


def train_all(lab: Lab, costs: DataFrame) -> dict[str, Run | Diverged]:
    """Every system from the same teacher; few-step ones for the updates of `costs`. One whose loss
    stops being finite is a result: the error in its place."""
    updates = dict(zip(costs["model"], costs["updates"].astype(int), strict=True))
    budgets = presto_schedule(lab.teacher.depth).budgets
    runs: dict[str, Run | Diverged] = {}
    for system, method in FEW_STEP.items():
        stage, n = stage_of(lab, method), updates[system]
        # A warm-up meant for more updates would leave a short run its teacher.
        train = replace(stage, steps=n, warmup=min(stage.warmup, n // 10))
        runs[system] = _tried(lab, method, train=train)
    for system, (method, nu) in LAYERS.items():
        train = lab.preset.ablation_layers
        runs[system] = _tried(lab, method, train=train, nu=nu, budgets=budgets)
    return runs


def _tried(lab: Lab, method: str, **options) -> Run | Diverged:
    try:
        return lab.distill(method, **options)
    except Diverged as error:
        return error


def compare(lab: Lab, costs: DataFrame, *, steps: tuple[int, ...], heun_steps: int) -> DataFrame:
    """Train what is not yet trained and measure all, with the base model: rows of
    `studies.quality`. A system that diverged has one row per number of steps, without numbers."""
    entries = [
        Entry("base", None, Sampling(steps=n)) for n in sorted({lab.preset.base_steps, heun_steps})
    ]
    lost = []
    for system, run in train_all(lab, costs).items():
        for n in steps if system in FEW_STEP else (heun_steps,):
            if isinstance(run, Run):
                entries.append(Entry(system, run, Sampling(steps=n)))
            else:
                solver = "few-step" if system in FEW_STEP else "Heun"
                facts = {"model": system, "solver": solver, "steps": n}
                lost.append({**facts, "diverged": str(run)})
    table = quality(lab, entries).assign(diverged="")
    return pd.concat([table, DataFrame(lost)], ignore_index=True) if lost else table


def beats(ours: Series, rival: Series, *, updates: int) -> bool | None:
    """Whether our row has the lower Fréchet distance (None: intervals overlap). A rival that had
    fewer than `FEWEST` updates can win, but not lose."""
    won = below(ours, rival)
    return None if won and updates < FEWEST else won


@torch.inference_mode()
def score_folder(lab: Lab, name: str, folder: str | Path, *, batch: int = 16) -> dict:
    """One row for a system given by its clips: cut to the preset's length, encoded by the codec
    and embedded as ours are. At most as many clips as our models make, spread over all of them.

    Raises ValueError for a folder with fewer than 6 clips.
    """
    preset, codec = lab.preset, lab.codec
    seconds = preset.frames * codec.hop_length / codec.sample_rate
    corpus = folder_corpus(folder, seconds=seconds, sample_rate=codec.sample_rate)
    n = min(len(corpus), preset.samples)
    if n < 6:
        raise ValueError(f"{folder}: {n} clips of {seconds:.3g} s, at least 6 are needed")
    rows = [i * len(corpus) // n for i in range(n)]
    embedded = []
    for first in range(0, n, batch):
        audio = [corpus[i].mono().audio[0] for i in rows[first : first + batch]]
        latents = codec.encode(torch.stack(audio).to(lab.device))[..., : preset.frames]
        embedded.append(lab.embedder.embed(latents).cpu())
    scores = lab.score(torch.cat(embedded), with_text=False)
    return {"model": name, "solver": "clips", "steps": 0, **scores.as_dict()}


def panel(table: DataFrame) -> Figure:
    """Density, recall and coverage of one row per system, with 95 % intervals."""
    fig, axes = canvas(3, width=10.5, height=1.3 + 0.36 * len(table), sharey=True)
    for ax, metric in zip(axes, METRICS, strict=True):
        for i, (_, row) in enumerate(table.iterrows()):
            if pd.isna(row[metric]):
                ax.text(0.02, i, "diverged", transform=ax.get_yaxis_transform(), va="center")
                continue
            value, low, high = row[metric], row[f"{metric}_low"], row[f"{metric}_high"]
            error = [[max(0, value - low)], [max(0, high - value)]]
            colour = colour_of(row["model"], i)
            ax.errorbar(value, i, xerr=error, fmt="o", color=colour, capsize=3)
        ax.set(xlabel=f"{metric} (higher is better)")
        ax.set_xlim(left=-0.03 * ax.get_xlim()[1])
    axes[0].set_yticks(range(len(table)), [label(row) for row in table.itertuples()])
    axes[0].set_ylim(len(table) - 0.4, -0.6)
    return fig


def label(row) -> str:
    """A system and how it was sampled."""
    if row.solver == "clips":
        return row.model
    unit = "Heun steps" if row.solver == "Heun" else "step" if row.steps == 1 else "steps"
    return f"{row.model}, {row.steps:g} {unit}"
