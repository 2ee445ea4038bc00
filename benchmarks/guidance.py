"""At equal likeness to the prompt, is Presto-L as near to real music as the base it was made of?

    python benchmarks/model_card.py --out runs/card --only base Presto-L "base, unguided" …
    python benchmarks/guidance.py runs/card --out docs/figures

The first command measures both by some scales of guidance, without `--only` by all of SCALES; the
second draws Fréchet distance against prompt similarity, a line per model.
More folders, of models with other training seeds, add their Presto-L.
"""

import json
from pathlib import Path
from typing import Annotated

import matplotlib
import pandas as pd
import tyro
from matplotlib.figure import Figure

from presto_distill.lab import plots

matplotlib.use("agg")
SCORES = ("frechet_distance", "clap_score", "recall")
SCALES = {
    "unguided": "unguided",
    **{f"{scale:g}": f"CFG++ {scale:g}" for scale in (0.4, 0.6, 0.8)},
}
OWN = {"base": "0.8", "Presto-L": "0.6"}  # systems of `model_card.py` without a scale in their name


def main(cards: Annotated[tuple[Path, ...], tyro.conf.Positional], *, out: Path) -> None:
    """Draw OUT/guidance.png and print what is drawn.

    Args:
        cards: Folders of `model_card.py`, the bundled model's first.
        out: Folder for the figure.
    """
    tables = []
    for seed, card in enumerate(cards):
        if not (scores := card / "scores.json").exists():
            raise SystemExit(f"{card} holds no scores.json: run model_card.py --out {card} first")
        systems = json.loads(scores.read_text(encoding="utf-8"))["systems"]
        for model in ("Presto-L",) if seed else ("base", "Presto-L"):  # all share the base
            tables.append(by_scale(systems, model).assign(model=model, seed=seed))
    table = pd.concat(tables)
    print(table.to_string(index=False, float_format="%.3f"))
    out.mkdir(parents=True, exist_ok=True)
    draw(table).savefig(out / "guidance.png", dpi=120)


def by_scale(systems: dict[str, dict], model: str) -> pd.DataFrame:
    """A row per scale that was measured: distance, prompt similarity and recall."""
    rows = []
    for scale, how in SCALES.items():
        name = model if scale == OWN[model] else f"{model}, {how}"
        if system := systems.get(name):
            values = {name: system["learned"][name]["value"] for name in SCORES}
            rows.append({"scale": scale, **values})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """Distance against similarity; points of the first card bear their scales."""
    fig, ax = plots.canvas()
    for (model, seed), rows in table.groupby(["model", "seed"], sort=False):
        colour = plots.colour_of(model)
        name = f"{model}, training seed {seed}" if seed else model
        look = {"color": colour, "alpha": 0.45 if seed else 1}
        ax.plot("clap_score", "frechet_distance", "o-", data=rows, label=name, **look)
        for row in rows.itertuples() if not seed else ():
            place = (row.clap_score, row.frechet_distance)
            beside = (-6, 7) if model == "base" else (4, -12)
            ax.annotate(row.scale, place, beside, textcoords="offset points", color=colour)
    ax.margins(y=0.12)
    ax.set(
        xlabel="prompt similarity (higher is better)", ylabel="Fréchet distance (lower is better)"
    )
    ax.legend(frameon=False)
    return fig


if __name__ == "__main__":
    tyro.cli(main)
