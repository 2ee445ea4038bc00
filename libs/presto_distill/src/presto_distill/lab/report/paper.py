"""What differs from the paper in what was run: settings side by side, and what is missing."""

from __future__ import annotations

from html import escape
from typing import Any

from presto_distill.lab.report.pieces import grid, listed, section
from presto_distill.lab.runner import NOTEBOOKS
from presto_distill.presets import preset


def differences(provenance: list[dict], facts: dict[str, Any]) -> str:
    """The section, from the provenance of the notebooks that ran and the facts of their lab."""
    settings = _settings(facts)
    table = grid(["", "paper", "here"], settings) if settings else ""
    return section(
        "What differs from the paper",
        f"<div class='plain-table'>{table}</div>"
        f"<ul>{''.join(map(listed, missing(provenance, facts)))}</ul>",
    )


def missing(provenance: list[dict], facts: dict[str, Any]) -> list[str]:
    """What of the paper nothing here reproduces."""
    ran = {item["notebook"]: item for item in provenance}
    lines = [
        "Not at hand: the paper's training data (3.6 K hours of music), its model and "
        f"the size of it.{_distilled(facts)}",
        "No CLAP numbers and no Song Describer: distances are measured on the embedder "
        f"{facts.get('embedder', 'of the model')}, compare models on this page only, and must "
        "never stand beside the paper's.",
        "Clips are mono; mono to stereo takes no part in what is measured"
        + (" but the times of the notebook speed." if "speed" in ran else "."),
        "Other systems stand beside these only as methods, trained from the same base model, "
        "unless a table names their own weights.",
    ]
    if not ran.get("listening_test", {}).get("params", {}).get("ratings"):
        lines.append("No listening scores: nobody has rated yet.")
    left = [name for name in NOTEBOOKS if name not in ran]
    if left:
        lines.append(f"Not run: {', '.join(left)}. What they ask is not answered here.")
    return lines


def _distilled(facts: dict[str, Any]) -> str:
    """What is distilled instead, as far as the facts say."""
    if "teacher_parameters" not in facts:
        return ""
    millions, model = facts["teacher_parameters"] / 1e6, facts["params"]["model"]
    return f" Here {model}, {millions:.1f} M parameters, is distilled."


def _settings(facts: dict[str, Any]) -> list[list[str]]:
    """Rows of (setting, published, here); the published ones are those of preset a100_paper."""
    here, paper = facts.get("preset"), preset("a100_paper")
    if not here:
        return []
    rows = [("length of a clip in training", "not stated", _seconds(here))]
    for name, stage in (("Presto-S", "steps"), ("Presto-L", "layers")):
        ours, theirs = here[stage], getattr(paper, stage)
        rows += [
            (f"{name}: iterations", f"{theirs.steps:,}", f"{ours['steps']:,}"),
            (f"{name}: learning rate", f"{theirs.lr:g}", _rates(ours["lr"])),
            (f"{name}: batch", str(theirs.batch), str(ours["batch"])),
        ]
    guided = f"{here['guidance_scale']:g}"
    rows.append(("guidance of the teacher in distillation", "4.5", guided))
    if warm := here.get("warm_start"):
        said = f"{warm['steps']} updates of regression on the base model's solutions"
        rows.append(("few-step generators start from", "the base model", said))
    return [[escape(cell) for cell in row] for row in rows]


def _seconds(preset: dict[str, Any]) -> str:
    """Of the training crop: 44.1 kHz, 2048 samples a frame."""
    return f"{preset['frames'] * 2048 / 44_100:.1f} s"


def _rates(lr: float | dict[str, float]) -> str:
    if isinstance(lr, dict):
        return ", ".join(f"{name} {rate:g}" for name, rate in lr.items())
    return f"{lr:g}"
