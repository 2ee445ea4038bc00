"""How close decoded audio is to the original: levels, attacks, steadiness. Harmony is in `music`.

All take mono audio [s]; their constants are our defaults.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from presto_distill.objectives.autoencoding import mel_bank

ONSET_HOP = 110  # samples, 2.5 ms at 44.1 kHz


def log_mel_distance(
    original: Float[Tensor, " s"], decoded: Float[Tensor, " s"], *, sample_rate: int = 44100
) -> float:
    """Mean |log mel - log mel| over 80 mel bands of magnitudes (natural logarithm: 1 is 8.7 dB).

    The floor is 80 dB below the loudest band of the original.
    """
    bank = mel_bank(80, 1025, sample_rate / 2).to(original)
    x, y = (magnitudes(audio, 2048, 512) @ bank for audio in (original, decoded))
    floor = 1e-4 * x.max().clamp_min(1e-8)
    return (x.maximum(floor).log() - y.maximum(floor).log()).abs().mean().item()


def onset_distances(
    original: Float[Tensor, " s"], decoded: Float[Tensor, " s"], *, sample_rate: int = 44100
) -> list[float]:
    """Milliseconds from each strong onset of the original to the nearest onset decoded.

    An onset is a peak, alone within 100 ms, of the rise of log mel magnitudes over 10 ms; strong
    from 0.4 of the original's highest, and found again from 0.1 of it. Infinite where nothing is
    found at all.
    """
    rises = [_rise(audio, sample_rate) for audio in (original, decoded)]
    strong, any_ = (share * rises[0].max() for share in (0.4, 0.1))
    theirs, ours = (_peaks(rise, least) for rise, least in zip(rises, (strong, any_), strict=True))
    if not len(ours):
        return [float("inf")] * len(theirs)
    frames = (theirs[:, None] - ours).abs().amin(1)
    return (frames * 1000 * ONSET_HOP / sample_rate).tolist()


def spectral_flux(audio: Float[Tensor, " s"], *, hop: int = 512) -> float:
    """How much of the magnitude changes from frame to frame: near 0 for a held sound, higher where
    it buzzes or flutters. Windows of 2048 samples; blind to gain."""
    magnitude = magnitudes(audio, 2048, hop)
    return (magnitude.diff(dim=0).abs().sum() / magnitude[1:].sum().clamp(min=1e-12)).item()


def magnitudes(audio: Float[Tensor, " s"], window: int, hop: int) -> Float[Tensor, "n f"]:
    """Magnitudes of Hann-windowed frames."""
    shape = torch.hann_window(window, device=audio.device)
    return torch.stft(audio, window, hop, window=shape, return_complex=True).abs().T


def _rise(audio: Float[Tensor, " s"], sample_rate: int) -> Float[Tensor, " n"]:
    """Mean rise of log mel magnitudes over 10 ms."""
    mel = magnitudes(audio, 1024, ONSET_HOP) @ mel_bank(40, 513, sample_rate / 2)
    level = (mel + 1e-3 * mel.max()).log()
    return (level[4:] - level[:-4]).clamp_min(0).mean(1)


def _peaks(rise: Float[Tensor, " n"], least: Tensor) -> Tensor:
    """Indices of maxima within 20 frames on either side that are higher than `least`."""
    highest = F.max_pool1d(rise[None, None], 41, 1, 20)[0, 0]
    return torch.nonzero((rise == highest) & (rise > least)).flatten()
