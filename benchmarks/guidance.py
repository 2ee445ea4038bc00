"""At equal likeness to the prompt, is Presto-L as near to real music as the base it was made of?

    python benchmarks/model_card.py --out runs/card --only base Presto-L "base, unguided" …
    python benchmarks/guidance.py runs/card --out docs/figures

The first command measures both by some scales of guidance, without `--only` by all of SCALES; the
second draws Fréchet distance against prompt similarity, a line per model.
More folders, of models with other training seeds, add their Presto-L; `--longer` takes
that of the model that base_longer.py makes, of which only the rows of `base` are drawn.
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
LONGER = "base trained as long as Presto-L"
OWN = {"base": "0.8", "Presto-L": "0.6"}  # systems of `model_card.py` without a scale in their name


def main(
    cards: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    longer: Path | None = None,
    out: Path,
) -> None:
    """Draw OUT/guidance.png and print what is drawn.

    Args:
        cards: Folders of `model_card.py`, the bundled model's first.
        longer: Its folder for the base that was trained as long as Presto-L.
        out: Folder for the figure.
    """
    tables = [by_scale(cards[0], "base")]  # all share it
    if longer:
        tables.append(by_scale(longer, "base").assign(model=LONGER))
    tables += [by_scale(card, "Presto-L").assign(seed=seed) for seed, card in enumerate(cards)]
    table = pd.concat(tables).fillna({"seed": 0}).astype({"seed": int})
    print(table.to_string(index=False, float_format="%.3f"))
    out.mkdir(parents=True, exist_ok=True)
    draw(table).savefig(out / "guidance.png", dpi=120)


def by_scale(card: Path, model: str) -> pd.DataFrame:
    """A row per scale that was measured: distance, prompt similarity and recall."""
    if not (scores := card / "scores.json").exists():
        raise SystemExit(f"{card} holds no scores.json: run model_card.py --out {card} first")
    systems, rows = json.loads(scores.read_text(encoding="utf-8"))["systems"], []
    for scale, how in SCALES.items():
        name = model if scale == OWN[model] else f"{model}, {how}"
        if system := systems.get(name):
            values = {name: system["learned"][name]["value"] for name in SCORES}
            rows.append({"model": model, "scale": scale, **values})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """Distance against similarity; points of the first card bear their scales."""
    fig, ax = plots.canvas()
    for (model, seed), rows in table.groupby(["model", "seed"], sort=False):
        colour = plots.colour_of("base" if model == LONGER else model)
        name = f"{model}, training seed {seed}" if seed else model
        look = {"color": colour, "alpha": 0.45 if seed else 1}
        line = "o--" if model == LONGER else "o-"
        ax.plot("clap_score", "frechet_distance", line, data=rows, label=name, **look)
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
