"""Parameters of a notebook: literals in its tagged cell, typed and checked in the second one.

papermill only warns about a mistyped name; here it is an error that lists the valid ones.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from presto_distill.presets import check_gpu
from presto_distill.presets import preset as find_preset
from presto_models.snapshot import is_bundled

if TYPE_CHECKING:
    from presto_distill.experiment import Lab


@dataclass(frozen=True)
class Params:
    """What every notebook takes. The defaults are those of `presto reproduce`."""

    preset: str = "quick"
    seed: int = 0
    out: str = "runs/quick"  # results and the cache of runs, shared by all notebooks
    audio: str = ""  # a folder of one's own recordings; empty for the rendered corpus
    model: str = "presto-small"  # a bundled model or a model folder
    stored: str = ""  # a folder of earlier results to draw from, such as results/cpu/seed-0

    @classmethod
    def parse(cls, **values: Any) -> Self:
        """Check names and types; raises ValueError naming the parameter and what is allowed.

        In a notebook that papermill runs, the names it was given too (`-p sead 1`).
        """
        for name in _injected():
            if name not in values:
                raise ValueError(f"unknown parameter {name!r}: choose from {', '.join(values)}")
        allowed = {field.name: field.default for field in fields(cls)}
        for name, value in values.items():
            if name not in allowed:
                raise ValueError(f"unknown parameter {name!r}: choose from {', '.join(allowed)}")
            values[name] = _like(allowed[name], value, name)
        find_preset(values.get("preset", cls.preset))
        if (Path.cwd() / "00_tour.ipynb").is_file():
            # JupyterLab starts kernels beside the notebooks, papermill where it is called: relative
            # paths mean the same in both.
            root = Path.cwd().parent
            for name in ("out", "audio", "model", "stored", "ratings"):
                named = values.get(name)
                if named and not (name == "model" and is_bundled(named)):
                    values[name] = str(root / named)
            if others := values.get("others"):
                values["others"] = tuple((name, str(root / folder)) for name, folder in others)
        return cls(**values)


@dataclass(frozen=True)
class Tour(Params):
    """One clip of the corpus, what the codec makes of it, and one of the base model."""

    clip: int = 0  # number of the held-out clip


@dataclass(frozen=True)
class Autoencoder(Params):
    """How held-out clips make the round trip."""

    clips: int = 24
    iterations: tuple[int, ...] = (0, 4, 16, 64)  # of Griffin-Lim
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5)  # of noise in the latent


@dataclass(frozen=True)
class Samplers(Params):
    """Solvers of the base model, and the spacings rho that base and generator are sampled with."""

    solvers: tuple[str, ...] = ("euler", "heun", "dpmpp_2m", "dpmpp_2s")
    evaluations: tuple[int, ...] = (3, 5, 9)  # of the base model per clip, a guided one once
    rhos: tuple[float, ...] = (7.0, 1000.0)  # the first with all evaluations, the others at most
    steps: tuple[int, ...] = (1, 2, 4, 8)  # of the few-step generator
    prompt: str = "slow jazz with piano and upright bass"  # of the clips to look at
    seconds: float = 5.0  # of these


@dataclass(frozen=True)
class BaseModel(Params):
    """Noise levels to denoise at, the two signs of P_mean, and guidance scales to compare."""

    sigmas: tuple[float, ...] = (0.02, 80.0)  # lowest and highest
    levels: int = 12  # between them, evenly in log sigma
    clips: int = 64  # held-out, denoised at every level
    P_means: tuple[float, ...] = (-0.4, 0.4)
    solver_steps: int = 9  # of DPM-Solver++ 2M, which judges samples
    cfg_pp_scales: tuple[float, ...] = (0.2, 0.5, 0.8, 1.0)
    cfg_scales: tuple[float, ...] = (1.0, 2.0, 4.5)  # 1 is no guidance


@dataclass(frozen=True)
class TeacherGuidance(Params):
    """Guidance scales of the teacher, how it is sampled itself, and steps of its students."""

    scales: tuple[float, ...] = (1.0, 2.0, 4.5)  # 1 is no guidance; the others go against the first
    solver_steps: int = 16  # of DPM-Solver++ 2M, which also solves the warm start's trajectories
    steps: tuple[int, ...] = (4, 2)  # of the few-step generators; verdicts are of the first


@dataclass(frozen=True)
class CombinedAcceleration(Params):
    """How base, L, S and LS are sampled and timed."""

    steps: tuple[int, ...] = (1, 2, 4)  # of the few-step generators
    seconds: float = 10.0  # of the clips that are timed and kept as examples
    repeats: int = 3  # timings per point, of which the median counts
    prompts: tuple[str, ...] = (
        "slow jazz with piano and upright bass",
        "fast techno with synth bass and drums",
    )


@dataclass(frozen=True)
class FakeScoreUpdates(Params):
    """Critic updates per generator update to compare."""

    critic_updates: tuple[int, ...] = (1, 3, 5, 7)


@dataclass(frozen=True)
class NuWeights(Params):
    """Pairs (nu_1, nu_2) to compare, and discriminators (loss, "map" or "pooled") at the published
    pair, beside the published one."""

    nu_pairs: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.01, 0.005), (0.1, 0.05))
    heads: tuple[tuple[str, str], ...] = (("softplus", "pooled"),)

    def __post_init__(self) -> None:
        for loss, head in self.heads:
            if head not in ("map", "pooled"):
                raise ValueError(f"heads: {loss} must go with map or pooled, got {head!r}")


@dataclass(frozen=True)
class NoiseLaws(Params):
    """Which of `noise_laws.MUSIC` to train beside the toy; empty: what the preset pays for."""

    laws: str = ""  # names, separated by commas


@dataclass(frozen=True)
class LayerDistillation(Params):
    """Self-teacher weights to compare, and the steps of the (equal) sampler that judges them."""

    nus: tuple[float, ...] = (0.0, 0.1, 1.0)
    heun_steps: int = 8


@dataclass(frozen=True)
class LayerChoices(Params):
    """The (equal) sampler that judges, and the shares of all blocks to judge with."""

    heun_steps: int = 8
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class CombinedChoices(Params):
    """How the generators are sampled."""

    few_steps: int = 4


@dataclass(frozen=True)
class Baselines(Params):
    """How rivals are sampled, and folders of clips that other systems made."""

    steps: tuple[int, ...] = (1, 2, 4)  # of few-step systems
    heun_steps: int = 8  # of Presto-L and ASE
    others: tuple[tuple[str, str], ...] = ()  # pairs (name, folder)


@dataclass(frozen=True)
class Speed(Params):
    """What is timed, and how many clips the best is taken from."""

    few_steps: int = 4  # of Presto-S and Presto-LS
    seconds: float = 5.0  # of the clips whose stages are timed
    repeats: int = 3  # timings per system, of which the median counts
    batches: tuple[int, ...] = (1, 4, 16)  # clips at once, of the preset's length
    best_of: tuple[int, ...] = (1, 2, 4, 8, 16)
    prompt: str = "slow jazz with piano and upright bass"


@dataclass(frozen=True)
class ListeningTest(Params):
    """The clips to rate, and where raters' files lie."""

    clips: int = 4  # held-out captions, each played by every system
    few_steps: int = 4  # of Presto-S and Presto-LS
    ratings: str = ""  # a folder of the files that raters saved; empty: nobody has rated yet


