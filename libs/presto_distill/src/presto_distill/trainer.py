"""The training loop: a generator over steps, each of them one round of an objective's turns."""

import copy
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_distill import ema
from presto_distill.choices import check_choices
from presto_distill.distributed import ENGINES, Single, World, cut, same_start, shard, whole
from presto_distill.objective import Batch, Objective, Turn, unfrozen
from presto_models.attention import HALF
from presto_models.compiled import compile_blocks
from presto_models.precision import Precision, autocast

Stream = Callable[[int], Iterator[Batch]]  # first batch's number -> the batches from there on


@dataclass(frozen=True)
class TrainConfig:
    """How to optimise; one step is one round of all turns (for Presto-S: one generator update).

    A turn's gradient is the mean over `micro_batches` batches of the stream, over all ranks
    together: global batch = micro_batches x the stream's batch, whatever the number of ranks.
    """

    steps: int
    lr: float | dict[str, float] = 1e-4  # Adam's, per player if a dict
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 0  # steps of linear warm-up
    decay: Literal["constant", "cosine"] = "constant"
    grad_clip: float = 1.0  # per player; math.inf for none
    ema_decay: float = 0.999
    precision: Precision = "auto"
    seed: int = 0
    micro_batches: int = 1  # per turn, over all ranks, which must divide them
    compile: bool = False  # blocks of players and fixed networks, by torch.compile

    def __post_init__(self) -> None:
        check_choices(self)
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches must be at least 1, got {self.micro_batches}")
        if self.warmup < 0:
            raise ValueError(f"warmup must be at least 0 steps, got {self.warmup}")
        if not self.grad_clip > 0:
            raise ValueError(f"grad_clip must be above 0 (inf: none), got {self.grad_clip:g}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be within 0..1 and not 1, got {self.ema_decay:g}")
        # Adam takes no integers, and a resumed run compares text.
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        if isinstance(self.lr, dict):
            object.__setattr__(self, "lr", dict(sorted(self.lr.items())))

    @property
    def free(self) -> tuple[str, ...]:
        """Fields that a resumed run may change: how fast it goes and, where the learning rate does
        not depend on it, how far."""
        return ("compile", "steps") if self.decay == "constant" else ("compile",)


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

    Everything that moves is in `state_dict()`. Randomness is derived from (seed, step, turn,
    micro-batch) and the data from its position, so training 2k steps equals k steps, save, load
    and k more, and training on several ranks equals training on one up to rounding. Dropout inside
    networks draws from PyTorch's global generator, which is seeded apart and put back.
    """

    objective: Objective
    cfg: TrainConfig
    device: torch.device | str = "cpu"
    step: int = 0
    parallel: World = World()
    averages: dict[str, nn.Module] = field(init=False)
    learning: dict[str, set[str]] = field(init=False)  # each player's weights that may
    optimizers: dict[str, torch.optim.Optimizer] = field(init=False)
    engine: Single = field(init=False)

    def __post_init__(self) -> None:
        players, fixed = self.objective.players, getattr(self.objective, "fixed", {})
        self._check({**players, **fixed})
        modules = [*players.values(), *fixed.values()]
        for module in modules:
            module.to(self.device)
        same_start(self.parallel, modules)
        self.averages = {
            name: copy.deepcopy(player).eval().requires_grad_(False)
            for name, player in players.items()
        }
        self.learning = {name: unfrozen(player) for name, player in players.items()}
        taught = hasattr(self.objective, "averages")
        if taught:
            self.objective.averages = self.averages
        if self.cfg.compile:
            for module in modules:
                compile_blocks(module, dynamic=True)
        engine = ENGINES[self.parallel.strategy]
        self.engine = engine(self.parallel, players, self.averages, taught=taught)
        self.optimizers = {
            name: torch.optim.Adam(
                player.parameters(), lr=self._lr(name), betas=self.cfg.betas, fused=True
            )
            for name, player in players.items()
        }

    def run(self, stream: Stream) -> Iterator[Record]:
        """Train from the current step to the last, one record per step."""
        if not callable(stream):
            raise ValueError(
                "stream must be a function: first batch's number -> batches from there on"
            )
        turns = self.objective.turns
        batches = self._micro_batches(stream, self.step * len(turns) * self.cfg.micro_batches)
        while self.step < self.cfg.steps:
            start = time.perf_counter()
            losses: dict[str, list[float]] = {}
            norms: dict[str, float] = {}
            for number, turn in enumerate(turns):
                terms, norms[turn.player] = self._take(turn, number, batches)
                for name, value in terms.items():
                    losses.setdefault(name, []).append(value)
            self.step += 1
            means = {name: sum(values) / len(values) for name, values in losses.items()}
            yield Record(self.step, means, norms, time.perf_counter() - start)

    def _take(
        self, turn: Turn, number: int, batches: Iterator[Batch]
    ) -> tuple[dict[str, float], float]:
        """One optimizer step of one player; the others are frozen meanwhile."""
        player, optimizer = self.objective.players[turn.player], self.optimizers[turn.player]
        optimizer.zero_grad()
        with self.engine.turn(turn.player):
            self._let_learn(turn.player)
            values = self._gradients(turn, number, batches)
            self._let_learn(*self.objective.players)  # as they came
        norm = whole_norm(player.parameters(), self.cfg.grad_clip)
        for name, value in {**values, f"gradient of the {turn.player}": norm}.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} at step {self.step + 1}")
        for group in optimizer.param_groups:
            group["lr"] = self._lr(turn.player) * self._ramp()
        optimizer.step()
        ema.update(self.averages[turn.player], player, decay=self.cfg.ema_decay, step=self.step)
        return values, norm

    def _let_learn(self, *players: str) -> None:
        for name, player in self.objective.players.items():
            for of, weight in player.named_parameters():
                weight.requires_grad_(name in players and of in self.learning[name])

    def _gradients(self, turn: Turn, number: int, batches: Iterator[Batch]) -> dict[str, float]:
        """Gather the turn's gradients from this rank's micro-batches; each term's mean over all."""
        device, world = torch.device(self.device), self.parallel
        numbers = range(world.rank, self.cfg.micro_batches, world.size)
        sums: dict[str, float] = {}
        for micro in numbers:
            batch = next(batches)
            batch = tree_map_only(Tensor, lambda leaf: leaf.to(device, non_blocking=True), batch)
            rng, own = self._randomness(number, micro)
            last = micro == numbers[-1]
            with (
                nullcontext() if last else self.engine.part(turn.player),
                torch.random.fork_rng([device] if device.type == "cuda" else []),
            ):
                torch.manual_seed(own)
                with autocast(device, self.cfg.precision):
                    terms = self.engine.terms(turn, batch, rng)
                (sum(terms.values()) / len(numbers)).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.item() / len(numbers)
        return world.mean(sums)

    def _micro_batches(self, stream: Stream, first: int) -> Iterator[Batch]:
        """This rank's part of the stream; its end is an error that names the missing batch."""
        size = self.parallel.size
        for batch in shard(stream, self.parallel.rank, size)(first):
            yield batch
            first += size
        raise ValueError(
            f"the data stream ended before batch {first + size - 1}"
            if first
            else "the data stream is empty"
        )

    def _check(self, networks: dict[str, nn.Module]) -> None:
        """Refuse, before any work, what could only fail or mislead later."""
        size, micro = self.parallel.size, self.cfg.micro_batches
        if micro % size:
            raise ValueError(f"world size {size} does not divide {micro} micro-batches")
        if isinstance(self.cfg.lr, dict):
            rates, players = ", ".join(self.cfg.lr) or "none", ", ".join(self.objective.players)
            if self.cfg.lr.keys() != self.objective.players.keys():
                raise ValueError(f"lr has rates of {rates}; the players are {players}")
        for network, module in networks.items():
            for name, weight in module.named_parameters():
                if network in self.objective.players and weight.dtype in HALF:
                    raise ValueError(
                        f"{network} has weights in {weight.dtype}, which small steps would not "
                        "move: train it in float32 (.float()), autocast by `precision`"
                    )
                if not weight.isfinite().all():
                    kind = "NaN" if weight.isnan().any() else "infinite"
                    raise ValueError(f"{network} has {kind} weights: {name}")

    def _config(self) -> dict[str, str]:
        """What a resumed run must have in common with this one, as text, by field."""
        found = {f.name: getattr(self.cfg, f.name) for f in fields(self.cfg)}
        for name in ("schedule", "depth", "taps"):
            if hasattr(self.objective, name):
                found[f"objective.{name}"] = getattr(self.objective, name)
        if (cfg := getattr(self.objective, "cfg", None)) is not None:
            found |= {f"objective.{f.name}": getattr(cfg, f.name) for f in fields(cfg)}
        # An object without a repr of its own shows where it lay in memory.
        texts = {name: re.sub(" at 0x[0-9A-Fa-f]+", "", repr(v)) for name, v in found.items()}
        return texts | {"objective": type(self.objective).__name__}

    def _lr(self, player: str) -> float:
        return self.cfg.lr[player] if isinstance(self.cfg.lr, dict) else self.cfg.lr

    def _ramp(self) -> float:
        """Fraction of the learning rate at the current step."""
        rise = min(1.0, (self.step + 1) / max(1, self.cfg.warmup))
        if self.cfg.decay == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * self.step / self.cfg.steps))

    def _randomness(self, turn: int, micro: int) -> tuple[torch.Generator, int]:
        """What losses draw from, and another seed: of what networks draw from."""
        place = (self.cfg.seed, self.step, turn, micro)
        a, b, c, d = map(int, np.random.SeedSequence(place).generate_state(4))
        return torch.Generator(self.device).manual_seed(a << 31 ^ b), c << 31 ^ d

    def state_dict(self) -> dict[str, Any]:
        """Weights, averages, optimizers and the step, with the config they belong to.

        The same for every strategy and world size. All ranks must call it; under FSDP it is
        complete on rank 0 only.
        """
        groups = {
            "players": self.objective.players,
            "averages": self.averages,
            "optimizers": self.optimizers,
        }
        states = {
            group: {name: whole(part.state_dict(), self.parallel) for name, part in parts.items()}
            for group, parts in groups.items()
        }
        return {"step": self.step, "config": self._config(), **states}

    def gathered(self) -> AbstractContextManager:
        """Around whatever calls players or averages between steps; all ranks must enter it."""
        return self.engine.gathered()

    def average_state(self, player: str) -> dict[str, Any]:
        """The state dict of a player's moving average, to publish; as `state_dict`, of rank 0."""
        return whole(self.averages[player].state_dict(), self.parallel)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; a config that differs (but for `cfg.free`) is refused."""
        ours, theirs = self._config(), state["config"]
        changed = {
            name: f"{theirs.get(name)} -> {ours.get(name)}"
            for name in sorted(ours.keys() | theirs.keys())
            if name not in self.cfg.free and theirs.get(name) != ours.get(name)
        }
        if changed:
            raise ValueError(f"the checkpoint was made with another config: {changed}")
        for name, player in self.objective.players.items():
            for module, group in ((player, "players"), (self.averages[name], "averages")):
                like = module.state_dict()
                weights = state[group][name]
                module.load_state_dict({k: cut(v, like.get(k)) for k, v in weights.items()})
            optimizer = self.optimizers[name]
            saved, moments = state["optimizers"][name], {}
            for place, like in enumerate(optimizer.param_groups[0]["params"]):
                if (of := saved["state"].get(place)) is not None:
                    moments[place] = {key: cut(value, like) for key, value in of.items()}
            optimizer.load_state_dict({**saved, "state": moments})
        self.step = state["step"]


def whole_norm(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Scale the gradients to a norm of at most `most`; the norm before, over all ranks' parts."""
    norm = nn.utils.clip_grad_norm_(parameters, most)
    return (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()
