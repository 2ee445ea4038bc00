"""DMD-GAN: distribution matching and a GAN as DMD2 publishes them (Yin et al. 2024, "Improved
Distribution Matching Distillation for Fast Image Synthesis"), for Presto-S's objective.

Where it differs from Presto-S: the generator is trained at its n inference levels only, all other
noise is drawn from the sampling grid's law, and a pooled score is compared without saturation.
"""

from presto_distill.objectives.presto_s import PrestoSConfig
from presto_models.edm import Discrete, KarrasUniform, Truncated
from presto_models.samplers import few_step_sigmas


def dmd_gan(
    steps: int = 4, *, rho: float = 7.0, guidance_scale: float = PrestoSConfig.guidance_scale
) -> PrestoSConfig:
    """Presto-S's config for a generator that `samplers.multistep` runs at
    `few_step_sigmas(steps, rho=rho)`, and at no other levels.

    Weights, laws, update ratio and the matching gradient's 2 % to 98 % of the schedule are those of
    DMD2's ImageNet experiment with an EDM teacher. Left open or simplified: that experiment is of
    one step and has no guidance, so the number of steps and the scale are ours (its text-to-image
    experiments use other weights); its several-step generators learn on what they generated
    themselves (backward simulation), ours on noised real latents as in Presto-S; its head is
    two-dimensional, ours is Presto-S's, averaged over time. Its learning rate, 2e-6 for both
    players, is the trainer's business.
    """
    schedule = KarrasUniform()
    return PrestoSConfig(
        p_gen=Discrete(tuple(few_step_sigmas(steps, rho=rho).tolist())),
        p_dmd=Truncated(schedule, 0.02, 0.98),
        p_dsm=schedule,
        p_gan=schedule,
        guidance_scale=guidance_scale,
        nu_1=3e-3,
        nu_2=1e-2,
        critic_updates=5,
        weighting="dmd",
        gan="softplus",
        pooled=True,
    )
