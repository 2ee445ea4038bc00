"""Exponential moving average of a player's weights."""

import torch
from torch import nn


@torch.no_grad()
def update(average: nn.Module, module: nn.Module, *, decay: float, step: int) -> None:
    """average <- d average + (1 - d) module, in place; buffers are copied.

    d = min(decay, (1 + step) / (10 + step)) rises with the step, so that the start is forgotten.
    """
    d = min(decay, (1 + step) / (10 + step))
    now = dict(module.named_parameters())
    moving = dict(average.named_parameters())
    torch._foreach_lerp_(list(moving.values()), [now[name] for name in moving], 1 - d)
    for mean, buffer in zip(average.buffers(), module.buffers(), strict=True):
        mean.copy_(buffer)
