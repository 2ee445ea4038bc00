"""The notebook on what Presto-L changes of ASE, one change at a time, and on what blocks buy."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from pandas import DataFrame

from presto_distill.baselines.ase import ase_denoiser
from presto_distill.experiment import Lab, Run
from presto_distill.lab import params as p
from presto_distill.lab import probes, studies
from presto_distill.lab.plots import COLOURS, FRECHET, OF_MODEL, canvas, measured, plain_log
from presto_models import LayerSchedule, PrestoDenoiser, Sampling, presto_schedule
from presto_models.layer_schedule import Drop


@dataclass(frozen=True)
class Variant:
    """One step on the way from ASE to Presto-L."""

    drop: Drop
    budget_embedding: bool
    nu: float
    taught: float = 1.0


ASE, EMBEDDED, KEPT, OURS = (
    "ASE: tail dropped",
    "+ budget embedding",
    "+ last block kept",
    "+ self-teacher = Presto-L",
)
VARIANTS = {
    ASE: Variant("tail", False, 0.0),
    EMBEDDED: Variant("tail", True, 0.0),
    KEPT: Variant("shifted", True, 0.0),
    OURS: Variant("shifted", True, 0.1, 0.25),
}


def student_of(base: PrestoDenoiser, variant: Variant) -> PrestoDenoiser:
    """The base model as a student that drops blocks as the variant says."""
    return probes.dropping(base, variant.drop) if variant.budget_embedding else ase_denoiser(base)


def trained(lab: Lab, variant: Variant) -> Run:
    """A variant, trained as briefly as the preset's ablations with Presto-L's schedule."""
    start = Run(student_of(lab.teacher, variant).to(lab.device), [], f"base model, {variant}")
    return lab.distill(
        "layers",
        start=start,
        train=lab.preset.ablation_layers,
        budgets=presto_schedule(lab.teacher.depth).budgets,
        nu=variant.nu,
        taught=variant.taught,
    )


def by_blocks(lab: Lab, runs: dict[str, Run | None], params: p.LayerChoices) -> DataFrame:
    """Rows of `studies.quality` with a column `blocks`: each network with so many blocks at every
    noise level, whatever it was trained for. A run of None is the base model."""
    depth = lab.teacher.depth
    counts = [max(1, round(share * depth)) for share in params.shares]
    sampling = Sampling(steps=params.heun_steps)
    entries = [
        studies.Entry(name, _with_blocks(lab, run, count), sampling)
        for name, run in runs.items()
        for count in counts
    ]
    return studies.quality(lab, entries).assign(blocks=counts * len(runs))


def _with_blocks(lab: Lab, run: Run | None, count: int) -> Run:
    net = copy.copy(studies.denoiser_of(lab, run))  # the same weights
    net.config = replace(net.config, schedule=LayerSchedule(edges=(), budgets=(count,)))
    return Run(net, [], f"{run.key if run else 'base'}, {count} blocks everywhere")


def blocks_plot(table: DataFrame) -> Figure:
    """Fréchet distance against the number of blocks, one line per model."""
    fig, ax = canvas(height=4.0)
    counts = sorted(table["blocks"].unique())
    for i, (model, rows) in enumerate(table.groupby("model", sort=False)):
        rows = rows.sort_values("blocks")
        colour = OF_MODEL["base"] if i == 0 else COLOURS[i]
        measured(ax, rows["blocks"] + 0.12 * (i - 1), rows, "frechet_distance", colour, label=model)
    ax.set(yscale="log", ylabel=FRECHET, xlabel="blocks that run, at every noise level")
    ax.set_xticks(counts, [f"{count:g}" for count in counts])
    ax.xaxis.set_minor_locator(NullLocator())
    plain_log(ax)
    ax.legend(frameon=False, fontsize=9)
    return fig


def verdicts(probe: DataFrame, depth: int) -> list[dict[str, Any]]:
    """For `Results.verdict`: what each change brings in held-out denoising loss, mean over noise
    levels that drop blocks. `probe`: rows of `probes.layer_probe`. One seed decides nothing."""
    loss = probe[probe["bin_budget"] < depth].groupby("model")["loss"].mean()
    claims = {
        "Telling the network its budget helps": (ASE, EMBEDDED),
        "Keeping the last block helps": (EMBEDDED, KEPT),
        "The self-teacher helps at equal blocks": (KEPT, OURS),
    }
    return [
        {
            "claim": f"{claim} (our own question)",
            "held": None,
            "evidence": f"held-out denoising loss {loss[after]:.4f}, without it {loss[before]:.4f}",
            "effect": loss[before] - loss[after],
            "of": "held-out denoising loss, without minus with",
        }
        for claim, (before, after) in claims.items()
        if {before, after} <= set(loss.index)  # neither diverged
    ]
