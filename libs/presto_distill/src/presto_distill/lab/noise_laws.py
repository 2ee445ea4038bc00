"""Which noise law for which player of Presto-S: all combinations on a toy, some on music."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import torch
from pandas import DataFrame
from scipy.stats import t as student_t
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from presto_distill import Batch, PrestoS, PrestoSConfig, TrainConfig
from presto_distill.discriminator import DiscriminatorHeads
from presto_distill.experiment import Lab
from presto_distill.lab import studies, toy
from presto_distill.lab.params import NoiseLaws
from presto_distill.trainer import Stream
from presto_models import Sampling
from presto_models.edm import Discrete, KarrasUniform, LogNormal, Precondition, SigmaLaw
from presto_models.samplers import few_step_sigmas

STEPS = (1, 2, 4, 8)  # of the sampler
PLAYERS = ("gen", "dmd", "dsm", "gan")  # whose noise a law draws
LAWS: dict[str, SigmaLaw] = {"train": LogNormal(), "inf": KarrasUniform()}
PUBLISHED = "inf train train train"
# On music, by the fields that differ from the published choice.
MUSIC: dict[str, dict[str, Any]] = {
    "published": {},
    "discrete 2": {"p_gen": Discrete(tuple(few_step_sigmas(2).tolist()))},
    "all σ_train": {"p_gen": LogNormal()},
    "all σ_inf": {f"p_{player}": KarrasUniform() for player in PLAYERS},
}


@dataclass(frozen=True)
class Sizes:
    """What is spent on the toy, and which of MUSIC is trained. All ours."""

    teacher_steps: int = 300
    updates: int = 30  # of every toy generator
    replicas: int = 2  # of each, which differ in their noise and their head
    batch: int = 48  # points of a replica's turn
    samples: int = 400  # of a replica, per number of steps
    lr: float = 1e-3
    music: tuple[str, ...] = ("published", "discrete 2")


def sizes(preset: str) -> Sizes:
    """Of a preset."""
    if preset == "smoke":
        return Sizes(teacher_steps=10, updates=2, batch=8, samples=40)
    if preset == "quick":
        return Sizes()
    return Sizes(teacher_steps=1000, updates=160, batch=64, samples=1000, music=tuple(MUSIC))


def levels(steps: int) -> Discrete:
    """The noise levels that a sampler of so many steps visits, and no others."""
    return Discrete(tuple(few_step_sigmas(steps).tolist()))


def combinations() -> dict[str, tuple[SigmaLaw, ...]]:
    """Laws of the four players by name: both laws for each, then p_gen discrete."""
    named = {" ".join(names): tuple(LAWS[n] for n in names) for names in product(LAWS, repeat=4)}
    rest = tuple(LAWS[name] for name in PUBLISHED.split()[1:])
    return named | {f"discrete {steps}": (levels(steps), *rest) for steps in STEPS}


# ---------------------------------------------------------------------- many toys trained as one


@dataclass(frozen=True)
class EachItsOwn:
    """A law for every equal stretch of the batch."""

    laws: tuple[SigmaLaw, ...]

    def quantile(self, u: Tensor) -> Tensor:
        parts = u.unflatten(0, (len(self.laws), -1))
        return torch.cat([law.quantile(part) for law, part in zip(self.laws, parts, strict=True)])


class Members(nn.Module):
    """Networks alike, each with its own weights and its own stretch of the batch.

    They learn independently: that a mean over the whole batch divides everyone's gradient by their
    number is nothing to Adam. Many small trainings then cost a few large operations.
    """

    def __init__(self, modules: list[nn.Module]):
        super().__init__()
        self.shape = [modules[0]]  # in a list: its weights are not used
        self.names = [name for name, _ in modules[0].named_parameters()]
        weights = zip(*(module.parameters() for module in modules), strict=True)
        self.weights = nn.ParameterList(torch.stack(alike).detach() for alike in weights)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        def one(weights, parts):
            named = dict(zip(self.names, weights, strict=True))
            return functional_call(self.shape[0], named, parts, options)

        count = len(self.weights[0])
        parts = tree_map(lambda x: x.unflatten(0, (count, -1)), tuple(inputs))
        return tree_map(lambda x: x.flatten(0, 1), vmap(one)(list(self.weights), parts))


class Nets(Members):
    """Toy networks whose hidden states a discriminator may read."""

    def forward(self, x: Tensor, c_noise: Tensor, cond: None, **options: Any) -> Any:
        return super().forward(x, c_noise, **options)

    def features(self, x: Tensor, c_noise: Tensor, cond: None, *, tap: tuple[int, ...]) -> Any:
        return self(x, c_noise, cond, tap=tap)[1]


def same_for_all(members: int, seed: int, batch: int) -> Stream:
    """The toy's batches, the same points for every member."""

    def stream(start: int):
        for one in toy.batches(seed, batch)(start):
            yield Batch(one.x.repeat(members, 1, 1))

    return stream


