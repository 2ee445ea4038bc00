"""Two-rank scaling: Presto-S with the same global batch on one process, and on two by DDP and FSDP.

    python benchmarks/two_ranks.py                     # two CPU processes of one thread, gloo

Each process has one thread (one GPU with --device cuda), so two ranks have twice the arithmetic.
Prints the time of a generator update against one process's, and the losses, which must agree.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import tyro

from presto_distill.distributed import Strategy, World, start
from presto_distill.objective import Batch
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.trainer import TrainConfig, Trainer
from presto_models import PrestoDenoiser
from presto_models.conditioning import null_condition
from presto_models.dit import PrestoDenoiserConfig
from presto_models.sizes import micro


def main(
    *,
    width: int = 128,
    frames: int = 64,
    batch: int = 24,
    steps: int = 4,
    device: str = "cpu",
    worker: Strategy | None = None,
) -> None:
    """Time both strategies on two processes against one.

    Args:
        width: Of the transformer of 16 blocks.
        frames: Of a clip.
        batch: Of all processes together, in two micro-batches.
        steps: Timed generator updates, after one for warming up.
        device: cpu or cuda.
        worker: Set in the processes this script starts.
    """
    if worker is not None:
        return train(worker, width, frames, batch // 2, steps, device)
    sizes = {"width": width, "frames": frames, "batch": batch, "steps": steps}
    flags = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    rows = {}
    for strategy, ranks in (("single", 1), ("ddp", 2), ("fsdp", 2)):
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--no-python"]
        command = [sys.executable, str(Path(__file__)), *flags, "--device", device]
        command += ["--worker", strategy]
        command = [sys.executable, *launch, *command] if ranks > 1 else command
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        if done.returncode:
            sys.exit(done.stderr)
        rows[strategy] = json.loads(done.stdout.strip().splitlines()[-1])
    alone = rows["single"]["seconds"]
    for strategy, row in rows.items():
        print(
            f"{strategy:<8} {row['seconds']:.2f} s per update, x {alone / row['seconds']:.2f}; "
            f"last losses {row['losses']}"
        )


def train(strategy: Strategy, width: int, frames: int, batch: int, steps: int, device: str) -> None:
    """One process's part; the leading one prints a line of JSON."""
    torch.manual_seed(0)
    world = World(device=device) if strategy == "single" else start(strategy, device)
    base = PrestoDenoiser(PrestoDenoiserConfig(replace(micro(), width=width, text_width=0)))
    cfg = PrestoSConfig(guidance_scale=1.0)
    objective = PrestoS(base, null_condition, cfg, feature_layer=7, width=width)
    config = TrainConfig(steps=steps + 1, micro_batches=2)

    def clips(first: int):
        while True:
            source = torch.Generator().manual_seed(first)
            yield Batch(torch.randn(batch, 64, frames, generator=source) * 0.5)
            first += 1

    trainer = Trainer(objective, config, world.device, parallel=world)
    records = list(trainer.run(clips))
    if world.leads:
        losses = {name: round(value, 6) for name, value in records[-1].losses.items()}
        seconds = median(record.seconds for record in records[1:])
        print(json.dumps({"seconds": seconds, "losses": losses}))


if __name__ == "__main__":
    tyro.cli(main)
