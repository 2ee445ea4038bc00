"""Losses as algebra: values and gradients in closed form, and where gradients must not go."""

import math

import jaxtyping
import pytest
import torch

from presto_distill import losses
from presto_distill.discriminator import DiscriminatorHead

SHAPE = (3, 2, 5)
SIGMA = torch.tensor([0.1, 1.0, 20.0])


def tensors(n: int, shape=SHAPE):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)).unbind()


def matching_gradient(generated, fake, teacher, **options):
    leaf = generated.clone().requires_grad_()
    losses.distribution_matching(leaf, fake, teacher, SIGMA, **options).sum().backward()
    return leaf.grad


@pytest.mark.parametrize("weighting", ["dmd", "edm", "none"])
def test_matching_gradient_is_exactly_zero_when_fake_equals_teacher(weighting):
    generated, fake = tensors(2)
    assert not matching_gradient(generated, fake, fake.clone(), weighting=weighting).any()
    # Even a perfect sample, for which the normaliser vanishes, is at rest.
    assert not matching_gradient(fake, fake, fake, weighting=weighting).any()


def test_matching_gradient_in_closed_form():
    generated, fake, teacher = tensors(3)
    numel = SHAPE[1] * SHAPE[2]
    plain = matching_gradient(generated, fake, teacher, weighting="none")
    torch.testing.assert_close(plain, (fake - teacher) / numel)
    normaliser = (generated - teacher).abs().mean((1, 2), keepdim=True)
    normalised = matching_gradient(generated, fake, teacher)
    torch.testing.assert_close(normalised, (fake - teacher) / normaliser / numel)
    c_out = SIGMA * 0.5 / (SIGMA**2 + 0.25).sqrt()
    raw = matching_gradient(generated, fake, teacher, weighting="edm")
    torch.testing.assert_close(raw, (fake - teacher) / c_out[:, None, None] / numel)


def test_normalised_gradient_does_not_depend_on_the_scale_of_the_latents():
    generated, fake, teacher = tensors(3)
    once = matching_gradient(generated, fake, teacher)
    torch.testing.assert_close(matching_gradient(9 * generated, 9 * fake, 9 * teacher), once)


def test_matching_moves_the_generator_only_and_in_float32():
    generated, fake, teacher = (x.bfloat16().requires_grad_() for x in tensors(3))
    loss = losses.distribution_matching(generated, fake, teacher, SIGMA)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert generated.grad.any()
    assert fake.grad is None
    assert teacher.grad is None


def test_denoising_weights_each_sample_by_its_noise():
    denoised, clean = tensors(2)
    sigma = torch.tensor([0.1, 1.0, 20.0])
    expected = [
        (s**2 + 0.49) / (s * 0.7) ** 2 * (denoised[i] - clean[i]).pow(2).sum() / 10
        for i, s in enumerate(sigma)
    ]
    torch.testing.assert_close(losses.denoising(denoised, clean, sigma, 0.7), torch.stack(expected))
    assert not losses.denoising(clean, clean, sigma).any()


def test_least_squares_values_and_fixed_points():
    zero, one, two = (torch.full((1, 4), value) for value in (0.0, 1.0, 2.0))
    assert losses.lsgan_discriminator(zero, one).item() == 0.0
    assert losses.lsgan_discriminator(two, zero).item() == 5.0
    assert losses.lsgan_generator(one).item() == 0.0
    assert losses.lsgan_generator(two).item() == 1.0
    # A critic that cannot tell says 1/2: the minimum of d^2 + (1 - d)^2.
    half = torch.full((1, 4), 0.5, requires_grad=True)
    losses.lsgan_discriminator(half, half).sum().backward()
    assert not half.grad.any()


def test_least_squares_average_over_the_map_not_its_mean():
    scores = torch.tensor([[0.0, 2.0]])
    assert losses.lsgan_generator(scores).item() == 1.0
    assert losses.lsgan_generator(scores.mean(1, keepdim=True)).item() == 0.0


