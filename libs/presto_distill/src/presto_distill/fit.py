"""Training to the end, with a progress bar, a log and checkpoints."""

import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from presto_distill import checkpoint
from presto_distill.trainer import Stream, Trainer

CHECKPOINT_SECONDS = 30.0


def fit(
    trainer: Trainer, stream: Stream, path: Path, *, label: str, every: float = CHECKPOINT_SECONDS
) -> list[dict[str, Any]]:
    """Train to the end with a progress bar, checkpointing to `path` every so many seconds.

    Resumes from `path` if it is there. Returns one flat record per step, those before a kill
    included; they are also kept, a line each, in a .jsonl beside the checkpoint.
    """
    checkpoint.resume_or_start(trainer, path)
    log = path.with_suffix(".jsonl")
    done = log.read_text().splitlines()[: trainer.step] if trainer.step else []
    records = [json.loads(line) for line in done]
    since = 0.0
    bar = tqdm(
        trainer.run(stream),
        label,
        total=trainer.cfg.steps,
        initial=trainer.step,
        mininterval=1 if sys.stderr.isatty() else 30,
        ascii=True,
    )
    with log.open("w") as file:
        file.writelines(line + "\n" for line in done)
        for step, losses, norms, seconds in bar:
            grads = {f"grad_norm_{player}": norm for player, norm in norms.items()}
            records.append({"step": step, "seconds": seconds, **losses, **grads})
            file.write(json.dumps(records[-1]) + "\n")
            since += seconds
            if since > every:
                file.flush()
                checkpoint.save(trainer, path)
                since = 0.0
    return records
