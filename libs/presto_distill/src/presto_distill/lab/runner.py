"""Run notebooks, some at a time, skip what is done, and say in one line each what failed."""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from presto_data.encode import claimed
from presto_distill.lab.execute import Failure, Task, Worker, execute
from presto_distill.lab.inputs import inputs_digest
from presto_distill.lab.results import PLACES, provenance_file, stored_facts, write_json
from presto_distill.presets import preset as find_preset
from presto_models.snapshot import is_bundled

KINDS = ("figures", "tables", "verdicts", "audio")

# In this order: later notebooks reuse the runs and samples of earlier ones, and where several run
# at a time few wait for one of them.
NOTEBOOKS = (
    "00_tour",
    "data_and_augmentation",
    "autoencoder",
    "combined_acceleration",
    "base_model",
    "fake_score_updates",
    "noise_laws",
    "nu_weights",
    "teacher_guidance",
    "layer_distillation",
    "layer_choices",
    "combined_choices",
    "samplers",
    "baselines",
    "speed",
    "listening_test",
    "your_own_model",
)

START = "start"  # the page JupyterLab opens on: it asks nothing and claims nothing


def find_notebooks() -> Path:
    """The folder of notebooks of this checkout: above the package or the current directory."""
    for start in (Path(__file__).resolve(), Path.cwd() / "here"):
        for folder in start.parents:
            if (folder / "notebooks" / f"{NOTEBOOKS[0]}.ipynb").is_file():
                return folder / "notebooks"
    raise ValueError("no folder notebooks/ with 00_tour.ipynb: run this in a checkout of presto")


def choose_notebooks(names: Sequence[str] = ()) -> list[str]:
    """The notebooks of those names in running order, all without any; ValueError lists them."""
    stems = {path.stem for path in find_notebooks().glob("*.ipynb")} - {START}
    held = sorted(stems, key=_order)
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
    stored: str | Path | None = None,
    parameters: dict[str, Any] | None = None,
    progress: bool = True,
    jobs: int = 1,
    again: bool = True,
) -> list[Failure]:
    """Execute notebooks (all by default) and return those that failed; one does not stop the next.

    `parameters` are further literals, for the notebooks that know them; they go before the
    preset's. Executed copies go to `out`/notebooks. `jobs` notebooks run at a time, in processes
    that share the cores. Unless `again`, those are skipped whose results in `out` are whole and of
    the same inputs (`inputs_digest`). `stored`: a folder of results to draw from, with the
    parameters they were made with; notebooks of which it holds no finished run are skipped. Raises
    ValueError for an unknown notebook or parameter before anything runs.
    """
    folder, out = find_notebooks(), Path(out).resolve()
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    chosen, size = choose_notebooks(names), find_preset(preset)
    given = {
        "preset": preset,
        "seed": seed,
        "out": str(out),
        "audio": str(Path(audio).resolve()) if audio else "",
        "model": str(model if is_bundled(model) else Path(model).resolve()),
        "stored": str(Path(stored).resolve()) if stored else "",
    }
    known = {name: parameter_names(folder / f"{name}.ipynb") for name in chosen}
    for name in parameters or {}:
        if not any(name in names for names in known.values()):
            valid = ", ".join(sorted(set().union(*known.values())))
            raise ValueError(f"unknown parameter {name!r}: choose from {valid}")

    log, todo, digests = _read_log(out), [], {}
    for name in chosen:
        if stored and not _drawable(Path(stored), name, known[name]):
            _say(f"{name}: skipped, {stored} holds no finished run of it", progress)
            continue
        made = stored_facts(Path(stored), name)["params"] if stored else {}
        made = {key: value for key, value in made.items() if key not in (*given, *PLACES)}
        values = {**given, **size.parameters, **made, **(parameters or {})}
        values = {key: value for key, value in values.items() if key in known[name]}
        digests[name] = inputs_digest(folder / f"{name}.ipynb", values)
        entry = log.get(name, {})
        whole = stored_facts(out, name).get("time")  # None once another run has begun
        done = whole and (digests[name], whole) == (entry.get("inputs"), entry.get("made"))
        if done and not again:
            _say(f"{name}: done already with the same inputs", progress)
            continue
        todo.append(Task(folder / f"{name}.ipynb", out / "notebooks" / f"{name}.ipynb", values))

    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    failures, started = [], time.perf_counter()
    for number, (task, failure, start, seconds) in enumerate(_run(todo, jobs, progress), 1):
        failures += [failure] if failure else []
        if failure:  # what it left is no whole result, whatever an earlier run says of it
            provenance_file(out, task.name).unlink(missing_ok=True)
        else:
            _remove_stale(out, task.name, start)
        _write_log(out, task.name, seconds, failure, digests[task.name])
        left = (time.perf_counter() - started) / number * (len(todo) - number)
        said = str(failure) if failure else f"{task.name}: done in {seconds:.0f} s"
        _say(f"{number} of {len(todo)}: {said}; about {left / 60:.1f} min left", progress)
    return failures


