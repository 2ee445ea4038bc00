"""The demo's page: what it shows is what the pipeline made, and what is wrong is said in a line."""

import numpy as np
import pytest
import torch

from presto_distill import demo
from presto_models import Autoencoder, AutoencoderConfig, Pipeline, TextEncoder, TextEncoderConfig
from presto_models.pipeline import Output, Sampling

gradio = pytest.importorskip("gradio")
RATE, SECONDS = 8000, 2


@pytest.fixture
def pipeline(tiny_denoiser):
    """Tiny parts of random weights."""
    size = {"window_length": 256, "stft_hop": 64, "width": 16, "depth": 1, "iterations": 1}
    codec = Autoencoder(AutoencoderConfig(sample_rate=RATE, channels=4, linear_hz=2000.0, **size))
    text = TextEncoder(TextEncoderConfig(buckets=64, width=8, depth=1, heads=2, max_tokens=4))
    return Pipeline(tiny_denoiser(), codec.eval(), text.eval(), few_step=True)


@pytest.fixture
def page(pipeline):
    return demo.build({"steps": pipeline}.__getitem__, ["steps"])


@pytest.fixture
def respond(page):
    """What pressing the button does."""
    return next(event.fn for event in page.fns.values() if event.api_name == "generate")


def test_the_page_has_what_was_asked_for(page):
    labels = [block.label for block in page.blocks.values() if getattr(block, "label", None)]
    asked = ["Prompt", "Tempo", "Seconds", "Steps", "Budget", "Seed", "Variant", "Music"]
    assert [label for label in labels if label in asked] == asked
    assert not page.analytics_enabled


def test_the_answer_is_what_the_pipeline_makes(pipeline, respond):
    (rate, sound), image, told = respond("slow piano", 90, SECONDS, 3, 0, 5, "steps")
    own = pipeline("slow piano", bpm=90, seconds=SECONDS, seed=5, sampling=Sampling(steps=3))
    assert rate == RATE and sound.shape == (RATE * SECONDS, 1) and sound.dtype == np.int16
    assert np.abs(sound / 32767 - own.audios[0].T.numpy()).max() < 1e-4
    assert image.shape[0] == demo.HEIGHT and image.dtype == np.uint8
    assert "| text | denoise | decode | total |" in told and "real-time factor" in told


def test_empty_fields_leave_the_choice_to_the_model(pipeline, respond):
    (_, sound), _, _ = respond("slow piano", None, SECONDS, None, None, None, "steps")
    own = pipeline("slow piano", seconds=SECONDS, seed=0)
    assert np.abs(sound / 32767 - own.audios[0].T.numpy()).max() < 1e-4


def test_a_truncated_prompt_is_said_so_on_the_page(respond):
    _, _, told = respond("one two three four five six", 0, 1, 1, 0, 0, "steps")
    assert told.endswith("⚠ prompt truncated after 'four' (4 of 6 words)")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"prompt": ""}, "no words"), ({"tempo": 3}, "3 bpm is outside"), ({"steps": -1}, "got -1")],
)
def test_bad_input_is_an_error_on_the_page(respond, change, said):
    given = {"prompt": "piano", "tempo": 0, "seconds": 1, "steps": 1, "budget": 0, "seed": 0}
    with pytest.raises(gradio.Error, match=said):
        respond(**{**given, **change}, variant="steps")


def test_a_budget_reaches_the_denoiser(pipeline, respond):
    (_, full), *_ = respond("piano", 0, 1, 2, 0, 0, "steps")
    (_, same), *_ = respond("piano", 0, 1, 2, pipeline.denoiser.depth, 0, "steps")
    (_, less), *_ = respond("piano", 0, 1, 2, 1, 0, "steps")
    assert np.array_equal(full, same) and not np.array_equal(full, less)


def test_the_real_time_factor_is_seconds_of_audio_over_seconds_of_compute():
    stages = {"text": 0.1, "denoise": 0.3, "decode": 0.1}
    made = (torch.zeros(1, 1, RATE * SECONDS), torch.zeros(1, 4, 2), RATE, stages)
    told = demo.report(Output(*made, *[()] * (len(Output._fields) - len(made))))
    assert "| 0.100 s | 0.300 s | 0.100 s | 0.500 s |" in told and "factor of **4.0**" in told


@pytest.mark.parametrize("hertz", [60.0, 440.0, 7000.0])
def test_a_tone_is_a_bright_line_at_its_height(hertz):
    audio = torch.sin(2 * torch.pi * hertz * torch.arange(44100 * 2) / 44100)
    image = demo.spectrogram(audio, 44100)
    middle = image[:, image.shape[1] // 2].astype(int).sum(-1)
    low, high = np.log(demo.PITCHES)
    expected = (high - np.log(hertz)) / (high - low) * (demo.HEIGHT - 1)
    brightest = np.flatnonzero(middle == middle.max()).mean()
    assert abs(brightest - expected) < (40 if hertz < 100 else 3)  # low bins are many rows high
    assert (middle < middle.max() / 2).mean() > 0.8


def test_silence_and_short_clips_have_a_picture():
    assert (demo.spectrogram(torch.zeros(44100), 44100) == demo.COLOURS[0]).all()
    assert demo.spectrogram(torch.ones(10), 8000).shape[0] == demo.HEIGHT


def test_a_missing_extra_names_the_line_that_installs_it(monkeypatch, pipeline):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'presto-models\[demo\]'"):
        demo.build(lambda variant: pipeline, ["steps"])
