"""Mono-to-stereo training, adversarial as MusicHiFi's (Zhu et al., 2024); terms, weights ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from presto_distill.objective import Batch, Losses, Turn
from presto_distill.spectrogram_critic import (
    SpectrogramCritic,
    Verdict,
    critic_loss,
    generator_losses,
)
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
    windows: tuple[int, ...] = (512, 1024, 2048)  # samples; frames overlap by half
    critic_width: int = 16


class Widening:
    """Trains mono to stereo against a discriminator of spectrograms; `batch.x` is audio [b, 2, s].

    The generator hears the mid alone. Spectral terms compare the side, whose magnitudes say how
    wide each sound is, and left and right, in whichever order fits a clip better: from the mid
    alone nobody can tell which of two sides a musician sat on.
    """

    def __init__(self, generator: MonoToStereo, cfg: WideningConfig = WideningConfig()):
        self.generator, self.cfg = generator, cfg
        self.critic = SpectrogramCritic(len(cfg.windows), 3, cfg.critic_width)
        self.players = {"generator": self.generator, "critic": self.critic}
        self.turns = [Turn("critic", self.critic_loss), Turn("generator", self.generator_loss)]

    def critic_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        mid, side = mid_side(batch.x)
        with torch.no_grad():
            made = self.generator.side(mid[:, None])[:, 0]
        M, S, made_S = (spectra(x, self.cfg.windows) for x in (mid, side, made))
        return {"critic": critic_loss(self.judge(M, made_S), self.judge(M, S))}

    def generator_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        cfg = self.cfg
        mid, side = mid_side(batch.x)
        made = self.generator.side(mid[:, None])[:, 0]
        M, S, made_S = (spectra(x, cfg.windows) for x in (mid, side, made))

        # Compare spectra: of the side, and of left and right.
        apart = [
            (spectral_distance(fake, s), channel_distance(m, fake, s))
            for m, s, fake in zip(M, S, made_S, strict=True)
        ]
        side_term, channels_term = (torch.stack(term).mean() for term in zip(*apart, strict=True))

        # Ask the critic, and compare what it sees on the way.
        gan, features = generator_losses(self.judge(M, made_S), self.judge(M, S))
        return {
            "side": cfg.side * side_term,
            "channels": cfg.channels * channels_term,
            "gan": cfg.gan * gan,
            "features": cfg.features * features,
        }

    def judge(self, mid: list[Tensor], side: list[Tensor]) -> list[Verdict]:
        """The critic's verdicts on spectra of mid and side together."""
        return self.critic([view(m, s) for m, s in zip(mid, side, strict=True)])


def view(mid: Complex[Tensor, "b n f"], side: Complex[Tensor, "b n f"]) -> Float[Tensor, "b 3 n f"]:
    """What the discriminator looks at: levels of mid and side, and where each bin is panned.

    The third is the cosine of the phase between mid and side: 1 on the left, -1 on the right, 0
    for what is wide without being anywhere.
    """
    a, b = magnitude(mid), magnitude(side)
    panned = (mid.real * side.real + mid.imag * side.imag) / (a * b)
    return torch.stack([(a + FLOOR).log() / 3 + 2, (b + FLOOR).log() / 3 + 2, panned], 1)


def spectral_distance(
    x: Complex[Tensor, "b n f"], y: Complex[Tensor, "b n f"]
) -> Float[Tensor, " b"]:
    """Mean |log |X| - log |Y|| over frames and bins, magnitudes floored at -80 dB."""
    a, b = (magnitude(z) + FLOOR for z in (x, y))
    return (a.log() - b.log()).abs().flatten(1).mean(1)


def channel_distance(
    mid: Complex[Tensor, "b n f"], made: Complex[Tensor, "b n f"], side: Complex[Tensor, "b n f"]
) -> Float[Tensor, " b"]:
    """Mean spectral distance of left and of right, in whichever order is closer."""
    left, right = mid + side, mid - side
    straight = spectral_distance(mid + made, left) + spectral_distance(mid - made, right)
    crossed = spectral_distance(mid + made, right) + spectral_distance(mid - made, left)
    return straight.minimum(crossed) / 2


def spectra(x: Float[Tensor, "b s"], windows: tuple[int, ...]) -> list[Complex[Tensor, "b _n _f"]]:
    """Spectra of Hann frames that overlap by half, where a full-scale sine peaks at 1."""
    hanns = [torch.hann_window(window, device=x.device) for window in windows]
    return [frame_spectra(x, hann, len(hann) // 2) * (2 / hann.sum()) for hann in hanns]


def magnitude(spectra: Complex[Tensor, "b n f"]) -> Float[Tensor, "b n f"]:
    """|X|, with a gradient at zero."""
    return (torch.view_as_real(spectra).square().sum(-1) + 1e-12).sqrt()


def mid_side(x: Float[Tensor, "b 2 s"]) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
    """Half the sum and half the difference of left and right."""
    return (x[:, 0] + x[:, 1]) / 2, (x[:, 0] - x[:, 1]) / 2
