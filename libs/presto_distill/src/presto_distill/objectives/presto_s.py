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
from presto_distill.discriminator import DiscriminatorHead
from presto_distill.objective import Batch, Losses, Turn, frozen, trainable
from presto_models.denoiser import Cond, FeatureDenoiser
from presto_models.edm import (
    SIGMA_DATA,
    KarrasUniform,
    LogNormal,
    SigmaLaw,
    add_noise,
    sample_sigma,
)
from presto_models.guidance import Null, guided


@dataclass(frozen=True)
class PrestoSConfig:
    """Published: the four laws' kinds, guidance 4.5, nu_1, nu_2, 5 critic updates, least squares.

    Our defaults, not stated in the paper: `normalise`, the tapped block (depth / 2), the head.
    """

    p_gen: SigmaLaw = KarrasUniform()
    p_dmd: SigmaLaw = LogNormal()
    p_dsm: SigmaLaw = LogNormal()
    p_gan: SigmaLaw = LogNormal()
    guidance_scale: float = 4.5  # of the teacher; plain classifier-free guidance, not CFG++
    nu_1: float = 0.01  # weight of the generator's adversarial term
    nu_2: float = 0.005  # weight of the discriminator's term, which also trains the fake score
    critic_updates: int = 5  # per generator update
    gan: Literal["least_squares", "softplus"] = "least_squares"
    pooled: bool = False  # one score per clip instead of one per stretch of time
    normalise: bool = True  # divide the matching gradient by mean |generated - teacher|
    sigma_data: float = SIGMA_DATA


class PrestoS:
    """Players: the generator, and the critic (fake score and discriminator head together).

    `teacher` is frozen as a copy. `generator` (default: the teacher) and the fake score start as
    copies too. `feature_layer` is the block whose hidden state of width `width` the head reads.
    """

    def __init__(
        self,
        teacher: FeatureDenoiser,
        null: Null,
        cfg: PrestoSConfig = PrestoSConfig(),
        *,
        feature_layer: int,
        width: int,
        generator: nn.Module | None = None,
    ):
        self.cfg, self.tap = cfg, feature_layer
        teacher = frozen(teacher)
        self.teacher = guided(teacher, cfg.guidance_scale, null)
        self.generator = trainable(generator if generator is not None else teacher)
        self.fake_score = trainable(teacher)
        self.head = DiscriminatorHead(width, pooled=cfg.pooled)
        self.gan_d, self.gan_g = _GAN[cfg.gan]
        self.players = {
            "generator": self.generator,
            "critic": nn.ModuleDict({"fake_score": self.fake_score, "head": self.head}),
        }
        self.turns = [
            *cfg.critic_updates * [Turn("critic", self.critic_loss)],
            Turn("generator", self.generator_loss),
        ]

    def generate(self, batch: Batch, rng: torch.Generator) -> Float[Tensor, "b c t"]:
        """Noise real latents by p_gen and let the generator denoise them in one call."""
        sigma = self._sigma(self.cfg.p_gen, batch, rng)
        return self.generator(add_noise(batch.x, sigma, rng), sigma, batch.cond)

    def generator_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        cfg, cond = self.cfg, batch.cond
        fake = self.generate(batch, rng)

        # Match distributions: move along teacher minus fake score at a common noise level.
        sigma = self._sigma(cfg.p_dmd, batch, rng)
        with torch.no_grad():
            noised = add_noise(fake, sigma, rng)
            D_fake = self.fake_score(noised, sigma, cond)
            D_real = self.teacher(noised, sigma, cond)
        terms = {
            "dm": losses.distribution_matching(fake, D_fake, D_real, normalise=cfg.normalise).mean()
        }

        # Fool the discriminator, which sees noised clips only.
        if cfg.nu_1:
            score = self.head(self._features(fake, cond, rng))
            terms["gan_g"] = cfg.nu_1 * self.gan_g(score).mean()
        return terms

    def critic_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        cfg, cond = self.cfg, batch.cond
        with torch.no_grad():
            fake = self.generate(batch, rng)

        # The fake score follows the generator's distribution. When it learns at the noise the
        # discriminator looks at, one forward pass serves both.
        sigma = self._sigma(cfg.p_dsm, batch, rng)
        noised = add_noise(fake, sigma, rng)
        if cfg.nu_2 and cfg.p_dsm == cfg.p_gan:
            D_fake, hidden = self.fake_score(noised, sigma, cond, tap=self.tap)
        else:
            D_fake = self.fake_score(noised, sigma, cond)
            hidden = self._features(fake, cond, rng) if cfg.nu_2 else None
        terms = {"dsm": losses.denoising(D_fake, fake, sigma, cfg.sigma_data).mean()}

        # Tell generated from real clips, both noised; the gradient reaches the fake score too.
        if cfg.nu_2:
            real = self.head(self._features(batch.x, cond, rng))
            terms["gan_d"] = cfg.nu_2 * self.gan_d(self.head(hidden), real).mean()
        return terms

    def _features(self, x: Tensor, cond: Cond, rng: torch.Generator) -> Float[Tensor, "b n d"]:
        """The fake score's hidden state of noised clips, at noise drawn from p_gan."""
        sigma = sample_sigma(self.cfg.p_gan, len(x), rng, x.device)
        return self.fake_score.features(add_noise(x, sigma, rng), sigma, cond, tap=self.tap)

    @staticmethod
    def _sigma(law: SigmaLaw, batch: Batch, rng: torch.Generator) -> Float[Tensor, " b"]:
        return sample_sigma(law, len(batch.x), rng, batch.x.device)


_GAN = {
    "least_squares": (losses.lsgan_discriminator, losses.lsgan_generator),
    "softplus": (losses.softplus_discriminator, losses.softplus_generator),
}
