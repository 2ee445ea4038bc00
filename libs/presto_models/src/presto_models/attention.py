"""One attention function: flash-attn where it can run, else PyTorch's SDPA or plain products."""

import functools
import importlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from presto_models.precision import multiplies_bfloat16

HALF = (torch.float16, torch.bfloat16)
CPU_MULTIPLIES_BFLOAT16 = multiplies_bfloat16(torch.device("cpu"))  # no tracer sees into the probe
FEW_SCORES = 2**24  # 32 MiB in bfloat16


def attention(
    q: Float[Tensor, "b h n e"],
    k: Float[Tensor, "b h m e"],
    v: Float[Tensor, "b h m e"],
    mask: Bool[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b h n e"]:
    """Softmax attention over the keys that `mask` marks True (all without one).

    flash-attn is used for CUDA tensors in half precision without a mask, if it is installed;
    not within torch.compile, which cannot look into it and has SDPA's own flash kernels.
    """
    eager_half = q.is_cuda and q.dtype in HALF and not torch.compiler.is_compiling()
    flash = flash_attention(q.device) if eager_half and mask is None else None
    if flash is not None:
        out = flash(*(x.transpose(1, 2) for x in (q, k, v)))
        out = out[0] if isinstance(out, tuple) else out  # version 4 adds log-sum-exps
        return out.transpose(1, 2)
    mask = None if mask is None else mask[:, None, None, :]
    if q.is_cpu:
        return attention_on_cpu(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_on_cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """SDPA, or in bfloat16 plain products: SDPA's CPU kernel is no faster there than in float32.

    Products are faster where the processor multiplies bfloat16, above all backward
    (docs/results.md). They keep all scores, and so are for few of them, and round them.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    n = math.prod(q.shape[:-1]) * k.shape[-2]
    few = isinstance(n, int) and n <= FEW_SCORES  # a size that an exporter leaves open is no int
    if few and dtype == torch.bfloat16 and CPU_MULTIPLIES_BFLOAT16:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ v
    v = v.contiguous()  # its rows are read again and again, faster where they lie side by side
    if dtype in HALF and q.requires_grad:
        # Next to float32 a CPU's half-precision kernel is three times slower backward.
        with torch.autocast("cpu", enabled=False):
            wide = (x.float() for x in (q, k, v))
            return F.scaled_dot_product_attention(*wide, attn_mask=mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@functools.cache
def flash_attention(device: torch.device) -> Callable | None:
    """flash-attn's kernel for a CUDA device, on (b, n, h, e); None where none is installed.

    Version 4 (CuTe kernels, from Hopper on) goes before version 2.
    """
    hopper = torch.cuda.get_device_capability(device) >= (9, 0)
    for package in ("flash_attn.cute", "flash_attn") if hopper else ("flash_attn",):
        try:
            return importlib.import_module(package).flash_attn_func
        except (ImportError, AttributeError):  # absent, broken, or without that function
            continue
    return None


def rotary_table(
    n: int,
    head_width: int,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n e"]:
    """cos and sin, side by side, of the rotation angles for positions 0..n-1 (Su et al. 2021).

    Kept for the lengths last used, unless tensors are stand-ins for others (tracing, counting).
    Compiled code and CUDA graphs make their own: neither may hold what is dropped here, nor lie
    in what is kept here.
    """
    passing = (
        torch.compiler.is_compiling()
        or type(torch.empty(0)) is not Tensor
        or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
    )
    make = _rotary_table.__wrapped__ if passing else _rotary_table
    return make(n, head_width, device, dtype)


@functools.lru_cache(maxsize=32)
def _rotary_table(
    n: int, head_width: int, device: torch.device | None, dtype: torch.dtype
) -> Tensor:
    with torch.inference_mode(False):  # a table made while sampling serves training too
        frequency = 10_000.0 ** -(torch.arange(0, head_width, 2, device=device) / head_width)
        angle = torch.arange(n, device=device)[:, None] * frequency
        return torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype)


def rotate(x: Float[Tensor, "*b n e"], table: Float[Tensor, "n e"]) -> Float[Tensor, "*b n e"]:
    """Rotate each pair (x[i], x[i + e/2]) by its position's angle."""
    cos, sin = table.to(x.dtype).chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    turned = (
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(first * sin, second, cos),
    )
    return torch.cat(turned, dim=-1)
