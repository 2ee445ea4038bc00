"""The bundled 44.1 kHz codec: 64 latent channels at 21.5 Hz that describe log magnitudes.

Ours, not the paper's: that is a convolutional VAE on waveforms, this a small spectral VAE, made to
train in minutes on a CPU. Phase is no part of the latent: the decoder ends in Griffin-Lim, from
phases that a rule or a small network (`learned_phase`) starts it with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from presto_models.chunks import chunked
from presto_models.compiled import Recorded
from presto_models.learned_phase import SWEEPS, PhaseDifferences, learned_phase
from presto_models.phase import corrected, frame_spectra, griffin_lim, initial_phase
from presto_models.snapshot import Snapshot

Phase = Literal["griffin-lim", "learned"]
CHUNK = 1024  # latent frames encoded or decoded at once: 48 s, more than any clip the models make


@runtime_checkable
class Codec(Protocol):
    """Audio to latents and back: [b, s] for a mono codec, [b, 2, s] for a stereo one.

    Latents are [b, channels, t], t = ceil(s / hop_length), every channel with mean 0 and standard
    deviation `sigma_data` over the codec's corpus. Long audio is worked on in chunks, of so many
    latent frames, and comes out as if it were not.
    """

    sample_rate: int  # Hz
    hop_length: int  # samples
    channels: int  # of latents
    audio_channels: int  # 1 or 2
    sigma_data: float

    def encode(
        self, audio: Float[Tensor, "b *ch s"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c t"]:
        """The posterior mean, or a draw from the posterior if a generator is given."""
        ...

    def encode_distribution(
        self, audio: Float[Tensor, "b *ch s"]
    ) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b c t"]]:
        """Mean and standard deviation of the posterior."""
        ...

    def decode(self, latent: Float[Tensor, "b c t"]) -> Float[Tensor, "b *ch s"]:
        """Audio of s = t * hop_length samples."""
        ...


def draw(
    mean: Float[Tensor, "b c t"], scale: Float[Tensor, "b c t"], generator: torch.Generator | None
) -> Float[Tensor, "b c t"]:
    """The mean, or a draw from the diagonal Gaussian if a generator is given."""
    if generator is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, device=generator.device)
    return mean + scale * noise.to(mean)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Spectrogram, frequency bands and network of the codec: our defaults."""

    sample_rate: int = 44100  # Hz
    window_length: int = 4096  # samples; long enough to keep low harmonics apart
    stft_hop: int = 1024  # samples
    frames_per_latent: int = 2  # spectrogram frames in one latent frame
    channels: int = 64
    linear_hz: float = 4000.0  # below: one band per bin; above: bands as wide as hearing resolves
    bands_per_erb: float = 6.0
    floor_db: float = -120.0  # below a full-scale sine
    width: int = 448
    depth: int = 3  # residual blocks in the encoder, and again in the decoder
    sigma_data: float = 0.5  # standard deviation of every latent channel over the corpus
    phase: Phase = "griffin-lim"  # what it starts from: steady partials, or learned differences
    iterations: int = 16  # Griffin-Lim; a learned start needs two


