"""A discriminator of spectrograms at several resolutions, and what both sides lose to it.

Least squares and the comparison of hidden states are those of HiFi-GAN (Kong et al., 2020), maps of
scores over time and frequency those of multi-resolution spectrogram discriminators (UnivNet, Jang
et al., 2021); sizes are ours.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from presto_distill.losses import lsgan_discriminator, lsgan_generator


class Verdict(NamedTuple):
    """A map of scores (1: real), and the hidden states that led to it."""

    score: Float[Tensor, "b _n _f"]
    features: list[Float[Tensor, "b _d _n _f"]]


class SpectrogramCritic(nn.Module):
    """Judges pictures [b, channels, frames, bands] of the same sound, each by a network of its
    own."""

    def __init__(self, pictures: int, channels: int, width: int):
        super().__init__()
        self.critics = nn.ModuleList(
            nn.ModuleList(_layers(channels, width)) for _ in range(pictures)
        )

    def forward(self, pictures: list[Float[Tensor, "b c _n _f"]]) -> list[Verdict]:
        verdicts = []
        for hidden, layers in zip(pictures, self.critics, strict=True):
            features = []
            for layer in layers[:-1]:
                hidden = F.leaky_relu(layer(hidden), 0.1)
                features.append(hidden.float())
            verdicts.append(Verdict(layers[-1](hidden)[:, 0].float(), features))
        return verdicts


def _layers(channels: int, width: int) -> list[nn.Conv2d]:
    """Convolutions over time and frequency, coarser from one to the next; the last one scores."""
    return [
        nn.Conv2d(channels, width, (3, 8), stride=(1, 4), padding=(1, 2)),
        nn.Conv2d(width, 2 * width, (3, 8), stride=(2, 4), padding=(1, 2)),
        nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
        nn.Conv2d(2 * width, 1, 3, padding=1),
    ]


def critic_loss(fake: list[Verdict], real: list[Verdict]) -> Float[Tensor, ""]:
    """What the critic loses by its scores of both, mean over pictures."""
    losses = [lsgan_discriminator(f.score, r.score) for f, r in zip(fake, real, strict=True)]
    return torch.stack(losses).mean()


def generator_losses(
    fake: list[Verdict], real: list[Verdict]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """What the generator loses by its scores, and how far the critic's hidden states are from those
    of the real sound, relative to their size."""
    gan = torch.stack([lsgan_generator(verdict.score) for verdict in fake]).mean()
    features = [
        (f - r.detach()).abs().mean() / r.detach().abs().mean()
        for one, other in zip(fake, real, strict=True)
        for f, r in zip(one.features, other.features, strict=True)
    ]
    return gan, torch.stack(features).mean()
