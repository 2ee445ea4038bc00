"""Mono to stereo: a side signal for a mid signal, which stays in the middle untouched.

The paper takes its mono-to-stereo stage from MusicHiFi (Zhu et al., 2024): the mono input is the
mid, a network predicts the side, L = M + S and R = M - S. The network is ours: masks on the mid's
own spectrogram, so that it runs 43 times a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from presto_models.autoencoder import Corrected, band_matrices
from presto_models.chunks import chunked
from presto_models.compiled import Recorded
from presto_models.phase import frame_spectra, overlap_add
from presto_models.snapshot import Snapshot

CHUNK = 1024  # spectrogram frames at once: 24 s
FINEST = 2.0**24  # steps of the side per unit, finer than 24-bit audio


@dataclass(frozen=True)
class MonoToStereoConfig:
    """Spectrogram, frequency bands and network: our defaults."""

    sample_rate: int = 44100  # Hz
    window_length: int = 2048  # samples; frames overlap by half
    linear_hz: float = 4000.0  # bands as in AutoencoderConfig
    bands_per_erb: float = 6.0
    taps: int = 3  # the current frame and so many less one before it
    width: int = 192
    depth: int = 4  # residual blocks

    def __post_init__(self) -> None:
        if self.window_length < 2 or self.window_length % 2:
            raise ValueError(f"window_length must be even, got {self.window_length}")
        if self.taps < 1:
            raise ValueError(f"taps must be at least 1, got {self.taps}")


class MonoToStereo(Snapshot, nn.Module):
    """Mid audio [b, 1, s] to stereo [b, 2, s], whose mid it is.

    In every band the side is the mid times a complex gain, plus the frames before times theirs:
    real gains in [-1, 1] place what is panned, complex and delayed ones make it wide.
    """

    def __init__(self, config: MonoToStereoConfig = MonoToStereoConfig()):
        super().__init__()
        self.config = config
        self.sample_rate, self.hop = config.sample_rate, config.window_length // 2
        to_bands, to_bins = band_matrices(config)
        window = torch.hann_window(config.window_length).sqrt()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("to_bands", to_bands, persistent=False)
        self.register_buffer("to_bins", to_bins, persistent=False)
        bands = to_bands.shape[1]
        self.network = Corrected(
            bands, 2 * config.taps * bands, width=config.width, depth=config.depth
        )

    def compile(self) -> None:
        """Compile the network. On CUDA, all between waveforms is recorded in inference mode, once
        for every shape. The first call takes its time."""
        self.network.compile(dynamic=True)
        self.whole_side = Recorded(self.whole_side)

    def forward(
        self, mid: Float[Tensor, "b 1 s"], width: float = 1.0, *, chunk: int = CHUNK
    ) -> Float[Tensor, "b 2 s"]:
        """Left and right in float32; `width` scales the side, and 0 is mono.

        The side is rounded, so it has no gradient here: training takes `side`.
        Raises ValueError for a width that is negative or not finite.
        """
        if not 0 <= width < math.inf:
            raise ValueError(f"width must be at least 0 and finite, got {width}")
        return left_right(mid.float(), width * self.side(mid, chunk=chunk))

    def side(self, mid: Float[Tensor, "b 1 s"], *, chunk: int = CHUNK) -> Float[Tensor, "b 1 s"]:
        """The side signal of `mid`, worked out in chunks of so many frames: no seams."""
        if mid.ndim != 3 or mid.shape[1] != 1 or mid.shape[2] == 0 or not mid.is_floating_point():
            raise ValueError(
                f"mid must be floats [b, 1, s] with s >= 1, got {mid.dtype} {[*mid.shape]}"
            )
        samples, hop = mid.shape[-1], self.hop
        # Blocks and taps reach one frame each; analysis and synthesis one frame together.
        reach = self.config.depth + self.config.taps
        padded = F.pad(mid[:, 0].float(), (0, -samples % hop))
        side = chunked(self.whole_side, padded, chunk=chunk * hop, overlap=reach * hop)
        return side[:, None, :samples]

    def whole_side(self, mid: Float[Tensor, "b s"]) -> Float[Tensor, "b s"]:
        """The side of whole frames, all at once."""
        spectra = frame_spectra(F.pad(mid, (self.hop, self.hop)), self.window, self.hop)
        # By real and imaginary parts: ONNX has no complex numbers.
        spectra = torch.view_as_real(spectra)
        side = torch.zeros_like(spectra)
        for delay, gain in enumerate(self.gains(spectra)):
            before = F.pad(spectra, (0, 0, 0, 0, delay, 0))[:, : spectra.shape[1]]
            (a, b), (c, d) = gain.unbind(-1), before.unbind(-1)
            side = side + torch.stack([a * c - b * d, a * d + b * c], -1)
        frames = torch.fft.irfft(torch.view_as_complex(side)) * self.window
        return overlap_add(frames, self.hop)[:, self.hop : -self.hop]

    def gains(self, spectra: Float[Tensor, "b n f 2"]) -> Float[Tensor, "taps b n f 2"]:
        """What to multiply each frame by, and the frames before it, real and imaginary in [-1, 1].

        Inputs are levels from -100 dB to full scale, roughly centred and scaled.
        """
        magnitude = spectra.square().sum(-1).sqrt() * (2 / self.window.sum())
        level = (magnitude @ self.to_bands).clamp_min(1e-5).log() / 3 + 2.5
        parts = self.network(level.mT).mT.tanh().chunk(2 * self.config.taps, -1)
        real = [(part @ self.to_bins).float() for part in parts]
        return torch.stack(
            [torch.stack(pair, -1) for pair in zip(real[::2], real[1::2], strict=True)]
        )


def left_right(mid: Float[Tensor, "b 1 s"], side: Float[Tensor, "b 1 s"]) -> Float[Tensor, "b 2 s"]:
    """L = M + S and R = M - S, rounded so that (L + R) / 2 gives M back.

    Bit for bit where M is of 24 bits or fewer in [-1, 1] and so are L and R, and wherever
    |S| <= |M|; elsewhere, where float32 has no such pair, within half a unit in the last place of
    the louder channel.
    """
    side = (side * FINEST).round() / FINEST
    # Round the louder channel; the other takes what is left of 2 M, which loses nothing.
    far = mid + side.abs().copysign(mid)
    near = 2 * mid - far
    left_is_far = side.signbit() == mid.signbit()
    return torch.cat([torch.where(left_is_far, far, near), torch.where(left_is_far, near, far)], 1)
