"""What the result of a notebook depends on, as one digest: equal digests need no second run."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from presto_distill.provenance import code_digest

PACKAGES = ("presto_models", "presto_data", "presto_distill")


def inputs_digest(notebook: Path, values: dict[str, Any]) -> str:
    """Of a notebook's cells, its parameters, the packages' code, the theme of figures, and the
    files parameters name.

    Where results go (`out`) does not matter.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    facts = {
        "cells": ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"],
        "values": {name: value for name, value in values.items() if name != "out"},
        "code": [code_digest(package) for package in PACKAGES],
        "theme": os.environ.get("PRESTO_THEME", "light"),
        "model": _model_files(str(values.get("model", ""))),
        "audio": _listing(values.get("audio")),
        "stored": _listing(values.get("stored")),
        "ratings": _listing(values.get("ratings")),
        "others": [_listing(folder) for _, folder in values.get("others", ())],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _model_files(model: str) -> list[str]:
    """The files of a model folder or of a bundled model, by their bytes."""
    from presto_models.snapshot import SnapshotError, find_snapshot

    try:
        folder = find_snapshot(model)
    except SnapshotError:  # the notebook says so
        return []
    return [
        f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.name in ("config.json", "model.safetensors")
    ]


def _listing(folder: str | None) -> list[str]:
    """Names, sizes and times of a folder's files, which may be too many to read."""
    if not folder:
        return []
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
