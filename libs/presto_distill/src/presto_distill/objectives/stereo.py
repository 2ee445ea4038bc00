"""Mono-to-stereo training, adversarial as MusicHiFi's (Zhu et al., 2024); terms and weights ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from presto_distill.losses import lsgan_discriminator, lsgan_generator
from presto_distill.objective import Batch, Losses, Turn
from presto_models.phase import frame_spectra
from presto_models.stereo import MonoToStereo

FLOOR = 1e-4  # added to magnitudes before their logarithm: 80 dB below a full-scale sine


@dataclass(frozen=True)
class WideningConfig:
    """Weights of the terms, resolutions and the discriminator's size: our defaults."""

    side: float = 1.0
    channels: float = 1.0
    gan: float = 0.1
    features: float = 1.0
    windows: tuple[int, ...] = (512, 1024, 2048)  # samples; frames overlap by three quarters
    critic_width: int = 16


class Widening:
    """Trains mono to stereo against a discriminator of spectrograms; `batch.x` is audio [b, 2, s].

    The generator hears the mid alone. Spectral terms compare the side, whose magnitudes say how
    wide each sound is, and left and right, in whichever order fits a clip better: from the mid
    alone nobody can tell which of two sides a musician sat on.
    """

    def __init__(self, generator: MonoToStereo, cfg: WideningConfig = WideningConfig()):
        self.generator, self.cfg = generator, cfg
        self.critic = StereoDiscriminator(cfg.windows, cfg.critic_width)
        self.players = {"generator": self.generator, "critic": self.critic}
        self.turns = [Turn("critic", self.critic_loss), Turn("generator", self.generator_loss)]

    def critic_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        mid, side = mid_side(batch.x)
        with torch.no_grad():
            made = self.generator.side(mid[:, None])[:, 0]
        fake, real = self.critic(mid, made), self.critic(mid, side)
        losses = [lsgan_discriminator(f.score, r.score) for f, r in zip(fake, real, strict=True)]
        return {"critic": torch.stack(losses).mean()}

    def generator_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        cfg = self.cfg
        mid, side = mid_side(batch.x)
        made = self.generator.side(mid[:, None])[:, 0]

        # Compare spectra.
        def apart(x: Tensor, y: Tensor) -> Tensor:
            return spectral_distance(x, y, cfg.windows)

        left, right = mid + side, mid - side
        straight = apart(mid + made, left) + apart(mid - made, right)
        crossed = apart(mid + made, right) + apart(mid - made, left)

        # Ask the critic, and compare what it sees on the way.
        fake, real = self.critic(mid, made), self.critic(mid, side)
        gan = [lsgan_generator(verdict.score) for verdict in fake]
        features = [
            (f - r.detach()).abs().mean() / r.detach().abs().mean()
            for one, other in zip(fake, real, strict=True)
            for f, r in zip(one.features, other.features, strict=True)
        ]
        return {
            "side": cfg.side * apart(made, side).mean(),
            "channels": cfg.channels * straight.minimum(crossed).mean() / 2,
            "gan": cfg.gan * torch.stack(gan).mean(),
            "features": cfg.features * torch.stack(features).mean(),
        }


class Verdict(NamedTuple):
    """A discriminator's map of scores (1: real), and the hidden states that led to it."""

    score: Float[Tensor, "b _n _f"]
    features: list[Float[Tensor, "b _d _n _f"]]


class StereoDiscriminator(nn.Module):
    """Judges mid and side together at several resolutions, a map of scores for each."""

    def __init__(self, windows: tuple[int, ...], width: int):
        super().__init__()
        self.windows = windows
        self.critics = nn.ModuleList(nn.ModuleList(_layers(width)) for _ in windows)

    def forward(self, mid: Float[Tensor, "b s"], side: Float[Tensor, "b s"]) -> list[Verdict]:
        verdicts = []
        for window, layers in zip(self.windows, self.critics, strict=True):
            hidden, features = view(mid, side, window), []
            for layer in layers[:-1]:
                hidden = F.leaky_relu(layer(hidden), 0.1)
                features.append(hidden.float())
            verdicts.append(Verdict(layers[-1](hidden)[:, 0].float(), features))
        return verdicts


def _layers(width: int) -> list[nn.Conv2d]:
    """Convolutions over time and frequency that halve frequency three times and time twice."""
    wide = {"kernel_size": (3, 9), "padding": (1, 4)}
    return [
        nn.Conv2d(3, width, **wide, stride=(1, 2)),
        nn.Conv2d(width, width, **wide, stride=2),
        nn.Conv2d(width, width, **wide, stride=2),
        nn.Conv2d(width, 1, 3, padding=1),
    ]


def view(
    mid: Float[Tensor, "b s"], side: Float[Tensor, "b s"], window: int
) -> Float[Tensor, "b 3 n f"]:
    """What the discriminator looks at: levels of mid and side, and where each bin is panned.

    The third is the cosine of the phase between mid and side: 1 on the left, -1 on the right, 0
    for what is wide without being anywhere.
    """
    m, s = spectra(mid, window), spectra(side, window)
    a, b = magnitude(m), magnitude(s)
    panned = (m.real * s.real + m.imag * s.imag) / (a * b)
    return torch.stack([(a + FLOOR).log() / 3 + 2, (b + FLOOR).log() / 3 + 2, panned], 1)


def spectral_distance(
    x: Float[Tensor, "b s"], y: Float[Tensor, "b s"], windows: tuple[int, ...]
) -> Float[Tensor, " b"]:
    """Mean |log X - log Y| over the bins of every resolution, magnitudes floored at -80 dB."""
    distances = []
    for window in windows:
        a, b = (magnitude(spectra(z, window)) + FLOOR for z in (x, y))
        distances.append((a.log() - b.log()).abs().flatten(1).mean(1))
    return torch.stack(distances).mean(0)


def spectra(x: Float[Tensor, "b s"], window: int) -> Complex[Tensor, "b n f"]:
    """Spectra of Hann frames a quarter apart, where a full-scale sine peaks at 1."""
    hann = torch.hann_window(window, device=x.device)
    return frame_spectra(x, hann, window // 4) * (2 / hann.sum())


def magnitude(spectra: Complex[Tensor, "b n f"]) -> Float[Tensor, "b n f"]:
    """|X|, with a gradient at zero."""
    return (torch.view_as_real(spectra).square().sum(-1) + 1e-12).sqrt()


def mid_side(x: Float[Tensor, "b 2 s"]) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
    """Half the sum and half the difference of left and right."""
    return (x[:, 0] + x[:, 1]) / 2, (x[:, 0] - x[:, 1]) / 2
