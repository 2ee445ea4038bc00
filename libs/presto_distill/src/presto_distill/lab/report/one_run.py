"""The page of one run: one preset, one seed."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from presto_distill.lab.report import media
from presto_distill.lab.report.numbers import (
    import_time,
    required,
    required_section,
    results_section,
)
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


def sections(out: Path) -> list[str]:
    """The body of the page of the results in `out`."""
    provenance = load_facts(out, "provenance")
    facts, tables = facts_of(provenance), load_tables(out)
    return [
        header(
            facts,
            provenance,
            f"seed <b>{facts.get('params', {}).get('seed', '?')}</b>",
            "in one run",
        ),
        _mixture(provenance),
        required_section({"measured": required(tables, provenance) + import_time()}),
        results_section(tables, facts),
        _verdicts(load_facts(out, "verdicts")),
        media.audio(out, load_facts(out, "audio")),
        media.figures(load_facts(out, "figures")),
        differences(provenance, facts),
        _provenance(out, provenance, facts),
    ]


def _mixture(provenance: list[dict]) -> str:
    """A warning where the notebooks of a folder are not of one run; else nothing."""
    names = ("preset", "seed", "audio", "model")
    params = [item["params"] for item in provenance]
    different = [name for name in names if len({str(found.get(name)) for found in params}) > 1]
    if not different:
        return ""
    return (
        f"<p class='note'>The notebooks of this folder differ in {' and '.join(different)}: the "
        "numbers of one do not compare with those of another. Facts above: the newest's.</p>"
    )


def _verdicts(verdicts: list[dict]) -> str:
    cells = [
        [
            badge(item["held"], WORDS),
            f"{escape(item['claim'])}<div class='small'>{escape(item['evidence'])}</div>",
            f"<code>{escape(item['notebook'])}</code>",
        ]
        for item in verdicts
    ]
    note = (
        "<p class='small'>One small model, one seed: a claim that does not hold here may hold at "
        "the paper's scale, and the other way round. Not decided: the 95 % intervals overlap.</p>"
    )
    body = grid(["", "claim and evidence", "notebook"], cells) + note if cells else "<p>None.</p>"
    return section("Claims, tested here", body)


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
    pairs = {"drawn from stored results": facts["drawn_from"]} if "drawn_from" in facts else {}
    pairs |= {
        "data": facts.get("data"),
        "training clips": facts.get("training_clips"),
        "held-out clips": facts.get("held_out_clips"),
        "embedder": facts.get("embedder"),
        "base model": f"{facts.get('params', {}).get('model')}, "
        f"{facts.get('teacher_parameters', 0) / 1e6:.1f} M parameters",
        "seed": facts.get("params", {}).get("seed"),
        "machine": "; ".join(machines(provenance)),
        "torch threads": machine.get("threads"),
        "versions": ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()),
        "commit": ", ".join(commits_of(provenance)),
        "time": facts.get("time"),
        "preset": json.dumps(preset),
    }
    table = grid(["", ""], [[escape(k), escape(str(v))] for k, v in pairs.items()])
    runs = grid(["notebook", "time", "peak memory", ""], lines) if lines else ""
    return section("Where this comes from", runs + f"<div class='plain'>{table}</div>")
