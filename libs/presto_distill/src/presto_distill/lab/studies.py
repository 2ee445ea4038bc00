"""The measurements notebooks are made of; each returns a tidy table for figures and report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import mean
from typing import Any, NamedTuple

import pandas as pd
import torch
from pandas import DataFrame, Series
from torch import Tensor

from presto_data import Clip
from presto_distill.experiment import Lab, Run
from presto_distill.trainer import Diverged
from presto_models import Pipeline, PrestoDenoiser, Sampling
from presto_models.samplers import sample

BASE, REAL, GAUSSIAN = "base", "real clips", "Gaussian"
GROWTH = 3.0  # of the fake score's loss over a training that counts as diverging: our rule
SOLVER_NAMES = {
    "euler": "Euler",
    "heun": "Heun",
    "dpmpp_2m": "DPM-Solver++ 2M",
    "dpmpp_2s": "DPM-Solver++ 2S",
    None: "few-step",
}


class Entry(NamedTuple):
    """A model to measure and how to sample it; run None is the base model."""

    model: str
    run: Run | None
    sampling: Sampling


def denoiser_of(lab: Lab, run: Run | None) -> PrestoDenoiser:
    """The network of a run, or the base model's."""
    return run.denoiser if run else lab.teacher


def pipeline_of(lab: Lab, run: Run | None) -> Pipeline:
    """From prompt to sound with the network of a run, or with the base model."""
    denoiser = denoiser_of(lab, run)
    return Pipeline(denoiser, lab.codec, lab.text, few_step=denoiser.config.few_step)


def network_calls(denoiser: PrestoDenoiser, sampling: Sampling) -> int:
    """Evaluations of the network per clip, counted on a clip of a single number."""
    few, calls = denoiser.config.few_step, 0

    def D(x: Tensor, sigma: Tensor, cond: None) -> Tensor:
        nonlocal calls
        calls += 1
        return x

    sampling = sampling.resolved(denoiser, few_step=few)
    guided = D if few else sampling.guide(D, lambda cond: cond)
    sample(sampling.start(guided, torch.zeros(1, 1, 1), None, rng=torch.Generator()))
    return calls


def example_clip(lab: Lab, number: int) -> Clip:
    """A held-out clip to look at; numbers past the last begin anew."""
    music = lab.music[1]
    return music[number % len(music)]


def explorable(lab: Lab, runs: dict[str, Run | None]) -> dict[str, Pipeline]:
    """Pipelines by name, for `widgets.explore`."""
    return {name: pipeline_of(lab, run) for name, run in runs.items()}


def training_curves(runs: dict[str, Run]) -> DataFrame:
    """The records of runs as columns model, step, term, value."""
    return curves_of({name: run.records for name, run in runs.items()})


def curves_of(records: dict[str, list[dict[str, Any]]]) -> DataFrame:
    """The same of records without their runs."""
    rows = [
        {"model": name, "step": record["step"], "term": term, "value": value}
        for name, steps in records.items()
        for record in steps
        for term, value in record.items()
        if term not in ("step", "seconds")
    ]
    return DataFrame(rows, columns=["model", "step", "term", "value"])


# ---------------------------------------------------------------------- quality and speed


def quality(lab: Lab, entries: list[Entry]) -> DataFrame:
    """All metrics of each entry: one row each, with intervals and the facts to compare them."""
    rows = []
    for model, run, sampling in entries:
        denoiser = denoiser_of(lab, run)
        how = sampling.resolved(denoiser, few_step=denoiser.config.few_step)
        facts = {"model": model, "solver": SOLVER_NAMES[how.solver], "steps": how.steps}
        facts |= {"calls": network_calls(denoiser, sampling), "rho": how.rho}
        rows.append({**facts, **lab.evaluate(run, sampling).as_dict()})
    return DataFrame(rows)


def bounds(lab: Lab) -> DataFrame:
    """Between what any model lies: other real clips below, per-channel Gaussian noise above."""
    real, noise = lab.real().as_dict(), lab.gaussian().as_dict()
    return DataFrame([{"model": REAL, **real}, {"model": GAUSSIAN, **noise}])


def latency(
    lab: Lab, entries: list[Entry], *, prompt: str, seconds: float, repeats: int
) -> DataFrame:
    """Median wall-clock of text, denoising and decoding of one mono clip, batch 1, per entry.

    Rounds visit every entry in turn, so a slow spell of the machine falls on all alike.
    """
    pipelines = [pipeline_of(lab, entry.run) for entry in entries]
    for entry, pipeline in zip(entries, pipelines, strict=True):
        warm_up(pipeline, prompt, entry.sampling)
    laps = []
    for number in range(repeats):
        for entry, pipeline in zip(entries, pipelines, strict=True):
            made = pipeline(prompt, seconds=seconds, seed=number, sampling=entry.sampling)
            facts = {"model": entry.model, "steps": entry.sampling.steps, "audio_seconds": seconds}
            laps += [
                {**facts, "stage": stage, "seconds": value}
                for stage, value in made.stage_seconds.items()
            ]
    keys = ["model", "steps", "audio_seconds", "stage"]
    return DataFrame(laps).groupby(keys, sort=False)["seconds"].median().reset_index()