class Autoencoder(Snapshot, nn.Module):
    """Mono audio [b, s] to latents [b, channels, t] and back; t = ceil(s / hop_length)."""

    def __init__(self, config: AutoencoderConfig = AutoencoderConfig()):
        super().__init__()
        self.config = config
        self.sample_rate, self.channels = config.sample_rate, config.channels
        self.sigma_data, self.audio_channels = config.sigma_data, 1
        self.hop_length = config.stft_hop * config.frames_per_latent
        self.margin = (config.window_length - config.stft_hop) // 2  # a window's share of one side
        self.floor = math.log(10) * config.floor_db / 20
        # Bins with a band of their own.
        self.resolved = int(config.linear_hz / config.sample_rate * config.window_length)
        self.correct = corrected

        to_bands, to_bins = band_matrices(config)
        self.register_buffer("window", torch.hann_window(config.window_length), persistent=False)
        self.register_buffer("to_bands", to_bands, persistent=False)
        self.register_buffer("to_bins", to_bins, persistent=False)

        self.bands = to_bands.shape[1]
        patch = self.bands * config.frames_per_latent
        size = {"width": config.width, "depth": config.depth}
        self.encoder = Corrected(patch, 2 * config.channels, **size)
        self.decoder = Corrected(config.channels, patch, **size)
        self.phase = PhaseDifferences(self.bands) if config.phase == "learned" else None
        self.phases: tuple[Phase, ...] = ("griffin-lim", "learned")[: 1 + (self.phase is not None)]
        # Corpus statistics, set once by training: they travel with the weights.
        self.register_buffer("band_mean", torch.full((self.bands,), self.floor / 2))
        self.register_buffer("latent_mean", torch.zeros(config.channels))
        self.register_buffer("latent_std", torch.full((config.channels,), config.sigma_data))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        compile: bool = False,
    ) -> Self:
        """Load as every snapshot, and `compile` it."""
        codec = super().from_pretrained(name_or_path, device=device)
        if compile:
            codec.compile()
        return codec

    def compile(self) -> None:
        """Compile what decoding can gain from: its network, and the arithmetic between
        Griffin-Lim's Fourier transforms. On CUDA, decoding in inference mode is recorded too, once
        for every shape. The first call takes its time."""
        self.decoder.compile(dynamic=True)
        self.correct = torch.compile(corrected, dynamic=True)
        self.decode = Recorded(self.decode)

    def encode(
        self, audio: Float[Tensor, "b s"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c t"]:
        """The posterior mean, or a draw from the posterior if a generator is given."""
        return draw(*self.encode_distribution(audio), generator)

    def encode_distribution(
        self, audio: Float[Tensor, "b s"], *, chunk: int = CHUNK
    ) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b c t"]]:
        """Mean and standard deviation of the latent, in units where the corpus has `sigma_data`."""
        if not audio.is_floating_point():
            raise ValueError(f"audio must be floats in [-1, 1], got {audio.dtype}")
        hop = self.hop_length
        # Frames reach into the latent frames around theirs, the network `depth` further.
        reach = math.ceil(self.margin / hop) + self.config.depth
        both = chunked(
            lambda part: torch.cat(self.encode_bands(self.log_bands(part)), 1),
            F.pad(audio.float(), (0, -audio.shape[-1] % hop)),
            chunk=chunk * hop,
            overlap=reach * hop,
            ratio=Fraction(1, hop),
        )
        mean, scale = both.chunk(2, 1)
        unit = (self.sigma_data / self.latent_std)[:, None]
        return (mean - self.latent_mean[:, None]) * unit, scale * unit

    def decode(
        self,
        latent: Float[Tensor, "b c t"],
        *,
        phase: Phase | None = None,
        iterations: int | None = None,
        chunk: int = CHUNK,
    ) -> Float[Tensor, "b s"]:
        """Audio of s = t * hop_length samples; `phase` and Griffin-Lim's `iterations` as the
        config says, or as told.

        Equal in chunks of any size to 1e-4 or better: every Griffin-Lim step, and the synthesis
        at the end, sees as many frames around as windows overlap; the initial phase is passed on.
        On a CPU clips take turns: sixteen at once would take three times as long.
        ValueError for a phase that the codec has not: `phases` holds those that it has.
        """
        phase = phase or self.config.phase
        if phase not in self.phases:
            choices = ", ".join(self.phases)
            raise ValueError(f"this codec has learned no phase {phase!r}: choose from {choices}")
        iterations = self.config.iterations if iterations is None else iterations
        if latent.device.type == "cpu" and len(latent) > 1:
            how = {"phase": phase, "iterations": iterations, "chunk": chunk}
            return torch.cat([self.decode(clip, **how) for clip in latent.split(1)])
        hop, frames = self.config.stft_hop, self.config.frames_per_latent
        log_bands = self.decode_bands(self.raw(latent))
        magnitude = log_bands.exp() @ self.to_bins * self.window.sum() / 2
        start = initial_phase(magnitude, hop, resolved=self.resolved)
        reach = (iterations + 1) * (len(self.window) // hop - 1)
        if phase == "learned":
            reach += self.phase.reach + SWEEPS

        def sound(magnitude: Tensor, start: Tensor, log_bands: Tensor) -> Tensor:
            magnitude, start = magnitude.mT, start.mT
            if phase == "learned":
                expected = self.phase(log_bands.mT)
                how = {"resolved": self.resolved, "hop": hop}
                start = learned_phase(expected, start, magnitude, self.to_bins, **how)
            audio = griffin_lim(
                magnitude,
                self.window,
                hop,
                start=start,
                iterations=iterations,
                correct=self.correct,
            )
            return audio[:, self.margin : -self.margin]

        parts = magnitude.mT, start.mT, log_bands.mT
        return chunked(sound, *parts, chunk=chunk * frames, overlap=reach, ratio=hop)

    def spectrum(self, latent: Float[Tensor, "b c t"]) -> Float[Tensor, "b n f"]:
        """Decoded magnitudes, n = t * frames_per_latent, where a full-scale sine peaks at 1."""
        return self.decode_bands(self.raw(latent)).exp() @ self.to_bins

    def raw(self, latent: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        """The latent as it was before it was standardised."""
        return latent * (self.latent_std / self.sigma_data)[:, None] + self.latent_mean[:, None]

    def log_bands(self, audio: Float[Tensor, "b s"]) -> Float[Tensor, "b n bands"]:
        """Log magnitude in every band, floored; frames sit symmetrically in the latent frames."""
        if audio.ndim != 2 or audio.shape[-1] == 0:
            raise ValueError(f"audio must be [b, s] with s >= 1, got shape {tuple(audio.shape)}")
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
        padded = F.pad(audio[:, None], (self.margin, self.margin), mode="reflect")[:, 0]
        return self.log_magnitudes(frame_spectra(padded, self.window, self.config.stft_hop))

    def log_magnitudes(self, spectra: Complex[Tensor, "b n f"]) -> Float[Tensor, "b n bands"]:
        """Log magnitude in every band of given spectra, floored."""
        magnitude = torch.view_as_real(spectra).square().sum(-1).sqrt() * (2 / self.window.sum())
        return (magnitude @ self.to_bands).clamp_min(math.exp(self.floor)).log()

    def encode_bands(
        self, log_bands: Float[Tensor, "b n bands"]
    ) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b c t"]]:
        """Posterior mean and standard deviation before standardisation; what training works on."""
        patches = (log_bands - self.band_mean).unflatten(1, (-1, self.config.frames_per_latent))
        mean, log_scale = self.encoder(patches.flatten(2).mT).chunk(2, dim=1)
        return mean, log_scale.clamp(-6, 1).exp()

    def decode_bands(self, raw: Float[Tensor, "b c t"]) -> Float[Tensor, "b n bands"]:
        """Log magnitudes from a latent that is not standardised."""
        patches = self.decoder(raw).mT.unflatten(2, (self.config.frames_per_latent, self.bands))
        return (patches.flatten(1, 2) + self.band_mean).clamp(self.floor, 1.0)


class Corrected(nn.Module):
    """A linear map of each frame, plus what a small convolutional network adds to it."""

    def __init__(self, inputs: int, outputs: int, *, width: int, depth: int):
        super().__init__()
        self.linear = nn.Conv1d(inputs, outputs, 1)
        self.enter = nn.Conv1d(inputs, width, 1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.leave = nn.Conv1d(width, outputs, 1)
        # Training starts from the linear map alone.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Float[Tensor, "b i t"]) -> Float[Tensor, "b o t"]:
        hidden = self.enter(x)
        for block in self.blocks:
            hidden = block(hidden)
        return self.linear(x) + self.leave(hidden)


class Block(nn.Module):
    """Normalise over channels, look one frame around, mix, add."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.around = nn.Conv1d(width, width, 3, padding=1)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Float[Tensor, "b d t"]) -> Float[Tensor, "b d t"]:
        return x + self.mix(F.gelu(self.around(self.norm(x.mT).mT)))


def erb(hz: Tensor) -> Tensor:
    """Width in Hz of the auditory filter at a frequency (Glasberg and Moore, 1990)."""
    return 24.7 * (4.37e-3 * hz + 1)


@runtime_checkable
class Bands(Protocol):
    """What a config says of its frequency bands; see AutoencoderConfig."""

    sample_rate: int
    window_length: int
    linear_hz: float
    bands_per_erb: float


def band_centres(config: Bands) -> Float[Tensor, " bands"]:
    """Band centres in Hz: every bin up to `linear_hz`, from there steps of ERB / bands_per_erb."""
    bin_hz, top = config.sample_rate / config.window_length, config.sample_rate / 2
    linear = torch.arange(0, config.linear_hz, bin_hz, dtype=torch.float64)
    # The number of ERBs up to a frequency is a logarithm, so equal steps there are exact.
    low, high = (math.log1p(4.37e-3 * hz) / (24.7 * 4.37e-3) for hz in (linear[-1].item(), top))
    steps = math.ceil((high - low) * config.bands_per_erb)
    wide = torch.expm1(torch.linspace(low, high, steps + 1).double()[1:] * 24.7 * 4.37e-3) / 4.37e-3
    return torch.cat([linear, wide]).float()


def band_matrices(
    config: Bands,
) -> tuple[Float[Tensor, "f bands"], Float[Tensor, "bands f"]]:
    """Means of magnitude over bands, and the interpolation that takes magnitudes back to bins."""
    centres = band_centres(config)
    bins = torch.linspace(0, config.sample_rate / 2, config.window_length // 2 + 1)
    upper = torch.searchsorted(centres, bins).clamp(1, len(centres) - 1)
    low, high = centres[upper - 1], centres[upper]
    share = ((bins - low) / (high - low)).clamp(0, 1)
    to_bins = torch.zeros(len(centres), len(bins))
    column = torch.arange(len(bins))
    to_bins[upper - 1, column] = 1 - share
    to_bins[upper, column] = share
    if not to_bins.any(1).all():
        raise ValueError(f"bands_per_erb {config.bands_per_erb} leaves bands without a bin")
    to_bands = to_bins.T / to_bins.sum(1)
    return to_bands.contiguous(), to_bins
