"""Oobleck, the convolutional VAE of Stable Audio, by way of diffusers (extra `diffusers`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from presto_models.autoencoder import draw
from presto_models.chunks import chunked
from presto_models.snapshot import Snapshot, SnapshotError

CHUNK = 128  # latent frames at once: at full size, about a gigabyte of hidden states


@dataclass(frozen=True)
class OobleckConfig:
    """The shape of the VAE, in diffusers' terms; the defaults are Stable Audio Open's."""

    encoder_hidden_size: int = 128  # twice the latent channels: mean and scale
    downsampling_ratios: tuple[int, ...] = (2, 4, 4, 8, 8)
    channel_multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    decoder_channels: int = 128
    decoder_input_channels: int = 64
    audio_channels: int = 2
    sampling_rate: int = 44100  # Hz
    sigma_data: float = 0.5  # standard deviation of the latents handed out

    def __post_init__(self) -> None:
        if self.audio_channels not in (1, 2):
            raise ValueError(f"audio_channels must be 1 or 2, got {self.audio_channels}")
        if any(ratio % 2 for ratio in self.downsampling_ratios):
            # An odd stride would decode to one sample less in every frame it makes.
            raise ValueError(f"downsampling_ratios must be even, got {self.downsampling_ratios}")


class Oobleck(Snapshot, nn.Module):
    """Audio [b, 2, s] (or [b, s] where mono) to latents [b, c, t] and back; follows `Codec`.

    Raw latents count as standard, as Stable Audio's diffusion takes them, until `standardise` has
    measured them; the statistics travel with `save_pretrained`.
    """

    def __init__(self, config: OobleckConfig = OobleckConfig()):
        super().__init__()
        shape = {name: value for name, value in vars(config).items() if name != "sigma_data"}
        lists = ("downsampling_ratios", "channel_multiples")
        self.vae = _diffusers_class()(**{**shape, **{name: [*shape[name]] for name in lists}})
        self.config = config
        self.sample_rate, self.audio_channels = config.sampling_rate, config.audio_channels
        self.channels, self.sigma_data = config.decoder_input_channels, config.sigma_data
        self.hop_length = math.prod(config.downsampling_ratios)
        self.register_buffer("latent_mean", torch.zeros(self.channels))
        self.register_buffer("latent_std", torch.ones(self.channels))

    @classmethod
    def from_diffusers(
        cls,
        name_or_path: str | Path,
        *,
        subfolder: str | None = "vae",
        device: str | torch.device = "cpu",
        compile: bool = False,
    ) -> Self:
        """Load weights that diffusers stored: a folder, or a hub id such as
        "stabilityai/stable-audio-open-1.0". `compile` compiles the decoder at its first call.

        Raises SnapshotError, in one line, for what diffusers cannot find or read.
        """
        try:
            vae = _diffusers_class().from_pretrained(str(name_or_path), subfolder=subfolder)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise SnapshotError(f"no Oobleck VAE in {name_or_path}: {reason}") from error
        names = OobleckConfig.__dataclass_fields__.keys() - {"sigma_data"}
        shape = {name: vae.config[name] for name in names}
        shape = {n: tuple(v) if isinstance(v, list) else v for n, v in shape.items()}
        codec = cls(OobleckConfig(**shape))
        codec.vae.load_state_dict(vae.state_dict())
        if compile:
            codec.compile()
        return codec.to(device).eval()

    def compile(self) -> None:
        """Compile the decoder, at its first call."""
        self.vae.decoder.compile(dynamic=True)

    def encode(
        self, audio: Float[Tensor, "b *ch s"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c t"]:
        """The posterior mean, or a draw from the posterior if a generator is given."""
        return draw(*self.encode_distribution(audio), generator)

    def encode_distribution(
        self, audio: Float[Tensor, "b *ch s"], *, chunk: int = CHUNK
    ) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b c t"]]:
        """Mean and standard deviation of the latent, in units where the corpus has `sigma_data`.

        The last latent frame is filled up with silence.
        """
        mean, scale = self._raw_distribution(audio, chunk)
        unit = (self.sigma_data / self.latent_std)[:, None]
        return (mean - self.latent_mean[:, None]) * unit, scale * unit

    def decode(
        self, latent: Float[Tensor, "b c t"], *, chunk: int = CHUNK
    ) -> Float[Tensor, "b *ch s"]:
        """Audio of s = t * hop_length samples."""
        raw = latent * (self.latent_std / self.sigma_data)[:, None] + self.latent_mean[:, None]
        audio = chunked(
            lambda part: self.vae.decode(part).sample,
            raw,
            chunk=chunk,
            overlap=decoder_reach(self.config),
            ratio=self.hop_length,
        )
        return audio if self.audio_channels == 2 else audio[:, 0]

    @torch.no_grad()
    def standardise(self, clips: Iterable[Tensor]) -> None:
        """Measure each latent channel over batches of audio, so that it has std `sigma_data`."""
        means = torch.cat(
            [self._raw_distribution(clip, CHUNK)[0].mT.flatten(0, 1) for clip in clips]
        )
        self.latent_mean.copy_(means.mean(0))
        self.latent_std.copy_(means.std(0))

    def _raw_distribution(self, audio: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        wanted = ("b",) if self.audio_channels == 1 else ("b", "2")
        right = audio.ndim == len(wanted) + 1 and audio.shape[1:-1] in ((), (2,))
        if not right or audio.shape[-1] == 0:
            raise ValueError(
                f"audio must be [{', '.join(wanted)}, s] with s >= 1, got {tuple(audio.shape)}"
            )
        audio = audio if audio.ndim == 3 else audio[:, None]
        hop = self.hop_length
        hidden = chunked(
            self.vae.encoder,
            F.pad(audio, (0, -audio.shape[-1] % hop)),
            chunk=chunk * hop,
            overlap=encoder_reach(self.config) * hop,
            ratio=Fraction(1, hop),
        )
        mean, scale = hidden.chunk(2, 1)
        return mean, F.softplus(scale) + 1e-4  # as diffusers reads it


def encoder_reach(config: OobleckConfig) -> int:
    """Latent frames on either side of one beyond which no sample counts in it.

    Kernels of 7 with dilations 1, 3 and 9 reach 39 steps of their rate, a strided kernel one and
    a half strides; the first kernel of 7 reaches 3 samples, the last of 3 one latent frame.
    """
    *steps, hop = accumulate((1, *config.downsampling_ratios), lambda a, b: a * b)
    ratios = zip(steps, config.downsampling_ratios, strict=True)
    return math.ceil((3 + sum(step * (39 + 3 * ratio // 2) for step, ratio in ratios)) / hop) + 1


def decoder_reach(config: OobleckConfig) -> int:
    """Latent frames on either side of one that count in its samples, likewise.

    A transposed kernel reaches one step of its slow side, and residual units 39 of its fast one.
    """
    *fast, hop = accumulate((1, *config.downsampling_ratios), lambda a, b: a * b)
    slow = (*fast[1:], hop)
    samples = 3 + sum(39 * f + s for f, s in zip(fast, slow, strict=True))
    return math.ceil(samples / hop) + 3


def _diffusers_class() -> type:
    try:
        from diffusers import AutoencoderOobleck
    except ImportError as error:
        raise ValueError('Oobleck needs: pip install "presto-models[diffusers]"') from error
    return AutoencoderOobleck
