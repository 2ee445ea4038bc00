"""What turns music into vectors for the set-level metrics: any object with a name and `embed`.

A score means nothing without its embedder, so each carries the name that is printed with it.
Learned embedders (the bundled contrastive one, LAION-CLAP) satisfy `JointEmbedder`; a new one needs
no base class. `open_embedder` finds one that takes audio by its name on the command line.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from presto_distill.metrics.contrastive import ContrastiveEmbedder
from presto_distill.objectives.autoencoding import mel_bank
from presto_models import Autoencoder
from presto_models.snapshot import find_snapshot


@runtime_checkable
class Embedder(Protocol):
    """Embeds latents (b, c, t) or audio (b, ch, s); which of the two is the embedder's to say."""

    name: str
    dim: int

    def embed(self, inputs: Tensor) -> Float[Tensor, "b d"]: ...


@runtime_checkable
class JointEmbedder(Embedder, Protocol):
    """An embedder that places prompts in the same space, which unlocks the CLAP score."""

    def embed_text(self, prompts: list[str]) -> Float[Tensor, "b d"]: ...


@runtime_checkable
class AudioEmbedder(Embedder, Protocol):
    """An embedder of audio (b, ch, s) at its own sample rate, from a tenth of a second on."""

    sample_rate: int  # Hz


def open_embedder(name: str) -> AudioEmbedder:
    """log-mel, presto-small, or clap: and a folder, hub id or .pt file; ValueError for others."""
    if name == "log-mel":
        return LogMelStatistics()
    if name == "presto-small":
        return ThroughCodec.from_pretrained(name)
    if name.startswith("clap:"):
        from presto_distill.metrics.clap import open_clap

        return open_clap(name.removeprefix("clap:"))
    raise ValueError(f"unknown embedder {name!r}: choose log-mel, presto-small or clap:PATH")


@dataclass(frozen=True)
class ThroughCodec:
    """Makes an embedder of latents take audio: its mono mix passes through the codec first."""

    codec: Autoencoder
    embedder: ContrastiveEmbedder

    @classmethod
    def from_pretrained(cls, name: str) -> "ThroughCodec":
        folder = find_snapshot(name)
        codec = Autoencoder.from_pretrained(folder / "codec")
        return cls(codec, ContrastiveEmbedder.from_pretrained(folder / "embedder"))

    @property
    def name(self) -> str:
        return f"{self.embedder.name} of codec {self.codec.digest[:6]}"

    @property
    def dim(self) -> int:
        return self.embedder.dim

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    def embed(self, inputs: Float[Tensor, "b ch s"]) -> Float[Tensor, "b d"]:
        return self.embedder.embed(self.codec.encode(inputs.mean(dim=1)))

    def embed_text(self, prompts: list[str]) -> Float[Tensor, "b d"]:
        return self.embedder.embed_text(prompts)


@dataclass(frozen=True)
class LogMelStatistics:
    """Mean and deviation over time of the log of each mel band of the mono mix: nothing learned.

    Deaf to order in time, to harmony and to prompts; good for telling timbre and balance apart.
    Sizes are our defaults.
    """

    sample_rate: int = 44100  # Hz
    bands: int = 80
    window: int = 2048  # samples
    hop: int = 512  # samples
    floor: float = 1e-5  # below a full-scale sine's magnitude
    bank: Float[Tensor, "f m"] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        bank = mel_bank(self.bands, self.window // 2 + 1, self.sample_rate / 2)
        object.__setattr__(self, "bank", bank)

    @property
    def name(self) -> str:
        said = [f"{self.bands} bands", f"{self.sample_rate} Hz"]
        for name in ("window", "hop", "floor"):
            if (value := getattr(self, name)) != getattr(LogMelStatistics, name):
                said.append(f"{name} {value}")
        return f"log-mel statistics ({', '.join(said)})"

    @property
    def dim(self) -> int:
        return 2 * self.bands

    def embed(self, inputs: Float[Tensor, "b ch s"]) -> Float[Tensor, "b d"]:
        """Raises ValueError for audio shorter than one window."""
        if inputs.shape[-1] < self.window:
            raise ValueError(f"need at least {self.window} samples, got {inputs.shape[-1]}")
        mono, hann = inputs.mean(dim=1), torch.hann_window(self.window, device=inputs.device)
        # Whole frames only: padding would put its own spectrum into every clip.
        spectra = torch.stft(
            mono, self.window, self.hop, window=hann, center=False, return_complex=True
        )
        magnitude = spectra.abs().mT * (2 / hann.sum())
        levels = (magnitude @ self.bank.to(magnitude)).clamp(min=self.floor).log()
        return torch.cat([levels.mean(dim=1), levels.std(dim=1, correction=0)], dim=1)


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
        parts = (self.centre, self.scale, self.basis)
        digest = sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()
        return f"latent-statistics-{self.dim} ({digest[:6]})"

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
