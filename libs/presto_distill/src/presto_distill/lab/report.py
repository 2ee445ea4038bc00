"""One self-contained page from what the notebooks left in a folder; nothing else is loaded.

Numbers come from tables, verdicts from their files. What was not run, the page says was not.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from presto_distill.lab.results import DPI
from presto_distill.lab.runner import NOTEBOOKS
from presto_distill.lab.studies import BASE, GAUSSIAN, REAL, pick
from presto_distill.lab.style import STYLE
from presto_models.snapshot import write_atomic

AUDIO_BYTES = 8_000_000  # embedded at most; further clips stay files beside the page

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

TIMES = (("denoise", ".3f"), ("total", ".2f"), ("real_time_factor", ".3g"))

NOT_REPRODUCED = (
    "the paper's training data (3.6 K hours of licensed music) and the size of its models: here a "
    "small model of rendered music, trained for minutes to hours",
    "CLAP numbers and the Song Describer test set: distances here are measured on the bundled "
    "embedder, compare models on this page only, and must never stand beside the paper's",
    "listening scores",
    "mono to stereo: clips are mono",
    "the paper's claims about noise laws (continuous against discrete) and about the form of the "
    "discriminator: no notebook tests them yet",
    "comparisons with other published systems",
)


def write_report(out: str | Path) -> Path:
    """Write `out`/report.html from the results in `out`; returns its path.

    Raises ValueError where `out` holds no results at all.
    """
    out = Path(out)
    provenance = _load(out, "provenance")
    if not provenance and not (out / "run.json").exists():
        raise ValueError(f"{out} holds no results: run presto reproduce first")
    of_lab = [item for item in provenance if "preset" in item] or provenance
    facts = max(of_lab, key=lambda item: item["time"], default={})
    tables = {
        path.stem: pd.read_parquet(path) for path in sorted((out / "tables").glob("*.parquet"))
    }
    body = [
        _header(facts),
        _numbers(tables, provenance),
        _table(tables, facts),
        _verdicts(_load(out, "verdicts")),
        _audio(out, _load(out, "audio")),
        _figures(_load(out, "figures")),
        _section("What is not reproduced", "<ul>" + "".join(map(_item, NOT_REPRODUCED)) + "</ul>"),
        _provenance(out, provenance, facts),
    ]
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Presto report</title><style>{STYLE}</style></head><body><main>"
        f"{''.join(body)}</main></body></html>\n"
    )
    path = out / "report.html"
    write_atomic(path, lambda to: to.write_text(page, encoding="utf-8"))
    return path


# ---------------------------------------------------------------------- sections


def _header(facts: dict[str, Any]) -> str:
    params, machine = facts.get("params", {}), facts.get("hardware", {})
    name, preset = params.get("preset", "?"), facts.get("preset", {})
    note = ""
    if name == "smoke":
        note = (
            "<p class='note'>Preset smoke runs every part once on a handful of clips. It shows "
            "that everything works; its numbers mean nothing.</p>"
        )
    where = machine.get("gpu") or machine.get("cpu", "?")
    chips = [
        f"preset <b>{escape(name)}</b>",
        f"seed <b>{params.get('seed', '?')}</b>",
        f"<b>{preset.get('samples', '?')}</b> generated, <b>{facts.get('held_out_clips', '?')}</b> "
        "held-out clips",
        f"<b>{escape(str(where))}</b>, {machine.get('cores', '?')} cores",
        escape(str(facts.get("time", ""))),
    ]
    return (
        "<header><h1>Presto: fewer layers, fewer steps</h1>"
        "<p class='lead'>A base text-to-music diffusion model, distilled in layers (Presto-L), in "
        "steps (Presto-S) and in both (Presto-LS); measured on one machine in one run.</p>"
        f"<p class='chips'>{''.join(f'<span>{chip}</span>' for chip in chips)}</p>{note}</header>"
    )


def _numbers(tables: dict[str, DataFrame], provenance: list[dict]) -> str:
    """The numbers the project asks of itself, each met or not."""
    rows = []
    quality, speed = (tables.get(f"combined_acceleration-{n}") for n in ("quality", "speed"))
    bounds = tables.get("combined_acceleration-bounds")
    if quality is not None:
        base = _reference(quality)
        few = quality[quality["model"] == "Presto-S"]
        for steps, limit in ((4, 1.25), (2, 1.5)):
            if steps in few["steps"].to_numpy():
                row = pick(few, "Presto-S", steps)
                ratio = row["frechet_distance"] / base["frechet_distance"]
                said = f"{_interval(row)} against {_interval(base)}: {ratio:.2f} ×"
                wanted = f"≤ {limit:g} × the base model at {base['steps']:g} Heun steps"
                rows.append((f"Presto-S, {steps} steps: distance", wanted, said, ratio <= limit))
        hit = base.get("prompt_retrieval")
        if hit is not None and pd.notna(hit):
            said = f"{_interval(base, 'prompt_retrieval')}, chance {base['prompt_chance']:.3f}"
            met = base["prompt_retrieval_low"] > base["prompt_chance"]
            rows.append(("Captions matter: prompt retrieval, base", "above chance", said, met))
    if quality is not None and bounds is not None:
        noise = pick(bounds, GAUSSIAN)
        said = f"{_interval(base)} against {_interval(noise)}"
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
    seconds = _import_seconds()
    if seconds is not None:
        said = f"{seconds:.2f} s"
        rows.append(("import presto_models, beyond torch", "< 1 s", said, seconds < 1))
    if not rows:
        return _section(
            "Required numbers", "<p>Not measured: combined_acceleration did not run.</p>"
        )
    cells = [
        [escape(name), escape(wanted), escape(said), _badge(bool(met), ("met", "not met", ""))]
        for name, wanted, said, met in rows
    ]
    return _section("Required numbers", _html(["number", "asked", "measured", ""], cells))


def _table(tables: dict[str, DataFrame], facts: dict[str, Any]) -> str:
    """Every model of the main study with all metrics, and the time it takes."""
    quality = tables.get("combined_acceleration-quality")
    if quality is None:
        return _section("Results", "<p>Not measured: combined_acceleration did not run.</p>")
    base = _reference(quality)
    bounds = tables.get("combined_acceleration-bounds", DataFrame())
    speed = tables.get("combined_acceleration-speed")
    rows = pd.concat([quality, bounds], ignore_index=True)
    rows["ratio"] = rows["frechet_distance"] / base["frechet_distance"]
    order = [BASE, "Presto-L", "Presto-S", "Presto-LS", GAUSSIAN, REAL]
    rows["place"] = [
        order.index(model) if model in order else len(order) for model in rows["model"]
    ]
    shown = [name for name in COLUMNS if name in rows and rows[name].notna().any()]
    cells = []
    for _, row in rows.sort_values(["place", "steps"]).iterrows():
        times, how, calls = _times(speed, row), "", ""
        if pd.notna(row["steps"]):
            how = f"{row['steps']:g}{' Heun' if row['solver'] == 'Heun' else ''}"
            calls = f"{row['calls']:g}"
        line = [f"<b>{escape(row['model'])}</b>", how, calls]
        line += [_metric(row, name) for name in shown]
        line += [f"{times[name]:{form}}" if times is not None else "" for name, form in TIMES]
        cells.append(line)
    head = ["model", "steps", "calls", *(COLUMNS[name] for name in shown)]
    head += ["denoise (s)", "end to end (s)", "real-time factor ↑"]
    chance = base.get("prompt_chance")
    notes = [
        f"Embedder: {escape(str(base['embedder']))}. {base['generated_count']} generated clips of "
        f"{facts.get('preset', {}).get('frames', '?')} latent frames against "
        f"{base['reference_count']} held-out ones, seed {base['seed']}; below each number its 95 % "
        f"interval from {base['bootstrap']} bootstraps. Calls: network evaluations per clip.",
        "Distances depend on sample counts: real clips at the same count show what no model can be "
        "asked to beat. Presto-S and Presto-LS need no guidance; the base model and Presto-L use "
        "CFG++ with w = 0.8.",
    ]
    if facts.get("preset", {}).get("warm_start"):
        notes.append(
            "Presto-S and Presto-LS start from a regression on the base model's own solutions, "
            "which is not part of the paper's method: the rows <i>regression alone</i> show what "
            "it does by itself, and what is left for Presto-S."
        )
    if chance is not None and pd.notna(chance):
        notes.append(f"Guessing would reach a prompt retrieval of {chance:.3f}.")
    if speed is not None:
        notes.append(
            f"Times: one mono clip of {speed['audio_seconds'].iloc[0]:g} s, batch 1. Real-time "
            "factor = seconds of audio per second of compute: higher is faster."
        )
    wide = f"<div class='wide'>{_html(head, cells)}</div>"
    return _section("Results", wide + "".join(f"<p class='small'>{note}</p>" for note in notes))


def _verdicts(verdicts: list[dict]) -> str:
    words = ("held here", "did not hold here", "not decided here")
    cells = [
        [
            _badge(item["held"], words),
            f"{escape(item['claim'])}<div class='small'>{escape(item['evidence'])}</div>",
            f"<code>{escape(item['notebook'])}</code>",
        ]
        for item in verdicts
    ]
    note = (
        "<p class='small'>One small model, one seed: a claim that does not hold here may hold at "
        "the paper's scale, and the other way round. Not decided: the 95 % intervals overlap.</p>"
    )
    body = _html(["", "claim and evidence", "notebook"], cells) + note if cells else "<p>None.</p>"
    return _section("Claims, tested here", body)


def _audio(out: Path, clips: list[dict]) -> str:
    """Players in a grid per notebook: one row per prompt, one column per model."""
    if not clips:
        return ""
    left, parts = AUDIO_BYTES, []
    for notebook in dict.fromkeys(clip["notebook"] for clip in clips):
        mine = [clip for clip in clips if clip["notebook"] == notebook]
        columns = list(dict.fromkeys(clip["column"] for clip in mine))
        cells = []
        for row in dict.fromkeys(clip["row"] for clip in mine):
            line = [escape(row)]
            for column in columns:
                found = [c for c in mine if (c["row"], c["column"]) == (row, column)]
                player, size = _player(found[-1]["path"], left, out) if found else ("", 0)
                left -= size
                line.append(player)
            cells.append(line)
        parts.append(f"<div class='wide'>{_html(['prompt', *columns], cells)}</div>")
    return _section("Listen", "".join(parts))


def _figures(figures: list[dict]) -> str:
    parts = []
    for notebook in dict.fromkeys(figure["notebook"] for figure in figures):
        parts.append(f"<h3>{escape(notebook)}</h3>")
        for figure in figures:
            picture = figure["path"].with_suffix(".png")
            if figure["notebook"] == notebook and picture.exists():
                body = picture.read_bytes()
                # Pixels at 100 to the inch: type of one size in all figures.
                width = int.from_bytes(body[16:20], "big") * 100 // DPI
                parts.append(
                    f"<figure><img width='{width}' "
                    f"alt='{escape(figure['caption'], quote=True)}' "
                    f"src='data:image/png;base64,{_base64(body)}'>"
                    f"<figcaption>{escape(figure['caption'])}</figcaption></figure>"
                )
    return _section("Figures", "".join(parts)) if parts else ""


def _provenance(out: Path, provenance: list[dict], facts: dict[str, Any]) -> str:
    machine, preset = facts.get("hardware", {}), facts.get("preset", {})
    log = out / "run.json"
    notebooks = json.loads(log.read_text()) if log.exists() else []
    memory = {item["notebook"]: item["peak_memory_gb"] for item in provenance}
    lines = [
        [
            f"<code>{escape(item['notebook'])}</code>",
            f"{item['seconds']:.0f} s",
            f"{memory.get(item['notebook']) or float('nan'):.1f} GB",
            escape(item["error"] or "done"),
        ]
        for item in notebooks
    ]
    if lines:
        total = sum(item["seconds"] for item in notebooks)
        lines.append(["<b>together</b>", f"<b>{total / 60:.1f} min</b>", "", ""])
    pairs = {
        "data": facts.get("data"),
        "training clips": facts.get("training_clips"),
        "held-out clips": facts.get("held_out_clips"),
        "embedder": facts.get("embedder"),
        "base model": f"{facts.get('params', {}).get('model')}, "
        f"{facts.get('teacher_parameters', 0) / 1e6:.1f} M parameters",
        "seed": facts.get("params", {}).get("seed"),
        "CPU": machine.get("cpu"),
        "cores, torch threads": f"{machine.get('cores')}, {machine.get('threads')}",
        "GPU": machine.get("gpu") or "none",
        "versions": ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()),
        "commit": facts.get("commit") or "not a checkout",
        "time": facts.get("time"),
        "preset": json.dumps(preset),
    }
    table = _html(["", ""], [[escape(k), escape(str(v))] for k, v in pairs.items()])
    runs = _html(["notebook", "time", "peak memory", ""], lines) if lines else ""
    return _section("Where this comes from", runs + f"<div class='plain'>{table}</div>")


# ---------------------------------------------------------------------- pieces


def _load(out: Path, kind: str) -> list[dict]:
    """All facts of a kind with their paths, in the order of notebooks and of their making."""
    items = [
        {**json.loads(path.read_text()), "path": path}
        for path in sorted((out / kind).glob("*.json"))
    ]
    order = {name: number for number, name in enumerate(NOTEBOOKS)}
    when = {"figures": lambda item: item["path"].stat().st_mtime}.get(
        kind, lambda item: item["time"]
    )
    return sorted(items, key=lambda item: (order.get(item["notebook"], len(order)), when(item)))


def _reference(quality: DataFrame) -> Series:
    """The base model at the most steps it was measured at."""
    return quality[quality["model"] == BASE].sort_values("steps").iloc[-1]


def _times(speed: DataFrame | None, row: Series) -> Series | None:
    if speed is None or pd.isna(row.get("steps")):
        return None
    found = speed[(speed["model"] == row["model"]) & (speed["steps"] == row["steps"])]
    return None if found.empty else found.iloc[0]


def _interval(row: Series, name: str = "frechet_distance") -> str:
    return f"{row[name]:.3g} [{row[f'{name}_low']:.3g}, {row[f'{name}_high']:.3g}]"


def _metric(row: Series, name: str) -> str:
    if pd.isna(row[name]):
        return ""
    if name == "ratio":
        return f"{row[name]:.2f}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3g}<div class='small'>{low:.2g} – {high:.2g}</div>"


def _player(path: Path, left: int, out: Path) -> tuple[str, int]:
    """An embedded ogg player and its bytes, or the file's place once `left` is used up."""
    import soundfile

    audio = path.with_suffix(".flac")
    samples, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, samples.shape[1], "VORBIS", format="OGG") as ogg:
        for start in range(0, len(samples), rate):  # long single writes overflow libsndfile's stack
            ogg.write(samples[start : start + rate])
    text = _base64(file.getvalue())
    if len(text) > left:
        return f"<code>{escape(str(audio.relative_to(out)))}</code>", 0
    return f"<audio controls preload='none' src='data:audio/ogg;base64,{text}'></audio>", len(text)


def _import_seconds() -> float | None:
    """What importing presto_models costs in a fresh process that has imported torch."""
    code = (
        "import time, torch; start = time.perf_counter(); import presto_models;"
        "print(time.perf_counter() - start)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _html(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already; column names are text."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _badge(held: bool | None, words: tuple[str, str, str]) -> str:
    kind, word = {True: ("yes", words[0]), False: ("no", words[1]), None: ("open", words[2])}[held]
    return f"<span class='badge {kind}'>{word}</span>"


def _item(text: str) -> str:
    return f"<li>{escape(text)}</li>"


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode()
