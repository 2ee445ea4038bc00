"""Waveforms from magnitudes: framing, overlap-add, and a few fast Griffin-Lim iterations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

BLOCK = 2048  # frames whose initial phase is found at once
NOISE = BLOCK  # frames of different noise; a multiple, so that no block runs over its end
PEAKS = 128  # bins above the resolved ones that are searched for peaks


def frame_spectra(
    signal: Float[Tensor, "b s"], window: Float[Tensor, " w"], hop: int
) -> Complex[Tensor, "b n f"]:
    """Spectra of the windowed frames that fit into `signal`: n = (s - w) / hop + 1."""
    return torch.fft.rfft(signal.unfold(-1, len(window), hop) * window)


def overlap_add(frames: Float[Tensor, "b n w"], hop: int) -> Float[Tensor, "b s"]:
    """Sum of frames laid `hop` samples apart; w must be a multiple of hop, s = (n - 1) hop + w."""
    batch, count, length = frames.shape
    parts = frames.unflatten(-1, (length // hop, hop))
    signal = frames.new_zeros(batch, count + length // hop - 1, hop)
    for i in range(length // hop):
        signal[:, i : i + count] += parts[:, :, i]
    return signal.flatten(1)


def initial_phase(
    magnitude: Float[Tensor, "b n f"], hop: int, *, resolved: int
) -> Complex[Tensor, "b n f"]:
    """Unit phasors to start from: steady partials in the first `resolved` bins, then fixed noise.

    Where magnitudes are too coarse to hold partials, a steady start would turn noise into clicks.
    Phase and noise go on from block to block, so long clips need little memory besides the result.
    """
    turned, phasors, bins = None, [], magnitude.shape[-1]
    noise = fixed_noise(bins, resolved, magnitude.device)
    for i, block in enumerate(magnitude[..., : resolved + PEAKS].split(BLOCK, 1)):
        steady, turned = propagated_phase(block, hop, 2 * (bins - 1), turned)
        rows = noise[i * BLOCK % NOISE :][: block.shape[1]]
        rest = rows.expand(len(block), -1, -1)
        phasors.append(torch.cat([steady[..., :resolved], rest], -1))
    return torch.cat(phasors, 1)


@functools.cache  # for good: a CUDA graph that reads it may be replayed at any time
def fixed_noise(bins: int, resolved: int, device: torch.device) -> Complex[Tensor, "n k"]:
    """Unit phasors at random, the same for every clip, of the bins from `resolved` on. They begin
    anew after NOISE frames. Drawn once: it takes a CPU longer than a GPU takes to decode a clip."""
    with torch.inference_mode(False):  # made while sampling, it serves training too
        rng = torch.Generator().manual_seed(0)
        turns = torch.rand(NOISE, bins, generator=rng, device="cpu")[:, resolved:]
        return torch.polar(torch.ones_like(turns), 2 * math.pi * turns).to(device)


class Turned(NamedTuple):
    """Where steady partials stand after a frame: their phase since the start, modulo 2 pi, and how
    far each bin's own partial turns per frame."""

    phase: Float[Tensor, "b 1 f"]  # in double precision
    advance: Float[Tensor, "b 1 f"]


def propagated_phase(
    magnitude: Float[Tensor, "b n f"], hop: int, window_length: int, before: Turned | None = None
) -> tuple[Complex[Tensor, "b n f"], Turned]:
    """Unit phasors of steady partials in the first f bins: every spectral peak turns at its own
    interpolated frequency.

    Each bin follows its nearest peak, and neighbours differ by pi, as the main lobe of a sinusoid
    in a symmetric window does. Idea: single-pass spectrogram inversion (Beauregard et al., 2015).
    Goes on from the frames `before`, and returns what the frames behind go on from.
    """
    bins = magnitude.shape[-1]
    k = torch.arange(bins, device=magnitude.device)
    log = magnitude.clamp_min(1e-9).log()
    left, right = F.pad(log[..., :-1], (1, 0)), F.pad(log[..., 1:], (0, 1))
    peak = (log > left) & (log >= right) & (k > 0) & (k < bins - 1)
    offset = 0.5 * (left - right) / (left - 2 * log + right).clamp_max(-1e-6)
    below = torch.where(peak, k, -bins).cummax(-1).values
    above = torch.where(peak, k, 3 * bins).flip(-1).cummin(-1).values.flip(-1)
    owner = torch.where(k - below <= above - k, below, above)
    owner = torch.where((owner < 0) | (owner >= bins), k, owner)  # a frame without any peak

    frequency = (k + offset.clamp(-0.5, 0.5)).gather(-1, owner)
    advance = frequency * (2 * math.pi * hop / window_length)
    if before is None:  # the first frame has turned by nothing
        before = Turned(torch.zeros_like(advance[:, :1]).double(), -advance[:, :1])
    step = 0.5 * (advance + torch.cat([before.advance, advance[:, :-1]], 1))
    sums = torch.cat([before.phase, step], 1).cumsum(1, dtype=torch.float64)[:, 1:]
    # Any fixed irregular start will do; equal phases would put a click at the beginning.
    start = 2 * math.pi * torch.frac(k * 0.6180339887498949)
    phase = (start + (sums % (2 * math.pi)).float()).gather(-1, owner) + math.pi * (k % 2)
    after = Turned(sums[:, -1:] % (2 * math.pi), advance[:, -1:])
    return torch.polar(torch.ones_like(phase), phase), after


def corrected(
    consistent: Float[Tensor, "b n f 2"],
    previous: Float[Tensor, "b n f 2"],
    magnitude: Float[Tensor, "b n f"],
    momentum: float,
) -> Float[Tensor, "b n f 2"]:
    """Spectra that go on from `previous` past `consistent`, with their magnitudes put right."""
    ahead = consistent + momentum * (consistent - previous)
    # The complex quotient by hand: torch's complex abs is several times slower on a CPU.
    scale = magnitude * ahead.square().sum(-1).clamp_min(1e-20).rsqrt()
    return ahead * scale[..., None]


def griffin_lim(
    magnitude: Float[Tensor, "b n f"],
    window: Float[Tensor, " w"],
    hop: int,
    *,
    start: Complex[Tensor, "b n f"],
    iterations: int,
    momentum: float = 0.99,
    correct: Callable[..., Tensor] = corrected,
) -> Float[Tensor, "b s"]:
    """A signal of s = (n - 1) hop + w samples whose frame spectra come close to `magnitude`.

    Fast Griffin-Lim (Perraudin et al., 2013) from the unit phasors `start`. `correct` may be a
    compiled `corrected`.
    """
    count = magnitude.shape[1]
    weight = overlap_add((window**2).expand(1, count, -1), hop).clamp_min(1e-3)

    def signal(spectrum: Tensor) -> Tensor:
        return overlap_add(torch.fft.irfft(spectrum) * window, hop) / weight

    spectrum = magnitude * start
    previous = torch.zeros_like(torch.view_as_real(spectrum))
    for _ in range(iterations):
        consistent = torch.view_as_real(frame_spectra(signal(spectrum), window, hop))
        spectrum = torch.view_as_complex(correct(consistent, previous, magnitude, momentum))
        previous = consistent
    return signal(spectrum)