def test_softplus_values():
    zero, three = torch.zeros(2, 4), torch.full((2, 4), 3.0)
    torch.testing.assert_close(
        losses.softplus_discriminator(zero, zero), torch.full((2,), 2 * math.log(2))
    )
    torch.testing.assert_close(
        losses.softplus_generator(three), torch.full((2,), math.log(1 + math.exp(-3)))
    )


def test_hinge_values_and_where_it_is_flat():
    fake, real = torch.tensor([[-2.0, 0.5], [1.0, -3.0]]), torch.tensor([[3.0, 0.0], [-1.0, -1.0]])
    expected = torch.tensor([(0 + 1.5) / 2 + (0 + 1) / 2, (2 + 0) / 2 + (2 + 2) / 2])
    torch.testing.assert_close(losses.hinge_discriminator(fake, real), expected)
    torch.testing.assert_close(losses.hinge_generator(fake), torch.tensor([0.75, 1.0]))
    fake, real = fake.requires_grad_(), real.requires_grad_()
    losses.hinge_discriminator(fake, real).sum().backward()
    assert fake.grad.tolist() == [[0.0, 0.5], [0.5, 0.0]]
    assert real.grad.tolist() == [[0.0, -0.5], [-0.5, -0.5]]


def test_approximate_r1_of_a_linear_critic_is_its_squared_slope_along_the_nudge():
    slope, nudge = torch.tensor([3.0, 4.0]), torch.tensor([[[0.3, 0.4], [2.0, -1.0]]])
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0))
    penalty = losses.approximate_r1(x @ slope, (x + nudge) @ slope)
    torch.testing.assert_close(penalty, torch.tensor([(2.5**2 + 2.0**2) / 2]))
    assert not losses.approximate_r1(x, x.clone()).any()


def test_self_teacher_teaches_the_dropped_pass_only():
    dropped, full = (x.requires_grad_() for x in tensors(2))
    loss = losses.self_teacher(dropped, full, normalise=False)
    torch.testing.assert_close(loss, (dropped - full).pow(2).mean((1, 2)))
    loss.sum().backward()
    torch.testing.assert_close(dropped.grad, 2 * (dropped - full).detach() / 10)
    assert full.grad is None
    assert not losses.self_teacher(full, full).any()


def test_self_teacher_compares_states_as_the_head_sees_them():
    dropped, full = tensors(2)
    loss = losses.self_teacher(dropped, full)
    torch.testing.assert_close(
        losses.self_teacher(3 * dropped + 1, 7 * full - 2), loss, rtol=1e-3, atol=1e-5
    )
    opposite = torch.tensor([[[1.0, -1.0]]])
    assert losses.self_teacher(opposite, -opposite).item() == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize(("frames", "scores"), [(64, 4), (100, 6), (16, 1)])
def test_the_head_scores_stretches_of_time(frames, scores):
    torch.manual_seed(0)
    hidden = torch.randn(2, frames, 16)
    head = DiscriminatorHead(16)
    assert head(hidden).shape == (2, scores)
    pooled = DiscriminatorHead(16, pooled=True)
    pooled.load_state_dict(head.state_dict())
    torch.testing.assert_close(pooled(hidden), head(hidden).mean(1, keepdim=True))


@pytest.mark.parametrize("loss", ["distribution_matching", "denoising"])
def test_shapes_in_signatures_are_checked_while_testing(loss):
    """The import hook of conftest.py is at work: a transposed latent is refused."""
    x = torch.zeros(SHAPE)
    arguments = {
        "distribution_matching": (x, x, x.transpose(1, 2), torch.ones(3)),
        "denoising": (x, x.transpose(1, 2), torch.ones(3)),
    }
    with pytest.raises(jaxtyping.TypeCheckError, match="Float"):
        getattr(losses, loss)(*arguments[loss])
