"""Does Presto-S improve on the regression it starts from, if it is given longer than presets give?

    OMP_NUM_THREADS=1 python benchmarks/warm_start.py          # about half an hour
    python benchmarks/warm_start.py --regression 4 --starts 4 --updates 2    # to try the command
    python benchmarks/warm_start.py --regression 0 --starts 0 --rates 1e-4 --critic-rate 3e-4

Regression on the base model's trajectories is trained for several lengths; 0 is the base itself,
which Presto-S starts from as published. From the end of each in `starts`, Presto-S trains on for
several lengths, at several rates of its generator. Rows are Fréchet distance, recall and prompt
similarity of samples for held-out prompts, with 95 % bootstrap intervals. All else is as in preset
cpu: latents of 3 s, batch 12, an unguided teacher.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro

from presto_distill.experiment import Lab, Run
from presto_distill.presets import SMALL_STEPS, SMALL_WARM_START, preset
from presto_models import Sampling

SCORES = ("frechet_distance", "recall", "clap_score")


def main(
    *,
    out: Path = Path("runs/cpu"),
    seed: int = 0,
    regression: tuple[int, ...] = (120, 960),
    starts: tuple[int, ...] = (120,),
    rates: tuple[float, ...] = (5e-6, 5e-5),
    critic_rate: float = 1e-4,
    decay: Literal["constant", "cosine"] = "constant",
    ema_decay: float = SMALL_STEPS.ema_decay,
    updates: tuple[int, ...] = (30, 100, 200),
) -> None:
    """Train, print the table and write it to OUT/warm_start-SEED.csv.

    Args:
        out: Of a run of preset cpu, whose data and cache are used; nothing in it is done again.
        seed: Of data, training and samples.
        regression: Its updates, a run of each length; 0 is the base.
        starts: Those of them that Presto-S goes on from.
        rates: Adam's for the generator.
        critic_rate: Adam's for fake score and discriminator.
        decay: Of these rates.
        ema_decay: Of the generator's average, which is sampled.
        updates: Of the generator, a run of each length.
    """
    lab = Lab.open(preset("cpu"), seed=seed, out=out / f"seed-{seed}")
    rows = []
    for length in regression:
        stage = replace(SMALL_WARM_START, steps=length, compile=True)
        start = lab.distill("warm-start", train=stage) if length else None
        rows += scores(lab, start, start=length, rate="-", updates=0) if start else []
        for rate in rates if length in starts else ():
            lr = {"generator": rate, "critic": critic_rate}
            for steps in updates:
                more = {"steps": steps, "lr": lr, "decay": decay, "ema_decay": ema_decay}
                longer = lab.distill("steps", start=start, train=replace(SMALL_STEPS, **more))
                rows += scores(lab, longer, start=length, rate=f"{rate:g}", updates=steps)
    table = pd.DataFrame(rows)
    table.to_csv(out / f"warm_start-{seed}.csv", index=False)
    print(f"seed {seed}; {lab.embedder.name}; {lab.preset.samples} clips; {lab.source}")
    print(f"other real clips: {lab.real().frechet_distance}")
    print(table.to_string(index=False, float_format="%.3f"))


def scores(lab: Lab, student: Run, **facts) -> list[dict]:
    """A row each for samples of 4 and of 2 steps."""
    rows = []
    for steps in (4, 2):
        found = lab.evaluate(student, Sampling(steps)).as_dict()
        ends = {name + end: found[name + end] for name in SCORES for end in ("", "_low", "_high")}
        rows.append({**facts, "sampled": steps, **ends})
    return rows


if __name__ == "__main__":
    tyro.cli(main)
