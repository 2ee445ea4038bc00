"""Long signals through short-sighted functions: piece by piece, with no seam to hear or measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor


def chunked(
    fn: Callable[..., Tensor],
    *inputs: Tensor,
    chunk: int,
    overlap: int,
    ratio: int | Fraction = 1,
) -> Tensor:
    """fn(*inputs), computed over pieces of `chunk` with `overlap` more on either side, cut again.

    Time is the last dimension of inputs and output; the output is `ratio` times as long. Equal to
    fn(*inputs) if no output depends on input more than `overlap` away and the output shifts with
    the input, as that of convolutions does. Inputs no longer than `chunk` are not cut at all.
    Raises ValueError where a piece would not begin on an output sample, or for inputs that differ
    in length.
    """
    length = inputs[0].shape[-1]
    if any(x.shape[-1] != length for x in inputs):
        raise ValueError(f"inputs differ in length: {[x.shape[-1] for x in inputs]}")
    step = Fraction(ratio).denominator
    if chunk < 1 or overlap < 0 or chunk % step or overlap % step:
        raise ValueError(f"chunk {chunk} and overlap {overlap} must be multiples of {step}")
    if length <= chunk:
        return fn(*inputs)
    pieces = []
    for first in range(0, length, chunk):
        last = min(first + chunk, length)
        left, right = max(0, first - overlap), min(length, last + overlap)
        piece = fn(*(x[..., left:right] for x in inputs))
        start, count = int((first - left) * ratio), math.ceil((last - first) * ratio)
        # A copy, lest every piece keep its overlap in memory.
        pieces.append(piece[..., start : start + count].clone())
    return torch.cat(pieces, -1)
