"""Can Presto-L and ASE be told apart? Held-out denoising loss against training length, over seeds.

    python benchmarks/layers.py --out runs/layers              # about half an hour on two cores
    python benchmarks/layers.py --updates 4 --seeds 0          # to try the command

Every variant starts from the bundled base model (16 blocks), obeys Presto-L's schedule, so that
the block count is equal at every noise level, and meets the same clips and noise. The variants
change one thing at a time on the way from ASE to Presto-L, whose default teaches in a quarter of
the steps. The loss is measured on held-out clips at one noise level per bin of the schedule, with
the same noise for all; the scale is the root mean square of the hidden state entering the output
head, over the base model's at full depth. Averages of the weights (decay 0.95), rate 3e-4 after a
warm-up of 10 updates.
"""

import time
from dataclasses import replace
from pathlib import Path

import matplotlib
import pandas as pd
import tyro

from presto_distill.experiment import Lab, Run
from presto_distill.lab import plots
from presto_distill.lab.layer_choices import (
    ASE,
    EMBEDDED,
    KEPT,
    OURS,
    Variant,
    student_of,
)
from presto_distill.lab.layer_choices import (
    VARIANTS as CHANGES,
)
from presto_distill.lab.probes import layer_probe
from presto_distill.objectives.presto_l import PrestoL, PrestoLConfig
from presto_distill.presets import SMALL_LAYERS, preset
from presto_distill.trainer import Trainer
from presto_models import presto_schedule
from presto_models.conditioning import null_condition

matplotlib.use("agg")


VARIANTS = {
    ASE: CHANGES[ASE],
    EMBEDDED: CHANGES[EMBEDDED],
    KEPT: CHANGES[KEPT],
    "+ self-teacher in every step": replace(CHANGES[OURS], taught=1.0),
    "… in a quarter = Presto-L": CHANGES[OURS],
}
LENGTHS = (6, 12, 25, 50, 100, 200, 400, 800)


def main(
    *,
    out: Path = Path("runs/layers"),
    data: Path = Path("runs/quick"),
    seeds: tuple[int, ...] = (0, 1, 2),
    updates: int = 400,
    batch: int = 12,
) -> None:
    """Train all variants with all seeds, print the table, write layers.parquet and layers.png.

    Args:
        out: Folder for the results; finished runs in it are not redone.
        data: Folder of a quick run, whose latents are used; rendered there if missing.
        seeds: Of the training clips' order and noise.
        updates: Of each variant.
        batch: Clips per update.
    """
    out.mkdir(parents=True, exist_ok=True)
    lab = Lab.open(preset("quick"), out=data)
    tables = []
    for seed in seeds:
        for number, (name, variant) in enumerate(VARIANTS.items()):
            path = out / f"variant{number}-seed{seed}-{updates}x{batch}.parquet"
            if not path.exists():
                train(lab, name, variant, seed=seed, updates=updates, batch=batch).to_parquet(path)
            tables.append(pd.read_parquet(path))
    table = pd.concat(tables, ignore_index=True)
    table.to_parquet(out / "layers.parquet")

    # Bins at full depth drop nothing; the rest is where the variants differ.
    dropped = table[table["blocks"] < lab.teacher.depth]
    runs = dropped.groupby(["model", "updates", "seed"], sort=False)[["loss", "scale"]].mean()
    runs = runs.reset_index()
    print(f"mean and standard deviation over seeds {seeds}; {layer_facts(lab)}")
    summary = runs.groupby(["model", "updates"], sort=False)[["loss", "scale"]].agg(["mean", "std"])
    print(summary.round(4).to_string())
    wide = runs.pivot(index=["updates", "seed"], columns="model", values="loss")
    ase, _, kept, everyone, ours = VARIANTS
    for one, other in ((ours, ase), (ours, kept), (ours, everyone)):
        print(f"\npaired by seed: loss of {one!r} minus that of {other!r}")
        difference = (wide[one] - wide[other]).groupby("updates").agg(["mean", "std"])
        print(difference.round(4).to_string())
    draw(runs).savefig(out / "layers.png", dpi=160)


def train(
    lab: Lab, name: str, variant: Variant, *, seed: int, updates: int, batch: int
) -> pd.DataFrame:
    """Train one variant and probe its moving average on the way."""
    schedule, depth = presto_schedule(lab.teacher.depth), lab.teacher.depth
    objective = PrestoL(
        student_of(lab.teacher, variant),
        null_condition,
        schedule,
        PrestoLConfig(nu=variant.nu, taught=variant.taught),
        depth=depth,
    )
    stage = replace(SMALL_LAYERS, steps=updates, decay="constant", seed=seed, batch=batch)
    trainer = Trainer(objective, stage, lab.device)
    stream = lab.conditioned(lab.train, batch=batch, seed=seed)
    tables, start = [], time.perf_counter()

    def probe(step: int) -> None:
        student = trainer.averages["student"]
        rows = layer_probe(lab, {name: Run(student, [], name)}, seed=seed)
        tables.append(rows[rows["model"] == name].assign(updates=step, seed=seed))

    probe(0)
    for record in trainer.run(stream):
        if record.step in LENGTHS or record.step == updates:
            probe(record.step)
    print(f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return pd.concat(tables, ignore_index=True)


def layer_facts(lab: Lab) -> str:
    """What the numbers are measured on."""
    budgets = presto_schedule(lab.teacher.depth).budgets
    return f"{lab.teacher.depth} blocks, budgets {budgets}, 64 held-out clips, {lab.source}"


def draw(runs: pd.DataFrame):
    """Loss and scale against updates, a line per variant with its spread over seeds."""
    import seaborn as sns

    fig, axes = plots.canvas(2, width=10.0)
    lengths = sorted(runs["updates"].unique())
    placed = runs.assign(place=runs["updates"].map(lengths.index))  # evenly, as they double
    for axis, value in zip(axes, ("loss", "scale"), strict=True):
        sns.lineplot(
            placed, x="place", y=value, hue="model", errorbar="sd", marker="o", ms=5, ax=axis,
            legend=axis is axes[1],
        )  # fmt: skip
        axis.set_xticks(range(len(lengths)), [str(length) for length in lengths])
        axis.set_xlabel("updates")
    axes[0].set_ylabel("denoising loss")
    axes[0].set_title("Held-out clips, noise levels that drop blocks")
    axes[1].set_ylabel("hidden state's scale / base with all blocks")
    axes[1].set_title("What enters the output head")
    axes[1].axhline(1.0, color=plots.INK, linewidth=1)
    axes[1].legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


if __name__ == "__main__":
    tyro.cli(main)