@dataclass(frozen=True)
class DataAndAugmentation(Params):
    """Which clip to change and by how much: no model takes part, so `model` does not matter."""

    clip: int = 0  # number in the corpus
    semitones: float = 2.0
    rate: float = 0.9


@dataclass(frozen=True)
class YourOwnModel(Params):
    """Which networks to distill: they learn digits, so `audio` and `model` do not matter."""

    networks: tuple[str, ...] = ("convolutions", "transformer")


def open_lab(params: Params) -> Lab:
    """The laboratory of these parameters; runs and latents are kept in `params.out`."""
    from presto_distill.experiment import Lab

    size = find_preset(params.preset)
    if not params.stored:
        check_gpu(size)
    return Lab.open(
        size,
        seed=params.seed,
        out=Path(params.out),
        audio=Path(params.audio) if params.audio else None,
        model=params.model,
    )


def _injected() -> list[str]:
    """The names that papermill's own cell assigns in the running notebook.

    papermill warns about names that the tagged cell lacks, and injects them all the same.
    """
    try:
        from IPython import get_ipython

        cells = get_ipython().user_ns["In"]
    except (ImportError, AttributeError, KeyError):
        return []
    ours = [cell for cell in cells if cell.startswith("# Parameters\n")]
    body = [line for cell in ours for line in ast.parse(cell).body]
    return [t.id for line in body if isinstance(line, ast.Assign) for t in line.targets]


def _like(default: Any, value: Any, name: str, *, inner: bool = False) -> Any:
    """`value` with the type of `default`: lists become tuples, whole numbers floats. A list may
    have any length but 0, a pair within it has two. An empty tuple stands for pairs of words, of
    which there may be none."""
    if default == ():
        return () if value in ([], ()) else _like((("name", "folder"),), value, name)
    if isinstance(default, tuple) and isinstance(value, list | tuple) and value:
        likes = default if inner else default[:1] * len(value)
        if len(likes) == len(value):
            pairs = zip(likes, value, strict=True)
            return tuple(_like(like, item, name, inner=True) for like, item in pairs)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default) or isinstance(default, tuple):
        raise ValueError(f"{name} must be like {default!r}, got {value!r}")
    return value
