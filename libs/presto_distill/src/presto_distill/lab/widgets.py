"""Listening, and the few controls a notebook offers where somebody can move them.

papermill hangs at random on `interact` and `Output`, so nothing here or elsewhere uses them, and
controls appear in JupyterLab only: one guard, `interactive`, decides.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from presto_distill.experiment import Lab, Run
    from presto_models import LayerSchedule, Pipeline


def interactive() -> bool:
    """True only where somebody sits in front of JupyterLab; PRESTO_HEADLESS overrules it."""
    if os.environ.get("PRESTO_HEADLESS"):
        return False
    try:
        from IPython import get_ipython

        # JupyterLab says that it can be asked for input; papermill and nbconvert say it cannot.
        return bool(get_ipython().kernel.get_parent("shell")["content"]["allow_stdin"])
    except (ImportError, AttributeError, KeyError, TypeError):
        return False


def player(audio: Float[Tensor, "*ch s"], sample_rate: int):
    """An audio player for a notebook cell, at the level the audio has."""
    from IPython.display import Audio

    samples = audio.detach().cpu().reshape(-1, audio.shape[-1])
    return Audio(samples.clamp(-1, 1).numpy(), rate=sample_rate, normalize=False)


def wav(audio: Float[Tensor, "*ch s"], sample_rate: int) -> bytes:
    """Sound as a 16-bit WAV file, clipped at full scale."""
    import soundfile

    file = io.BytesIO()
    samples = audio.detach().cpu().reshape(-1, audio.shape[-1]).clamp(-1, 1).T.numpy()
    soundfile.write(file, samples, sample_rate, "PCM_16", format="WAV")
    return file.getvalue()


def png(fig: Figure) -> bytes:
    """A figure as a picture for `ipywidgets.Image`."""
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=120)
    return file.getvalue()


def explore(pipelines: dict[str, Pipeline], *, prompt: str, seconds: float = 5.0) -> None:
    """Prompt, tempo, steps, rho and seed, and a button that makes the clip with two models (one, if
    there is one): their sound, waveforms and spectrograms side by side.

    Does nothing, silently, where nobody can press it.
    """
    if not interactive():
        return
    import ipywidgets as w
    from IPython.display import display

    from presto_distill.lab import plots
    from presto_models import Sampling

    names, half = list(pipelines), w.Layout(width="50%")
    wide = {"description_width": "100px"}
    text = w.Text(value=prompt, description="prompt", layout=w.Layout(width="600px"))
    tempo = w.IntSlider(value=0, min=0, max=200, description="bpm (0: any)", style=wide)
    steps = w.IntSlider(value=4, min=1, max=40, description="steps")
    # Steps so small that the slider can stand at 7.
    rho = w.FloatLogSlider(value=7.0, min=0, max=3, step=0.001, description="rho")
    seed = w.IntSlider(value=0, min=0, max=99, description="seed")
    button = w.Button(description="Make it", button_style="primary")
    sides = [
        (w.Dropdown(options=names, value=name), w.Label(), w.Audio(autoplay=False), w.Image())
        for name in dict.fromkeys((names[0], names[-1]))
    ]

    def make(_) -> None:
        button.disabled = True
        for model, status, sound, seen in sides:
            try:
                made = pipelines[model.value](
                    text.value,
                    bpm=tempo.value or None,
                    seconds=seconds,
                    seed=seed.value,
                    sampling=Sampling(steps=steps.value, rho=rho.value),
                )
            except ValueError as error:
                status.value = str(error)
                continue
            clip, rate = made.audios[0, 0], made.sample_rate
            sound.value = wav(clip, rate)
            seen.value = png(plots.waveform(clip, sample_rate=rate, title=model.value))
            times = ", ".join(f"{name} {value:.2f} s" for name, value in made.stage_seconds.items())
            status.value = f"{seconds:g} s of audio: {times}"
        button.disabled = False

    button.on_click(make)
    knobs = [text, w.HBox([tempo, steps]), w.HBox([rho, seed]), button]
    display(w.VBox([*knobs, w.HBox([w.VBox(side, layout=half) for side in sides])]))


def edit_budgets(schedule: LayerSchedule, depth: int) -> list[int]:
    """A slider per noise level bin for the blocks that run there, with the map they make.

    Returns the budgets, cleanest bin first, as a list that the sliders change; they stay those of
    `schedule` where nobody can move them.
    """
    budgets = list(schedule.budgets)
    if not interactive():
        return budgets
    import ipywidgets as w
    from IPython.display import display

    from presto_distill.lab.probe_plots import budget_map

    seen = w.Image()
    sliders = [
        w.IntSlider(value=budget, min=1, max=depth, orientation="vertical") for budget in budgets
    ]

    def draw(_=None) -> None:
        budgets[:] = [slider.value for slider in sliders]
        seen.value = png(budget_map(replace(schedule, budgets=tuple(budgets)), depth))

    for slider in sliders:
        slider.observe(draw, "value")
    draw()
    display(w.VBox([w.Label("blocks that run, from clean to noisy"), w.HBox(sliders), seen]))
    return budgets


def watch(
    lab: Lab | None,
    train: Callable[..., Run],
    *,
    knobs: dict[str, float] | None = None,
    every: float = 2.0,
) -> list[Run]:
    """A button that trains by `train(lab)` while its curves grow, redrawn every so many seconds,
    and one that stops it and keeps what was learned. `knobs` are numbers to change before, by name
    and first value, which `train` gets as keyword arguments.

    Returns a list that ends with the run once it is there. A stopped one is as far as it got;
    starting again goes on from there. Nobody can press it, or stored results are shown (no `lab`):
    the list stays empty.
    """
    runs: list[Run] = []
    if lab is None or not interactive():
        return runs
    import ipywidgets as w
    from IPython.display import display

    from presto_distill.lab import plots, studies

    start = w.Button(description="Train", button_style="primary")
    stop = w.Button(description="Stop and keep", disabled=True)
    said, seen = w.Label(), w.Image(width=900)
    fields = {name: w.FloatText(value, description=name) for name, value in (knobs or {}).items()}
    enough = threading.Event()

    def draw(records: list[dict]) -> None:
        curves = studies.curves_of({"this run": records})
        terms = [term for term in curves["term"].unique() if not term.startswith("grad_norm")]
        seen.value = png(plots.curves(curves, terms=terms))
        said.value = f"step {records[-1]['step']}"

    def follow() -> None:
        drawn = 0.0

        def look(records: list[dict]) -> bool:
            nonlocal drawn
            if time.monotonic() - drawn > every:
                draw(records)
                drawn = time.monotonic()
            return enough.is_set()

        try:
            values = {name: field.value for name, field in fields.items()}
            runs.append(train(replace(lab, watch=look), **values))
            draw(runs[-1].records)
            said.value += ": stopped and kept" if "-step-" in runs[-1].key else ": done"
        except Exception as error:  # in a thread nobody else would hear of it
            said.value = f"{type(error).__name__}: {error}"
        start.disabled, stop.disabled = False, True

    def begin(_) -> None:
        enough.clear()
        start.disabled, stop.disabled, said.value = True, False, "preparing"
        # Buttons are heard between cells only, so training must not fill one.
        threading.Thread(target=follow, daemon=True).start()

    start.on_click(begin)
    stop.on_click(lambda _: enough.set())
    display(w.VBox([w.HBox(list(fields.values())), w.HBox([start, stop, said]), seen]))
    return runs
