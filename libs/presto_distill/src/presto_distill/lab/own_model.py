"""Digits learned by networks that are not ours, then distilled by all three algorithms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor, nn

from presto_distill import (
    Batch,
    Denoising,
    PrestoL,
    PrestoLS,
    PrestoLSConfig,
    PrestoS,
    PrestoSConfig,
    Trainer,
)
from presto_distill.lab import plots, studies
from presto_distill.lab.digits import CLASSES, Digits, Own, load_digits, no_label
from presto_distill.metrics.scores import evaluate
from presto_distill.objective import Objective
from presto_distill.presets import Stage
from presto_models import karras_sigmas
from presto_models.layer_schedule import LayerSchedule, ScheduledDenoiser
from presto_models.samplers import few_step_sigmas, heun, multistep, sample

TEACHER, DROPPED, FEW = "teacher", "teacher, blocks dropped", "teacher in 4 steps"
REAL = "other real digits"
SHOWN = 2 * CLASSES  # images of each model that are kept to look at
RIVALS = {"Presto-L": DROPPED, "Presto-S": FEW, "Presto-LS": FEW}  # what a student must beat


# ---------------------------------------------------------------------- training


@dataclass(frozen=True)
class Sizes:
    """How long each training is, and how many images are judged. All ours: digits are no music.

    The learning rates of `steps` are the best of four pairs in trials with `convolutions` against
    the same held-out digits (generator 2e-4, 5e-4, 1e-3, 2e-3; at the highest it got worse).
    """

    teacher: Stage = Stage(steps=200, lr=3e-3, warmup=10, decay="cosine", ema_decay=0.95, batch=64)
    layers: Stage = Stage(steps=40, lr=1e-3, warmup=5, decay="cosine", ema_decay=0.9, batch=64)
    steps: Stage = Stage(
        steps=15,
        lr={"generator": 1e-3, "critic": 2e-3},
        betas=(0.0, 0.99),
        ema_decay=0.8,
        batch=64,
    )
    samples: int = 180
    heun_steps: int = 12
    bootstrap: int = 20

    def times(self, more: float, **changes) -> Sizes:
        """Trainings `more` times as long."""

        def longer(stage: Stage) -> Stage:
            return replace(stage, steps=max(1, round(more * stage.steps)))

        teacher, layers, steps = map(longer, (self.teacher, self.layers, self.steps))
        return replace(self, teacher=teacher, layers=layers, steps=steps, **changes)


def sizes(preset: str) -> Sizes:
    """Of a preset: the larger ones train six times as long as quick."""
    if preset == "smoke":
        return Sizes().times(0.02, samples=20, heun_steps=3, bootstrap=2)
    return Sizes() if preset == "quick" else Sizes().times(6, samples=360, bootstrap=100)


def train(objective: Objective, stage: Stage, digits: Digits, *, seed: int) -> dict[str, nn.Module]:
    """Run an objective to its end; returns the players' moving averages."""
    trainer = Trainer(objective, replace(stage, seed=seed))
    for _ in trainer.run(digits.stream(stage.batch, seed)):
        pass
    return trainer.averages


def distill(own: Own, digits: Digits, size: Sizes, *, seed: int) -> dict[str, nn.Module]:
    """Teach `own` the digits, then distill it in layers, in steps and in both.

    Guidance is left out: labels alone say enough. Presto-S and Presto-LS have the published turns,
    laws and weights; their discriminator halves its 16 tokens twice instead of four times.
    """
    torch.manual_seed(seed)
    head = {"feature_layer": own.middle, "width": own.width}
    common = {"guidance_scale": 1.0, "head_layers": 2}

    teach = Denoising(own.denoiser, no_label)
    teacher = train(teach, size.teacher, digits, seed=seed)["base"]

    layers = PrestoL(teacher, no_label, own.schedule, depth=own.depth)
    shorter = train(layers, size.layers, digits, seed=seed + 1)["student"]

    steps = PrestoS(teacher, no_label, PrestoSConfig(**common), **head)
    faster = train(steps, size.steps, digits, seed=seed + 2)["generator"]

    both = PrestoLS(
        teacher,
        shorter,
        no_label,
        own.schedule,
        PrestoLSConfig(**common),
        depth=own.depth,
        **head,
    )
    both = train(both, size.steps, digits, seed=seed + 3)["generator"]
    return {"teacher": teacher, "Presto-L": shorter, "Presto-S": faster, "Presto-LS": both}


# ---------------------------------------------------------------------- looking


class Made(NamedTuple):
    """Images and how they came about."""

    network: str
    model: str
    how: str  # the sampler and its steps
    calls: int  # of the network per image
    blocks: float  # that ran per image, of all calls together
    images: Float[Tensor, "n 1 8 8"]


