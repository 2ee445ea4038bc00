"""The limiter: within full scale, the same for all channels, and nothing where nothing is loud."""

import pytest
import torch

from presto_models.limiter import limit

RATE = 44_100


@pytest.mark.parametrize("samples", [1, 219, 220, 221, 1000, 30_001])
def test_nothing_passes_full_scale_and_channels_share_the_gain(samples):
    rng = torch.Generator().manual_seed(samples)
    audio = torch.randn(3, 2, samples, generator=rng) * torch.tensor([0.5, 2.0, 8.0])[:, None, None]
    limited = limit(audio, RATE)
    assert limited.abs().max() <= 1
    left, right = (limited / audio).unbind(1)
    torch.testing.assert_close(left, right)


def test_what_is_not_too_loud_is_left_as_it_is():
    audio = 2 * torch.rand(2, 1, 20_000, generator=torch.Generator().manual_seed(0)) - 1
    assert torch.equal(limit(audio, RATE), audio)


def test_one_loud_stroke_turns_down_its_surroundings_alone():
    audio = torch.full((1, 1, RATE), 0.1)
    audio[..., 20_000] = 4.0
    (changed,) = torch.where((limit(audio, RATE) != audio)[0, 0])
    assert limit(audio, RATE)[0, 0, 20_000] == pytest.approx(1.0)
    assert changed.min() > 20_000 - 0.055 * RATE and changed.max() < 20_000 + 0.055 * RATE


@pytest.mark.parametrize("hertz", [40, 110])
def test_a_held_tone_keeps_its_shape(hertz):
    tone = torch.sin(2 * torch.pi * hertz * torch.arange(2 * RATE) / RATE)
    middle = slice(RATE // 2, RATE + RATE // 2)
    limited = limit(2 * tone[None, None], RATE)[0, 0]
    torch.testing.assert_close(limited[middle], tone[middle], atol=1e-4, rtol=0)
