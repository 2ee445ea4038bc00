"""One notebook by papermill, in this process or in one of its own, and what failed in one line."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

EXTRA = "pip install 'presto-distill[notebooks]' (in a checkout: uv sync)"
FIXES = {
    "NoSuchKernel": "python -m ipykernel install --sys-prefix --name python3",
    "ModuleNotFoundError": EXTRA,
}


class Failure(NamedTuple):
    """A notebook that did not reach its end."""

    notebook: str
    cell: int  # counted from 1 among the code cells; 0 when it never started
    error: str

    def __str__(self) -> str:
        where = f"code cell {self.cell}" if self.cell else "before its first cell"
        return f"notebook {self.notebook} failed, {where}: {self.error}"


class Task(NamedTuple):
    """A notebook to run with these parameters; its executed copy goes to `copy`."""

    notebook: Path
    copy: Path
    parameters: dict[str, Any]
    label: str = ""  # of the progress bar; none: no bar
    threads: int = 0  # of the kernel; 0: as many as torch likes
    slot: int = 0  # line of the bar where several notebooks run at a time

    @property
    def name(self) -> str:
        return self.notebook.stem


def execute(task: Task, *, alone: bool = True) -> Failure | None:
    """Run one notebook; the bars of its trainings pass through where it runs `alone`.

    The executed copy is put in place when it is whole, or tells where it failed.
    """
    import papermill

    bar = {"desc": task.label, "ascii": True, "position": task.slot, "leave": alone}
    partial = task.copy.with_name(f".{task.copy.name}")
    try:
        with _environment(task, quiet=not (alone and task.label)):
            papermill.execute_notebook(
                task.notebook,
                partial,
                task.parameters,
                kernel_name="python3",
                progress_bar=bar if task.label else False,
                stderr_file=sys.stderr if alone and task.label else None,
                start_timeout=120,
                extra_arguments=["--log-level=50"],  # its start and its end are not news
            )
    except papermill.PapermillExecutionError as error:
        partial.replace(task.copy)
        return Failure(task.name, error.exec_count or 0, _one_line(error.ename, error.evalue))
    except Exception as error:  # a kernel that died, a full disk: the other notebooks still run
        partial.unlink(missing_ok=True)
        return Failure(task.name, 0, _one_line(type(error).__name__, str(error)))
    partial.replace(task.copy)
    return None


class Worker:
    """A process that runs one task; it ends with the one that started it, however that ends."""

    def __init__(self, task: Task):
        context = _context()
        self.task = task
        self.result, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, task), daemon=True)
        self.process.start()
        theirs.close()

    def failure(self) -> Failure | None:
        """What failed; call it when the process has ended."""
        try:
            return self.result.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            return Failure(self.task.name, 0, f"its process ended with exit code {code}")


def _context() -> multiprocessing.context.BaseContext:
    """Workers fork from one clean process that has imported, once for all, what each needs."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "papermill"])
    return context


def _work(connection: Connection, task: Task) -> None:
    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
    connection.send(execute(task, alone=False))


@contextlib.contextmanager
def _environment(task: Task, *, quiet: bool) -> Iterator[None]:
    """Kernels started in here know that nobody watches, and how many threads are theirs."""
    ours = {"PRESTO_HEADLESS": "1"}
    if quiet:
        ours["TQDM_DISABLE"] = "1"
    if task.threads:
        ours["OMP_NUM_THREADS"] = str(task.threads)
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


def _one_line(kind: str, text: str) -> str:
    lines = text.strip().splitlines() or [""]
    said = f"{kind}: {lines[0]}"[:300]
    return f"{said}; to fix it: {FIXES[kind]}" if kind in FIXES else said
