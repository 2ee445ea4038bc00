"""What the notebook on augmentation shows: a ruler that reads right, and controls that work."""

import numpy as np
import pytest
import torch

from presto_data import Clip, Metadata
from presto_distill.lab import augment_player, augmentation

RATE = 44_100


@pytest.fixture
def clip():
    t = torch.arange(2 * RATE) / RATE
    tone = torch.stack([torch.sin(880 * torch.pi * t), torch.zeros(2 * RATE)]) / 4
    facts = Metadata(tempo=120.0, key="A", mode="minor")
    return Clip(tone, RATE, "a <soft> tone in A minor at 120 bpm", facts, "tone")


def test_pitch_and_onset_are_read_as_they_are():
    t = np.arange(RATE) / RATE
    tone = sum(np.sin(2 * np.pi * 101.5 * k * t) for k in range(1, 7))
    assert abs(1200 * np.log2(augmentation.fundamental(tone, 100) / 101.5)) < 0.1
    click = np.zeros(RATE)
    click[11_025] = 1
    assert augmentation.onset(click, 0.24) == pytest.approx(0.25, abs=0.001)


def test_errors_are_those_of_the_change(monkeypatch):
    """A change that does nothing is wrong by what was asked for, as far as the ruler reaches."""
    table = augmentation.errors(instruments=1, hits=1)
    assert len(table) == 2 * len(augmentation.AMOUNTS)
    assert augmentation.worst(table, "cents") < augmentation.CENTS
    assert augmentation.worst(table, "milliseconds") < augmentation.MILLISECONDS
    monkeypatch.setattr(augmentation, "_changed", lambda sound, semitones, rate: sound)
    wrong = augmentation.errors(instruments=1, hits=1)
    assert augmentation.worst(wrong, "cents") > 50
    panel = augmentation.error_plot(wrong).axes[0]
    seen = np.concatenate([line.get_ydata() for line in panel.lines])
    assert abs(seen).max() < panel.get_ylim()[1], "what fails is seen"


def test_nothing_appears_where_nobody_sits(clip):
    assert not augment_player.explore(clip)


def test_sliders_change_what_is_heard_seen_and_said(clip, monkeypatch):
    from IPython import display

    shown = []
    monkeypatch.setattr(augment_player, "interactive", lambda: True)
    monkeypatch.setattr(display, "display", shown.append)
    augment_player.explore(clip)
    controls, sounds, _, said, seen = shown[0].children
    sliders = {w.description: w for box in controls.children for w in box.children}
    after, unchanged = sounds.children[1].children[1], said.value
    first = after.value
    sliders["semitones"].value, sliders["tempo ×"].value = 2.0, 0.8
    sliders["bass dB"].value, sliders["swap left and right"].value = 3.0, True
    assert after.value[:4] == b"RIFF" and len(after.value) > 1.2 * len(first)
    assert "&lt;soft&gt; tone in B minor at 96 bpm" in said.value != unchanged
    assert "tone+pitch=+2st+rate=0.8+eq=low150Hz+3dB+swapped" in said.value
    assert bytes(seen.value[1:4]) == b"PNG"
