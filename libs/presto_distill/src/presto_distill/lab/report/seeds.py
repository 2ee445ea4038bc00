"""One page over several seeds: verdicts over seeds, and the spread of the main results."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pandas import DataFrame

from presto_distill.lab.report import media, numbers
from presto_distill.lab.report.paper import differences
from presto_distill.lab.report.pieces import (
    WORDS,
    badge,
    commits_of,
    facts_of,
    grid,
    header,
    load_facts,
    load_tables,
    machines,
    section,
)


class Effect(NamedTuple):
    """The mean of an effect over seeds and its 95 % interval."""

    mean: float
    low: float
    high: float


def sections(runs: dict[str, Path]) -> list[str]:
    """The body of the page of several runs, by seed."""
    provenance = {seed: load_facts(out, "provenance") for seed, out in runs.items()}
    every = [item for items in provenance.values() for item in items]
    tables = {seed: load_tables(out) for seed, out in runs.items()}
    first, shown = next(iter(runs.items()))
    facts = facts_of(provenance[first])
    measured = {f"seed {seed}": numbers.required(tables[seed], provenance[seed]) for seed in runs}
    note = (
        f"<p class='small'>Of seed {first}; the others' are in their own pages, "
        "seed-N/report.html.</p>"
    )
    return [
        header(facts, every, f"seeds <b>{', '.join(runs)}</b>", f"with {len(runs)} seeds"),
        _claims(claims(runs), list(runs)),
        _results(tables, facts),
        numbers.required_section(measured),
        media.audio(shown, load_facts(shown, "audio"), note),
        media.figures(load_facts(shown, "figures"), note),
        differences(every, facts),
        _provenance(provenance),
    ]


# ---------------------------------------------------------------------- claims


def claims(runs: dict[str, Path]) -> list[dict[str, Any]]:
    """Each claim with what every seed says, the mean effect and the verdict over seeds."""
    seen: dict[tuple[str, str], dict[str, dict]] = {}
    commits: dict[str, set[str]] = {}  # notebooks may be run one by one, and the weights change
    for seed, out in runs.items():
        for item in load_facts(out, "provenance"):
            commits.setdefault(item["notebook"], set()).add(item.get("commit") or "no checkout")
        for item in load_facts(out, "verdicts"):
            seen.setdefault((item["notebook"], item["claim"]), {})[seed] = item
    rows = []
    for (notebook, claim), items in seen.items():
        any_seed = next(iter(items.values()))
        effects = [item.get("effect") for item in items.values()]
        effect = interval_over_seeds(effects)
        rows.append(
            {
                "notebook": notebook,
                "commits": sorted(commits.get(notebook, ())),
                "claim": claim,
                "held": overall([i["held"] for i in items.values()], effect, any_seed.get("rule")),
                "held_by_seed": {seed: item["held"] for seed, item in items.items()},
                "effect_by_seed": dict(zip(items, effects, strict=True)),
                "effect": effect._asdict() if effect else None,
                "of": any_seed.get("of", ""),
                "rule": any_seed.get("rule", "above"),
                "evidence_by_seed": {seed: item["evidence"] for seed, item in items.items()},
            }
        )
    return rows


def interval_over_seeds(effects: list[float | None]) -> Effect | None:
    """Mean and 95 % t-interval; None with fewer than two seeds, where one has no number, and where
    all have the same: that seeds changed nothing says nothing of the next.
    """
    from scipy.stats import t

    n = len(effects)
    if any(effect is None for effect in effects) or len(set(effects)) < 2:
        return None
    mean, spread = pd.Series(effects).mean(), pd.Series(effects).std(ddof=1)
    half = float(t.ppf(0.975, n - 1) * spread / math.sqrt(n))
    return Effect(float(mean), float(mean - half), float(mean + half))


def overall(held: list[bool | None], effect: Effect | None, rule: str | None) -> bool | None:
    """The verdict over seeds by the rule that `Results.verdict` states.

    Without an interval: what all seeds say alike, else undecided.
    """
    if effect is None:
        return held[0] if all(value is held[0] for value in held) else None
    if effect.high < 0:
        return False
    if rule == "not below":  # a wide interval does not outweigh a seed that says no
        return None if False in held else True
    return True if effect.low > 0 else None


def claims_as_markdown(rows: list[dict[str, Any]]) -> str:
    """The same as a table to paste into a text."""
    lines = [
        "An effect is positive where it speaks for its claim. Over seeds a claim is held where the "
        "95 % interval of the mean effect lies above 0; one of being equal or better where it does "
        "not lie below 0 and no seed says no.",
        "",
        "| claim | notebook, commit | over seeds | each seed | mean effect | effect |",
        "|---" * 6 + "|",
    ]
    words = {True: "held", False: "**did not hold**", None: "not decided"}
    for row in rows:
        each = [words[held] for held in row["held_by_seed"].values()]
        if all(value is not None for value in row["effect_by_seed"].values()):
            each = [_signed(value) for value in row["effect_by_seed"].values()]
        mean = "no interval"
        if effect := row["effect"]:
            low, high = _signed(effect["low"]), _signed(effect["high"])
            mean = f"{_signed(effect['mean'])} [{low}, {high}]"
        notebook = ", ".join([f"`{row['notebook']}`", *row["commits"]])
        cells = [row["claim"], notebook, words[row["held"]], ", ".join(each)]
        lines.append("| " + " | ".join([*cells, mean, row["of"]]) + " |")
    return "\n".join(lines) + "\n"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _claims(rows: list[dict[str, Any]], seeds: list[str]) -> str:
    cells = []
    for row in rows:
        evidence = "".join(
            f"<div class='small'>seed {seed}: {escape(text)}</div>"
            for seed, text in row["evidence_by_seed"].items()
        )
        title = f"{escape(row['claim'])}<details><summary>evidence</summary>{evidence}</details>"
        each = "".join(_mark(row["held_by_seed"].get(seed, "missing")) for seed in seeds)
        each = f"<span class='marks'>{each}</span>"
        commits = f"<div class='small'>{escape(', '.join(row['commits']))}</div>"
        code = f"<code>{escape(row['notebook'])}</code>{commits}"
        cells.append([badge(row["held"], WORDS), title, each, _effect(row), code])
    head = [
        "over seeds",
        "claim",
        f"seeds {', '.join(seeds)}",
        "mean effect over seeds",
        "notebook, commit",
    ]
    note = (
        "<p class='small'>Below each mean effect its 95 % t-interval over seeds. A claim holds "
        "where that interval lies above 0 and does not where it lies below; claims of “equal or "
        "better” hold unless it lies below or a seed by itself says no, which with few seeds and a "
        "wide interval says little: look at the mean. Effects are positive where they speak for "
        "the claim. Without an interval (an effect is missing, or the same in all seeds) seeds "
        "must agree. A claim that fails for one small model may hold at the paper's scale, and the "
        "other way round. ✓ held, ✗ did not hold, · not decided, – not run.</p>"
    )
    body = grid(head, cells) + note if cells else "<p>None.</p>"
    return section("Claims, tested here", body)


def _mark(held: bool | str | None) -> str:
    kind, sign = {True: ("yes", "✓"), False: ("no", "✗"), None: ("open", "·")}.get(
        held, ("open", "–")
    )
    return f"<span class='badge {kind}'>{sign}</span> "


def _effect(row: dict[str, Any]) -> str:
    effect, of = row["effect"], f"<div class='small'>{escape(row['of'])}</div>"
    if effect is None:
        known = [value for value in row["effect_by_seed"].values() if value is not None]
        said = ", ".join(f"{value:.3g}" for value in known)
        return f"<span class='small'>no interval</span> {said}{of if known else ''}"
    span = f"[{effect['low']:.3g}, {effect['high']:.3g}]"
    return f"<b>{effect['mean']:.3g}</b> {span}{of}"


# ---------------------------------------------------------------------- results


def spread(tables: dict[str, dict[str, DataFrame]]) -> tuple[DataFrame, DataFrame] | None:
    """Mean and standard deviation over seeds of the main table, rows in the order of one seed."""
    every = [numbers.main_table(of_seed) for of_seed in tables.values()]
    every = [table for table in every if table is not None]
    if not every:
        return None
    keys = ["place", "model", "solver", "steps", "calls"]
    groups = pd.concat(every).groupby(keys, dropna=False)
    values = [name for name in (*numbers.COLUMNS, *numbers.TIMES) if name in every[0]]
    mean, std = (how.reset_index() for how in (groups[values].mean(), groups[values].std()))
    order = mean.sort_values(["place", "steps"]).index
    return mean.loc[order], std.loc[order]


def _results(tables: dict[str, dict[str, DataFrame]], facts: dict[str, Any]) -> str:
    found = spread(tables)
    if found is None:
        return section("Results", "<p>Not measured: combined_acceleration did not run.</p>")
    mean, std = found
    shown, timed = numbers.columns(mean)
    cells = []
    for (_, row), (_, width) in zip(mean.iterrows(), std.iterrows(), strict=True):
        line = numbers.how(row)
        for name in (*shown, *timed):
            unsure = "" if pd.isna(width[name]) else f"<div class='small'>± {width[name]:.2g}</div>"
            line.append("" if pd.isna(row[name]) else f"{row[name]:.3g}{unsure}")
        cells.append(line)
    first = next(table for table in map(numbers.main_table, tables.values()) if table is not None)
    below = "means over seeds; below each its standard deviation over seeds"
    said = numbers.notes(first, facts, below)
    return section("Results: mean and spread over seeds", numbers.wide(mean, cells) + said)


def _provenance(provenance: dict[str, list[dict]]) -> str:
    lines = []
    for seed, items in provenance.items():
        facts = facts_of(items)
        memory = [item["peak_memory_gb"] for item in items if item["peak_memory_gb"]]
        lines.append(
            [
                seed,
                f"{len(items)}",
                f"{sum(item['seconds'] for item in items) / 60:.1f} min",
                f"{max(memory, default=float('nan')):.1f} GB",
                escape("; ".join(machines(items))),
                escape(", ".join(commits_of(items))),
                escape(str(facts.get("time"))),
                escape(str(facts.get("data"))),
            ]
        )
    head = ["seed", "notebooks", "time", "peak memory", "machine", "commit", "finished", "data"]
    return section("Where this comes from", f"<div class='wide'>{grid(head, lines)}</div>")
