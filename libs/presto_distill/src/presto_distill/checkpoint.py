"""Checkpoints: to resume from, not to publish (for that, see presto_models.snapshot).

One file, the same for every strategy and number of processes: what torch.save writes, and a SHA-256
of it in the last 32 bytes, because torch.load takes most damage inside tensors for data.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch

from presto_distill.trainer import Trainer
from presto_models.snapshot import write_atomic

# What PyTorch and a state of another shape raise for a file that is no checkpoint of this trainer.
_UNREADABLE = (RuntimeError, TypeError, KeyError, ValueError, EOFError, pickle.UnpicklingError)
_DIGEST = hashlib.sha256().digest_size


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or made for something else."""


def save(trainer: Trainer, path: Path) -> None:
    """Write the trainer's whole state to `path` in one step; an interrupted write leaves the
    previous checkpoint as it was. All ranks must call it; rank 0 writes."""
    state = trainer.state_dict()
    if trainer.parallel.leads:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda temporary: write(state, temporary))
    trainer.parallel.agree(None)  # that the file is there


def load(trainer: Trainer, path: Path) -> None:
    """Continue `trainer` from `path`, which every rank reads. Loads tensors and plain values only,
    never code."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        check(path)
        trainer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise CheckpointError(f"cannot resume from {path}: {reason}") from error


def resume_or_start(trainer: Trainer, path: Path) -> Trainer:
    """Continue from `path` if it exists; a damaged checkpoint is an error, never a fresh start."""
    if trainer.parallel.agree(path.exists()):
        load(trainer, path)
    return trainer


def write(state: Any, path: Path) -> None:
    """Save `state` with its digest behind it."""
    torch.save(state, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    with path.open("ab") as file:
        file.write(digest)


def check(path: Path) -> None:
    """Raise ValueError where the file's last bytes are not the digest of those before."""
    digest, left = hashlib.sha256(), path.stat().st_size - _DIGEST
    with path.open("rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
        if file.read() != digest.digest():
            raise ValueError("the file is damaged or no checkpoint")
