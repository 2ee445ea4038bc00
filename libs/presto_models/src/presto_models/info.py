"""What a model is made of and what a step of it costs, read from its files without running it."""

import json
import math
from importlib.metadata import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.utils.flop_counter import FlopCounterMode

from presto_models.conditioning import Condition
from presto_models.dit import DiT, DiTConfig, PrestoDenoiser, PrestoDenoiserConfig
from presto_models.edm import SIGMA_MAX
from presto_models.sampling import GUIDANCE_SCALES
from presto_models.snapshot import BUNDLED, SnapshotError, find_snapshot, from_dict, read_header

FRAMES, TOKENS = 216, 16  # 10 s of the bundled codec's latents; the words of a longer prompt


def describe(name_or_path: str | Path) -> str:
    """A model folder or a single snapshot in words: parts, parameters, budgets, cost, origin.

    Raises SnapshotError where there is none, or one that needs another version of this library.
    """
    folder = find_snapshot(name_or_path)
    parts = sorted(
        path.parent for path in (*folder.glob("config.json"), *folder.glob("*/config.json"))
    )
    if not parts:
        raise SnapshotError(f"{folder} holds no snapshot: no config.json in it or one level below")
    package = metadata("presto-models")
    lines = [f"{folder.resolve().name}, read by presto-models {package['Version']}"]
    for part in parts:
        lines += ["", *_part(part, package["License-Expression"])]
    return "\n".join(lines)


def step_flops(dit: DiTConfig, budget: int, *, frames: int = FRAMES, tokens: int = TOKENS) -> int:
    """Multiplications and additions of one clip's pass through `budget` blocks.

    Counted on tensors without memory, the prompt's keys and values included.
    """
    with torch.device("meta"):
        text = torch.zeros(1, tokens, dit.text_width)
        cond = Condition(text, torch.ones(1, tokens, dtype=torch.bool), torch.zeros(1))
        inputs = torch.zeros(1, dit.channels, frames), torch.zeros(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            DiT(dit)(*inputs, cond, budget=budget)
    return counter.get_total_flops()


def _part(folder: Path, licence: str) -> list[str]:
    """One snapshot; statistics that are stored beside its parameters count among them."""
    header = read_header(folder)
    try:
        with safe_open(folder / "model.safetensors", "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"cannot read the snapshot in {folder}: {error}") from error
    size = sum(map(math.prod, shapes))
    card = _card(folder / "card.json")
    bundled = folder.resolve().is_relative_to(BUNDLED.resolve())
    licence = card.get("licence", licence if bundled else "not stated")
    lines = [f"{folder.name}: {header['class']}, {size:,} parameters, licence {licence}"]
    if header["class"] == PrestoDenoiser.__name__:
        try:
            lines += _cost(from_dict(PrestoDenoiserConfig, header["config"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"{folder}: unusable config: {error}") from error
    if card:
        lines += _origin(card)
    return lines


def _card(path: Path) -> dict:
    """A training card; empty where there is none."""
    try:
        card = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise SnapshotError(f"{path} is no card: {error}") from error
    if not isinstance(card, dict):
        raise SnapshotError(f"{path} is no card: not an object")
    return card


def _cost(config: PrestoDenoiserConfig) -> list[str]:
    """Blocks and operations of a step, for each noise level that has its own budget."""
    dit, schedule = config.dit, config.schedule
    kind = "few-step generator" if config.few_step else "diffusion model"
    lines = [f"  {kind}, {dit.depth} blocks of width {dit.width}, {dit.heads} heads"]
    if not config.few_step:
        low, high = config.guidance_interval or (0.0, SIGMA_MAX)
        scale = config.guidance_scale
        scale = GUIDANCE_SCALES["cfg++"] if scale is None else scale
        lines.append(
            f"  guided by CFG++ {scale:g} for sigma {low:g} to {high:g} unless told otherwise"
        )
    edges = (0.0, *schedule.edges, math.inf) if schedule else (0.0, math.inf)
    for i, budget in enumerate(schedule.budgets if schedule else (dit.depth,)):
        flops = step_flops(dit, budget)
        lines.append(
            f"  sigma {edges[i]:.3g} to {edges[i + 1]:.3g}: {budget} blocks, "
            f"{flops / 1e9:.2f} GFLOP a step for {FRAMES} frames"
        )
    return lines


def _origin(card: dict) -> list[str]:
    """The training card without its curves and measurements; cards may leave anything out."""
    steps, minutes = _length(card)
    facts = {
        "steps": steps,
        "minutes": minutes,
        "hardware": card.get("hardware"),
        "data": card.get("data"),
        "command": card.get("command"),
    }
    if isinstance(facts["data"], dict):
        facts["data"] = ", ".join(f"{name} {value}" for name, value in facts["data"].items())
    lines = [f"  {name}: {fact}" for name, fact in facts.items() if fact is not None]
    while isinstance(card := card.get("starts_from"), dict):
        steps, minutes = _length(card)
        took = ("steps", steps), ("minutes", minutes), ("losses", _losses(card) or None)
        said = ", ".join(f"{name} {fact}" for name, fact in took if fact is not None)
        lines.append(f"  starts from: {said}")
    return lines


def _losses(card: dict) -> str:
    """What a training minimised, as far as its curve names it."""
    first = next(iter(card.get("loss_curve") or ()), {})
    names = [name for name in first if name not in ("step", "seconds")]
    return ", ".join(name for name in names if not name.startswith("grad_norm"))


def _length(card: dict) -> tuple[int | None, int | None]:
    """Steps and minutes of a training."""
    minutes = card.get("wall_clock_minutes") or card.get("wall_clock_seconds", math.nan) / 60
    steps = card.get("steps") or card.get("train", {}).get("steps")
    return steps, None if math.isnan(minutes) else round(minutes)
