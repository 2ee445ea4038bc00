"""The numbers of the main study: those the project asks of itself, and the table of results."""

from __future__ import annotations

import subprocess
import sys
from html import escape
from typing import Any, NamedTuple

import pandas as pd
from pandas import DataFrame, Series

from presto_distill.lab.report.pieces import badge, grid, interval, section
from presto_distill.lab.studies import BASE, GAUSSIAN, REAL, pick

COLUMNS = {
    "frechet_distance": "Fréchet distance ↓",
    "ratio": "ratio to base",
    "mmd": "MMD ↓",
    "density": "density ↑",
    "recall": "recall ↑",
    "coverage": "coverage ↑",
    "clap_score": "prompt simi\u00adlarity ↑",
    "prompt_retrieval": "prompt retrieval ↑",
}

MET = ("met", "not met", "")
TIMES = {
    "denoise": ("denoise (s)", ".3f"),
    "total": ("end to end (s)", ".2f"),
    "real_time_factor": ("real-time factor ↑", ".3g"),
}


class Number(NamedTuple):
    """A number the project asks of itself."""

    name: str
    wanted: str
    measured: str
    met: bool


def required(tables: dict[str, DataFrame], provenance: list[dict]) -> list[Number]:
    """The numbers that could be measured, each met or not."""
    rows = []
    quality, speed = (tables.get(f"combined_acceleration-{n}") for n in ("quality", "speed"))
    bounds = tables.get("combined_acceleration-bounds")
    if quality is not None:
        base = reference(quality)
        few = quality[quality["model"] == "Presto-S"]
        for steps, limit in ((4, 1.25), (2, 1.5)):
            if steps in few["steps"].to_numpy():
                row = pick(few, "Presto-S", steps)
                ratio = row["frechet_distance"] / base["frechet_distance"]
                said = f"{interval(row)} against {interval(base)}: {ratio:.2f} ×"
                wanted = f"≤ {limit:g} × the base model at {base['steps']:g} Heun steps"
                rows.append((f"Presto-S, {steps} steps: distance", wanted, said, ratio <= limit))
        hit = base.get("prompt_retrieval")
        if hit is not None and pd.notna(hit):
            said = f"{interval(base, 'prompt_retrieval')}, chance {base['prompt_chance']:.3f}"
            met = base["prompt_retrieval_low"] > base["prompt_chance"]
            rows.append(("Captions matter: prompt retrieval, base", "above chance", said, met))
    if quality is not None and bounds is not None:
        noise = pick(bounds, GAUSSIAN)
        said = f"{interval(base)} against {interval(noise)}"
        met = base["frechet_distance_high"] < noise["frechet_distance_low"]
        rows.append(("Base model: distance", "clearly below per-channel Gaussian noise", said, met))
    if speed is not None and 40 in speed["steps"].to_numpy():
        slow = pick(speed, BASE, 40)
        fast = speed[speed["model"] == "Presto-LS"].sort_values("steps").iloc[-1]
        for stage, limit, name in (("denoise", 30, "denoising stage"), ("total", 5, "end to end")):
            times = slow[stage] / fast[stage]
            said = f"{slow[stage]:.3f} s / {fast[stage]:.3f} s = {times:.1f} ×"
            wanted = f"≥ {limit} × faster than base, 40 guided Heun steps"
            title = f"Presto-LS, {fast['steps']:g} steps, {fast['audio_seconds']:g} s clip: {name}"
            rows.append((title, wanted, said, times >= limit))
    memory = [item["peak_memory_gb"] for item in provenance if item["peak_memory_gb"]]
    if memory:
        said = f"{max(memory):.1f} GB"
        rows.append(("Peak memory of a notebook's process", "< 8 GB", said, max(memory) < 8))
    return [Number(name, wanted, said, bool(met)) for name, wanted, said, met in rows]


