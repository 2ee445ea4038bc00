"""The notebook on the teacher's guidance: what a few-step generator inherits of it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from presto_distill.experiment import Lab, Run
from presto_distill.lab import studies
from presto_distill.lab.params import TeacherGuidance
from presto_models import Sampling

TEACHER = "teacher"
CLAIMS = {  # metric: its name, whether more of it is better, what is claimed of it, by which rule
    "clap_score": ("prompt similarity", 1, "teaches to follow prompts better", "above"),
    "recall": ("recall", 1, "leaves its student as diverse", "not below"),
    "frechet_distance": ("Fréchet distance", -1, "leaves it as near to real clips", "not below"),
}


def student(lab: Lab, scale: float) -> Run:
    """Presto-S of the base guided at this scale, by the preset's stages; the regression that it
    starts from, where the preset has one, learns the trajectories of the same teacher."""
    warm = lab.preset.warm_start
    start = lab.distill("warm-start", guidance_scale=scale) if warm else None
    return lab.distill("steps", start=start, guidance_scale=scale)


def quality(lab: Lab, params: TeacherGuidance) -> DataFrame:
    """Quality of teachers and of their students, by scale and, of students, by steps."""
    tables = []
    for scale in params.scales:
        how = Sampling(
            steps=params.solver_steps, solver="dpmpp_2m", guidance="cfg", guidance_scale=scale
        )
        entries = [studies.Entry(TEACHER, None, how)]
        entries += [
            studies.Entry(named(steps), student(lab, scale), Sampling(steps))
            for steps in params.steps
        ]
        tables.append(studies.quality(lab, entries).assign(scale=scale))
    return pd.concat(tables, ignore_index=True)


def named(steps: int) -> str:
    """A student's name in tables and figures."""
    return f"Presto-S, {steps} step{'s' * (steps > 1)}"


def at(table: DataFrame, model: str, scale: float) -> Series:
    """The row of a model at a scale."""
    return studies.pick(table[table["scale"] == scale], model)


def verdicts(table: DataFrame, model: str) -> list[dict[str, Any]]:
    """For `Results.verdict`: a student of each further scale against that of the first one."""
    plain, *scales = table["scale"].unique()
    first, found = at(table, model, plain), []
    for scale in scales:
        ours = at(table, model, scale)
        for metric, (name, sign, claim, rule) in CLAIMS.items():
            low, high = (first, ours) if sign > 0 else (ours, first)
            better, worse = studies.below(low, high, metric), studies.below(high, low, metric)
            found.append(
                {
                    "claim": f"A teacher guided at {scale:g} {claim} (our own question)",
                    "held": better if rule == "above" else worse is not True,
                    "evidence": f"{name} {studies.state(ours, metric)} with it, "
                    f"{studies.state(first, metric)} with one guided at {plain:g}; {model}",
                    "effect": studies.less(low, high, metric),
                    "of": f"{name}, at {scale:g} against {plain:g}",
                    "rule": rule,
                }
            )
    return found
