"""What turns music into vectors for the set-level metrics: any object with a name and `embed`.

A score means nothing without its embedder, so each carries the name that is printed with it.
Learned embedders (the bundled contrastive one, LAION-CLAP) satisfy `JointEmbedder`; a new one needs
no base class.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Embedder(Protocol):
    """Embeds latents (b, c, t) or audio (b, ch, s); which of the two is the embedder's to say."""

    name: str
    dim: int

    def embed(self, inputs: Tensor) -> Float[Tensor, "b d"]: ...


class JointEmbedder(Embedder, Protocol):
    """An embedder that places prompts in the same space, which unlocks the CLAP score."""

    def embed_text(self, prompts: list[str]) -> Float[Tensor, "b d"]: ...


@dataclass(frozen=True, eq=False)
class LatentStatistics:
    """A second opinion with nothing learned by gradient: moments and smoothness of each channel.

    Being unlearned it cannot share a blind spot with a trained embedder; being blind to melody,
    harmony and prompt it cannot replace one. Make it with `fit`.
    """

    centre: Float[Tensor, " f"]
    scale: Float[Tensor, " f"]
    basis: Float[Tensor, "f d"]

    @classmethod
    def fit(cls, latents: Float[Tensor, "b c t"], *, dim: int = 128) -> "LatentStatistics":
        """Standardise on training latents and keep their leading principal directions.

        Fit once, on the reference of all comparisons: scores of two fits are not comparable.
        """
        if len(latents) < 2:
            raise ValueError(f"need at least 2 latents to fit, got {len(latents)}")
        features = channel_statistics(latents)
        centre = features.mean(dim=0)
        scale = features.std(dim=0).clamp(min=1e-6)
        standard = (features - centre) / scale
        covariance = standard.mT @ standard / (len(latents) - 1)
        directions = torch.linalg.eigh(covariance).eigenvectors.flip(1)
        return cls(centre=centre, scale=scale, basis=directions[:, :dim])

    @property
    def dim(self) -> int:
        return self.basis.shape[1]

    @property
    def name(self) -> str:
        return f"latent-statistics-{self.dim}"

    def embed(self, inputs: Float[Tensor, "b c t"]) -> Float[Tensor, "b d"]:
        return (channel_statistics(inputs) - self.centre) / self.scale @ self.basis


def channel_statistics(latents: Float[Tensor, "b c t"]) -> Float[Tensor, "b f"]:
    """Per channel: mean, log deviation, lag-1 autocorrelation, log energy of time differences.

    Logarithms because a Gaussian fits the logarithm of an energy better; f = 4 c, in float64.
    """
    if latents.shape[-1] < 3:
        raise ValueError(f"need at least 3 latent frames, got {latents.shape[-1]}")
    latents = latents.detach().double().cpu()
    mean = latents.mean(dim=2)
    centred = latents - mean[..., None]
    variance = centred.square().mean(dim=2).clamp(min=1e-12)
    lag_one = (centred[..., 1:] * centred[..., :-1]).mean(dim=2) / variance
    difference = latents.diff(dim=2).square().mean(dim=2).clamp(min=1e-12)
    return torch.cat([mean, variance.log() / 2, lag_one, difference.log()], dim=1)
