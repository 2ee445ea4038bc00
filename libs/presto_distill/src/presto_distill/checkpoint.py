"""Checkpoints: to resume from, not to publish (for that, see presto_models.snapshot)."""

import pickle
from pathlib import Path

import torch

from presto_distill.trainer import Trainer
from presto_models.snapshot import write_atomic

# What PyTorch and a state of another shape raise for a file that is no checkpoint of this trainer.
_UNREADABLE = (RuntimeError, TypeError, KeyError, ValueError, EOFError, pickle.UnpicklingError)


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or made for something else."""


def save(trainer: Trainer, path: Path) -> None:
    """Write the trainer's whole state to `path` in one step; an interrupted write leaves the
    previous checkpoint as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: torch.save(trainer.state_dict(), temporary))


def load(trainer: Trainer, path: Path) -> None:
    """Continue `trainer` from `path`. Loads tensors and plain values only, never code."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        state = torch.load(path, map_location=trainer.device, weights_only=True)
        trainer.load_state_dict(state)
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise CheckpointError(f"cannot resume from {path}: {reason}") from error


def resume_or_start(trainer: Trainer, path: Path) -> Trainer:
    """Continue from `path` if it exists; a damaged checkpoint is an error, never a fresh start."""
    if path.exists():
        load(trainer, path)
    return trainer
