"""How a pipeline samples: one frozen record of settings, checked when it is made."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from presto_models.denoiser import Cond, Denoiser
from presto_models.edm import SIGMA_MAX, karras_sigmas
from presto_models.guidance import Null, guided, guided_within
from presto_models.samplers import (
    SOLVERS,
    Churn,
    Rng,
    Sampler,
    cfg_pp,
    few_step_sigmas,
    heun,
    jumps,
    multistep,
)

GUIDANCE_SCALES = {"cfg++": 0.8, "cfg": 4.5}  # published: for sampling, and inside distillation
SOLVER_SETTINGS = ("solver", "guidance", "guidance_scale", "guidance_interval", "churn")


@dataclass(frozen=True)
class Sampling:
    """How to sample. None is the default of the model at hand: 4 steps for a few-step generator,
    40 guided Heun steps for the others, guided where and as much as its config says.

    CFG++ with scale 0.8 is published for the base model; 40 Heun steps are our default. What
    belongs to solvers alone is an error for a few-step generator, which carries its guidance in
    its weights.
    """

    steps: int | None = None
    guidance_scale: float | None = None  # None: of CFG++ the model's or 0.8, of plain CFG 4.5
    rho: float = 7.0  # spacing of the noise levels; 1000 is nearly log-uniform
    solver: str | None = None  # one of samplers.SOLVERS
    budget: int | None = None  # blocks run in every call; None: as the model's schedule says
    guidance: str = "cfg++"  # or "cfg"
    # Guide for sigma in (low, high] only; (0, 80) is everywhere.
    guidance_interval: tuple[float, float] | None = None
    churn: float = 0.0  # S_churn of Heun's method; see samplers.Churn

    def __post_init__(self) -> None:
        if self.steps is not None and not (isinstance(self.steps, Integral) and self.steps >= 1):
            raise ValueError(f"steps must be a whole number of at least 1, got {self.steps}")
        if not 0.1 <= self.rho <= 1e6:
            raise ValueError(f"rho must be within 0.1..1e6, got {self.rho:g}")
        if self.solver is not None and self.solver not in SOLVERS:
            raise ValueError(f"no solver {self.solver!r}: choose one of {', '.join(SOLVERS)}")
        if self.budget is not None and not (isinstance(self.budget, Integral) and self.budget >= 1):
            raise ValueError(f"budget must be a whole number of at least 1, got {self.budget}")
        if self.guidance not in GUIDANCE_SCALES:
            raise ValueError(f"no guidance {self.guidance!r}: choose cfg++ or cfg")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite, got {self.guidance_scale:g}")
        if self.churn and self.solver not in (None, heun.__name__):
            raise ValueError(f"churn is a part of heun, not of {self.solver}")
        # Whoever uses a setting knows its range: let them say so now.
        Churn(self.churn)
        self.guide(_nothing, _nothing)

    def resolved(self, D: Denoiser, *, few_step: bool) -> Self:
        """The settings with D's defaults filled in; a few-step generator's solver stays None."""
        if not few_step:
            return replace(
                self,
                steps=self.steps or 40,
                solver=self.solver or heun.__name__,
                guidance_scale=self._scale(D),
                guidance_interval=self.guidance_interval or getattr(D, "guidance_interval", None),
            )
        for name in SOLVER_SETTINGS:
            if (value := getattr(self, name)) != getattr(type(self), name):
                raise ValueError(
                    f"{name} {value!r} is for diffusion models: this few-step generator has "
                    "its own sampler, and its guidance in its weights"
                )
        return replace(self, steps=self.steps or 4)

    def guide(self, D: Denoiser, null: Null) -> Callable:
        """D with the guidance asked for."""
        guided_D = (cfg_pp if self.guidance == "cfg++" else guided)(D, self._scale(D), null)
        if self.guidance_interval is None:
            return guided_D
        low, high = self.guidance_interval
        high = math.inf if high >= SIGMA_MAX else high  # churn rises above it
        return guided_within((low, high), guided_D, D)

    def in_force(self) -> dict[str, Any]:
        """The resolved settings by name, without those that a few-step generator has no use for."""
        return {
            name: value
            for name, value in asdict(self).items()
            if self.solver is not None or name not in SOLVER_SETTINGS
        }

    def _scale(self, D: Denoiser) -> float:
        """The scale asked for; else D's own, which is of CFG++; else the published one."""
        own = getattr(D, "guidance_scale", None) if self.guidance == "cfg++" else None
        scales = self.guidance_scale, own, GUIDANCE_SCALES[self.guidance]
        return next(scale for scale in scales if scale is not None)

    def start(
        self,
        D: Callable,
        noise: Float[Tensor, "b c *t"],
        cond: Cond,
        *,
        rng: Rng,
        sigma_max: float = SIGMA_MAX,
        trajectory: bool = False,
    ) -> Sampler:
        """Resolved settings at work on D, guided already, from `sigma_max` down; `trajectory`: D
        knows where a jump is to end."""
        if self.solver is None:
            sigmas = few_step_sigmas(self.steps, rho=self.rho, sigma_max=sigma_max)
            return (jumps if trajectory else multistep)(D, noise, sigmas, cond, rng=rng)
        sigmas = karras_sigmas(self.steps, rho=self.rho, sigma_max=sigma_max)
        options = {"churn": Churn(self.churn), "rng": rng} if self.churn else {}
        return SOLVERS[self.solver](D, noise, sigmas, cond, **options)


def _nothing(*_) -> None:
    """Stands in for a denoiser where only settings are checked."""
