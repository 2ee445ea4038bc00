"""The notebook on the choices inside Presto-LS: order, start, fake score, schedule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pandas import DataFrame

from presto_distill.experiment import Lab, Run
from presto_distill.lab import studies
from presto_models import presto_schedule
from presto_models.samplers import few_step_sigmas

DEFAULT, STEPS_FIRST, AT_ONCE = "layers first (default)", "steps first", "both at once"
FROM_BASE, DROPPED, MILDER = "from the base, untaught", "dropped fake score", "milder schedule"
BEFORE = {DEFAULT: ", after a whole Presto-L", STEPS_FIRST: ", after as many updates of Presto-S"}
SELF_TEACHER = 0.1  # weight, for generators that have not met dropped blocks: Presto-L's


def variants(lab: Lab) -> dict[str, Callable[[], Run]]:
    """Trainings by name: the default, and one choice of it changed at a time.

    All have as many updates of Presto-LS, from the base model or a student of it and without the
    warm start, and a discriminator that reads a block which every network here runs.
    """
    depth, train = lab.teacher.depth, lab.preset.ablation_steps
    budgets = presto_schedule(depth).budgets
    tap = (max(0, min(depth // 2 - 1, min(budgets) - 2)),)
    milder = tuple((budget + depth) // 2 for budget in budgets)

    def both(first: str | None, budgets=budgets, **options: Any) -> Run:
        start = None
        if first:
            how = {"train": train, "tap": tap} if first == "steps" else {}
            start = lab.distill(first, **how)
        return lab.distill("both", start=start, train=train, budgets=budgets, tap=tap, **options)

    return {
        DEFAULT: partial(both, "layers", nu=0.0),
        STEPS_FIRST: partial(both, "steps", nu=SELF_TEACHER),
        AT_ONCE: partial(both, None, nu=SELF_TEACHER),
        FROM_BASE: partial(both, None, nu=0.0),
        DROPPED: partial(both, "layers", nu=0.0, fake_score="dropped"),
        MILDER: partial(both, "layers", nu=0.0, budgets=milder),
    }


def with_blocks(table: DataFrame, runs: dict[str, Run], *, steps: int) -> DataFrame:
    """`table` with a column `blocks`: how many a clip takes in so many steps."""
    sigmas = few_step_sigmas(steps)
    spent = {name: int(run.denoiser.schedule(sigmas).sum()) for name, run in runs.items()}
    return table.assign(blocks=table["model"].map(spent))


def verdicts(table: DataFrame) -> list[dict[str, Any]]:
    """For `Results.verdict`: the default against each other choice, by Fréchet distance."""
    claims = {
        "Layers first is better than steps first": (DEFAULT, STEPS_FIRST),
        "Layers first is better than both at once": (DEFAULT, AT_ONCE),
        "A self-teacher helps a generator that has not met dropped blocks": (AT_ONCE, FROM_BASE),
        "A fake score at full depth is better than a dropped one": (DEFAULT, DROPPED),
        "A milder schedule comes closer": (MILDER, DEFAULT),
    }
    found = []
    for claim, (one, other) in claims.items():
        ours, theirs = studies.pick(table, one), studies.pick(table, other)
        found.append(
            {
                "claim": f"{claim} (our own question)",
                "held": studies.below(ours, theirs),
                "evidence": "; ".join(
                    f"{name}{BEFORE.get(name, '')}: {studies.state(row)}"
                    for name, row in ((one, ours), (other, theirs))
                ),
                "effect": studies.less(ours, theirs),
                "of": f"Fréchet distance, {other} minus {one}",
            }
        )
    return found
