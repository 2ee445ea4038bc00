"""Controls for people: what they make, what they keep, and that they are absent headless."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from presto_distill.lab import plots, probe_plots, widgets
from presto_models import LayerSchedule


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as if somebody sat in front of JupyterLab."""
    from IPython import display

    seen = []
    monkeypatch.setattr(widgets, "interactive", lambda: True)
    monkeypatch.setattr(display, "display", seen.append)
    return seen


SCHEDULE = LayerSchedule((0.5, 5.0), (8, 6, 3))


def test_headless_nothing_appears_and_nothing_trains():
    assert widgets.edit_budgets(SCHEDULE, 8) == [8, 6, 3]
    assert widgets.watch("a laboratory", lambda lab: 1 / 0) == []


def test_stored_results_have_nothing_to_train(shown):
    assert widgets.watch(None, lambda lab: 1 / 0) == [] and shown == []


def test_two_models_side_by_side(shown):
    """A press makes one clip per model with the knobs' values; another seed changes both."""
    from types import SimpleNamespace

    asked = []

    def pipeline(prompt, *, bpm, seconds, seed, sampling):
        asked.append((prompt, bpm, seed, sampling.steps))
        sound = torch.sin(torch.arange(22_050) * (0.01 + 0.01 * seed))[None, None]
        return SimpleNamespace(audios=sound, sample_rate=44_100, stage_seconds={"text": 0.1})

    widgets.explore({"base": pipeline, "middle": pipeline, "fast": pipeline}, prompt="p")
    _, row, other, button, sides = shown[0].children
    tempo, steps = row.children
    assert [side.children[0].value for side in sides.children] == ["base", "fast"]
    tempo.value, steps.value = 90, 2
    button.click()
    assert asked == [("p", 90, 0, 2)] * 2
    _, said, sound, seen = sides.children[1].children
    assert (
        sound.value[:4] == b"RIFF" and seen.value[:4] == b"\x89PNG" and "text 0.10 s" in said.value
    )
    before = sound.value, seen.value
    other.children[1].value = 3
    button.click()
    assert sound.value != before[0] and seen.value != before[1]


def test_sliders_edit_the_budgets_that_are_used(shown):
    budgets = widgets.edit_budgets(SCHEDULE, 8)
    _, sliders, seen = shown[0].children
    before = seen.value
    sliders.children[2].value = 1
    assert budgets == [8, 6, 1] and seen.value != before


def test_budget_map_shows_what_runs():
    fig = probe_plots.budget_map(SCHEDULE, 8, heun_steps=1)
    (ax,) = fig.axes
    run = torch.tensor(ax.collections[0].get_array()).view(8, 3)
    assert run.sum(0).tolist() == [8, 6, 3]
    assert run[:, 2].tolist() == [1, 1, 0, 0, 0, 0, 0, 1]  # the last block is kept
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("noise level", "block")
    assert ax.get_title(loc="left") == "3.0 of 8 blocks on average promise 2.67 × faster denoising"


def test_waveform_above_spectrogram():
    fig = plots.waveform(torch.linspace(-1, 1, 44_100), sample_rate=44_100, title="ramp")
    wave, below, _ = fig.axes
    assert wave.get_title(loc="left") == "ramp" and wave.get_ylabel() == "level"
    assert below.get_xlabel() == "seconds" and below.get_xlim() == wave.get_xlim()


def lightness(colour: str) -> float:
    """Relative luminance of WCAG."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_have_contrast(theme, monkeypatch):
    """Text is told from its paper 7 to 1, faint text and lines of models 2 to 1 at least."""
    import importlib.util

    monkeypatch.setenv("PRESTO_THEME", theme)
    spec = importlib.util.spec_from_file_location("themed", plots.__file__)
    themed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(themed)

    def contrast(colour):
        a, b = sorted((lightness(colour), lightness(themed.PAPER)))
        return (b + 0.05) / (a + 0.05)

    assert contrast(themed.INK) > 7
    assert all(contrast(colour) > 2 for colour in (*themed.COLOURS[:5], themed.FAINT))
    assert themed.canvas()[0].get_facecolor()[0] == pytest.approx(int(themed.PAPER[1:3], 16) / 255)


def test_an_unknown_theme_is_refused():
    code = "import os; os.environ['PRESTO_THEME'] = 'drak'; import presto_distill.lab.plots"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PRESTO_THEME must be light or dark, got 'drak'" in done.stderr


# ---------------------------------------------------------------------- watching


@pytest.fixture
def lab(tmp_path):
    """A laboratory of the smoke preset with the bundled model."""
    from presto_distill.experiment import Lab
    from presto_distill.presets import preset
    from presto_models import SnapshotError

    smoke = replace(preset("smoke"), clips=4, held_out=2)
    try:
        return Lab.open(smoke, out=Path(tmp_path))
    except SnapshotError as error:
        pytest.skip(str(error))


def test_a_stopped_training_is_kept_and_goes_on(lab):
    """Stopped after one step, its weights are usable and its checkpoint resumes to the same end."""
    stage = replace(lab.preset.layers, steps=3, batch=2)
    stopped = replace(lab, watch=lambda records: True).distill("layers", train=stage)
    assert stopped.key.endswith("-step-1") and [row["step"] for row in stopped.records] == [1]
    started = lab.teacher.state_dict()
    moved = stopped.denoiser.state_dict()
    assert any(not torch.equal(moved[k], started[k]) for k in moved.keys() & started.keys())

    seen = []
    watched = replace(lab, watch=lambda records: bool(seen.append(len(records))))
    finished = watched.distill("layers", train=stage)
    assert seen == [2, 3] and [row["step"] for row in finished.records] == [1, 2, 3]

    alone = replace(lab, out=lab.out / "other").distill("layers", train=stage)
    ends = finished.denoiser.state_dict(), alone.denoiser.state_dict()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_stop_button_stops(lab, shown):
    """Training runs beside the notebook; a press of stop leaves a run and its curves."""
    stage = replace(lab.preset.layers, steps=1000, batch=2)
    runs = widgets.watch(lab, lambda lab: lab.distill("layers", train=stage), every=0.0)
    _, buttons, seen = shown[0].children
    start, stop, said = buttons.children
    start.click()
    deadline = time.monotonic() + 120
    while not seen.value and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen.value[:4] == b"\x89PNG" and start.disabled
    stop.click()
    while start.disabled and time.monotonic() < deadline:
        time.sleep(0.05)
    (run,) = runs
    assert "-step-" in run.key and len(run.records) < 1000 and "stopped and kept" in said.value


def test_knobs_are_what_the_training_is_told(lab, shown):
    """Numbers changed before the press arrive by name; what training refuses is said."""
    stage, told = replace(lab.preset.steps, steps=1, batch=2), []

    def train(lab, **nu):
        told.append(nu)
        return lab.distill("steps", train=stage, **nu)

    runs = widgets.watch(lab, train, knobs={"nu_1": 0.01, "nu_2": 0.005})
    numbers, buttons, _ = shown[0].children
    first, (start, _, said) = numbers.children[0], buttons.children
    for value in (0.5, -1.0):
        first.value = value
        start.click()
        deadline = time.monotonic() + 120
        while start.disabled and time.monotonic() < deadline:
            time.sleep(0.05)
    assert told == [{"nu_1": 0.5, "nu_2": 0.005}, {"nu_1": -1.0, "nu_2": 0.005}]
    assert len(runs) == 1 and "gan_g" in runs[0].records[-1] and "nu_1" in said.value
