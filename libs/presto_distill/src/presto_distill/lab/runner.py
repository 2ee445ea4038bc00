"""Run the notebooks by papermill, one after the other, and say in one line each what failed."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from presto_distill.lab.results import write_json

# In this order: later notebooks reuse the runs and samples of earlier ones.
NOTEBOOKS = (
    "00_tour",
    "data_and_augmentation",
    "combined_acceleration",
    "fake_score_updates",
    "nu_weights",
    "layer_distillation",
    "baselines",
    "speed",
    "listening_test",
    "your_own_model",
)


class Failure(NamedTuple):
    """A notebook that did not reach its end."""

    notebook: str
    cell: int  # counted from 1 among the code cells; 0 when it never started
    error: str

    def __str__(self) -> str:
        where = f"code cell {self.cell}" if self.cell else "before its first cell"
        return f"notebook {self.notebook} failed, {where}: {self.error}"


def find_notebooks() -> Path:
    """The folder of notebooks of this checkout: above the package or the current directory."""
    for start in (Path(__file__).resolve(), Path.cwd() / "here"):
        for folder in start.parents:
            if (folder / "notebooks" / f"{NOTEBOOKS[0]}.ipynb").is_file():
                return folder / "notebooks"
    raise ValueError("no folder notebooks/ with 00_tour.ipynb: run this in a checkout of presto")


def choose_notebooks(names: Sequence[str] = ()) -> list[str]:
    """The notebooks of those names in running order, all without any; ValueError lists them."""
    held = sorted((path.stem for path in find_notebooks().glob("*.ipynb")), key=_order)
    for name in names:
        if name not in held:
            raise ValueError(f"unknown notebook {name!r}: choose from {', '.join(held)}")
    return [name for name in held if name in (names or held)]


def run_notebooks(
    names: Sequence[str] = (),
    *,
    preset: str,
    seed: int = 0,
    out: str | Path,
    audio: str | Path | None = None,
    model: str | Path = "presto-small",
    parameters: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[Failure]:
    """Execute notebooks (all by default) and return those that failed; one does not stop the next.

    `parameters` are further literals, for the notebooks that know them. Executed copies go to
    `out`/notebooks. Raises ValueError for an unknown notebook or parameter before anything runs.
    """
    folder, out = find_notebooks(), Path(out).resolve()
    chosen = choose_notebooks(names)
    given = {
        "preset": preset,
        "seed": seed,
        "out": str(out),
        "audio": str(Path(audio).resolve()) if audio else "",
        "model": str(Path(model).resolve()) if Path(model).is_dir() else str(model),
    }
    known = {name: parameter_names(folder / f"{name}.ipynb") for name in chosen}
    for name in parameters or {}:
        if not any(name in names for names in known.values()):
            valid = ", ".join(sorted(set().union(*known.values())))
            raise ValueError(f"unknown parameter {name!r}: choose from {valid}")
    given |= parameters or {}

    failures, log = [], _read_log(out / "run.json")
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(chosen, 1):
        started = time.perf_counter()
        values = {key: value for key, value in given.items() if key in known[name]}
        label = f"notebook {number} of {len(chosen)}: {name}"
        copy = out / "notebooks" / f"{name}.ipynb"
        failure = _execute(folder / f"{name}.ipynb", copy, values, label if progress else None)
        failures += [failure] if failure else []
        log[name] = {
            "notebook": name,
            "seconds": round(time.perf_counter() - started, 1),
            "error": str(failure) if failure else None,
        }
        write_json(out / "run.json", list(log.values()))
        if failure and progress:
            print(failure, file=sys.stderr)
    return failures


def _read_log(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier commands ran in this folder, by notebook."""
    if not path.exists():
        return {}
    return {item["notebook"]: item for item in json.loads(path.read_text())}


def parameter_names(notebook: Path) -> list[str]:
    """The names that a notebook's cell tagged `parameters` assigns."""
    import nbformat

    cells = [
        cell.source
        for cell in nbformat.read(notebook, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", ())
    ]
    if len(cells) != 1:
        raise ValueError(f"{notebook.name}: {len(cells)} cells are tagged parameters, not one")
    body = ast.parse(cells[0]).body
    return [t.id for line in body if isinstance(line, ast.Assign) for t in line.targets]


def _execute(
    notebook: Path, copy: Path, parameters: dict[str, Any], label: str | None
) -> Failure | None:
    """Run one notebook; its own progress bars (of trainings) pass through to stderr."""
    import papermill

    bar = {"desc": label, "ascii": True, "mininterval": 0.5 if sys.stderr.isatty() else 15}
    try:
        with _headless():
            papermill.execute_notebook(
                notebook,
                copy,
                parameters,
                kernel_name="python3",
                progress_bar=bar if label else False,
                stderr_file=sys.stderr if label else None,
                start_timeout=120,
                extra_arguments=["--log-level=40"],  # errors only: its start is not news
            )
    except papermill.PapermillExecutionError as error:
        return Failure(notebook.stem, error.exec_count or 0, _one_line(error.ename, error.evalue))
    except Exception as error:  # a kernel that died, a full disk: the other notebooks still run
        return Failure(notebook.stem, 0, _one_line(type(error).__name__, str(error)))
    return None


@contextlib.contextmanager
def _headless() -> Iterator[None]:
    """Kernels started in here know that nobody watches, and draw progress bars sparingly."""
    ours = {"PRESTO_HEADLESS": "1", "TQDM_MININTERVAL": "1" if sys.stderr.isatty() else "15"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _order(name: str) -> tuple[int, str]:
    return (NOTEBOOKS.index(name) if name in NOTEBOOKS else len(NOTEBOOKS), name)


def _one_line(kind: str, text: str) -> str:
    lines = text.strip().splitlines() or [""]
    return f"{kind}: {lines[0]}"[:300]
