"""Phase from magnitudes by a small network: how phase differs between neighbours in time and in
frequency, and phasors that agree with those differences.

Ours, not the paper's. Phase itself does not follow from magnitudes; its differences do, nearly
(they are instantaneous frequency and group delay), so they can be learned by regression. Idea:
Masuyama et al., "Phase reconstruction based on recurrent phase unwrapping with deep neural
networks", 2020.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

SWEEPS = 10  # over the resolved bins; more change little


class Differences(NamedTuple):
    """Unit phasors X[n] / X[n-1] and X[k] / X[k-1], or their expectations: shorter where unsure.

    Both without what a sound in the middle of the bin and of the window turns by (`turning` from
    frame to frame, pi from bin to bin). Those of the first frame and the first bin mean nothing.
    """

    time: Complex[Tensor, "b n k"]
    frequency: Complex[Tensor, "b n k"]


class PhaseDifferences(nn.Module):
    """Log magnitudes in bands to differences of phase, from how they change around a band and
    where it lies, not from how loud it is."""

    def __init__(self, bands: int, *, width: int = 32, depth: int = 3, patch: int = 4):
        super().__init__()
        self.bands, self.patch = bands, patch  # so many bands side by side share a position
        place = torch.linspace(-1, 1, -(-bands // patch))
        self.register_buffer("place", place, persistent=False)
        self.enter = nn.Conv2d(2 * patch + 1, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.leave = nn.Conv2d(width, 4 * patch, 1)
        self.reach = 2 + depth  # frames looked at to either side
        self.to(memory_format=torch.channels_last)  # which a CPU convolves faster

    def forward(self, log_bands: Float[Tensor, "b n k"]) -> Differences:
        since = F.pad(log_bands.diff(dim=1), (0, 0, 1, 0))
        above = F.pad(log_bands.diff(dim=2), (1, 0))
        x = F.pad(torch.stack([since, above], 1), (0, -self.bands % self.patch))
        x = x.unflatten(3, (-1, self.patch)).movedim(-1, 1).flatten(1, 2)
        hidden = self.enter(torch.cat([x, self.place.expand_as(x[:, :1])], 1))
        for block in self.blocks:
            hidden = block(hidden)
        parts = self.leave(hidden).float().unflatten(1, (2, 2, self.patch))
        parts = parts.permute(1, 0, 4, 5, 3, 2).flatten(3, 4)[..., : self.bands, :]
        return Differences(*torch.view_as_complex(parts.contiguous()))


class Block(nn.Module):
    """Look one frame and one patch around, mix, add."""

    def __init__(self, width: int):
        super().__init__()
        self.around = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b d n k"]) -> Float[Tensor, "b d n k"]:
        return x + self.mix(F.gelu(self.around(x)))


def turning(
    bins: int, window_length: int, hop: int, device: torch.device | None = None
) -> Complex[Tensor, " k"]:
    """How far the middles of the first `bins` bins turn from frame to frame."""
    turns = torch.arange(bins, device=device) * hop % window_length / window_length
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns)


def true_differences(
    spectra: Complex[Tensor, "b n k"], window_length: int, hop: int
) -> Differences:
    """The differences of given spectra: what `PhaseDifferences` is to expect."""
    phasor = unit(spectra)
    turn = turning(phasor.shape[-1], window_length, hop, phasor.device).to(phasor)
    time = F.pad(phasor[:, 1:] * (phasor[:, :-1] * turn).conj(), (0, 0, 1, 0))
    frequency = F.pad(-phasor[..., 1:] * phasor[..., :-1].conj(), (1, 0))
    return Differences(time, frequency)


def learned_phase(
    differences: Differences,
    start: Complex[Tensor, "b n f"],
    magnitude: Float[Tensor, "b n f"],
    to_bins: Float[Tensor, "k f"],
    *,
    resolved: int,
    hop: int,
) -> Complex[Tensor, "b n f"]:
    """Unit phasors that agree with `differences` in bands: the first `resolved` are bins, which
    settle from `start`; the others are interpolated to bins, whose phases climb from there."""
    window_length = 2 * (start.shape[-1] - 1)
    low, high = (..., slice(None, resolved)), (..., slice(resolved, None))
    known = Differences(*(part[low] for part in differences))
    settled = settle(known, start[low], magnitude[low], window_length, hop)
    between = slice(resolved - 1, None)  # the bands that those bins lie between
    expected = interpolated(differences.frequency[..., between], to_bins[between, resolved:])
    return torch.cat([settled, climb(expected, settled[..., -1:], start[high])], -1)


def settle(
    differences: Differences,
    start: Complex[Tensor, "b n k"],
    magnitude: Float[Tensor, "b n k"],
    window_length: int,
    hop: int,
    *,
    sweeps: int = SWEEPS,
) -> Complex[Tensor, "b n k"]:
    """Let every bin take, again and again, the phase between its own and those that its four
    neighbours expect of it; loud neighbours and sure expectations count more."""
    turn = turning(start.shape[-1], window_length, hop, start.device).to(start)
    onward, upward = differences.time[:, 1:] * turn, -differences.frequency[..., 1:]
    spectra = magnitude * start
    for _ in range(sweeps):
        expected = spectra.clone()
        expected[:, 1:] += spectra[:, :-1] * onward
        expected[:, :-1] += spectra[:, 1:] * onward.conj()
        expected[..., 1:] += spectra[..., :-1] * upward
        expected[..., :-1] += spectra[..., 1:] * upward.conj()
        spectra = magnitude * unit(expected)
    return unit(spectra)


def climb(
    expected: Complex[Tensor, "b n h"],
    below: Complex[Tensor, "b n 1"],
    noise: Complex[Tensor, "b n h"],
) -> Complex[Tensor, "b n h"]:
    """From the phasors `below`, bin by bin as `expected`; the less sure, the more at random, with
    the phases of `noise`."""
    unsure = (1 - expected.abs()).clamp_min(0).sqrt()
    steps = (-expected).angle() + unsure * noise.angle()
    phase = below.angle() + steps.cumsum(-1)
    return torch.polar(torch.ones_like(phase), phase)


def interpolated(
    z: Complex[Tensor, "b n k"], to_bins: Float[Tensor, "k f"]
) -> Complex[Tensor, "b n f"]:
    """Differences in bands as differences in bins; wide bands hold those of one bin, too."""
    parts = torch.view_as_real(z).movedim(-1, 0) @ to_bins
    return torch.view_as_complex(parts.movedim(0, -1).contiguous())


def unit(z: Complex[Tensor, "*shape"]) -> Complex[Tensor, "*shape"]:
    """The phasor of length 1; 0 stays 0."""
    return z / z.abs().clamp_min(1e-12)
