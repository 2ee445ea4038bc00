"""The notebook on the autoencoder: what a round trip keeps, what the latents are, and what noise
in them sounds like."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from presto_data import Clip
from presto_data.composer import Note
from presto_data.genres import INSTRUMENTS
from presto_data.synthetic import play
from presto_distill.experiment import Lab
from presto_distill.lab import params as p
from presto_distill.lab.plots import COLOURS, FAINT, INK, canvas, spectrograms
from presto_distill.lab.widgets import interactive, png, wav
from presto_distill.metrics.music import chroma, chroma_correlation
from presto_distill.metrics.reconstruction import log_mel_distance, onset_distances, spectral_flux
from presto_models import Autoencoder
from presto_models.autoencoder import Phase

# Our own bars: at least this chroma correlation, at most this of the others.
CHROMA, LOG_MEL, ONSET_MS, FLUX, SPREAD = 0.95, 0.40, 5.0, 1.2, 0.1
CHORDS = {"organ": 48, "strings": 48, "accordion": 60}  # instruments that hold, and their root


def clips_of(lab: Lab, params: p.Autoencoder) -> list[Clip]:
    """So many held-out clips, or as many as there are."""
    music = lab.music[1]
    return [music[i] for i in range(min(params.clips, len(music)))]


@torch.inference_mode()
def round_trip(
    codec: Autoencoder,
    audio: Float[Tensor, " s"],
    *,
    phase: Phase | None = None,
    iterations: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[Float[Tensor, " s"], float]:
    """What the codec makes of mono audio, and the seconds that decoding took.

    `noise`: standard deviation of white noise added to the latent, drawn with `seed`.
    """
    device = codec.latent_mean.device
    latent = codec.encode(audio[None].to(device))
    if noise:
        rng = torch.Generator().manual_seed(seed)
        latent = latent + noise * torch.randn(latent.shape, generator=rng).to(device)
    started = time.perf_counter()
    decoded = codec.decode(latent, phase=phase, iterations=iterations)[0, : len(audio)].cpu()
    return decoded, time.perf_counter() - started


def round_trips(
    codec: Autoencoder,
    clips: Sequence[Clip],
    iterations: Sequence[int],
    *,
    phases: Sequence[Phase] = (),
    noise: float = 0.0,
) -> DataFrame:
    """One row per clip (its mid), phase and number of Griffin-Lim iterations: clip, phase,
    iterations, log_mel, chroma, onset_ms (the median) and within_10_ms (the share) of strong
    onsets, times_real_time of decoding alone. Onsets are those of clips with drums, or of unknown
    instruments; else nan.

    `phases`: default the codec's own. `noise`: standard deviation of white noise in the latent,
    for a clip the same in every call.
    """
    rows = []
    for number, clip in enumerate(clips):
        audio = clip.mono().audio[0]
        for phase, count in product(phases or (codec.config.phase,), dict.fromkeys(iterations)):
            how = {"phase": phase, "iterations": count}
            decoded, seconds = round_trip(codec, audio, **how, noise=noise, seed=number)
            late = onset_distances(audio, decoded) if _struck(clip) else []
            late = pd.Series(late, dtype=float)
            rows.append(
                {
                    "clip": clip.id,
                    **how,
                    "log_mel": log_mel_distance(audio, decoded),
                    "chroma": chroma_correlation(chroma(audio), chroma(decoded)),
                    "onset_ms": late.median(),
                    "within_10_ms": (late <= 10).mean(),
                    "times_real_time": len(audio) / codec.sample_rate / seconds,
                }
            )
    return DataFrame(rows)


def _struck(clip: Clip) -> bool:
    names = clip.metadata.instruments
    return not names or any("drum" in name for name in names)


def noisy_round_trips(lab: Lab, clips: Sequence[Clip], params: p.Autoencoder) -> DataFrame:
    """Rows of `round_trips` as the codec decodes by default, without noise and with each."""
    own = (lab.codec.config.iterations,)
    tables = [
        round_trips(lab.codec, clips, own, noise=sigma).assign(sigma=sigma)
        for sigma in dict.fromkeys((0.0, *params.sigmas))
    ]
    return pd.concat(tables, ignore_index=True)


def channels(lab: Lab) -> DataFrame:
    """Mean and standard deviation of every latent channel over the held-out clips, and what the
    deviation should be."""
    values = lab.held_out.latents.transpose(0, 1).flatten(1).float()
    rows = {"channel": range(len(values)), "mean": values.mean(1), "std": values.std(1)}
    return DataFrame({**rows, "sigma_data": lab.codec.sigma_data})


def steadiness(codec: Autoencoder, *, seconds: float = 3.0) -> DataFrame:
    """Spectral flux of held chords before and after the codec: instrument, original, decoded.

    The attack's first half second is left out.
    """
    rows, half = [], codec.sample_rate // 2
    for instrument, root in CHORDS.items():
        notes = [Note(0, seconds, root + step, 100) for step in (0, 7, 12, 16)]
        sound = play(notes, INSTRUMENTS[instrument][0], drums=False, spb=1)
        sound = torch.from_numpy(sound)[: round(seconds * codec.sample_rate)]
        sound = 0.5 * sound / sound.abs().max()
        decoded, _ = round_trip(codec, sound)
        flux = [spectral_flux(audio[half:]) for audio in (sound, decoded)]
        rows.append((instrument, *flux))
    return DataFrame(rows, columns=["instrument", "original", "decoded"])


def explore(codec: Autoencoder, clips: Sequence[Clip]) -> None:
    """Clip, phase, Griffin-Lim iterations and noise in the latent, with sound and spectrograms
    before and after. Does nothing, silently, where nobody can move them."""
    if not interactive():
        return
    import ipywidgets as w
    from IPython.display import display

    wide = {"style": {"description_width": "90px"}, "continuous_update": False}
    which = w.IntSlider(value=0, min=0, max=len(clips) - 1, description="clip", **wide)
    phase = w.Dropdown(options=codec.phases, value=codec.config.phase, description="phase")
    own = codec.config.iterations
    iterations = w.IntSlider(value=own, min=0, max=64, description="iterations", **wide)
    noise = w.FloatSlider(value=0, min=0, max=1, step=0.01, description="noise σ", **wide)
    before, after, said, seen = (
        w.Audio(autoplay=False), w.Audio(autoplay=False), w.Label(), w.Image(width=900)
    )  # fmt: skip

    def apply(_=None) -> None:
        clip = clips[which.value].mono()
        audio, rate = clip.audio[0], clip.sample_rate
        how = {"phase": phase.value, "iterations": iterations.value, "noise": noise.value}
        decoded, _ = round_trip(codec, audio, **how)
        before.value, after.value, said.value = wav(audio, rate), wav(decoded, rate), clip.caption
        sounds = {"before": audio, "after": decoded}
        seen.value = png(spectrograms(sounds, sample_rate=rate, seconds=len(audio) / rate))

    for control in (which, phase, iterations, noise):
        control.observe(apply, "value")
    apply()
    sounds = w.HBox([w.VBox([w.Label(name), one]) for name, one in
                     {"before": before, "after": after}.items()])  # fmt: skip
    display(w.VBox([w.HBox([which, phase, iterations, noise]), said, sounds, seen]))


# ---------------------------------------------------------------------- figures


def iterations_plot(trips: DataFrame) -> Figure:
    """Harmony, levels and speed of the round trip against Griffin-Lim iterations for each phase, a
    line per clip and their mean."""
    fig, (left, middle, right) = canvas(3, width=10.5, height=3.6)
    for (phase, part), colour in zip(trips.groupby("phase"), COLOURS, strict=False):
        look = {"colour": colour, "label": phase}
        _clips(left, part, "iterations", "chroma", "chroma correlation (1 is best)", CHROMA, **look)
        _clips(middle, part, "iterations", "log_mel", "log-mel L1 (0 is best)", LOG_MEL, **look)
        _clips(right, part, "iterations", "times_real_time", "times real time, decoding", **look)
    left.legend(frameon=False, fontsize=9, title="phase", title_fontsize=9)
    right.set_yscale("log")
    for ax in (left, middle, right):
        ax.set_xlabel("Griffin-Lim iterations")
    return fig


def noise_plot(trips: DataFrame) -> Figure:
    """Harmony and levels of the round trip against noise in the latent."""
    fig, (left, right) = canvas(2, width=8.6, height=3.6)
    _clips(left, trips, "sigma", "chroma", "chroma correlation (1 is best)", CHROMA)
    _clips(right, trips, "sigma", "log_mel", "log-mel L1 (0 is best)", LOG_MEL)
    for ax in (left, right):
        ax.set_xlabel("noise in the latent, σ (the latents have 0.5)")
    return fig


def channels_plot(table: DataFrame) -> Figure:
    """Standard deviation and mean of every channel over the held-out clips."""
    fig, ax = canvas(width=8.6, height=3.4)
    ax.bar(table["channel"], table["std"], color=COLOURS[0], width=0.8, label="standard deviation")
    ax.plot(table["channel"], table["mean"], "o", ms=3.5, color=COLOURS[1], label="mean")
    sigma_data = table["sigma_data"].iloc[0]
    ax.axhline(sigma_data, color=INK, ls="--", lw=1.2, label=f"σ_data = {sigma_data:g}")
    ax.set(xlabel="latent channel", ylabel="over held-out clips", xlim=(-0.8, len(table) - 0.2))
    ax.grid(visible=False, axis="x")
    ax.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return fig


def _clips(
    ax: Axes,
    trips: DataFrame,
    x: str,
    y: str,
    title: str,
    bar: float | None = None,
    *,
    colour: str = COLOURS[0],
    label: str | None = None,
) -> None:
    """A faint line per clip, their mean strong, our bar dotted; evenly spaced settings."""
    wide = trips.pivot(index=x, columns="clip", values=y).sort_index()
    ax.plot(range(len(wide)), wide.to_numpy(), color=FAINT, alpha=0.35, lw=0.9)
    ax.plot(range(len(wide)), wide.mean(axis=1), "o-", color=colour, label=label, zorder=3)
    if bar is not None:
        ax.axhline(bar, color=COLOURS[2], ls=":", lw=1.5)
    ax.set_xticks(range(len(wide)), [f"{value:g}" for value in wide.index])
    ax.set_title(title)


# ---------------------------------------------------------------------- verdicts


def verdicts(trips: DataFrame, table: DataFrame, chords: DataFrame) -> list[dict[str, Any]]:
    """For each of our bars what `Results.verdict` takes, of rows of `noisy_round_trips`, `channels`
    and `steadiness`."""
    own = trips[trips["sigma"] == 0]
    struck = own.dropna(subset="onset_ms")
    how = f"{own['phase'].iloc[0]} phase, {own['iterations'].iloc[0]} Griffin-Lim iterations"
    n = f"{len(own)} held-out clips, {how}"
    spread = (table["std"] / table["sigma_data"] - 1).abs().mean()
    flux = chords["decoded"] / chords["original"]
    worst = chords.loc[flux.idxmax(), "instrument"]

    def bar(claim: str, value: float, least: float, said: str, of: str, sign: int = 1) -> dict:
        effect = sign * (value - least)
        held = None if pd.isna(value) else effect >= 0
        facts = {"held": held, "evidence": said, "effect": None if held is None else effect}
        return {"claim": f"{claim} (our own bar)", "of": of, **facts}

    chroma, level, onset = own["chroma"].mean(), own["log_mel"].mean(), struck["onset_ms"].mean()
    return [
        bar(
            f"The codec keeps harmony: chroma correlation of at least {CHROMA:g}",
            chroma,
            CHROMA,
            f"{chroma:.3f}, lowest {own['chroma'].min():.3f}; {n}",
            f"chroma correlation minus {CHROMA:g}",
        ),
        bar(
            f"The codec keeps levels: log-mel L1 of at most {LOG_MEL:g}",
            level,
            LOG_MEL,
            f"{level:.3f}, highest {own['log_mel'].max():.3f}; {n}",
            f"{LOG_MEL:g} minus log-mel L1",
            -1,
        ),
        bar(
            f"The codec keeps attacks: onsets within {ONSET_MS:g} ms",
            onset,
            ONSET_MS,
            f"median {onset:.1f} ms, {struck['within_10_ms'].mean():.0%} within 10 ms, mean over "
            f"{len(struck)} clips with drums",
            f"{ONSET_MS:g} ms minus the median distance of onsets",
            -1,
        ),
        bar(
            f"Held chords stay as steady: spectral flux within {FLUX:g} times the original's",
            flux.max(),
            FLUX,
            f"at worst {flux.max():.2f} times ({worst}), {len(chords)} instruments",
            f"{FLUX:g} minus the worst ratio of spectral flux",
            -1,
        ),
        bar(
            f"Latent channels spread as EDM assumes: within {SPREAD:.0%} of sigma_data on average",
            spread,
            SPREAD,
            f"{spread:.1%} off on average over {len(table)} channels",
            f"{SPREAD:g} minus the mean relative deviation from sigma_data",
            -1,
        ),
    ]