def import_time() -> list[Number]:
    """What importing presto_models costs in a fresh process that has imported torch."""
    code = (
        "import time, torch; start = time.perf_counter(); import presto_models;"
        "print(time.perf_counter() - start)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        seconds = float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return [Number("import presto_models, beyond torch", "< 1 s", f"{seconds:.2f} s", seconds < 1)]


def required_section(runs: dict[str, list[Number]]) -> str:
    """The numbers the project asks of itself; `runs` has one column each, such as a seed."""
    wanted = {number.name: number.wanted for numbers in runs.values() for number in numbers}
    if not wanted:
        return section(
            "Required numbers", "<p>Not measured: combined_acceleration did not run.</p>"
        )
    cells = []
    for name, asked in wanted.items():
        line = [escape(name), escape(asked)]
        for numbers in runs.values():
            found = next((number for number in numbers if number.name == name), None)
            said = f"{escape(found.measured)} {badge(found.met, MET)}" if found else ""
            line.append(said)
        cells.append(line)
    return section("Required numbers", grid(["number", "asked", *runs], cells))


def main_table(tables: dict[str, DataFrame]) -> DataFrame | None:
    """Every model of the main study, a row each, with its ratio to the base and its times."""
    quality = tables.get("combined_acceleration-quality")
    if quality is None:
        return None
    bounds = tables.get("combined_acceleration-bounds", DataFrame())
    rows = pd.concat([quality, bounds], ignore_index=True)
    rows["ratio"] = rows["frechet_distance"] / reference(quality)["frechet_distance"]
    speed = tables.get("combined_acceleration-speed")
    if speed is not None:
        rows = rows.merge(speed[["model", "steps", *TIMES]], on=["model", "steps"], how="outer")
        timed_only = rows["frechet_distance"].isna() & rows["total"].notna()
        rows.loc[timed_only, "solver"] = "Heun"  # the base model's 40 steps, which set the pace
    order = [BASE, "Presto-L", "Presto-S", "Presto-LS", GAUSSIAN, REAL]
    rows["place"] = [
        order.index(model) if model in order else len(order) for model in rows["model"]
    ]
    return rows.sort_values(["place", "steps"], ignore_index=True)


def how(row: Series) -> list[str]:
    """The first cells of a row: model, steps and solver, network calls."""
    model = f"<b>{escape(row['model'])}</b>"
    if pd.isna(row["steps"]):
        return [model, "", ""]
    solver = " Heun" if row["solver"] == "Heun" else ""
    calls = "" if pd.isna(row["calls"]) else f"{row['calls']:g}"
    return [model, f"{row['steps']:g}{solver}", calls]


def results_section(tables: dict[str, DataFrame], facts: dict[str, Any]) -> str:
    """Every model of the main study with all metrics, and the time it takes."""
    rows = main_table(tables)
    if rows is None:
        return section("Results", "<p>Not measured: combined_acceleration did not run.</p>")
    shown, timed = columns(rows)
    cells = []
    for _, row in rows.iterrows():
        times = ["" if pd.isna(row[name]) else f"{row[name]:{TIMES[name][1]}}" for name in timed]
        cells.append([*how(row), *(_metric(row, name) for name in shown), *times])
    return section("Results", wide(rows, cells) + notes(rows, facts))


def columns(rows: DataFrame) -> tuple[list[str], list[str]]:
    """The metrics and the times that a table has any of."""
    return tuple(
        [name for name in names if name in rows and rows[name].notna().any()]
        for names in (COLUMNS, TIMES)
    )


def wide(rows: DataFrame, cells: list[list[str]]) -> str:
    """The main table of ready cells."""
    shown, timed = columns(rows)
    head = ["model", "steps", "calls", *(COLUMNS[name] for name in shown)]
    head += [TIMES[name][0] for name in timed]
    return f"<div class='wide'>{grid(head, cells)}</div>"


def notes(rows: DataFrame, facts: dict[str, Any], below: str = "") -> str:
    """What must be known to read the table; `below` says what stands below each number."""
    base = reference(rows.dropna(subset="frechet_distance"))
    below = below or (
        f"seed {base['seed']:g}; below each number its 95 % interval from {base['bootstrap']:g} "
        "bootstraps"
    )
    said = [
        f"Embedder: {escape(str(base['embedder']))}. {base['generated_count']:g} generated clips "
        f"of {facts.get('preset', {}).get('frames', '?')} latent frames against "
        f"{base['reference_count']:g} held-out ones, {below}. Calls: network evaluations per clip.",
        "Distances depend on sample counts: real clips at the same count show what no model can be "
        "asked to beat. Presto-S and Presto-LS need no guidance; the base model and Presto-L use "
        "CFG++ with the weight of their own config, or w = 0.8 where it has none.",
    ]
    if facts.get("preset", {}).get("warm_start"):
        said.append(
            "Presto-S and Presto-LS start from a regression on the base model's own solutions, "
            "which is not part of the paper's method: the rows <i>regression alone</i> show what "
            "it does by itself, and what is left for Presto-S."
        )
    chance = base.get("prompt_chance")
    if chance is not None and pd.notna(chance):
        said.append(f"Guessing would reach a prompt retrieval of {chance:.3f}.")
    if columns(rows)[1]:
        said.append(
            "Times: one mono clip, batch 1. Real-time factor = seconds of audio per second of "
            "compute: higher is faster."
        )
    return "".join(f"<p class='small'>{note}</p>" for note in said)


def reference(quality: DataFrame) -> Series:
    """The base model at the most steps it was measured at."""
    return quality[quality["model"] == BASE].sort_values("steps").iloc[-1]


def _metric(row: Series, name: str) -> str:
    if pd.isna(row[name]):
        return ""
    if name == "ratio":
        return f"{row[name]:.2f}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3g}<div class='small'>{low:.3g} – {high:.3g}</div>"
