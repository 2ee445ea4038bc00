"""One self-contained page from what notebooks left in a folder; nothing else is loaded.

Numbers come from tables, verdicts from their files. What was not run, the page says was not.
"""

from __future__ import annotations

from pathlib import Path

from presto_distill.lab.report import one_run, seeds
from presto_distill.lab.report.pieces import files, page
from presto_distill.lab.results import write_json
from presto_models.snapshot import write_atomic


def runs_of(out: Path) -> dict[str, Path]:
    """The runs in a folder by seed: `out`/seed-N. Empty where `out` is a run itself."""
    found = [path for path in out.glob("seed-*") if path.name[5:].isdigit() and _is_run(path)]
    return {path.name[5:]: path for path in sorted(found, key=lambda path: int(path.name[5:]))}


def is_stored(out: Path) -> bool:
    """Whether `out` is what `keep_results` left: no figures, no log of notebooks."""
    runs = [*runs_of(out).values()] or [out]
    left = any((run / name).exists() for run in runs for name in ("run.json", "figures"))
    return _is_run(runs[0]) and not left


def write_report(out: str | Path) -> Path:
    """Write `out`/report.html from the results in `out`, of one run or of seeds; returns its path.

    Over seeds, `out`/claims.json and claims.md hold the verdicts too, and every seed gets its page.
    Raises ValueError where `out` holds no results at all.
    """
    out = Path(out)
    if runs := runs_of(out):
        for run in runs.values():
            write_report(run)
        write_claims(out)
        body = seeds.sections(runs)
    elif _is_run(out):
        body = one_run.sections(out)
    else:
        raise ValueError(f"{out} holds no results: run presto reproduce first")
    path = out / "report.html"
    write_atomic(path, lambda to: to.write_text(page(body), encoding="utf-8"))
    return path


def write_claims(out: Path) -> None:
    """Write the verdicts over the seeds in `out` to claims.json and claims.md."""
    claims = seeds.claims(runs_of(out))
    write_json(out / "claims.json", claims)
    table = seeds.claims_as_markdown(claims)
    write_atomic(out / "claims.md", lambda to: to.write_text(table, encoding="utf-8"))


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").exists() or bool(files(folder, "provenance", "json"))
