"""Presto-S and Presto-LS for as many updates as a GPU makes in minutes.

    python benchmarks/presto_s_long.py train --bundle runs/long --start base --device cuda
    python benchmarks/presto_s_long.py measure --bundle runs/long

`--bundle` is a copy of the bundled models; training songs are rendered into it. `--start` is one of
them: from `base` or `steps` Presto-S is trained, from `layers` or `layers_steps` Presto-LS, all
else as bundled students have it, but for batches four times as large. The generator's average
is kept after each number of updates in `--keep`. Rows of `measure` are of 128 samples of 3 s, like
those of the weights' cards.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
import tyro

from presto_distill.bundle.cards import measure as measure_samples
from presto_distill.bundle.data import held_out_songs
from presto_distill.bundle.denoisers import Workbench
from presto_distill.bundle.preset import cpu
from presto_distill.fit import fit
from presto_distill.presets import SMALL_STEPS
from presto_distill.trainer import Trainer
from presto_models import PrestoDenoiser, Sampling

SIZES = ((64, 96), (216, 32), (64, 96), (216, 32), (689, 12))
SCORES = ("frechet_distance", "recall", "coverage", "clap_score")


def train(
    *,
    bundle: Path,
    start: Literal["base", "steps", "layers", "layers_steps"] = "base",
    rate: float = 5e-6,
    critic_rate: float = 1e-4,
    guidance_scale: float = 1.5,
    ema_decay: float = 0.99,
    keep: tuple[int, ...] = (250, 500, 1000, 2000, 4000),
    minutes: float = float("inf"),
    seed: int = 0,
    device: str = "cpu",
    workers: int = 2,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    compile: bool = False,
) -> None:
    """Train, and resume after a kill.

    Args:
        bundle: Folder of models and latents; results lie in its folder `long`.
        start: Whose weights the generator begins with.
        rate: Adam's for the generator.
        critic_rate: Adam's for fake score and discriminator.
        guidance_scale: Of the teacher, where guidance is sound.
        ema_decay: Of the generator's average.
        keep: After how many updates to write it; the largest ends the run.
        minutes: After which the run ends all the same.
        seed: Of crops, noise and the discriminator's first weights.
        device: Of PyTorch.
        workers: Processes that render.
        sizes: Latent frames and clips of batches, which take turns.
        compile: Blocks, by torch.compile.
    """
    preset = replace(
        cpu(),
        workers=workers,
        training_seed=seed,
        guidance_scale=guidance_scale,
        frames_and_batch=sizes,
    )
    bench = Workbench(preset, bundle, device)
    generator, layers = bench.load(start), start.startswith("layers")
    torch.manual_seed(seed)
    objective = (bench.presto_ls if layers else bench.presto_s)(generator)
    config = replace(generator.config, few_step=True)
    steps, lr = max(keep), {"generator": rate, "critic": critic_rate}
    cfg = replace(SMALL_STEPS, steps=steps, lr=lr, ema_decay=ema_decay, seed=seed, compile=compile)
    batches = "_".join(f"{frames}x{clips}" for frames, clips in sizes)
    name = f"{start}-{rate:g}-{critic_rate:g}-{guidance_scale:g}-{batches}-{seed}"
    out, began = bundle / "long" / name, time.perf_counter()
    trainer = Trainer(objective, cfg, device)

    def watch(records: list) -> bool:
        late = time.perf_counter() - began > 60 * minutes
        if trainer.step in keep or late:
            student = PrestoDenoiser(config)
            student.load_state_dict(trainer.averages["generator"].state_dict())
            student.save_pretrained(out / f"{trainer.step}", dtype=torch.bfloat16)
            print(name, {key: f"{value:.3g}" for key, value in records[-1].items()}, flush=True)
        return late

    out.mkdir(parents=True, exist_ok=True)
    fit(trainer, bench.clips(), out / "checkpoint", label=name, watch=watch)


def measure(*, bundle: Path, seed: int = 0) -> None:
    """Metrics of all that was kept, and of the bundled students, into BUNDLE/long/table.csv.

    Args:
        bundle: Folder of models, in which `train` has left results.
        seed: Of the samples' noise.
    """
    held, rows = held_out_songs(cpu(), bundle, "cpu"), []
    kept = sorted(bundle.glob("long/*/*/config.json"), key=lambda path: int(path.parent.name))
    for folder in [bundle / "steps", bundle / "layers_steps", *(path.parent for path in kept)]:
        model = PrestoDenoiser.from_pretrained(folder).eval()
        sampling = {"4": Sampling(4), "2": Sampling(2)}
        found = measure_samples(model, held, bundle, seed=seed, sampling=sampling)
        for steps in sampling if rows else ("real", *sampling):
            scores = {score: found[steps][score] for score in SCORES}
            rows.append({"run": str(folder.relative_to(bundle)), "sampled": steps, **scores})
    table = pd.DataFrame(rows)
    table.to_csv(bundle / "long" / "table.csv", index=False)
    print(table.to_string(index=False, float_format="%.3f"))


COMMANDS: dict[str, Callable] = {"train": train, "measure": measure}

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(COMMANDS)
