"""The method's losses as pure functions of tensors. Each returns one value per sample, shape (b,).

Weights, noise laws and networks belong to the objectives; nothing here knows them.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from presto_models.denoiser import per_sample
from presto_models.edm import SIGMA_DATA, loss_weight, scalings


def denoising(
    denoised: Float[Tensor, "b c *t"],
    clean: Float[Tensor, "b c *t"],
    sigma: Float[Tensor, " b"],
    sigma_data: float = SIGMA_DATA,
    *,
    weighted: bool = True,
) -> Float[Tensor, " b"]:
    """lambda(sigma) |D(x) - x0|^2, averaged over the latent (Karras et al. 2022, eq. 2)."""
    error = (denoised - clean).square().flatten(1).mean(1)
    return loss_weight(sigma, sigma_data) * error if weighted else error


Weighting = Literal["dmd", "edm", "none"]  # of the distribution-matching gradient


def distribution_matching(
    generated: Float[Tensor, "b c *t"],
    fake_denoised: Float[Tensor, "b c *t"],
    teacher_denoised: Float[Tensor, "b c *t"],
    sigma: Float[Tensor, " b"],
    *,
    weighting: Weighting = "dmd",
    sigma_data: float = SIGMA_DATA,
) -> Float[Tensor, " b"]:
    """A loss whose gradient at `generated` is w (fake - teacher) / size, the descent direction of
    the reverse KL between generated and real distributions (Yin et al. 2024, DMD, eq. 7).

    `weighting` is w: "dmd" = 1 / mean |generated - teacher|, per sample (DMD, eq. 8; our default,
    not stated in the paper); "edm" = 1 / c_out(sigma), which leaves the difference of the raw
    networks' outputs; "none" = 1. In float32, whatever the networks compute in.
    """
    generated, teacher_denoised = generated.float(), teacher_denoised.float()
    with torch.no_grad():
        gradient = fake_denoised.float() - teacher_denoised
        if weighting == "dmd":
            scale = (generated - teacher_denoised).abs().flatten(1).mean(1) + 1e-6
            gradient = gradient / per_sample(scale, gradient)
        elif weighting == "edm":
            _, c_out, _, _ = scalings(sigma, sigma_data)
            gradient = gradient / per_sample(c_out, gradient)
    return (generated * gradient).flatten(1).mean(1)


def lsgan_discriminator(
    fake: Float[Tensor, "b ..."], real: Float[Tensor, "b ..."]
) -> Float[Tensor, " b"]:
    """d(fake)^2 + (1 - d(real))^2, averaged over the score map (Mao et al. 2017)."""
    return fake.square().flatten(1).mean(1) + (1 - real).square().flatten(1).mean(1)


def lsgan_generator(fake: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """(1 - d(fake))^2, averaged over the score map (Mao et al. 2017)."""
    return (1 - fake).square().flatten(1).mean(1)


def softplus_discriminator(
    fake: Float[Tensor, "b ..."], real: Float[Tensor, "b ..."]
) -> Float[Tensor, " b"]:
    """Non-saturating discriminator loss, the ablation partner (Goodfellow et al. 2014; DMD2)."""
    return F.softplus(fake).flatten(1).mean(1) + F.softplus(-real).flatten(1).mean(1)


def softplus_generator(fake: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Non-saturating generator loss, the ablation partner (Goodfellow et al. 2014; DMD2)."""
    return F.softplus(-fake).flatten(1).mean(1)


def hinge_discriminator(
    fake: Float[Tensor, "b ..."], real: Float[Tensor, "b ..."]
) -> Float[Tensor, " b"]:
    """max(0, 1 + d(fake)) + max(0, 1 - d(real)) (Lim & Ye 2017)."""
    return F.relu(1 + fake).flatten(1).mean(1) + F.relu(1 - real).flatten(1).mean(1)


def hinge_generator(fake: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """-d(fake), which goes with the hinge (Lim & Ye 2017)."""
    return -fake.flatten(1).mean(1)


def approximate_r1(
    score: Float[Tensor, "b ..."], perturbed: Float[Tensor, "b ..."]
) -> Float[Tensor, " b"]:
    """|d(x) - d(x + small noise)|^2 on real x: R1 without a second derivative (Lin et al. 2025)."""
    return (score - perturbed).square().flatten(1).mean(1)


def self_teacher(
    dropped: Float[Tensor, "b n d"], full: Float[Tensor, "b n d"], *, normalise: bool = True
) -> Float[Tensor, " b"]:
    """Squared distance of the dropped pass's hidden state to the full pass's, under stop-gradient.

    The loss is published; that it compares the states entering the output head is our default. So
    is `normalise`, which compares them as the head's layer norm sees them: with raw states both
    passes can grow without bound, one after the other, because the head ignores their scale.
    """
    dropped, full = dropped.float(), full.detach().float()
    if normalise:
        dropped, full = (F.layer_norm(state, state.shape[-1:]) for state in (dropped, full))
    return (dropped - full).square().flatten(1).mean(1)
