"""Training to the end, with a progress bar, logs and checkpoints; a kill costs seconds of work."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from presto_distill import checkpoint
from presto_distill.logs import Journal, Row, remove_leftovers
from presto_distill.trainer import Diverged, Stream, Trainer

CHECKPOINT_SECONDS = 30.0


class Stopped(KeyboardInterrupt):
    """A run that a signal ended, saved; `code` is what its process should exit with."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.code = 128 + number


def fit(
    trainer: Trainer,
    stream: Stream,
    path: Path,
    *,
    label: str,
    every: float = CHECKPOINT_SECONDS,
    keep: bool = False,
    log: Path | None = None,
    probe: Callable[[], list[Row]] | None = None,
    probe_every: int = 1,
    events: Path | None = None,
    watch: Callable[[list[Row]], bool] | None = None,
) -> list[Row]:
    """Train to the end with a progress bar, checkpointing to `path` every so many seconds.

    Resumes from `path` if it is there, and with `keep` leaves the last step there. Returns one
    flat record per step, those before a kill included; they are also kept, a line each, in `log`
    (default: a .csv beside the checkpoint). `probe` is asked before training and every
    `probe_every` steps; its rows go to health.csv beside the log. `events` is a folder for
    TensorBoard. `watch` is shown the records after every step, instead of a progress bar; where it
    answers True, the step is saved and training ends early: `trainer.step` says where.

    SIGTERM and Ctrl-C finish the step, save and raise Stopped. Diverged names the last good
    checkpoint; where a disk is full, OSError names what could not be written, and the previous
    checkpoint stays.
    """
    world = trainer.parallel
    if world.leads:
        remove_leftovers(path)
    checkpoint.resume_or_start(trainer, path)
    bar = tqdm(
        trainer.run(stream),
        label,
        total=trainer.cfg.steps,
        initial=trainer.step,
        mininterval=1 if sys.stderr.isatty() else 30,
        ascii=True,
        disable=not world.leads or watch is not None,
    )
    saved, since = trainer.step, 0.0
    log = (log or path.with_suffix(".csv")) if world.leads else None
    with (
        _signals() as arrived,
        Journal(log, step=saved, health=probe is not None, events=events) as journal,
    ):
        if probe and not saved:
            journal.health(0, probe())
        try:
            for step, losses, norms, seconds in bar:
                grads = {f"grad_norm_{player}": norm for player, norm in norms.items()}
                journal.record(step, {"seconds": seconds, **losses, **grads})
                if probe and step % probe_every == 0:
                    journal.health(step, probe())
                since += seconds
                enough = watch is not None and watch(journal.records)
                due = enough or since > every or (keep and step == trainer.cfg.steps)
                wishes = world.mean({"stop": float(bool(arrived)), "save": float(due)})
                stop = wishes["stop"] > 0  # all processes save together, or none
                if stop or wishes["save"] > 0:
                    journal.sync()
                    _save(trainer, path)
                    saved, since = step, 0.0
                if stop:
                    number = signal.Signals([*arrived, signal.SIGTERM][0])
                    raise Stopped(f"{number.name}: saved at step {step} in {path}", number)
                if enough:
                    break
        except Diverged as error:
            good = f"{path}, of step {saved}" if saved else "none was saved yet"
            raise Diverged(f"{error}; last good checkpoint: {good}") from error
    return journal.records


def _save(trainer: Trainer, path: Path) -> None:
    """Save, and say of a full disk which file it was; PyTorch reports one as RuntimeError too."""
    try:
        checkpoint.save(trainer, path)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"cannot save {path} (an earlier one is kept): {reason}") from error


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT that arrive meanwhile are noted; the second one interrupts."""
    arrived: list[int] = []

    def note(number: int, frame) -> None:
        if arrived:
            raise KeyboardInterrupt
        arrived.append(number)

    # Python hands signals to the main thread only.
    ours = threading.current_thread() is threading.main_thread()
    kinds = (signal.SIGTERM, signal.SIGINT) if ours else ()
    before = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield arrived
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
