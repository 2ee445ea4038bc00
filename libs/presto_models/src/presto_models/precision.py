"""Which precision a device is fast in."""

from typing import Literal, get_args

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """A context that multiplies matrices in bfloat16, or one that changes nothing.

    "auto" takes bfloat16 on CUDA and on CPUs with instructions for it, float32 elsewhere.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"no precision {precision!r}: choose {', '.join(get_args(Precision))}")
    wanted = in_force(device, precision) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def in_force(device: torch.device, precision: Precision) -> Precision:
    """The precision itself; of "auto" what it means on a device."""
    if precision != "auto":
        return precision
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and probe is not None and probe()
