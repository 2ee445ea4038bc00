"""Results that travel: tables, verdicts and provenance of runs, small enough to commit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from presto_distill.lab.report import runs_of, write_claims, write_report
from presto_distill.lab.report.pieces import files, notebook_of
from presto_distill.lab.results import PLACES, write_json

KINDS = {"tables": "parquet", "verdicts": "json", "provenance": "json"}
LIMIT = 5_000_000  # bytes of one run; what is committed is cloned by everybody


def keep_results(out: Path, to: Path) -> list[Path]:
    """Copy what figures are drawn from to `to`, or of seeds to `to`/seed-N; returns the folders.

    What `to` held of the same notebooks goes, so that no table of another run stays; what it held
    of others remains, and the claims over seeds are of both, each with its commit. Of notebooks
    that did not reach their end nothing is kept. Raises ValueError where a run holds no tables or
    more than LIMIT bytes, before anything is written.
    """
    write_report(out)  # raises where there are no results
    runs = {to / f"seed-{seed}": path for seed, path in runs_of(out).items()} or {to: out}
    for folder, run in runs.items():
        if folder.resolve() == run.resolve():
            raise ValueError(f"{run} is where results are to be kept: give another folder")
        size = sum(path.stat().st_size for path in _files(run))
        if not files(run, "tables", "parquet"):
            raise ValueError(f"{run} holds no tables")
        if size > LIMIT:
            raise ValueError(f"{run}: {size / 1e6:.1f} MB of tables are too many to keep")
    for folder, run in runs.items():
        ran = {notebook_of(path) for path in files(run, "provenance", "json")}
        for path in _files(folder):
            if notebook_of(path) in ran:
                path.unlink()
        for kind in KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for path in _files(run):
            if notebook_of(path) not in ran:  # it failed halfway
                continue
            copy = folder / path.relative_to(run)
            if path.parent.name == "provenance":
                write_json(copy, _without_places(json.loads(path.read_text())))
            else:
                shutil.copyfile(path, copy)
    if runs_of(to):
        write_claims(to)
    return list(runs)


def _files(run: Path) -> list[Path]:
    return [path for kind, suffix in KINDS.items() for path in files(run, kind, suffix)]


def _without_places(facts: dict) -> dict:
    """Provenance without the folders of one machine: names are all that matters elsewhere."""
    params = dict(facts["params"])
    for name in params.keys() & set(PLACES) - {"others"}:
        params[name] = Path(params[name] or "").name
    if "others" in params:
        params["others"] = [(name, Path(folder).name) for name, folder in params["others"]]
    return {**facts, "params": params}
