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

    The trainer lets only the turn's player receive gradients, and all of that player's weights but
    those that came frozen, unless all of them did. An objective keeps no optimizer, no step count
    and no random state: the generator is an argument.
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
    """A copy of `module` for a player to start from; see `unfrozen` for which weights learn."""
    copied = copy.deepcopy(module).train()
    learn = unfrozen(copied)
    for name, weight in copied.named_parameters():
        weight.requires_grad_(name in learn)
    return copied


def unfrozen(module: nn.Module) -> set[str]:
    """Names of the weights that learn: those not frozen, or all where all of them are."""
    weights = dict(module.named_parameters())
    return {name for name, weight in weights.items() if weight.requires_grad} or set(weights)
