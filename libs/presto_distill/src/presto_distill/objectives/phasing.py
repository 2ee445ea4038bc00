"""Training of a codec's learned phase, by our own recipe: regression on differences of phase."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from presto_distill.objective import Batch, Losses, Turn
from presto_models.autoencoder import Autoencoder
from presto_models.learned_phase import interpolated, true_differences
from presto_models.phase import frame_spectra


class Phasing:
    """Trains `autoencoder.phase` to expect, from the magnitudes that the codec as it is decodes,
    the differences of phase in the audio; `batch.x` is audio [b, 1, s]."""

    def __init__(self, autoencoder: Autoencoder):
        if autoencoder.phase is None:
            raise ValueError('the codec has no learned phase: build it with phase="learned"')
        self.autoencoder = autoencoder
        self.players = {"phase": autoencoder.phase}
        self.fixed = {"codec": autoencoder}  # windows and statistics, too, must be where it learns
        self.turns = [Turn("phase", self.loss)]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        codec = self.autoencoder
        hop, frames = codec.config.stft_hop, codec.config.frames_per_latent
        # Only frames that lie within the crop, and whole latent frames of them.
        spectra = frame_spectra(batch.x.flatten(0, 1), codec.window, hop)
        spectra = spectra[:, : spectra.shape[1] // frames * frames]
        with torch.no_grad():
            decoded = codec.decode_bands(codec.encode_bands(codec.log_magnitudes(spectra))[0])
        true = true_differences(spectra, len(codec.window), hop)
        loud = spectra.abs().sqrt()

        expected = self.players["phase"](decoded.float())
        known = codec.resolved  # bins with a band of their own; wider bands say nothing of time
        along = square_error(
            expected.time[..., :known], true.time[..., :known], loud[..., :known], 1
        )
        across = interpolated(expected.frequency, codec.to_bins)
        return {"time": along, "frequency": square_error(across, true.frequency, loud, 2)}


def square_error(
    expected: Complex[Tensor, "b n k"],
    true: Complex[Tensor, "b n k"],
    loud: Float[Tensor, "b n k"],
    dim: int,
) -> Float[Tensor, ""]:
    """Mean |expected - true|^2 of differences along `dim`, weighed by how loud both sides are: 1
    for an expectation of 0, and 0 for a perfect one."""
    count = loud.shape[dim] - 1
    weight = loud.narrow(dim, 1, count) * loud.narrow(dim, 0, count)
    error = (expected - true).narrow(dim, 1, count)
    error = torch.view_as_real(error).square().sum(-1)
    return (error * weight).sum() / weight.sum().clamp_min(1e-12)
