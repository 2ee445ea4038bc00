"""The bundled base trained on for as long as Presto-L was, but with all of its blocks.

    python benchmarks/base_longer.py --out runs/longer
    python benchmarks/model_card.py --model runs/longer --out runs/card-longer --only base …

What Presto-L gains on the base can come of dropping blocks or of its 12,000 more updates; this
base had those too, at the same rate, on the same crops. `--out` becomes a copy of the bundled
models with that base; training songs are rendered into it.
"""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import torch
import tyro

from presto_distill.bundle import BundlePreset
from presto_distill.bundle.denoisers import Workbench
from presto_distill.fit import fit
from presto_distill.objectives.denoising import Denoising
from presto_distill.trainer import Trainer
from presto_models import PrestoDenoiser
from presto_models.conditioning import null_condition
from presto_models.snapshot import find_snapshot


def main(*, out: Path, seed: int = 0, device: str = "cpu") -> None:
    """Train, and resume after a kill.

    Args:
        out: Folder for a copy of the bundled models.
        seed: Of crops and noise.
        device: Of PyTorch.
    """
    bundled, preset = find_snapshot("presto-small"), BundlePreset(training_seed=seed)
    if not (out / "base").exists():
        copytree(bundled, out, dirs_exist_ok=True)
    bench = Workbench(preset, out, device)
    base = PrestoDenoiser.from_pretrained(bundled / "base", device=device)
    torch.manual_seed(seed)
    train = replace(preset.layers, seed=seed)
    trainer = Trainer(Denoising(base, null_condition), train, device)
    fit(trainer, bench.clips(), out / "base.checkpoint", label="base")
    trainer.averages["base"].save_pretrained(out / "base", dtype=torch.bfloat16)


if __name__ == "__main__":
    tyro.cli(main)
