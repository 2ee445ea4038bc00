"""The training loop: a generator over steps, each of them one round of an objective's turns."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_distill import ema
from presto_distill.objective import Batch, Objective
from presto_models.precision import Precision, autocast

Stream = Callable[[int], Iterator[Batch]]  # first batch's number -> the batches from there on


@dataclass(frozen=True)
class TrainConfig:
    """How to optimise; one step is one round of all turns (for Presto-S: one generator update)."""

    steps: int
    lr: float | dict[str, float] = 1e-4  # Adam's, per player if a dict
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 0  # steps of linear warm-up
    decay: Literal["constant", "cosine"] = "constant"
    grad_clip: float = 1.0  # per player; math.inf for none
    ema_decay: float = 0.999
    precision: Precision = "auto"
    seed: int = 0


class Record(NamedTuple):
    """What one step reports: each term's mean over the turns that computed it."""

    step: int  # steps done so far
    losses: dict[str, float]
    grad_norms: dict[str, float]  # per player, before clipping
    seconds: float  # wall-clock of this step


class Diverged(ValueError):
    """A loss or gradient that is not finite; names the term and the step."""


@dataclass
class Trainer:
    """Runs an objective. Iterate `run`; saving, plotting and stopping belong to whoever iterates.

    Everything that moves is in `state_dict()`. Randomness is derived from (seed, step, turn) and
    the data from its position, so training 2k steps equals k steps, save, load and k more.
    """

    objective: Objective
    cfg: TrainConfig
    device: torch.device | str = "cpu"
    step: int = 0
    averages: dict[str, nn.Module] = field(init=False)
    optimizers: dict[str, torch.optim.Optimizer] = field(init=False)

    def __post_init__(self) -> None:
        players = self.objective.players
        for module in (*players.values(), *getattr(self.objective, "fixed", {}).values()):
            module.to(self.device)
        self.averages = {
            name: copy.deepcopy(player).eval().requires_grad_(False)
            for name, player in players.items()
        }
        if hasattr(self.objective, "averages"):
            self.objective.averages = self.averages
        self.optimizers = {
            name: torch.optim.Adam(player.parameters(), lr=self._lr(name), betas=self.cfg.betas)
            for name, player in players.items()
        }

    def run(self, stream: Stream) -> Iterator[Record]:
        """Train from the current step to the last, one record per step."""
        turns = self.objective.turns
        batches = stream(self.step * len(turns))
        while self.step < self.cfg.steps:
            start = time.perf_counter()
            losses: dict[str, list[float]] = {}
            norms: dict[str, float] = {}
            for number, turn in enumerate(turns):
                terms, norms[turn.player] = self._take(turn, number, next(batches))
                for name, value in terms.items():
                    losses.setdefault(name, []).append(value)
            self.step += 1
            means = {name: sum(values) / len(values) for name, values in losses.items()}
            yield Record(self.step, means, norms, time.perf_counter() - start)

    def _take(self, turn, number: int, batch: Batch) -> tuple[dict[str, float], float]:
        """One optimizer step of one player; the others are frozen meanwhile."""
        for name, player in self.objective.players.items():
            player.requires_grad_(name == turn.player)
        player, optimizer = self.objective.players[turn.player], self.optimizers[turn.player]
        device = torch.device(self.device)
        batch = tree_map_only(Tensor, lambda leaf: leaf.to(device, non_blocking=True), batch)
        with autocast(device, self.cfg.precision):
            terms = turn.loss(batch, self._rng(number))

        optimizer.zero_grad()
        sum(terms.values()).backward()
        norm = nn.utils.clip_grad_norm_(player.parameters(), self.cfg.grad_clip).item()
        values = {name: term.item() for name, term in terms.items()}
        for name, value in {**values, f"gradient of the {turn.player}": norm}.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} at step {self.step + 1}")
        for group in optimizer.param_groups:
            group["lr"] = self._lr(turn.player) * self._ramp()
        optimizer.step()
        ema.update(self.averages[turn.player], player, decay=self.cfg.ema_decay, step=self.step)
        return values, norm

    def _config(self) -> dict[str, str]:
        """What a resumed run must have in common with this one, as text, by field."""
        found = {}
        for config in (self.cfg, getattr(self.objective, "cfg", None)):
            if config is not None:
                found |= {f.name: repr(getattr(config, f.name)) for f in fields(config)}
        return found

    def _lr(self, player: str) -> float:
        return self.cfg.lr[player] if isinstance(self.cfg.lr, dict) else self.cfg.lr

    def _ramp(self) -> float:
        """Fraction of the learning rate at the current step."""
        rise = min(1.0, (self.step + 1) / max(1, self.cfg.warmup))
        if self.cfg.decay == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * self.step / self.cfg.steps))

    def _rng(self, turn: int) -> torch.Generator:
        words = np.random.SeedSequence((self.cfg.seed, self.step, turn)).generate_state(2)
        seed = int(words[0]) << 31 ^ int(words[1])
        return torch.Generator(self.device).manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Weights, averages, optimizers and the step, with the config they belong to."""
        return {
            "step": self.step,
            "config": self._config(),
            "players": {k: v.state_dict() for k, v in self.objective.players.items()},
            "averages": {k: v.state_dict() for k, v in self.averages.items()},
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; a config that differs (other than in `steps`) is refused."""
        ours = self._config()
        changed = {
            name: f"{state['config'].get(name)} -> {value}"
            for name, value in ours.items()
            if name != "steps" and state["config"].get(name) != value
        }
        if changed:
            raise ValueError(f"the checkpoint was made with another config: {changed}")
        for name, player in self.objective.players.items():
            player.load_state_dict(state["players"][name])
            self.averages[name].load_state_dict(state["averages"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])
        self.step = state["step"]
