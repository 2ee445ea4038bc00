"""Does Presto-S improve on the regression it starts from, if it is given longer than presets give?

    OMP_NUM_THREADS=1 python benchmarks/warm_start.py --out runs/warm_start

Regression on the base model's trajectories is trained for several lengths. From the end of each
in `starts`, Presto-S trains on, at several rates of its generator, and is measured on the way. Rows
are Fréchet distance, recall and prompt similarity of samples for held-out prompts, with 95 %
bootstrap intervals. All else is as in preset cpu: latents of 3 s, batch 12, an unguided teacher.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
import tyro

from presto_distill.experiment import Lab, Run
from presto_distill.fit import fit
from presto_distill.methods import METHODS
from presto_distill.presets import SMALL_WARM_START, preset
from presto_distill.trainer import Trainer
from presto_models import Sampling
from presto_models.snapshot import write_atomic

MARKS = (10, 30, 100, 200, 400, 800)  # updates of Presto-S after which it is measured
SAMPLINGS = {"4 steps": Sampling(4), "2 steps": Sampling(2)}


def main(
    *,
    out: Path = Path("runs/warm_start"),
    data: Path = Path("runs/cpu/seed-0"),
    seed: int = 0,
    regression: tuple[int, ...] = (120, 480, 1920),
    starts: tuple[int, ...] = (120,),
    rates: tuple[float, ...] = (5e-6, 2e-5, 1e-4),
    updates: int = 200,
) -> None:
    """Train, print the table and write it to warm_start.csv.

    Args:
        out: Folder for measurements and checkpoints; what is in it is not done again.
        data: Folder of a run of preset cpu, whose latents are used; rendered there if missing.
        seed: Of data, training and samples.
        regression: Its updates, a run of each length.
        starts: Those of them that Presto-S goes on from.
        rates: Adam's for the generator.
        updates: Of the generator.
    """
    lab = Lab.open(preset("cpu"), seed=seed, out=data)
    rows = []
    for length in regression:
        stage = replace(SMALL_WARM_START, steps=length, compile=True)
        start = lab.distill("warm-start", train=stage)
        rows += scores(lab, start, start=length, rate="-", updates=0)
        for rate in rates if length in starts else ():
            folder = out / f"seed{seed}-start{length}-rate{rate:g}"
            for step, student in longer(lab, start, rate, updates, folder):
                rows += scores(lab, student, start=length, rate=f"{rate:g}", updates=step)
    table = pd.DataFrame(rows)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / f"warm_start-seed{seed}.csv", index=False)
    print(f"seed {seed}; {lab.embedder.name}; {lab.preset.samples} clips; {lab.source}")
    print(f"other real clips: {lab.real().frechet_distance}")
    print(table.to_string(index=False, float_format="%.3f"))


def longer(lab: Lab, start: Run, rate: float, updates: int, folder: Path) -> Iterator[tuple]:
    """Presto-S from `start`: its moving average at every mark, with the number of updates."""
    settings = METHODS["steps"].settings(lab.preset, True)
    train = replace(
        settings.train, steps=updates, lr={"generator": rate, "critic": 1e-4}, seed=lab.seed
    )
    marks = [step for step in MARKS if step <= updates]
    torch.manual_seed(lab.seed)
    plan = METHODS["steps"].plan(lab, replace(settings, train=train), start.denoiser)
    trainer = Trainer(plan.make(), train, lab.device)

    def keep(records: list[dict]) -> bool:
        if trainer.step in marks:
            student = plan.student(trainer.average_state(plan.player))
            student.save_pretrained(folder / str(trainer.step))
        return False

    if not (folder / str(marks[-1]) / "model.safetensors").exists():
        records = fit(trainer, plan.stream, folder / "checkpoint.pt", label=folder.name, watch=keep)
        text = json.dumps(records)
        write_atomic(folder / "records.json", lambda path: path.write_text(text))
    for step in marks:
        student = type(start.denoiser).from_pretrained(folder / str(step), device=lab.device)
        yield step, Run(student, [], f"{start.key}-rate-{rate:g}-updates-{step}")


def scores(lab: Lab, student: Run, **facts) -> list[dict]:
    """A row per number of sampling steps."""
    rows = []
    for name, sampling in SAMPLINGS.items():
        found = lab.evaluate(student, sampling)
        row = {**facts, "sampling": name}
        for key in ("frechet_distance", "recall", "clap_score"):
            score = getattr(found, key)
            row |= {key: score.value, f"{key}_low": score.low, f"{key}_high": score.high}
        rows.append(row)
    return rows


if __name__ == "__main__":
    tyro.cli(main)
