"""Presto-S: step distillation by distribution matching and a least-squares GAN.

Four noise laws, all continuous and independent of one another: what the generator is given
(p_gen), where scores are compared (p_dmd), where the fake score learns (p_dsm) and where the
discriminator looks (p_gan).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from presto_distill import losses
from presto_distill.choices import check_choices, check_weights
from presto_distill.discriminator import DiscriminatorHeads
from presto_distill.objective import Batch, Losses, Turn, frozen, trainable
from presto_models.denoiser import Cond, FeatureDenoiser, Tap
from presto_models.edm import (
    SIGMA_DATA,
    KarrasUniform,
    LogNormal,
    SigmaLaw,
    add_noise,
    sample_sigma,
)
from presto_models.guidance import Null, guided_where_sound

_GAN = {
    "least_squares": (losses.lsgan_discriminator, losses.lsgan_generator),
    "softplus": (losses.softplus_discriminator, losses.softplus_generator),
    "hinge": (losses.hinge_discriminator, losses.hinge_generator),
}


@dataclass(frozen=True)
class PrestoSConfig:
    """Published: the four laws' kinds, guidance 4.5, nu_1, nu_2, 5 critic updates, least squares
    on the fake score's activations.

    Our defaults, not stated in the paper: `weighting`, the tapped block (index depth // 2 - 1), the
    head's layers and its map of scores along time, `weighted_dsm`; and guidance keeps to the
    teacher's `guidance_interval`. The other values of each field are ablations.
    """

    p_gen: SigmaLaw = KarrasUniform()
    p_dmd: SigmaLaw = LogNormal()
    p_dsm: SigmaLaw = LogNormal()
    p_gan: SigmaLaw = LogNormal()
    guidance_scale: float = 4.5  # of the teacher; plain classifier-free guidance, not CFG++
    nu_1: float = 0.01  # weight of the generator's adversarial term
    nu_2: float = 0.005  # weight of the discriminator's term, which also trains the fake score
    critic_updates: int = 5  # per generator update
    weighting: losses.Weighting = "dmd"  # of the matching gradient
    weighted_dsm: bool = True  # lambda(sigma) on the fake score's denoising loss
    gan: Literal["least_squares", "softplus", "hinge"] = "least_squares"
    features: Literal["fake_score", "teacher"] = "fake_score"  # whose activations the head reads
    pooled: bool = False  # one score per clip instead of one per stretch of time
    head_layers: int = 4  # of the discriminator head, each halving time; 0 for a linear one
    r1: float = 0.0  # weight of the approximate R1 penalty, times nu_2; 0 leaves it out
    r1_sigma: float = 0.1  # its perturbation
    sigma_data: float = SIGMA_DATA

    def __post_init__(self) -> None:
        if self.critic_updates < 1:
            raise ValueError(f"critic_updates must be at least 1, got {self.critic_updates}")
        check_choices(self)
        check_weights(self, "nu_1", "nu_2", "r1", "head_layers", "guidance_scale")


class PrestoS:
    """Players: the generator, and the critic (fake score and discriminator head together).

    `teacher` is frozen as a copy. `generator` (default: the teacher) and the fake score start as
    copies too. `feature_layer` is the block, or the blocks, whose hidden state of width `width`
    the head reads; `head` replaces the one that the config describes, which nu_2 trains.
    """

    def __init__(
        self,
        teacher: FeatureDenoiser,
        null: Null,
        cfg: PrestoSConfig = PrestoSConfig(),
        *,
        feature_layer: Tap,
        width: int,
        generator: nn.Module | None = None,
        fake_score: nn.Module | None = None,
        head: nn.Module | None = None,
    ):
        if head is None and cfg.nu_1 and not cfg.nu_2:
            raise ValueError(
                "nu_2=0 leaves the discriminator head untrained, and nu_1 follows it: set nu_1=0 "
                "too, or give a trained `head`"
            )
        self.cfg, self.fixed = cfg, {"teacher": frozen(teacher)}
        self.teacher = guided_where_sound(self.fixed["teacher"], cfg.guidance_scale, null)
        self.generator = trainable(generator if generator is not None else teacher)
        self.fake_score = trainable(fake_score if fake_score is not None else teacher)
        self.taps = feature_layer if isinstance(feature_layer, tuple) else (feature_layer,)
        self.head = head or DiscriminatorHeads(
            width, len(self.taps), layers=cfg.head_layers, pooled=cfg.pooled
        )
        self.gan_d, self.gan_g = _GAN[cfg.gan]
        self.players = {
            "generator": self.generator,
            "critic": nn.ModuleDict({"fake_score": self.fake_score, "head": self.head}),
        }
        self.turns = [
            *cfg.critic_updates * [Turn("critic", self.critic_loss)],
            Turn("generator", self.generator_loss),
        ]

    def generate(self, batch: Batch, rng: torch.Generator) -> Float[Tensor, "b c *t"]:
        """Noise real latents by p_gen and let the generator denoise them in one call."""
        sigma = self._sigma(self.cfg.p_gen, batch, rng)
        return self.generator(add_noise(batch.x, sigma, rng), sigma, batch.cond)

    def generator_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        fake = self.generate(batch, rng)
        return self.matching_terms(fake, batch, rng)

    def matching_terms(
        self, fake: Float[Tensor, "b c *t"], batch: Batch, rng: torch.Generator
    ) -> Losses:
        """The generator's terms for clips it made, however it made them."""
        cfg, cond = self.cfg, batch.cond

        # Match distributions: move along teacher minus fake score at a common noise level.
        sigma = self._sigma(cfg.p_dmd, batch, rng)
        with torch.no_grad():
            noised = add_noise(fake, sigma, rng)
            D_fake = self.fake_score(noised, sigma, cond)
            D_real = self.teacher(noised, sigma, cond)
        matching = losses.distribution_matching(
            fake, D_fake, D_real, sigma, weighting=cfg.weighting, sigma_data=cfg.sigma_data
        )
        terms = {"dm": matching.mean()}

        # Fool the discriminator, which sees noised clips only.
        if cfg.nu_1:
            terms["gan_g"] = cfg.nu_1 * self.gan_g(self._score(fake, cond, rng)).mean()
        return terms

    def critic_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        cfg, cond = self.cfg, batch.cond
        with torch.no_grad():
            fake = self.generate(batch, rng)

        # The fake score follows the generator's distribution. When it learns at the noise the
        # discriminator looks at, one forward pass serves both.
        sigma = self._sigma(cfg.p_dsm, batch, rng)
        noised = add_noise(fake, sigma, rng)
        if cfg.nu_2 and cfg.p_dsm == cfg.p_gan and cfg.features == "fake_score":
            D_fake, hidden = self.fake_score(noised, sigma, cond, tap=self.taps)
            on_fake = self.head(hidden)
        else:
            D_fake = self.fake_score(noised, sigma, cond)
            on_fake = self._score(fake, cond, rng) if cfg.nu_2 else None
        dsm = losses.denoising(D_fake, fake, sigma, cfg.sigma_data, weighted=cfg.weighted_dsm)
        terms = {"dsm": dsm.mean()}

        # Tell generated from real clips, both noised; the gradient reaches the fake score too.
        if cfg.nu_2:
            sigma = self._sigma(cfg.p_gan, batch, rng)
            noised = add_noise(batch.x, sigma, rng)
            on_real = self._score_noised(noised, sigma, cond)
            terms["gan_d"] = cfg.nu_2 * self.gan_d(on_fake, on_real).mean()
            if cfg.r1:
                near = add_noise(noised, torch.full_like(sigma, cfg.r1_sigma), rng)
                on_near = self._score_noised(near, sigma, cond)
                penalty = losses.approximate_r1(on_real, on_near).mean()
                terms["r1"] = cfg.nu_2 * cfg.r1 * penalty
        return terms

    def _score(self, x: Tensor, cond: Cond, rng: torch.Generator) -> Float[Tensor, "b m"]:
        """The discriminator's scores of clips that it noises by p_gan."""
        sigma = sample_sigma(self.cfg.p_gan, len(x), rng, x.device)
        return self._score_noised(add_noise(x, sigma, rng), sigma, cond)

    def _score_noised(self, noised: Tensor, sigma: Tensor, cond: Cond) -> Float[Tensor, "b m"]:
        net = self.fake_score if self.cfg.features == "fake_score" else self.fixed["teacher"]
        return self.head(net.features(noised, sigma, cond, tap=self.taps))

    @staticmethod
    def _sigma(law: SigmaLaw, batch: Batch, rng: torch.Generator) -> Float[Tensor, " b"]:
        return sample_sigma(law, len(batch.x), rng, batch.x.device)