def _run(
    todo: list[Task], jobs: int, progress: bool
) -> Iterator[tuple[Task, Failure | None, float, float]]:
    """Run tasks, `jobs` at a time, and yield each with its failure, when it began and how many
    seconds it took, as it ends."""
    bars = progress and sys.stderr.isatty()
    threads = max(1, _cores() // jobs) if jobs > 1 else 0
    waiting, running = list(enumerate(todo, 1)), {}
    free = list(range(min(jobs, len(todo))))
    while waiting or running:
        while waiting and free:
            number, task = waiting.pop(0)
            label = f"notebook {number} of {len(todo)}: {task.name}" if bars else ""
            task = task._replace(label=label, threads=threads, slot=free.pop(0))
            start = time.time()
            if jobs == 1:
                failure = execute(task)
                free.append(task.slot)
                yield task, failure, start, time.time() - start
            else:
                worker = Worker(task)
                running[worker.process.sentinel] = worker, start
        for ended in wait(list(running)) if running else ():
            worker, start = running.pop(ended)
            free.append(worker.task.slot)
            yield worker.task, worker.failure(), start, time.time() - start


def _drawable(stored: Path, name: str, known: list[str]) -> bool:
    """Whether a notebook can be drawn from stored results: it ended, and left tables."""
    tables = (stored / "tables").glob(f"{name}-*.parquet")
    return "stored" in known and bool(stored_facts(stored, name)) and any(tables)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(line: str, progress: bool) -> None:
    if progress:
        print(line, file=sys.stderr, flush=True)


def _remove_stale(out: Path, name: str, before: float) -> None:
    """Remove what earlier runs of a notebook left that this one, whole, did not make again."""
    for kind in KINDS:
        for path in (out / kind).glob(f"{name}-*"):
            if path.stat().st_mtime < before:
                path.unlink()


def _read_log(out: Path) -> dict[str, dict[str, Any]]:
    """What earlier commands ran in this folder, by notebook."""
    path = out / "run.json"
    if not path.exists():
        return {}
    return {item["notebook"]: item for item in json.loads(path.read_text())}


def _write_log(out: Path, name: str, seconds: float, failure: Failure | None, inputs: str) -> None:
    """Note how a notebook ended; other jobs, on other machines too, may write at the same time."""
    entry = {"notebook": name, "seconds": round(seconds, 1)}
    entry |= {"error": str(failure) if failure else None, "inputs": inputs}
    entry["made"] = stored_facts(out, name).get("time")
    with claimed(out / "run.lock", wait=True):
        log = _read_log(out) | {name: entry}
        write_json(out / "run.json", [log[key] for key in sorted(log, key=_order)])


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


def _order(name: str) -> tuple[int, str]:
    return (NOTEBOOKS.index(name) if name in NOTEBOOKS else len(NOTEBOOKS), name)
