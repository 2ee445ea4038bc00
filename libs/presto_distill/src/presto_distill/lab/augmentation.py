"""What augmentation does to music, measured and told: pitch, onsets, facts, captions."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from pandas import DataFrame
from pandas.io.formats.style import Styler

from presto_data import Clip, Corpus, Metadata, folder_corpus, synthetic_corpus
from presto_data.augment import shift_and_stretch
from presto_data.composer import Note
from presto_data.genres import DRUMS, INSTRUMENTS
from presto_data.synthetic import SAMPLE_RATE, play
from presto_distill.lab.params import Params
from presto_distill.lab.plots import COLOURS, INK, canvas

CENTS, MILLISECONDS = 5.0, 10.0  # our own bars
SECONDS = 6.0  # of the augmented clips; theirs to begin with are SECONDS * 1.12
AMOUNTS = ((-2, 1), (-1, 1), (1, 1), (2, 1), (0, 0.9), (0, 1.1), (2, 0.9), (-2, 1.1))
NOTES = {"electric bass": 30, "piano": 45, "violin": 57, "trumpet": 60, "flute": 67}
HITS = ("kick", "snare", "hat")


def corpus_of(params: Params, *, clips: int = 6) -> Corpus:
    """Clips long enough to be stretched: of the given recordings, else rendered."""
    seconds = SECONDS * 1.12
    if params.audio:
        return folder_corpus(params.audio, seconds=seconds)
    return synthetic_corpus(clips, seed=params.seed, seconds=seconds)


def facts(clips: Iterable[Clip]) -> DataFrame:
    """What each clip says of itself, one row a clip."""
    rows = [
        {
            "clip": clip.id,
            "tempo": clip.metadata.tempo,
            "key": " ".join(filter(None, (clip.metadata.key, clip.metadata.mode))),
            "seconds": clip.audio.shape[1] / clip.sample_rate,
            "caption": clip.caption,
        }
        for clip in clips
    ]
    return DataFrame(rows)


def shown(table: DataFrame) -> Styler:
    """Rows of `facts` as a notebook shows them."""
    return table.style.hide(axis="index").format(precision=1, na_rep="?")


def told(clip: Clip) -> str:
    """The same as a line of HTML."""
    row = facts([clip]).iloc[0]
    known = [f"{row['tempo']:g} bpm" if row["tempo"] else "", row["key"], f"{row['seconds']:.2f} s"]
    line = ", ".join(filter(None, known))
    return (
        f"<b>{escape(row['caption'])}</b><br>{escape(line)}<br><code>{escape(row['clip'])}</code>"
    )


# ---------------------------------------------------------------------- measurements


def fundamental(sound: Float[np.ndarray, " s"], near: float) -> float:
    """The frequency in Hz within 60 cents of `near` whose six lowest harmonics fit best.

    Their magnitudes in a long FFT are summed at every tenth of a cent.
    """
    n = 2**20
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), n))
    candidates = near * 2 ** (np.arange(-60, 60, 0.1) / 1200)
    bins = np.outer(np.arange(1, 7), candidates) * n / SAMPLE_RATE
    return candidates[np.interp(bins, np.arange(len(spectrum)), spectrum).sum(0).argmax()]


def onset(sound: Float[np.ndarray, " s"], near: float) -> float:
    """Seconds at which the level over 1 ms first passes half its peak, within 30 ms of `near`."""
    first = round((near - 0.03) * SAMPLE_RATE)
    nearby = sound[first : first + round(0.06 * SAMPLE_RATE)]
    power = np.convolve(nearby.astype(np.float64) ** 2, np.ones(44), "same")
    return (first + (power > power.max() / 4).argmax()) / SAMPLE_RATE


def errors(*, instruments: int = len(NOTES), hits: int = len(HITS)) -> DataFrame:
    """How far notes and drum hits land from where each of AMOUNTS should put them.

    Columns instrument, semitones, rate, measure ("cents" or "milliseconds") and error, the
    difference to the same measurement before the change; of five hits the worst.
    """
    rows = []
    for instrument, pitch in list(NOTES.items())[:instruments]:
        note = play([Note(0, 2, pitch, 100)], INSTRUMENTS[instrument][0], drums=False, spb=1)
        nominal = 440 * 2 ** ((pitch - 69) / 12)
        heard = slice(round(0.2 * SAMPLE_RATE), round(1.7 * SAMPLE_RATE))
        before = fundamental(note[heard], nominal)
        for semitones, rate in AMOUNTS:
            after = _changed(note, semitones, rate)
            same = slice(round(heard.start / rate), round(heard.stop / rate))
            up = 2 ** (semitones / 12)
            error = 1200 * np.log2(fundamental(after[same], nominal * up) / (before * up))
            rows.append((instrument, semitones, rate, "cents", error))
    for drum in HITS[:hits]:
        beats = [0.2 + 0.31 * i for i in range(5)]
        sound = play([Note(b, 0.2, DRUMS[drum][0], 110) for b in beats], 0, drums=True, spb=1)
        for semitones, rate in AMOUNTS:
            after = _changed(sound, semitones, rate)
            late = [1000 * (onset(after, b / rate) - onset(sound, b) / rate) for b in beats]
            rows.append((drum, semitones, rate, "milliseconds", max(late, key=abs)))
    return DataFrame(rows, columns=["instrument", "semitones", "rate", "measure", "error"])


def _changed(sound: Float[np.ndarray, " s"], semitones: float, rate: float) -> np.ndarray:
    clip = Clip(torch.from_numpy(sound)[None], SAMPLE_RATE, "", Metadata(), "")
    return shift_and_stretch(clip, semitones=semitones, rate=rate).audio[0].numpy()


def worst(table: DataFrame, measure: str) -> float:
    """The largest error of a measure, without its sign."""
    return float(table.loc[table["measure"] == measure, "error"].abs().max())


def error_plot(table: DataFrame) -> Figure:
    """Errors of pitch and onset by amount, a colour per instrument, our bars as bands."""
    fig, panels = canvas(2, width=10.5, height=3.8)
    bars = {"cents": ("Pitch of a note", CENTS), "milliseconds": ("Onset of a hit", MILLISECONDS)}
    for ax, (measure, (title, bar)) in zip(panels, bars.items(), strict=True):
        rows = table[table["measure"] == measure]
        named = rows["instrument"].unique()
        ax.axhspan(-bar, bar, color=COLOURS[2], alpha=0.1, lw=0)
        ax.axhline(0, color=INK, lw=0.8)
        for i, instrument in enumerate(named):
            mine = rows[rows["instrument"] == instrument]
            places = np.arange(len(mine)) + 0.12 * (i - (len(named) - 1) / 2)
            ax.plot(places, mine["error"], "o", ms=5.5, color=COLOURS[i], label=instrument)
        ax.set_xticks(range(len(AMOUNTS)), [_name(*amount) for amount in AMOUNTS], fontsize=9)
        limit = 1.45 * max(bar, rows["error"].abs().max())
        ax.set(ylabel=f"error in {measure}", ylim=(-limit, limit), title=title)
        ax.grid(visible=False, axis="x")
        ax.legend(frameon=False, fontsize=8.5, ncols=3, loc="lower left", borderaxespad=0)
    return fig


def _name(semitones: float, rate: float) -> str:
    shift = f"{semitones:+g} st".replace("-", "−") if semitones else ""
    return "\n".join(filter(None, (shift, f"× {rate:g}" if rate != 1 else "")))
