"""Consistency distillation: a denoiser that gives the same answer along a trajectory of the teacher
(Song, Dhariwal, Chen & Sutskever 2023, "Consistency Models", distillation of an EDM teacher).

Left open or simplified: their teachers are unguided and have no text, ours is guided at a fixed
scale as everywhere in this project; their best metric on images, LPIPS, has no counterpart for
latents, so `metric` is one of their plainer two. Their moving average has a fixed decay from the
first step; ours is the trainer's, whose decay rises at first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from presto_distill.choices import check_choices, check_weights
from presto_distill.objective import Batch, Losses, Turn, frozen, trainable
from presto_models.denoiser import Cond, Denoiser, per_sample
from presto_models.edm import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, add_noise, karras_sigmas
from presto_models.guidance import Null, guided_where_sound

Target = Literal["ema", "stop_gradient"]  # who answers for the cleaner of the two points
Metric = Literal["squared", "pseudo_huber"]


@dataclass(frozen=True)
class ConsistencyConfig:
    """Published: the grid, 40 levels (their larger images; 18 for CIFAR-10), one Heun step, the
    moving average as target, squared distance and lambda = 1 as one of the choices.

    Pseudo-Huber, its constant and lambda = 1 / (t - u) are those of "Improved Techniques for
    Training Consistency Models" (Song & Dhariwal 2024), published for training without a teacher.
    """

    levels: int = 40  # N, of the Karras grid from sigma_min to sigma_max
    rho: float = 7.0
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    guidance_scale: float = 4.5  # of the teacher; our default: Presto-S's
    target: Target = "ema"  # its decay is TrainConfig.ema_decay
    metric: Metric = "squared"
    huber: float = 0.00054  # pseudo-Huber's c over the root of the latent's size
    weight: Literal["uniform", "inverse_step"] = "uniform"  # lambda
    sigma_data: float = SIGMA_DATA

    def __post_init__(self) -> None:
        check_choices(self)
        check_weights(self, "guidance_scale")
        if self.levels < 2:
            raise ValueError(f"neighbours need at least 2 levels, got {self.levels}")


class ConsistencyFunction(nn.Module):
    """f(x, sigma, cond) of any denoiser D, with f(x, sigma_min) = x exactly; itself a Denoiser."""

    def __init__(
        self, denoiser: nn.Module, sigma_data: float = SIGMA_DATA, sigma_min: float = SIGMA_MIN
    ):
        super().__init__()
        self.denoiser = denoiser
        self.sigma_data, self.sigma_min = sigma_data, sigma_min

    def forward(
        self, x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond = None
    ) -> Float[Tensor, "b c *t"]:
        D_x = self.denoiser(x, sigma, cond)
        of_x, of_D = boundary_scalings(sigma, self.sigma_data, self.sigma_min)
        return per_sample(of_x, x) * x + per_sample(of_D, x) * D_x


def boundary_scalings(
    sigma: Float[Tensor, " b"], sigma_data: float = SIGMA_DATA, sigma_min: float = SIGMA_MIN
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """What to multiply x and D(x) with, so that the sum is x at sigma_min.

    Consistency models change EDM's scalings of the raw network F to c_skip' = sd^2 / ((sigma -
    sigma_min)^2 + sd^2) and c_out' = c_out (sigma - sigma_min) / sigma. With F = (D - c_skip x) /
    c_out, that is (c_skip' - c_skip r) x + r D, where r = (sigma - sigma_min) / sigma.
    """
    r = (sigma - sigma_min) / sigma
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    return sigma_data**2 / ((sigma - sigma_min) ** 2 + sigma_data**2) - c_skip * r, r


class ConsistencyDistillation:
    """Player: the student, a consistency function that starts as a copy of the teacher."""

    def __init__(
        self,
        teacher: nn.Module,
        null: Null,
        cfg: ConsistencyConfig = ConsistencyConfig(),
        *,
        student: nn.Module | None = None,
    ):
        self.cfg, self.fixed = cfg, {"teacher": frozen(teacher)}
        self.teacher = guided_where_sound(self.fixed["teacher"], cfg.guidance_scale, null)
        self.student = ConsistencyFunction(
            trainable(student if student is not None else teacher), cfg.sigma_data, cfg.sigma_min
        )
        self.grid = ascending_grid(cfg)
        self.averages: dict[str, nn.Module] = {}  # the trainer's
        self.players = {"student": self.student}
        self.turns = [Turn("student", self.loss)]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        (x, cond), cfg, grid = batch, self.cfg, self.grid.to(batch.x.device)

        # Two neighbours on the grid, and one Heun step of the teacher from the noisier one.
        n = torch.randint(cfg.levels - 1, (len(x),), generator=rng, device=x.device)
        sigma, after = grid[n + 1], grid[n]
        noised = add_noise(x, sigma, rng)
        with torch.no_grad():
            solved = heun_step(self.teacher, noised, sigma, after, cond)
            answer = self._target()(solved, after, cond)

        # The student's answer at the noisier point is the target's at the cleaner one.
        error = distance(self.student(noised, sigma, cond), answer, cfg.metric, huber=cfg.huber)
        if cfg.weight == "inverse_step":
            error = error / (sigma - after)
        return {"consistency": error.mean()}

    def _target(self) -> nn.Module:
        return self.student if self.cfg.target == "stop_gradient" else average_of(self.averages)


def average_of(averages: dict[str, nn.Module]) -> nn.Module:
    """The trainer's moving average of the student; ValueError where there is no trainer."""
    if not averages:
        raise ValueError('target="ema" needs a Trainer, which keeps the moving averages')
    return averages["student"]


def ascending_grid(cfg) -> Float[Tensor, " n"]:
    """The levels of a config's Karras grid, from sigma_min up."""
    ends = {"sigma_min": cfg.sigma_min, "sigma_max": cfg.sigma_max}
    return karras_sigmas(cfg.levels, rho=cfg.rho, **ends).flip(0)


def heun_step(
    D: Denoiser | Callable,
    x: Float[Tensor, "b c *t"],
    sigma: Float[Tensor, " b"],
    after: Float[Tensor, " b"],
    cond: Cond,
) -> Float[Tensor, "b c *t"]:
    """One second-order step of the probability-flow ODE from sigma to after > 0, both per sample
    (Karras et al. 2022, algorithm 1)."""
    step = per_sample(after - sigma, x)
    slope = (x - D(x, sigma, cond)) / per_sample(sigma, x)
    ahead = x + step * slope
    slope_ahead = (ahead - D(ahead, after, cond)) / per_sample(after, x)
    return x + step * (slope + slope_ahead) / 2


def distance(
    a: Float[Tensor, "b *n"], b: Float[Tensor, "b *n"], metric: Metric, *, huber: float
) -> Float[Tensor, " b"]:
    """Per sample, the mean squared difference; or sqrt(|a - b|^2 + c^2) - c with c = huber sqrt(d),
    d values per sample, which is robust to outliers (Song & Dhariwal 2024)."""
    squares = (a - b).square().flatten(1)
    if metric == "squared":
        return squares.mean(1)
    c = huber * squares.shape[1] ** 0.5
    return (squares.sum(1) + c**2).sqrt() - c
