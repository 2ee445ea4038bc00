"""Editing: what is kept comes out as it went in, what is not is sampled as ever."""

import pytest
import torch

from presto_models.editing import check_edit, continuation, keeping, starting_from, variation
from presto_models.edm import karras_sigmas
from presto_models.samplers import (
    SOLVERS,
    cfg_pp,
    euler,
    few_step_sigmas,
    heun,
    multistep,
    randn,
    sample,
)

SD = 0.5  # of the data: a Gaussian whose neighbouring frames are equal in pairs


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shrink(x, sigma, cond=None):
    """The exact denoiser of N(0, SD^2)."""
    return x * SD**2 / (SD**2 + sigma.to(x).view(-1, 1, 1) ** 2)


def paired(x, sigma, cond=None):
    """The exact denoiser where frames 2i and 2i + 1 are one N(0, SD^2) value."""
    mean = x.unflatten(-1, (-1, 2)).mean(-1).repeat_interleave(2, -1)
    return shrink(mean, sigma / 2**0.5)  # two views of one value halve the noise's variance


@pytest.fixture
def clip():
    return SD * torch.randn(2, 3, 6, generator=rng(1))


@pytest.fixture
def noise():
    return torch.randn(2, 3, 10, generator=rng(2))


def test_guided_by_cfg_plus_plus_the_kept_part_is_noised_likewise(clip, noise):
    sigmas, edit = karras_sigmas(8), continuation(clip, frames=10)
    D, start = edit.applied(
        cfg_pp(lambda x, sigma, c: c * shrink(x, sigma), 0.8, lambda c: 0), noise
    )
    for step, sigma in zip(euler(D, start, sigmas, 1), sigmas[1:].tolist(), strict=False):
        expected = clip + sigma * noise[..., :6]
        torch.testing.assert_close(step.x[..., :6], expected, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("name", [*SOLVERS, "cfg++", "multistep"])
def test_a_continuation_returns_its_beginning_bit_for_bit(name, clip, noise):
    edit = continuation(clip, frames=10)
    D = cfg_pp(shrink, 0.8, lambda c: c) if name == "cfg++" else shrink
    D, start = edit.applied(D, noise)
    if name == "multistep":
        x = sample(multistep(D, start, few_step_sigmas(4), rng=rng(3)))
    else:
        x = sample(SOLVERS.get(name, heun)(D, start, karras_sigmas(12)))
    assert torch.equal(x[..., :6], clip)
    assert x[..., 6:].isfinite().all() and not torch.equal(x[..., 6:], noise[..., 6:])


@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_at_each_level_the_kept_part_is_the_clip_with_noise_of_that_level(sampler, clip, noise):
    sigmas, edit = karras_sigmas(8), continuation(clip, frames=10)
    D, start = edit.applied(shrink, noise)
    for step, sigma in zip(sampler(D, start, sigmas), sigmas[1:].tolist(), strict=False):
        expected = clip + sigma * noise[..., :6]
        torch.testing.assert_close(step.x[..., :6], expected, rtol=1e-5, atol=3e-5)


def test_few_step_renoising_reaches_the_kept_part_too(clip, noise):
    sigmas, source = few_step_sigmas(3), rng(3)
    D, start = continuation(clip, frames=10).applied(shrink, noise)
    *renoised, _ = multistep(D, start, sigmas, rng=rng(3))
    for step, sigma in zip(renoised, sigmas[1:].tolist(), strict=True):
        fresh = randn((2, 3, 10), source)[..., :6]
        expected = clip + (sigma**2 - 0.002**2) ** 0.5 * fresh
        torch.testing.assert_close(step.x[..., :6], expected)


def test_what_is_generated_follows_what_is_kept():
    """Frames come in equal pairs and one of each is kept: its partner finds its value."""
    known = SD * torch.randn(1, 1, 2000, dtype=torch.float64, generator=rng(4))
    known = known.repeat_interleave(2, -1)
    kept = torch.arange(4000) % 2 == 0
    start = starting_from(known, torch.randn(1, 1, 4000, generator=rng(5)).double(), 80.0)
    alone = sample(heun(paired, start, karras_sigmas(40)))
    x = sample(heun(keeping(paired, known, kept), start, karras_sigmas(40)))
    assert torch.equal(x[..., ::2], known[..., ::2])
    partner = torch.stack([x[0, 0, 1::2], known[0, 0, 1::2]]).corrcoef()[0, 1]
    independent = torch.stack([alone[0, 0, 1::2], known[0, 0, 1::2]]).corrcoef()[0, 1]
    assert partner > 0.8 and abs(independent) < 0.1


def test_a_variation_starts_at_the_noised_clip(clip):
    noise = torch.randn(2, 3, 6, generator=rng(2))
    edit = variation(clip, strength=0.5)
    seen = []

    def D(x, sigma, cond):
        seen.append((x, sigma))
        return shrink(x, sigma)

    D, start = edit.applied(D, noise)
    sample(euler(D, start, karras_sigmas(4, sigma_max=edit.sigma)))
    x, sigma = seen[0]
    torch.testing.assert_close(sigma, torch.full((2,), edit.sigma))
    torch.testing.assert_close(x, clip + edit.sigma * noise)


def test_the_weaker_a_variation_the_nearer_its_clip(clip):
    def distance(strength: float) -> float:
        edit = variation(clip, strength=strength)
        D, start = edit.applied(shrink, torch.randn(2, 3, 6, generator=rng(2)))
        x = sample(heun(D, start, karras_sigmas(20, sigma_max=edit.sigma)))
        return (x - clip).norm().item()

    distances = [distance(strength) for strength in (0.05, 0.3, 0.5, 0.7)]
    assert distances == sorted(distances)
    assert distances[0] < 0.02 * clip.norm().item()


def test_strength_is_a_place_on_karras_grid(clip):
    grid = karras_sigmas(101).tolist()
    for strength in (0.01, 0.5, 1.0):
        sigma = variation(clip, strength=strength).sigma
        assert sigma == pytest.approx(grid[round(100 * (1 - strength))], rel=1e-5)


@pytest.mark.parametrize("strength", [0.0, -0.2, 1.2, float("nan")])
def test_a_strength_out_of_range_is_named(clip, strength):
    with pytest.raises(ValueError, match=f"strength must be .* got {strength:g}"):
        variation(clip, strength=strength)


@pytest.mark.parametrize(("known", "frames"), [(6, 6), (6, 5), (0, 5)])
def test_a_continuation_keeps_something_and_adds_something(clip, known, frames):
    with pytest.raises(ValueError, match=f"cannot continue {known} frames to {frames}"):
        continuation(clip[..., :known], frames=frames)


@pytest.mark.parametrize(
    ("given", "strength", "keep_seconds", "said"),
    [
        (True, None, None, "go together"),
        (True, 0.5, 2.0, "go together"),
        (False, 0.5, None, "go together"),
        (False, None, 2.0, "go together"),
        (True, 0.0, None, "strength must be above 0 and at most 1, got 0"),
        (True, None, 5.0, "below the clip's 5 s, got 5"),
        (True, None, -1.0, "below the clip's 5 s, got -1"),
    ],
)
def test_one_thing_is_done_to_audio_that_is_there(given, strength, keep_seconds, said):
    with pytest.raises(ValueError, match=said):
        check_edit(given, strength=strength, keep_seconds=keep_seconds, seconds=5.0)
