"""How wide a stereo recording is, band by band, and how far another is from that."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EDGES = (0.0, 200.0, 1000.0, 4000.0, 11000.0)  # Hz; the last band reaches up to the top
NARROWEST = -60.0  # dB of side against mid: below it everything is mono
WIDEST = 60.0  # above it there is nothing in the middle


def level_and_correlation(
    audio: Float[Tensor, "b 2 s"], *, sample_rate: int = 44100
) -> tuple[Float[Tensor, "b bands"], Float[Tensor, "b bands"]]:
    """Power of side against mid in dB, and the correlation of left and right, in each band.

    Of whole clips; mono is NARROWEST and 1, and so is a band without sound.
    """
    spectra = torch.fft.rfft(audio.double())
    left, right = spectra[:, 0], spectra[:, 1]
    hertz = torch.linspace(0, sample_rate / 2, spectra.shape[-1]).to(left.real)
    band = torch.bucketize(hertz, hertz.new_tensor(EDGES[1:]), right=True)

    def power(x: Tensor, y: Tensor) -> Tensor:
        cross = (x * y.conj()).real
        return cross.new_zeros(len(x), len(EDGES)).index_add(1, band, cross)

    mid, side = power(left + right, left + right), power(left - right, left - right)
    ends = (10 ** (end / 10) for end in (NARROWEST, WIDEST))
    level = 10 * (side / mid.clamp_min(1e-12)).clamp(*ends).log10()
    scale = (power(left, left) * power(right, right)).sqrt()
    correlation = torch.where(scale > 1e-12, power(left, right) / scale.clamp_min(1e-12), 1.0)
    return level.float(), correlation.float()


def stereo_errors(
    made: Float[Tensor, "b 2 s"], real: Float[Tensor, "b 2 s"], *, sample_rate: int = 44100
) -> dict[str, list[float] | float]:
    """Mean absolute errors over clips: of side/mid levels in dB by band, and of correlations."""
    (level, correlation), (true_level, true_correlation) = (
        level_and_correlation(audio, sample_rate=sample_rate) for audio in (made, real)
    )
    levels = (level - true_level).abs().mean(0)
    return {
        "side_level_error_db": round(levels.mean().item(), 3),
        "side_level_error_db_by_band": [round(value, 3) for value in levels.tolist()],
        "correlation_error": round((correlation - true_correlation).abs().mean().item(), 4),
    }


def decorrelated(
    mid: Float[Tensor, "b 1 s"], *, gain: float, delay: int = 529
) -> Float[Tensor, "b 2 s"]:
    """The oldest pseudo-stereo, a baseline: a delayed mid as the side (Lauridsen's), 12 ms late."""
    side = gain * F.pad(mid, (delay, 0))[..., : mid.shape[-1]]
    return torch.cat([mid + side, mid - side], 1)
