"""Tempo, chroma and key of mono audio: whether music moves and sounds as it was asked to.

Small estimators for comparing models, not for transcription; their constants are our defaults.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from presto_models.conditioning import TONICS, check_key

# How well each pitch class fits a key, from the tonic up (Krumhansl and Kessler 1982).
KEY_PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}

METRICAL = (1 / 3, 1 / 2, 1, 2, 3)  # what accuracy 2 forgives: the pulse on another metrical level


def tempo(
    audio: Float[Tensor, " s"],
    *,
    sample_rate: int = 44100,
    slowest: float = 60.0,
    fastest: float = 200.0,
) -> float:
    """Beats per minute, by autocorrelation of onset strength; nan where nothing ever starts.

    A pulse repeats at every multiple of its period, so each candidate is scored by the mean
    correlation at up to four of them. That leaves octaves open: a mild preference for tempos near
    120, after Ellis (2007), settles them, so compare with `tempo_matches`. Raises ValueError for
    clips shorter than four beats of the slowest tempo.
    """
    if not 0 < slowest < fastest:
        raise ValueError(f"need 0 < slowest < fastest, got {slowest} and {fastest}")
    if len(audio) < 4 * 60 / slowest * sample_rate:
        raise ValueError(
            f"{len(audio) / sample_rate:.2f} s is shorter than four beats at {slowest} bpm"
        )
    hop = 256
    onsets = onset_strength(audio, hop=hop)
    onsets = onsets - onsets.mean()
    frames = len(onsets)
    spectrum = torch.fft.rfft(onsets, n=2 * frames)
    correlation = torch.fft.irfft(spectrum.abs().square())[: frames // 2 + 1]
    if correlation[0] <= 1e-12:
        return math.nan
    # Fewer frames overlap at longer lags; without this, fast tempos would win for nothing.
    correlation = correlation / (frames - torch.arange(len(correlation)))

    candidates = slowest * (fastest / slowest) ** torch.linspace(0, 1, 1201, dtype=torch.float64)
    period = 60 / candidates * sample_rate / hop
    lags = torch.arange(1, 5)[:, None] * period
    inside = lags < len(correlation) - 1
    below = lags.floor().long().clamp(max=len(correlation) - 2)
    at_lags = torch.lerp(correlation[below], correlation[below + 1], (lags - below).clamp(max=1))
    pulse = (at_lags * inside).sum(dim=0) / inside.sum(dim=0)
    # Two octaves wide: enough to choose between octaves, too weak to prefer a dotted rhythm.
    preference = torch.exp(-0.5 * (torch.log2(candidates / 120) / 2).square())
    return candidates[(pulse * preference).argmax()].item()


def tempo_matches(
    estimated: float,
    asked: float,
    tolerance: float = 0.04,
    *,
    factors: tuple[float, ...] = (0.5, 1, 2),
) -> bool:
    """Whether a tempo is the one asked for, or its half or double, within a relative tolerance.

    `factors` are the multiples of the estimate that count; with (1,) and `METRICAL` these are the
    accuracies 1 and 2 of Gouyon et al. (2006), as is the tolerance of 4 %; nan matches nothing.
    """
    return any(abs(factor * estimated / asked - 1) <= tolerance for factor in factors)


def onset_strength(audio: Float[Tensor, " s"], *, hop: int = 256) -> Float[Tensor, " t"]:
    """Rise of the log spectrum from frame to frame, averaged over frequency; blind to gain."""
    magnitude = _magnitudes(audio, window=2048, hop=hop)
    levels = torch.log1p(1000 * magnitude / magnitude.max().clamp(min=1e-12))
    return levels.diff(dim=1).clamp(min=0).mean(dim=0)


def chroma(
    audio: Float[Tensor, " s"], *, sample_rate: int = 44100, hop: int = 2048
) -> Float[Tensor, "12 t"]:
    """Share of each pitch class (C first) in the energy of 110 Hz to 2 kHz; zero in silence."""
    window = 8192
    frequency = torch.fft.rfftfreq(window, 1 / sample_rate, dtype=torch.float64)
    audible = (frequency >= 110) & (frequency <= 2000)
    pitch = 69 + 12 * torch.log2(frequency[audible] / 440)
    nearest = pitch.round()
    # A bin halfway between two semitones tells neither apart, so it counts for neither.
    tuned = torch.cos(math.pi * (pitch - nearest)).square()
    fold = tuned * (nearest % 12 == torch.arange(12)[:, None])
    energy = fold @ _magnitudes(audio, window=window, hop=hop)[audible].square()
    total = energy.sum(dim=0)
    heard = total > 1e-5 * total.max().clamp(min=1e-12)
    return torch.where(heard, energy / total.clamp(min=1e-12), 0.0)


def chroma_correlation(a: Float[Tensor, "12 t"], b: Float[Tensor, "12 t"]) -> float:
    """Mean over frames of the correlation of two chromas; frames silent in either are left out.

    1 for the same harmony at the same time, near or below 0 for unrelated harmony; nan where the
    two never sound together.
    """
    if a.shape != b.shape:
        raise ValueError(f"chromas must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    sounding = (a.sum(dim=0) > 0) & (b.sum(dim=0) > 0)
    columns = torch.stack([a, b])[:, :, sounding]
    return _correlation(columns[0].mT, columns[1].mT).mean().item()


def key(chroma: Float[Tensor, "12 t"]) -> str:
    """The best of the 24 keys, such as "A minor", by correlation with the average chroma; "" in
    silence."""
    heard = chroma.double().mean(dim=1)
    if not heard.any():
        return ""
    fit = {
        f"{TONICS[tonic]} {mode}": _correlation(heard, heard.new_tensor(profile).roll(tonic))
        for mode, profile in KEY_PROFILES.items()
        for tonic in range(12)
    }
    return max(fit, key=lambda name: fit[name].item())


def key_score(estimated: str, asked: str) -> float:
    """The weighted score of MIREX: 1 for the same key, 0.5 a fifth above or below in the same mode,
    0.3 for its relative, 0.2 for its parallel, else 0, as for none (""). Raises ValueError for what
    is not a key.
    """
    if not estimated:
        return 0.0
    (tonic, mode), (asked_tonic, asked_mode) = parse_key(estimated), parse_key(asked)
    interval = (tonic - asked_tonic) % 12
    if mode == asked_mode:
        return {0: 1.0, 5: 0.5, 7: 0.5}.get(interval, 0.0)
    relative = 9 if asked_mode == "major" else 3
    return {relative: 0.3, 0: 0.2}.get(interval, 0.0)


def parse_key(name: str) -> tuple[int, str]:
    """Pitch class (C is 0) and mode of a key such as "A minor", "Bb major" or "Am"."""
    tonic, mode = check_key(name).split()
    return TONICS.index(tonic), mode


def _correlation(a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
    """Pearson correlation along the last dimension."""
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def _magnitudes(audio: Float[Tensor, " s"], *, window: int, hop: int) -> Float[Tensor, "f t"]:
    audio = audio.detach().double().cpu()
    hann = torch.hann_window(window, dtype=torch.float64)
    return torch.stft(audio, window, hop_length=hop, window=hann, return_complex=True).abs()