@torch.inference_mode()
def draw(own: Own, models: dict[str, nn.Module], size: Sizes, *, seed: int) -> list[Made]:
    """Images by every model from the same noise: Heun's for the slow ones, 4 steps for the fast.

    The teacher with its blocks dropped untaught, and the teacher in 4 steps, are what a student
    must beat.
    """
    asked = torch.arange(size.samples) % CLASSES
    noise = torch.randn(size.samples, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    slow, fast = karras_sigmas(size.heun_steps), few_step_sigmas(4)

    def made(model: str, net: nn.Module, *, drop: bool = False, few: bool = False) -> Made:
        schedule = own.schedule if drop else LayerSchedule((), (own.depth,))
        D = ScheduledDenoiser(net, schedule)
        if few:
            rng, levels = torch.Generator().manual_seed(seed + 1), fast
            images = sample(multistep(D, noise, fast, asked, rng=rng))
        else:  # Heun's second call at each level but the first is the next level's
            levels = torch.cat([slow, slow[1:]])
            images = sample(heun(D, noise, slow, asked))
        how = "4 steps" if few else f"{len(slow)} Heun steps"
        return Made(own.name, model, how, len(levels), schedule(levels).sum().item(), images)

    return [
        made(TEACHER, models["teacher"]),
        made(DROPPED, models["teacher"], drop=True),
        made("Presto-L", models["Presto-L"], drop=True),
        made(FEW, models["teacher"], few=True),
        made("Presto-S", models["Presto-S"], few=True),
        made("Presto-LS", models["Presto-LS"], drop=True, few=True),
    ]


def measure(made: list[Made], digits: Digits, size: Sizes, *, seed: int) -> DataFrame:
    """Fréchet distance of pixels to held-out digits, and the share read as the digit asked for.

    The last row is other real digits for the distance, and the held-out ones for the share. Column
    images holds the pixels of the first SHOWN.
    """
    real = Made("", REAL, "", 0, 0, digits.train.x[: size.samples])
    rows = []
    for one in (*made, real):
        scores = evaluate(
            one.images.flatten(1),
            digits.held_out.x.flatten(1),
            seed=seed,
            embedder="raw pixels",
            bootstrap=size.bootstrap,
        )
        asked = Batch(one.images, torch.arange(len(one.images)) % CLASSES)
        images, labels = digits.held_out if one is real else asked
        legible = (digits.read(images) == labels).double().mean().item()
        facts = {name: value for name, value in one._asdict().items() if name != "images"}
        facts["images"] = one.images[:SHOWN].flatten().tolist()
        rows.append({**facts, "legible": legible, **scores.as_dict()})
    return DataFrame(rows)


def study(owns: list[Own], size: Sizes, *, seed: int) -> DataFrame:
    """Teach, distill, draw and measure: the rows of `measure` for all networks."""
    data = load_digits()
    made = []
    for own in owns:
        made += draw(own, distill(own, data, size, seed=seed), size, seed=seed)
    return measure(made, data, size, seed=seed)


def compare(table: DataFrame, student: str, rival: str) -> tuple[bool | None, str, float]:
    """Whether a student's distance is below its rival's for every network, the numbers, and the
    rival's distance minus the student's, mean over networks."""
    verdicts, said, gains = [], [], []
    for network, rows in table[table["network"] != ""].groupby("network", sort=False):
        ours, theirs = studies.pick(rows, student), studies.pick(rows, rival)
        verdicts.append(studies.below(ours, theirs))
        read = f"{ours['legible']:.0%} against {theirs['legible']:.0%} legible"
        said.append(f"{network}: {studies.state(ours)} against {studies.state(theirs)}, {read}")
        gains.append(theirs["frechet_distance"] - ours["frechet_distance"])
    held = False if False in verdicts else None if None in verdicts else True
    return held, "; ".join(said), mean(gains)


def grid(table: DataFrame) -> Figure:
    """Every model's first images, one column per digit, a panel per network; numbers beside."""
    lines = SHOWN // CLASSES
    networks = [network for network in table["network"].unique() if network]
    fig, axes = plots.canvas(len(networks), width=1.4 + 4.6 * len(networks), height=5.6)
    for ax, network in zip(axes if isinstance(axes, list) else [axes], networks, strict=True):
        mine = table[table["network"] == network]
        ticks = []
        for i, row in enumerate(mine.itertuples()):
            images = torch.tensor(list(row.images)).view(lines, CLASSES, 8, 8)
            picture = F.pad(images, (1, 1, 1, 1), value=images.min()).permute(0, 2, 1, 3)
            picture = picture.flatten(2).flatten(0, 1).numpy()
            top = i * 1.12 * lines
            ax.imshow(
                picture,
                extent=(0, CLASSES, top + lines, top),
                cmap="gray_r",
                vmin=-0.5,
                vmax=1.0,
            )
            said = f"{row.frechet_distance:.2f}\n{row.legible:.0%}"
            ax.text(CLASSES + 0.15, top + lines / 2, said, va="center", fontsize=9)
            ticks.append((top + lines / 2, f"{row.model}\n{row.how}, {row.blocks} blocks"))
        ax.set(xlim=(0, CLASSES), ylim=(len(mine) * 1.12 * lines - 0.12 * lines, 0), aspect="equal")
        ax.set_yticks(*zip(*ticks, strict=True))
        ax.set_xticks([n + 0.5 for n in range(CLASSES)], range(CLASSES))
        ax.xaxis.tick_top()
        ax.tick_params(length=0, labelsize=9)
        ax.text(CLASSES + 0.15, -0.35, "distance\nlegible", fontsize=9, va="bottom")
        ax.grid(visible=False)
        ax.set_title(network, pad=22)
        for spine in ax.spines.values():
            spine.set_visible(False)
    return fig
