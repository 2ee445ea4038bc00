"""Listening, and the few controls a notebook offers where somebody can move them.

papermill hangs at random on `interact` and `Output`, so nothing here or elsewhere uses them, and
controls appear in JupyterLab only: one guard, `interactive`, decides.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from presto_models import Pipeline


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


def explore(pipelines: dict[str, Pipeline], *, prompt: str, seconds: float = 5.0) -> None:
    """Sliders for model, prompt, steps, rho and seed, and a button that makes a clip.

    Does nothing, silently, where nobody can press it.
    """
    if not interactive():
        return
    import ipywidgets as w
    import soundfile
    from IPython.display import display

    from presto_models import Sampling

    model = w.Dropdown(options=list(pipelines), description="model")
    text = w.Text(value=prompt, description="prompt")
    steps = w.IntSlider(value=4, min=1, max=40, description="steps")
    rho = w.FloatLogSlider(value=7.0, base=10, min=0, max=3, description="rho")
    seed = w.IntSlider(value=0, min=0, max=99, description="seed")
    button, status, sound = w.Button(description="Make it"), w.Label(), w.Audio(autoplay=False)

    def make(_) -> None:
        try:
            sampling = Sampling(steps=steps.value, rho=rho.value)
            made = pipelines[model.value](
                text.value, seconds=seconds, seed=seed.value, sampling=sampling
            )
        except ValueError as error:
            status.value = str(error)
            return
        file = io.BytesIO()
        soundfile.write(file, made.audios[0].cpu().numpy().T, made.sample_rate, format="WAV")
        sound.value = file.getvalue()
        times = ", ".join(f"{name} {value:.2f} s" for name, value in made.stage_seconds.items())
        status.value = f"{seconds:g} s of audio: {times}"

    button.on_click(make)
    display(w.VBox([model, text, steps, rho, seed, button, status, sound]))