def distill(
    teacher: nn.Module, laws: list[tuple[SigmaLaw, ...]], size: Sizes, *, seed: int
) -> nn.Module:
    """A generator (moving average) for each of `laws`, side by side in one network."""
    torch.manual_seed(seed)
    n = len(laws)
    both = [Precondition(Nets([teacher.inner] * n)) for _ in range(2)]
    heads = Members([DiscriminatorHeads(toy.WIDTH, 1, layers=0) for _ in laws])
    by_player = zip(PLAYERS, zip(*laws, strict=True), strict=True)
    cfg = PrestoSConfig(
        **{f"p_{player}": EachItsOwn(mine) for player, mine in by_player}, guidance_scale=1.0
    )
    objective = PrestoS(
        teacher, toy.nothing, cfg, feature_layer=1, width=toy.WIDTH,
        generator=both[0], fake_score=both[1], head=heads,
    )  # fmt: skip
    # Without clipping, which would make members depend on one another.
    train = TrainConfig(size.updates, lr=size.lr, decay="cosine", grad_clip=math.inf, seed=seed)
    trainer = toy.run(objective, train, same_for_all(n, seed, size.batch))
    return trainer.averages["generator"].requires_grad_(False)


def toy_quality(size: Sizes, *, seed: int) -> DataFrame:
    """MMD to the toy's own distribution (root of the unbiased square, at least 0) of the replicas
    of every combination, and of their untrained start, per number of sampler steps.

    Columns laws, replica, steps, mmd.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more wait for each other: these networks are too small to share
    try:
        return _toy_quality(size, seed)
    finally:
        torch.set_num_threads(threads)


def _toy_quality(size: Sizes, seed: int) -> DataFrame:
    teacher = toy.train_teacher(size.teacher_steps)
    laws = combinations()
    drawn = [name for name in laws for _ in range(size.replicas)]
    trained = distill(teacher, [laws[name] for name in drawn], size, seed=seed)
    rows = []
    with torch.inference_mode():
        for steps, (names, G) in product(STEPS, ((drawn, trained), (["start"], teacher))):
            rng = toy.source(seed, steps)
            noise = torch.randn(len(names) * size.samples, 2, 1, generator=rng)
            made = toy.renoise(G, noise, steps, rng).squeeze(-1).split(size.samples)
            for i, points in enumerate(made):
                mmd = math.sqrt(max(0.0, toy.mmd_to_mixture(points)))
                rows.append((names[i], i % size.replicas, steps, mmd))
    return DataFrame(rows, columns=["laws", "replica", "steps", "mmd"])


# ---------------------------------------------------------------------- contrasts


class Contrast(NamedTuple):
    """A difference of means with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def positive(self) -> bool | None:
        """None where the interval holds 0."""
        return True if self.low > 0 else False if self.high < 0 else None

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def contrast(
    table: DataFrame, minus: set[str], plus: set[str], steps: int | None = None
) -> Contrast:
    """Mean MMD of the combinations `plus` less that of `minus`, at some or over all steps.

    The interval (Student's) is of the replicas, whose spread is pooled over all combinations.
    """
    rows = table[table["laws"] != "start"]
    rows = rows if steps is None else rows[rows["steps"] == steps]
    runs = rows.groupby(["laws", "replica"])["mmd"].mean().unstack()
    free = runs.shape[0] * (runs.shape[1] - 1)
    if not free:
        raise ValueError("one replica has no spread: at least 2 are needed")
    variance = runs.var(axis=1).mean() / runs.shape[1]
    value = runs.loc[sorted(plus)].mean().mean() - runs.loc[sorted(minus)].mean().mean()
    half = student_t.ppf(0.975, free) * math.sqrt(variance * (1 / len(plus) + 1 / len(minus)))
    return Contrast(value, value - half, value + half)


def against(table: DataFrame, rival: str) -> tuple[Contrast, str]:
    """By how much a rival's MMD is above that of the published laws, and the numbers in words."""
    laws = {PUBLISHED}, {rival}
    over_all = contrast(table, *laws)
    each = ", ".join(f"{steps}: {contrast(table, *laws, steps)}" for steps in STEPS)
    return over_all, f"toy, mean over steps {over_all}; by steps {each}"


def with_law(**fixed: str) -> set[str]:
    """The combinations in which the named players have the named laws: all 16 without any."""
    every = (dict(zip(PLAYERS, names, strict=True)) for names in product(LAWS, repeat=4))
    return {" ".join(laws.values()) for laws in every if fixed.items() <= laws.items()}


# ---------------------------------------------------------------------- music


def chosen(params: NoiseLaws) -> tuple[str, ...]:
    """The names in `params.laws`, or those the preset pays for; always what the verdicts need."""
    named = tuple(name.strip() for name in params.laws.split(",") if name.strip())
    for name in named:
        if name not in MUSIC:
            raise ValueError(f"laws: unknown {name!r}, choose from {', '.join(MUSIC)}")
    return (
        tuple(dict.fromkeys(("published", "discrete 2", *named)))
        if named
        else sizes(params.preset).music
    )


def music_quality(lab: Lab, names: tuple[str, ...]) -> DataFrame:
    """Metrics of those of MUSIC at every number of steps, trained as ablations are, and of the base
    model: rows of `studies.quality`."""

    def train(name: str):
        return lambda: lab.distill("steps", train=lab.preset.ablation_steps, **MUSIC[name])

    table, _ = studies.ablate(
        lab, {name: train(name) for name in names}, *(Sampling(steps=steps) for steps in STEPS)
    )
    base = studies.Entry(studies.BASE, None, Sampling(steps=lab.preset.base_steps))
    return pd.concat([studies.quality(lab, [base]), table], ignore_index=True)


def on_music(music: DataFrame, name: str, steps: int = 4) -> str:
    """What music says of a rival of the published laws, for the evidence; empty if not trained."""
    if name not in set(music["model"]):
        return ""
    ours, rival = (studies.state(studies.pick(music, one, steps)) for one in ("published", name))
    return f"; music, {steps} steps, Fréchet distance {ours}, {name} {rival}"
