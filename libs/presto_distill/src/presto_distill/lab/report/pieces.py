"""What sections of the report are made of: facts and tables from a folder, and pieces of HTML."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from presto_distill.lab.runner import NOTEBOOKS
from presto_distill.lab.style import STYLE

WORDS = ("held here", "did not hold here", "not decided here")


def load_facts(out: Path, kind: str) -> list[dict]:
    """All facts of a kind with their paths, in the order of notebooks and of their making.

    Only of notebooks that reached their end: what others left is of several runs or half of one.
    """
    items = [
        {**json.loads(path.read_text()), "path": path} for path in _of_finished(out, kind, "json")
    ]
    order = {name: number for number, name in enumerate(NOTEBOOKS)}
    when = {"figures": lambda item: item["path"].stat().st_mtime}.get(
        kind, lambda item: item["time"]
    )
    return sorted(items, key=lambda item: (order.get(item["notebook"], len(order)), when(item)))


def facts_of(provenance: list[dict]) -> dict[str, Any]:
    """The facts that stand for the whole run: the newest of a notebook that had a lab."""
    of_lab = [item for item in provenance if "preset" in item] or provenance
    return max(of_lab, key=lambda item: item["time"], default={})


def machines(provenance: list[dict]) -> list[str]:
    """What notebooks ran on, each machine once."""
    found = [item["hardware"] for item in provenance]
    named = [f"{m.get('gpu') or m.get('cpu', '?')}, {m.get('cores', '?')} cores" for m in found]
    return list(dict.fromkeys(named))


def commits_of(provenance: list[dict]) -> list[str]:
    """The commits of the code that ran, each once."""
    return list(dict.fromkeys(item.get("commit") or "not a checkout" for item in provenance))


def load_tables(out: Path) -> dict[str, DataFrame]:
    """All tables of the notebooks that reached their end, named NOTEBOOK-NAME."""
    return {path.stem: pd.read_parquet(path) for path in _of_finished(out, "tables", "parquet")}


def _of_finished(out: Path, kind: str, suffix: str) -> list[Path]:
    ended = {notebook_of(path) for path in files(out, "provenance", "json")}
    return [path for path in files(out, kind, suffix) if notebook_of(path) in ended]


def files(out: Path, kind: str, suffix: str) -> list[Path]:
    """The files of a kind, without those that are just being written, which begin with a dot."""
    return sorted((out / kind).glob(f"[!.]*.{suffix}"))


def notebook_of(path: Path) -> str:
    """Whose result a file is."""
    return path.name.split("-")[0]


def interval(row: Series, name: str = "frechet_distance") -> str:
    return f"{row[name]:.3g} [{row[f'{name}_low']:.3g}, {row[f'{name}_high']:.3g}]"


def header(facts: dict[str, Any], provenance: list[dict], seeds: str, runs: str) -> str:
    """Title, what this is, and the facts that every number depends on."""
    preset = facts.get("preset", {})
    name, note = facts.get("params", {}).get("preset", "?"), ""
    if name == "smoke":
        note = (
            "<p class='note'>Preset smoke runs every part once on a handful of clips. It shows "
            "that everything works; its numbers mean nothing.</p>"
        )
    chips = [
        f"preset <b>{escape(name)}</b>",
        seeds,
        f"<b>{preset.get('samples', '?')}</b> generated, <b>{facts.get('held_out_clips', '?')}</b> "
        "held-out clips",
        *map(escape, machines(provenance)),
        escape(str(facts.get("time", ""))),
    ]
    if "drawn_from" in facts:
        chips.append(f"drawn from stored results, <b>{escape(facts['drawn_from'])}</b>")
    return (
        "<header><h1>Presto: fewer layers, fewer steps</h1>"
        "<p class='lead'>A base text-to-music diffusion model, distilled in layers (Presto-L), in "
        f"steps (Presto-S) and in both (Presto-LS); measured {runs}.</p>"
        f"<p class='chips'>{''.join(f'<span>{chip}</span>' for chip in chips)}</p>{note}</header>"
    )


def page(body: Iterable[str]) -> str:
    """A whole page of sections; it loads nothing."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Presto report</title><style>{STYLE}</style></head><body><main>"
        f"{''.join(body)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def grid(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already; column names are text."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def badge(held: bool | None, words: tuple[str, str, str]) -> str:
    kind, word = {True: ("yes", words[0]), False: ("no", words[1]), None: ("open", words[2])}[held]
    return f"<span class='badge {kind}'>{word}</span>"


def listed(text: str) -> str:
    return f"<li>{escape(text)}</li>"


def as_base64(body: bytes) -> str:
    return base64.b64encode(body).decode()
