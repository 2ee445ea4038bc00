"""One attention function: flash-attn where it can run, PyTorch's SDPA everywhere else."""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


@functools.cache
def _flash_attn_func():
    """flash-attn 2's kernel, or None where the package is absent or broken."""
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return None
    return flash_attn_func


def attention(
    q: Float[Tensor, "b h n e"],
    k: Float[Tensor, "b h m e"],
    v: Float[Tensor, "b h m e"],
    mask: Bool[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b h n e"]:
    """Softmax attention over the keys that `mask` marks True (all without one).

    flash-attn is used for CUDA tensors in half precision without a mask, if it is installed.
    """
    half = q.dtype in (torch.float16, torch.bfloat16)
    if mask is None and q.is_cuda and half and (flash := _flash_attn_func()) is not None:
        return flash(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    mask = None if mask is None else mask[:, None, None, :]
    if q.is_cpu:  # the backward pass of a CPU's bfloat16 kernel is four times slower than float32's
        with torch.autocast("cpu", enabled=False):
            wide = (x.float() for x in (q, k, v))
            return F.scaled_dot_product_attention(*wide, attn_mask=mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def rotary_table(
    n: int, head_width: int, device: torch.device | None = None, base: float = 10_000.0
) -> Float[Tensor, "n e"]:
    """cos and sin, side by side, of the rotation angles for positions 0..n-1 (Su et al. 2021)."""
    frequency = base ** -(torch.arange(0, head_width, 2, device=device) / head_width)
    angle = torch.arange(n, device=device)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def rotate(x: Float[Tensor, "*b n e"], table: Float[Tensor, "n e"]) -> Float[Tensor, "*b n e"]:
    """Rotate each pair (x[i], x[i + e/2]) by its position's angle."""
    cos, sin = table.to(x.dtype).chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
