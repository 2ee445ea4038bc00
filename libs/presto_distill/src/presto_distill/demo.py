"""`presto demo`: a page in the browser that makes music from words and says what it took."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from presto_models.pipeline import MAX_SECONDS, Output, Pipeline, held_variants
from presto_models.snapshot import find_snapshot

if TYPE_CHECKING:
    import gradio

Load = Callable[[str], Pipeline]  # the pipeline of a variant

PITCHES, HEIGHT, COLUMNS = (40.0, 18_000.0), 256, 512  # Hz; pixels of the spectrogram
COLOURS = ((0, 0, 8), (70, 18, 110), (180, 50, 90), (245, 130, 40), (252, 245, 190))  # dim to loud
RANGE = 80.0  # dB below the loudest that are dark


def run(
    pipeline: Pipeline,
    prompt: str,
    *,
    tempo: float | None,
    seconds: float,
    steps: int | None,
    budget: int | None,
    seed: int,
) -> Output:
    """Call the pipeline, in stereo where it can; None leaves a choice to it."""
    wide = pipeline.stereo is not None
    how = {"seconds": seconds, "seed": seed, "steps": steps, "budget": budget, "stereo": wide}
    return pipeline(prompt, bpm=tempo, **how)


def build(load: Load, variants: Sequence[str]) -> gradio.Blocks:
    """The page, whose only network traffic is between it and the browser.

    Raises ValueError, in one line, without the extra `demo`.
    """
    gr = _gradio()

    def respond(prompt, tempo, seconds, steps, budget, seed, variant):
        choices = {"tempo": tempo or None, "steps": steps or None, "budget": budget or None}
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", UserWarning)
                made = run(load(variant), prompt, seconds=seconds, seed=seed or 0, **choices)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        audio = made.audios[0]
        notes = [f"⚠ {note.message}" for note in said if note.category is UserWarning]
        sound = (made.sample_rate, (audio.T.cpu().numpy() * 32767).astype(np.int16))
        image = spectrogram(audio.mean(0).float().cpu(), made.sample_rate)
        return sound, image, "\n\n".join([report(made), *notes])

    number = partial(gr.Number, 0, minimum=0, precision=0, min_width=100)
    with gr.Blocks(title="Presto", analytics_enabled=False) as page:
        gr.Markdown("# Presto\nMusic from words, in few steps through few layers.")
        with gr.Row():
            with gr.Column():
                prompt = gr.Textbox(
                    "driving techno with a deep bass", label="Prompt", lines=2, autofocus=True
                )
                with gr.Row():
                    tempo = number(label="Tempo", info="bpm; 0: any", precision=1)
                    seconds = gr.Slider(1, MAX_SECONDS, 10, step=1, label="Seconds")
                with gr.Row():
                    steps = number(label="Steps", info="0: the model's own")
                    budget = number(label="Budget", info="blocks a step; 0: its own")
                    seed = number(label="Seed", info="same seed, same clip")
                variant = gr.Dropdown(list(variants), value=variants[0], label="Variant")
                button = gr.Button("Generate", variant="primary")
            with gr.Column():
                # No button to share: that one would upload.
                sound = gr.Audio(label="Music", interactive=False, buttons=["download"])
                image = gr.Image(
                    label="Spectrogram (40 Hz to 18 kHz, logarithmic; 80 dB)",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
                took = gr.Markdown()
        inputs = [prompt, tempo, seconds, steps, budget, seed, variant]
        gr.on(
            [button.click, prompt.submit],
            respond,
            inputs,
            [sound, image, took],
            api_name="generate",
        )
    return page


def launch(model: str, *, device: str, port: int) -> None:
    """Serve the page of a bundled model or a model folder until interrupted."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port must be within 1..65535, got {port}")
    folder = find_snapshot(model)
    variants = held_variants(folder)
    load = cache(lambda variant: Pipeline.from_pretrained(folder, variant=variant, device=device))
    load(variants[0])  # fails here, not in the browser
    build(load, variants).launch(server_name="127.0.0.1", server_port=port, share=False)


def report(made: Output) -> str:
    """Markdown: the time each stage took, and the real-time factor."""
    seconds, total = made.audios.shape[-1] / made.sample_rate, sum(made.stage_seconds.values())
    stages = made.stage_seconds | {"total": total}
    return "\n".join(
        [
            f"| {' | '.join(stages)} |",
            "|" + " --- |" * len(stages),
            f"| {' | '.join(f'{value:.3f} s' for value in stages.values())} |",
            "",
            f"{seconds:g} s of audio at a real-time factor of **{seconds / total:.1f}** "
            "(seconds of audio per second of compute; higher is faster).",
        ]
    )


def spectrogram(audio: Float[Tensor, " s"], sample_rate: int) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of the levels over time and pitch, low pitches at the bottom."""
    window = 2048
    hop = max(1, len(audio) // COLUMNS)
    levels = torch.stft(
        audio,
        window,
        hop,
        window=torch.hann_window(window),
        pad_mode="constant",
        return_complex=True,
    ).abs()
    low, high = (torch.tensor(hertz * window / sample_rate).log() for hertz in PITCHES)
    bins = torch.linspace(high, low, HEIGHT).exp().round().long().clamp(max=window // 2)
    decibels = 20 * (levels[bins] / levels.amax().clamp(min=1e-8)).clamp(min=1e-8).log10()
    place = (1 + decibels / RANGE).clamp(0, 1).numpy() * (len(COLOURS) - 1)
    channels = [np.interp(place, range(len(COLOURS)), channel) for channel in np.array(COLOURS).T]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _gradio():
    """Import gradio, which must hear before it is imported that it is to call nobody."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError:
        raise ValueError("the demo needs gradio: pip install 'presto-models[demo]'") from None
    return gradio
