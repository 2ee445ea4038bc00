"""Players and turns: what an objective says to the trainer."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Batch(NamedTuple):
    """Clean latents (or audio) and what they were conditioned on (an opaque pytree)."""

    x: Float[Tensor, "b ..."]
    cond: Any = None


Losses = dict[str, Tensor]  # named, already weighted scalar terms; their sum is minimised


class Turn(NamedTuple):
    """One optimizer step of one player on a batch of its own."""

    player: str
    loss: Callable[[Batch, torch.Generator], Losses]


@runtime_checkable
class Objective(Protocol):
    """Names its players and lists its turns; everything else is the trainer's business.

    The trainer lets only the turn's player receive gradients, and all of that player's weights:
    what shall not learn belongs to no player. An objective keeps no optimizer, no step count and
    no random state: the generator is an argument.
    """

    players: dict[str, nn.Module]
    turns: Sequence[Turn]
    # Optional: `cfg`, a frozen dataclass that checkpoints keep and compare; `fixed`, networks by
    # name that never learn but live on the players' device; `averages`, a dict that the trainer
    # fills with the players' moving averages for losses that are taught by them.


def frozen(module: nn.Module) -> nn.Module:
    """A copy of `module` in evaluation mode that never learns."""
    return copy.deepcopy(module).eval().requires_grad_(False)


def trainable(module: nn.Module) -> nn.Module:
    """A copy of `module` for a player to start from."""
    return copy.deepcopy(module).train().requires_grad_(True)
