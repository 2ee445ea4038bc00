"""A clip before and after each augmentation, to listen to and to look at, with sliders."""

from __future__ import annotations

from presto_data import Clip
from presto_data.augment import (
    Band,
    crop,
    equalise,
    flip_polarity,
    gain,
    shift_and_stretch,
    swap_channels,
)
from presto_distill.lab import plots
from presto_distill.lab.augmentation import told
from presto_distill.lab.widgets import interactive, png, wav

BANDS = {"bass": ("low", 150), "middle": ("peak", 1000), "treble": ("high", 5000)}


def change(
    clip: Clip,
    *,
    start: float = 0.0,
    semitones: float = 0.0,
    rate: float = 1.0,
    decibels: float = 0.0,
    bands: dict[str, float] | None = None,
    flip: bool = False,
    swap: bool = False,
) -> Clip:
    """Apply every augmentation that has an amount; `bands` are decibels by the names of BANDS."""
    if start:
        clip = crop(clip, start, clip.audio.shape[1] / clip.sample_rate - start)
    clip = shift_and_stretch(clip, semitones=semitones, rate=rate)
    clip = equalise(clip, tuple(Band(*BANDS[name], db) for name, db in (bands or {}).items() if db))
    clip = gain(clip, decibels) if decibels else clip
    clip = flip_polarity(clip) if flip else clip
    return swap_channels(clip) if swap else clip


def explore(clip: Clip) -> None:
    """Sliders for every augmentation, applied when let go, with sound and spectrograms of both.

    Does nothing, silently, where nobody can press it.
    """
    if not interactive():
        return
    import ipywidgets as w
    from IPython.display import display

    def slider(name: str, value: float, low: float, high: float, step: float):
        return w.FloatSlider(
            value=value, min=low, max=high, step=step, description=name, continuous_update=False
        )

    seconds = clip.audio.shape[1] / clip.sample_rate
    pitch, tempo = slider("semitones", 0, -4, 4, 0.5), slider("tempo ×", 1, 0.8, 1.25, 0.01)
    level, start = slider("gain dB", 0, -12, 12, 1), slider("from s", 0, 0, seconds - 1, 0.1)
    bands = {name: slider(f"{name} dB", 0, -12, 12, 1) for name in BANDS}
    flip, swap = (w.Checkbox(description=text) for text in ("flip polarity", "swap left and right"))
    said, seen = w.HTML(), w.Image(width=900)
    before, after = (
        w.Audio(value=wav(clip.audio, clip.sample_rate), autoplay=False),
        w.Audio(autoplay=False),
    )

    def apply(_) -> None:
        changed = change(
            clip,
            start=start.value,
            semitones=pitch.value,
            rate=tempo.value,
            decibels=level.value,
            bands={name: band.value for name, band in bands.items()},
            flip=flip.value,
            swap=swap.value,
        )
        after.value, said.value, seen.value = (
            wav(changed.audio, changed.sample_rate),
            told(changed),
            spectra(clip, changed),
        )

    for control in (pitch, tempo, level, start, *bands.values(), flip, swap):
        control.observe(apply, "value")
    apply(None)
    left, right = w.VBox([pitch, tempo, start, level]), w.VBox([*bands.values(), flip, swap])
    sounds = w.HBox([w.VBox([w.Label("before"), before]), w.VBox([w.Label("after"), after])])
    display(w.VBox([w.HBox([left, right]), sounds, w.HTML(told(clip)), said, seen]))


def spectra(before: Clip, after: Clip) -> bytes:
    """Spectrograms of two clips side by side, each against its own loudest, as PNG."""
    clips = {"before": before.audio.mean(0), "after": after.audio.mean(0)}
    seconds = max(map(len, clips.values())) / before.sample_rate
    return png(plots.spectrograms(clips, sample_rate=before.sample_rate, seconds=seconds))
