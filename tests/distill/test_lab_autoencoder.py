"""Round trips: rulers that read closed forms right, figures and verdicts of made-up numbers."""

import math

import pandas as pd
import pytest
import torch

from presto_data import Clip, Metadata
from presto_distill.lab import autoencoder
from presto_distill.metrics.reconstruction import (
    log_mel_distance,
    onset_distances,
    spectral_flux,
)
from presto_models import Autoencoder, AutoencoderConfig

RATE = 44_100


def clicks(at: list[float], seconds: float = 2.0) -> torch.Tensor:
    """Bursts of decaying noise at these seconds."""
    audio = 1e-4 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(0))
    burst = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    burst = burst * torch.exp(-torch.arange(2000) / 400)
    for second in at:
        first = round(second * RATE)
        audio[first : first + 2000] += burst
    return audio


def test_log_mel_distance_is_that_of_a_gain():
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert log_mel_distance(noise, noise) == 0
    assert log_mel_distance(noise, 2 * noise) == pytest.approx(math.log(2), abs=1e-4)
    silence = log_mel_distance(noise, 0 * noise)  # down to the floor, nowhere near infinity
    assert 6 < silence < math.log(1e4)
    assert log_mel_distance(0 * noise, 0 * noise) == 0
    assert math.isfinite(log_mel_distance(0 * noise, noise))


def test_onsets_are_as_far_as_they_were_moved():
    before = clicks([0.3, 0.8, 1.4])
    assert onset_distances(before, before) == [0, 0, 0]
    late = onset_distances(before, clicks([0.32, 0.82, 1.42]))
    assert late == pytest.approx([20, 20, 20], abs=2.6)  # frames of 2.5 ms
    assert onset_distances(before, torch.zeros_like(before)) == [math.inf] * 3


def test_flux_tells_a_held_tone_from_a_fluttering_one():
    t = torch.arange(RATE) / RATE
    tone = torch.sin(2 * torch.pi * 440 * t)
    flutter = tone * (1 + 0.5 * torch.sin(2 * torch.pi * 12 * t))
    assert spectral_flux(tone) < 0.1 < 0.2 < spectral_flux(flutter)
    assert spectral_flux(0.1 * flutter) == pytest.approx(spectral_flux(flutter), rel=1e-3)
    assert spectral_flux(torch.zeros(RATE)) == 0


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(channels=4, width=16, depth=1, phase="learned")).eval()


@pytest.fixture
def clips():
    facts = Metadata(instruments=("piano",)), Metadata(instruments=("piano", "drum kit"))
    sounds = clicks([0.3, 0.8]), clicks([0.2, 0.9])
    return [
        Clip(torch.stack([sound, sound]), RATE, "clicks", fact, f"clip {i}")
        for i, (sound, fact) in enumerate(zip(sounds, facts, strict=True))
    ]


def test_a_row_per_clip_and_setting(codec, clips):
    both = autoencoder.round_trips(codec, clips, (0, 2), phases=codec.phases)
    assert both.groupby(["phase", "iterations"]).size().tolist() == [2] * 4
    table = both[both["phase"] == "learned"]
    assert table[["clip", "iterations"]].to_numpy().tolist() == [
        ["clip 0", 0], ["clip 0", 2], ["clip 1", 0], ["clip 1", 2]
    ]  # fmt: skip
    assert table["within_10_ms"].isna().tolist() == [True, True, False, False]  # drums or not
    assert table[["log_mel", "chroma", "times_real_time"]].notna().all(axis=None)


def test_noise_is_that_of_its_seed_and_size(codec, clips):
    audio = clips[0].audio[0]
    made = [
        autoencoder.round_trip(codec, audio, iterations=0, noise=noise, seed=seed)[0]
        for noise, seed in ((0.0, 0), (0.5, 0), (0.5, 0), (0.5, 1))
    ]
    assert made[0].shape == audio.shape
    assert torch.equal(made[1], made[2])
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[1], made[3])


@pytest.fixture
def tables():
    trips = pd.DataFrame(
        {
            "clip": ["a", "b"] * 2,
            "phase": ["learned"] * 4,
            "iterations": [16] * 4,
            "sigma": [0.0, 0.0, 0.2, 0.2],
            "log_mel": [0.3, 0.4, 0.6, 0.8],
            "chroma": [0.95, 0.93, 0.7, 0.6],
            "onset_ms": [6.0, None, 12.0, None],
            "within_10_ms": [0.8, None, 0.4, None],
            "times_real_time": [30.0] * 4,
        }
    )
    channels = pd.DataFrame(
        {"channel": [0, 1], "mean": [0.0, 0.1], "std": [0.45, 0.6], "sigma_data": [0.5, 0.5]}
    )
    chords = pd.DataFrame(
        {"instrument": ["organ", "strings"], "original": [0.2, 0.1], "decoded": [0.2, 0.13]}
    )
    return trips, channels, chords


def test_verdicts_measure_against_our_bars(tables):
    """Rows without noise count; a bar is met or missed by the effect."""
    found = autoencoder.verdicts(*tables)
    facts = [(one["held"], round(one["effect"], 3)) for one in found]
    assert facts == [(False, -0.01), (True, 0.05), (False, -1.0), (False, -0.1), (False, -0.05)]
    assert "strings" in found[3]["evidence"]
    assert all("our own bar" in one["claim"] for one in found)
    trips, *others = tables
    undecided = autoencoder.verdicts(trips.assign(onset_ms=float("nan")), *others)[2]
    assert undecided["held"] is None and undecided["effect"] is None


def test_figures_say_what_they_show(tables):
    trips, channels, _ = tables
    left, right = autoencoder.noise_plot(trips).axes
    assert left.get_title(loc="left").startswith("chroma") and "σ" in right.get_xlabel()
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0", "0.2"]
    mean = left.lines[2].get_ydata()  # after one line per clip
    assert mean.tolist() == pytest.approx([0.94, 0.65])

    by_iterations = autoencoder.iterations_plot(trips[trips["sigma"] == 0])
    assert [ax.get_xlabel() for ax in by_iterations.axes] == ["Griffin-Lim iterations"] * 3
    legend = by_iterations.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["learned"]
    (ax,) = autoencoder.channels_plot(channels).axes
    assert [bar.get_height() for bar in ax.patches] == [0.45, 0.6]
    assert "σ_data = 0.5" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_sliders_change_what_is_heard_and_seen(codec, clips, monkeypatch):
    from IPython import display

    shown = []
    assert autoencoder.explore(codec, clips) is None  # nobody sits here
    monkeypatch.setattr(autoencoder, "interactive", lambda: True)
    monkeypatch.setattr(display, "display", shown.append)
    autoencoder.explore(codec, clips)
    controls, said, sounds, seen = shown[0].children
    clip, phase, iterations, noise = controls.children
    before, after = (box.children[1] for box in sounds.children)
    iterations.value = 0
    first = before.value, after.value, seen.value
    phase.value = "griffin-lim"
    assert before.value == first[0] and after.value != first[1] and seen.value != first[2]
    noise.value = 0.5
    assert before.value == first[0] and after.value != first[1] and seen.value != first[2]
    clip.value = 1
    assert before.value != first[0] and said.value == "clicks"
