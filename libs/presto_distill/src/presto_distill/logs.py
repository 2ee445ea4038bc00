"""Tables on disk that outlive a kill, and TensorBoard beside them."""

import contextlib
import csv
import importlib.util
import io
import os
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from presto_models.snapshot import write_atomic

Row = dict[str, Any]  # numbers and words by column


class Table:
    """A CSV file to which rows are appended; its first column is the step a row belongs to.

    Opening it for a run that resumes at `step` cuts off the rows after that step, which the run
    will write again, and any half row a kill has left. At step 0 nothing is kept.
    """

    def __init__(self, path: Path, *, step: int):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        path.touch()
        lines = path.read_bytes().splitlines(keepends=True) if step else []
        rows = list(takewhile(lambda line: _belongs(line, step), lines[1:]))
        os.truncate(path, sum(map(len, lines[:1] + rows)) if rows else 0)
        self.columns = lines[0].decode().strip().split(",") if rows else []
        self._file = path.open("a", newline="")

    def read(self) -> list[Row]:
        """The rows so far; numbers are what was appended, bit for bit."""
        with self.path.open(newline="") as file:
            return [
                {name: _value(text) for name, text in row.items() if text}
                for row in csv.DictReader(file)
            ]

    def append(self, step: int, row: Row) -> None:
        """Write a row, so that it outlives the process; `sync` makes it outlive the machine."""
        row = {"step": step, **row}
        try:
            self._widen([name for name in row if name not in self.columns])
            self._file.write(_line(row.get(name, "") for name in self.columns))
            self._file.flush()
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {error.strerror}") from error

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def _widen(self, names: list[str]) -> None:
        """Give the file columns that no earlier row had."""
        if not names:
            return
        rows, self.columns = self.read(), self.columns + names
        lines = [_line(self.columns)]
        lines += [_line(row.get(name, "") for name in self.columns) for row in rows]
        write_atomic(self.path, lambda path: path.write_text("".join(lines)))
        self._file.close()
        self._file = self.path.open("a", newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):  # of a row that failed, which `append` has said
            self._file.close()


class Journal:
    """What a run reports: a record per step in `log`, the probe's rows in health.csv beside it,
    and both in TensorBoard's `events`. It goes on after `step`; ValueError if `log` lost steps.

    Without a `log` (processes other than the first) records are kept in memory only.
    """

    def __init__(self, log: Path | None, *, step: int, health: bool, events: Path | None):
        self.records: list[Row] = []
        with contextlib.ExitStack() as stack:
            self._records = log and stack.enter_context(Table(log, step=step))
            beside = log.with_name("health.csv") if log and health else None
            self._health = beside and stack.enter_context(Table(beside, step=step))
            self._events = log and events and _event_writer(events, step=step)
            if self._events:
                stack.callback(self._events.close)
            self._open = stack.pop_all()
        if log and step:
            self.records = self._records.read()
            if len(self.records) != step:
                raise ValueError(
                    f"{log} holds {len(self.records)} of the {step} steps before the checkpoint"
                )

    def record(self, step: int, row: Row) -> None:
        self.records.append({"step": step, **row})
        if self._records:
            self._records.append(step, row)
        if self._events:
            for name, value in row.items():
                self._events.add_scalar(f"train/{name}", value, step)

    def health(self, step: int, rows: list[Row]) -> None:
        """Rows of `health.probe`."""
        for row in rows:
            if self._health:
                self._health.append(step, row)
            if self._events:
                where = [f"{name} {row[name]:.3g}" for name in ("sigma", "budget") if name in row]
                name = "/".join(["health", row["measure"], *where])
                self._events.add_scalar(name, row["value"], step)

    def sync(self) -> None:
        """Make everything so far outlive the machine."""
        for table in (self._records, self._health):
            if table:
                table.sync()
        if self._events:
            self._events.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._open.close()


def _belongs(line: bytes, step: int) -> bool:
    """Whether a line is whole and belongs to a step up to `step`."""
    first = line.split(b",")[0]
    return line.endswith(b"\n") and first.isdigit() and int(first) <= step


def _line(values) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def remove_leftovers(path: Path) -> None:
    """Remove the half files that kills have left beside `path`; see snapshot.write_atomic."""
    for leftover in path.parent.glob(f".*.{path.name}"):
        leftover.unlink()


def check_tensorboard() -> None:
    """ValueError that names the extra, where TensorBoard is not installed."""
    if not importlib.util.find_spec("tensorboard"):
        raise ValueError("TensorBoard is missing: pip install 'presto-distill[tensorboard]'")


def _event_writer(folder: Path, *, step: int):
    """A writer of TensorBoard's event files that go on after `step`."""
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
