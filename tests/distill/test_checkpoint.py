"""Checkpoints survive being killed, and say in one line what is wrong with them."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from presto_distill import checkpoint
from presto_distill.checkpoint import CheckpointError
from presto_distill.objective import Batch, Turn
from presto_distill.trainer import TrainConfig, Trainer


def trainer(weight: float = 0.0, *, width: int = 3, **options) -> Trainer:
    """A trainer of one linear layer whose weights are all `weight`."""
    player = nn.Linear(width, width)
    nn.init.constant_(player.weight, weight)
    turn = Turn("player", lambda batch, rng: {"loss": player(batch.x).square().mean()})
    objective = SimpleNamespace(players={"player": player}, turns=[turn])
    return Trainer(objective, TrainConfig(**{"steps": 4, **options}))


def weight(of: Trainer) -> float:
    return of.objective.players["player"].weight[0, 0].item()


def refusal(path, into: Trainer | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(into or trainer(), path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run" / "state.pt"  # its folder does not exist yet
    checkpoint.save(trainer(1.0), path)
    return path


def test_round_trip(saved):
    other = trainer(5.0)
    other.averages["player"].weight.fill_(7.0)
    checkpoint.load(other, saved)
    assert weight(other) == 1.0
    assert (other.averages["player"].weight == 1.0).all()


def test_a_failed_save_keeps_the_previous_checkpoint(saved, monkeypatch):
    def half_a_save(state, path):
        path.write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_a_save)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(trainer(2.0), saved)
    assert list(saved.parent.iterdir()) == [saved]
    other = trainer()
    checkpoint.load(other, saved)
    assert weight(other) == 1.0


def test_a_kill_during_save_keeps_the_previous_checkpoint(tmp_path):
    """A process that saves once, begins to save again and is killed half-way."""
    path = tmp_path / "state.pt"
    script = f"""
import os, signal, torch
from pathlib import Path
from presto_models.snapshot import write_atomic
path = Path({str(path)!r})
write_atomic(path, lambda temporary: torch.save({{"step": 1}}, temporary))

def half_a_save(temporary):
    temporary.write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)

write_atomic(path, half_a_save)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_a_flipped_bit_anywhere_is_refused(saved):
    """torch.load alone takes a changed byte inside a tensor for another number."""
    data = saved.read_bytes()
    for place in {*range(0, len(data), 97), *range(len(data) - 40, len(data))}:
        damaged = bytearray(data)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        assert "damaged" in refusal(saved)
    saved.write_bytes(data + b"x")
    assert "damaged" in refusal(saved)
    saved.write_bytes(data)
    checkpoint.load(trainer(), saved)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(saved, kept):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(kept * len(data)) if kept < 1 else kept])
    assert f"cannot resume from {saved}" in refusal(saved)


def test_a_damaged_checkpoint_is_never_a_fresh_start(saved):
    saved.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot resume"):
        checkpoint.resume_or_start(trainer(), saved)


def test_no_checkpoint_is_a_fresh_start_only_where_asked_for(tmp_path):
    path = tmp_path / "state.pt"
    assert "no checkpoint at" in refusal(path)
    fresh = trainer(5.0)
    assert checkpoint.resume_or_start(fresh, path) is fresh
    assert weight(fresh) == 5.0
    checkpoint.save(trainer(1.0), path)
    assert weight(checkpoint.resume_or_start(fresh, path)) == 1.0


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "state.pt"
    checkpoint.write({"step": Trap()}, path)
    refusal(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [{}, [], {"step": 1}, torch.zeros(2)], ids=repr)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "state.pt"
    torch.save(content, path)
    assert "the file is damaged or no checkpoint" in refusal(path)
    path.unlink()
    checkpoint.write(content, path)
    assert "cannot resume" in refusal(path)


def test_another_config_or_network_is_refused(saved):
    assert "another config" in refusal(saved, trainer(lr=0.5))
    assert "micro_batches" in refusal(saved, trainer(micro_batches=2))  # another randomness
    assert "cannot resume" in refusal(saved, trainer(width=4))


def test_a_checkpoint_of_a_longer_run_continues(saved):
    longer = trainer(steps=6)
    checkpoint.load(longer, saved)
    batches = lambda start: iter([Batch(torch.ones(1, 3))] * 6)  # noqa: E731
    assert [record.step for record in longer.run(batches)] == [1, 2, 3, 4, 5, 6]