def warm_up(pipeline: Pipeline, prompt: str, sampling: Sampling) -> None:
    """Pay what only a first call pays, which is not speed; four steps are enough."""
    pipeline(prompt, seconds=1.0, sampling=replace(sampling, steps=4))


def speed(stages: DataFrame) -> DataFrame:
    """Seconds per stage side by side, their total, and the real-time factor (higher is faster)."""
    keys = ["model", "steps", "audio_seconds"]
    table = stages.pivot_table(index=keys, columns="stage", values="seconds", sort=False)
    table["total"] = table[["text", "denoise", "decode"]].sum(axis=1)
    table = table.reset_index().rename_axis(columns=None)
    table["real_time_factor"] = table["audio_seconds"] / table["total"]
    return table


# ---------------------------------------------------------------------- ablations


def ablate(
    lab: Lab, variants: dict[str, Callable[[], Run]], *samplings: Sampling
) -> tuple[DataFrame, dict[str, Run]]:
    """Train and measure each variant: its quality, one row per sampling, and the runs that
    finished.

    A variant whose losses stop being finite is a result, not an error: its row says when. Raises
    ValueError where that is all of them.
    """
    rows, runs = [], {}
    for name, train in variants.items():
        try:
            runs[name] = train()
        except Diverged as error:
            lost = {"model": name, "diverged": str(error)}
            rows += [{**lost, "steps": sampling.steps} for sampling in samplings]
            continue
        table = quality(lab, [Entry(name, runs[name], sampling) for sampling in samplings])
        records = runs[name].records
        first, last = growth(records)
        facts = {"updates": len(records), "growth": last / first, "diverged": divergence(records)}
        rows += table.assign(**facts).to_dict("records")
    if not runs:
        raise ValueError(f"every variant diverged, {rows[0]['model']}: {rows[0]['diverged']}")
    # A first variant that diverged must not hide the columns of the others.
    columns = max(rows, key=len).keys()
    return DataFrame(rows, columns=columns), runs


def growth(records: list[dict[str, float]], term: str = "dsm") -> tuple[float, float]:
    """Means of a term over a training's first and last quarters; nan where it is too short."""
    values = [record[term] for record in records if term in record]
    quarter = len(values) // 4
    return (mean(values[:quarter]), mean(values[-quarter:])) if quarter else (math.nan, math.nan)


def divergence(records: list[dict[str, float]], term: str = "dsm") -> str:
    """What is wrong with a training curve: its last quarter is above GROWTH times its first."""
    first, last = growth(records, term)
    return f"{term} grew from {first:.3g} to {last:.3g}" if last > GROWTH * first else ""


def pick(table: DataFrame, model: str, steps: int | None = None) -> Series:
    """The row of a model, at so many steps if given."""
    rows = table[table["model"] == model]
    return (rows if steps is None else rows[rows["steps"] == steps]).iloc[0]


def less(a: Series, b: Series, metric: str = "frechet_distance") -> float | None:
    """How much lower row `a` is than row `b`, for the effect of a verdict; None if one diverged."""
    return finite(b[metric] - a[metric])


def finite(value: float) -> float | None:
    """A number, or None where there is none."""
    return None if pd.isna(value) else float(value)


def references(lab: Lab) -> DataFrame:
    """What ablations are drawn against: the base model at its many steps, and other real clips."""
    sampling = Sampling(steps=lab.preset.base_steps)
    base = quality(lab, [Entry(f"base, {sampling.steps} steps", None, sampling)])
    return pd.concat([base, bounds(lab).iloc[:1]], ignore_index=True)


def below(a: Series, b: Series, metric: str = "frechet_distance") -> bool | None:
    """Whether row `a` has the lower metric; None where the 95 % intervals overlap.

    A diverged model (no number) is worse than any other, and level with its like.
    """
    lost = pd.isna(a[metric]), pd.isna(b[metric])
    if any(lost):
        return None if all(lost) else lost[1]
    if a[f"{metric}_high"] < b[f"{metric}_low"]:
        return True
    return False if a[f"{metric}_low"] > b[f"{metric}_high"] else None


def worse(a: Series, b: Series) -> list[str]:
    """The metrics in which row `a` is clearly worse than row `b`."""
    less_is_better = {
        "frechet_distance": True,
        "mmd": True,
        "density": False,
        "recall": False,
        "coverage": False,
        "clap_score": False,
    }
    return [
        metric.replace("_", " ")
        for metric, lower in less_is_better.items()
        if (below(b, a, metric) if lower else below(a, b, metric)) is True
    ]


def state(row: Series, metric: str = "frechet_distance") -> str:
    """A number with its interval, for the evidence of a verdict."""
    if pd.isna(row[metric]):
        return "diverged"
    return f"{row[metric]:.3g} [{row[f'{metric}_low']:.3g}, {row[f'{metric}_high']:.3g}]"
