"""What a run would take: parameters, memory and the time of one step, measured on one step."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from presto_distill.objective import Objective
from presto_distill.trainer import Stream, TrainConfig, Trainer

# A player's weights, gradients, Adam's two moments and its moving average, all of one size.
COPIES = 5


def networks(objective: Objective) -> str:
    """A table of the networks, and the memory they need."""
    rows = list(_networks(objective))
    lines = [f"{'network':<20}{'parameters':>14}{'memory':>12}"]
    lines += [
        f"{name:<20}{count / 1e6:>12.2f} M{_megabytes(size):>12}" for name, count, size in rows
    ]
    total = _megabytes(sum(size for *_, size in rows))
    lines.append(f"memory: {total} for weights, gradients, Adam and averages, without activations")
    return "\n".join(lines)


def one_step(objective: Objective, stream: Stream, cfg: TrainConfig, device: torch.device) -> str:
    """The time of one step, and on a GPU the memory at most in it; takes two steps."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(objective, replace(cfg, steps=2), device)
    *_, record = trainer.run(stream)  # the second step: the first one warms up
    step, whole = (_duration(seconds) for seconds in (record.seconds, record.seconds * cfg.steps))
    said = f"one step: {step} on {device}; all {cfg.steps}: {whole}, health checks not in it"
    if cuda:
        said += f"; {_megabytes(torch.cuda.max_memory_allocated(device))} at most in a step"
    return said


def _networks(objective: Objective) -> Iterator[tuple[str, int, int]]:
    """Name, number of parameters and bytes of each player and of each network that never learns."""
    for name, player in objective.players.items():
        yield name, _count(player), COPIES * _bytes(player)
    for name, network in getattr(objective, "fixed", {}).items():
        yield f"{name} (frozen)", _count(network), _bytes(network)


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.3g} s"
