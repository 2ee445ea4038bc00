"""Training on two ranks is training on one: DDP and FSDP with gloo between two processes."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from presto_distill.distributed import World, shard, start

SCRIPT = Path(__file__).with_name("on_ranks.py")
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SINGLE = World()
KINDS = ("steps", "layers", "layers_ema")


@pytest.fixture(scope="module")
def here():
    """The names of the script, for use in this process."""
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def folder(here, tmp_path_factory):
    """What one process and two processes left."""
    folder = tmp_path_factory.mktemp("ranks")
    for kind in KINDS:
        here["train"](kind, SINGLE, folder, "single")
    done = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, str(SCRIPT), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def state(folder, name: str) -> dict:
    return torch.load(folder / f"{name}.pt", weights_only=True)


def records(folder, name: str, rank: int = 0) -> list:
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def leaves(tree) -> dict:
    return {str(k): v for k, v in torch.utils._pytree.tree_flatten_with_path(tree)[0]}


def assert_close(ours: dict, theirs: dict) -> None:
    """Equal structure and text, numbers within 1e-5."""
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor | float):
            torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-5, msg=name)
        else:
            assert ours[name] == value, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_equal_one_with_the_same_global_batch(folder, kind, strategy):
    """Weights, averages, Adam's moments, losses, gradient norms; clipped, in two micro-batches."""
    expected, reports = state(folder, f"{kind}-single"), records(folder, f"{kind}-single")
    assert_close(state(folder, f"{kind}-{strategy}"), expected)
    for rank in (0, 1):
        assert_close({"": records(folder, f"{kind}-{strategy}", rank)}, {"": reports})
    assert any(norm > 0.5 for _, _, norms, _ in reports for norm in norms.values())


def test_that_equality_covers_blocks_that_no_sample_of_a_turn_called_for(folder):
    """Adam has counted fewer turns for the blocks that were dropped on every rank at once."""
    counts = {
        int(entry["step"])
        for entry in state(folder, "layers-single")["optimizers"]["student"]["state"].values()
    }
    assert len(counts) == 2


@pytest.mark.parametrize("kind", ["steps", "layers"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_checkpoints_move_between_world_sizes_and_strategies(here, folder, kind, strategy):
    straight = state(folder, f"{kind}-single")
    here["train"](kind, SINGLE, folder, f"{strategy}-single", resume=strategy)
    assert_close(state(folder, f"{kind}-{strategy}-single"), straight)
    assert_close(state(folder, f"{kind}-single-{strategy}"), straight)


@pytest.mark.parametrize("kind", ["steps", "layers"])
def test_checkpoints_move_from_ddp_to_fsdp(folder, kind):
    assert_close(state(folder, f"{kind}-ddp-fsdp"), state(folder, f"{kind}-single"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_networks_can_be_called_between_steps_and_published(folder, strategy):
    """The generator, its average, and on rank 0 a network with the average's published weights."""
    expected = torch.load(folder / "between-single-0.pt")
    torch.testing.assert_close(expected[1], expected[2])
    for rank in (0, 1):
        outputs = torch.load(folder / f"between-{strategy}-{rank}.pt")
        assert len(outputs) == 3 - rank
        torch.testing.assert_close(outputs, expected[: len(outputs)], rtol=1e-5, atol=1e-4)


def test_all_ranks_fail_alike(folder):
    """Also where only the last of them has met what is wrong."""
    first, second = (json.loads((folder / f"failures-{i}.json").read_text()) for i in (0, 1))
    assert first == second
    assert first == {
        "diverged": "Diverged: dsm is nan at step 1",
        "ended": "ValueError: the data stream ended before batch 5",
        "indivisible": "ValueError: world size 2 does not divide 3 micro-batches",
    }


# --- without processes ---------------------------------------------------------------------------


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    world = start("fsdp", "cpu")
    assert (world.rank, world.size, world.strategy, world.leads) == (0, 1, "single", True)
    assert not torch.distributed.is_initialized()


def test_shards_share_out_whole_rounds():
    numbers = lambda start: iter(range(start, 11))  # noqa: E731
    parts = [list(shard(numbers, rank, 3)(3)) for rank in range(3)]
    assert parts == [[3, 6], [4, 7], [5, 8]]


def test_several_processes_need_a_strategy():
    with pytest.raises(ValueError, match="has one process, got 2"):
        World(size=2)
