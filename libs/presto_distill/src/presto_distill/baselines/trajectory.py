"""Consistency trajectory models: one network that jumps from any noise level to any lower one
(Kim et al. 2024, CTM; SoundCTM, Saito et al. 2025; DITTO-CTM, in Novack et al. 2024, DITTO-2).

Left open or simplified, besides what `soundctm` and `ditto_ctm` list: CTM's adversarial term is
left out, as both audio methods do; its denoising weight adapts to the ratio of two gradients, ours
is constant; the student is guided by construction at one fixed scale.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from presto_distill import losses
from presto_distill.baselines.consistency import (
    Metric,
    Target,
    ascending_grid,
    average_of,
    distance,
    heun_step,
)
from presto_distill.choices import check_choices, check_weights
from presto_distill.objective import Batch, Losses, Turn, frozen, trainable
from presto_models.denoiser import Cond, Denoiser, Hidden, Tap, per_sample
from presto_models.dit import PrestoDenoiser
from presto_models.edm import (
    SIGMA_DATA,
    SIGMA_MAX,
    SIGMA_MIN,
    LogNormal,
    SigmaLaw,
    add_noise,
    sample_sigma,
)
from presto_models.guidance import Null, guided_where_sound


@dataclass(frozen=True)
class TrajectoryConfig:
    """Published by CTM: soft consistency on a Karras grid, compared after jumping on to sigma = 0,
    moving average as target, up to 17 Heun steps, a denoising term.

    Our defaults: the noise law and constant weight of that term, the guidance scale (Presto-S's).
    """

    levels: int = 18  # of the Karras grid from sigma_min to sigma_max
    rho: float = 7.0
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    heun_steps: int = 17  # at most so many grid intervals from t to u; drawn once per batch
    guidance_scale: float = 4.5  # of the teacher
    target: Target = "ema"  # who jumps from u; its decay is TrainConfig.ema_decay
    # Where two jumps to s are compared: after the target's jump on to 0, there, or as the
    # teacher's hidden states see them at s.
    compare: Literal["sample", "trajectory", "features"] = "sample"
    metric: Metric = "squared"
    huber: float = 0.00054
    dsm: float = 1.0  # weight of the denoising term; 0 leaves it out
    p_dsm: SigmaLaw = LogNormal()
    sigma_data: float = SIGMA_DATA

    def __post_init__(self) -> None:
        check_choices(self)
        check_weights(self, "dsm", "guidance_scale")
        if not 1 <= self.heun_steps < self.levels:
            raise ValueError(
                f"heun_steps must be within 1..{self.levels - 1} of {self.levels} levels, "
                f"got {self.heun_steps}"
            )


def soundctm() -> TrajectoryConfig:
    """SoundCTM: 40 levels, up to 39 Heun steps, compared by the teacher's features at s.

    Numbers from its public training script. Simplified: SoundCTM draws the teacher's guidance from
    2..5 per sample, tells the student which it was, trains it with and without prompt, and mixes
    the two when sampling (nu-sampling); here the scale is fixed and the student always conditioned.
    It reads the features of many layers, here of those that `feature_layer` names.
    """
    return TrajectoryConfig(levels=40, heun_steps=39, compare="features", dsm=1.0)


def ditto_ctm() -> TrajectoryConfig:
    """DITTO-CTM: jumps are compared where they end, in trajectory space, without adversarial term.

    What we could read of the paper leaves grid, solver and weights open: one Heun step between
    neighbours of 40 levels, a denoising weight of 1 and Presto-S's guidance are our defaults.
    """
    return TrajectoryConfig(levels=40, heun_steps=1, compare="trajectory", dsm=1.0)


def jump(
    g: Denoiser | Callable,
    x: Float[Tensor, "b c *t"],
    sigma: Float[Tensor, " b"],
    sigma_to: Float[Tensor, " b"],
    cond: Cond = None,
) -> Float[Tensor, "b c *t"]:
    """G(x, sigma, sigma_to) = r x + (1 - r) g(x, sigma, sigma_to), r = sigma_to / sigma: x itself
    where the jump ends where it began, g where it ends at 0 (Kim et al. 2024)."""
    r = per_sample(sigma_to / sigma, x)
    return r * x + (1 - r) * g(x, sigma, cond, sigma_to=sigma_to)


class TrajectoryDistillation:
    """Player: the student g, a denoiser called with `sigma_to`; see `with_trajectory`. It is
    sampled by `presto_models.samplers.jumps`.

    `feature_layer`: the teacher's blocks whose states are compared if `compare` is "features".
    """

    def __init__(
        self,
        teacher: nn.Module,
        null: Null,
        cfg: TrajectoryConfig = TrajectoryConfig(),
        *,
        student: nn.Module | None = None,
        feature_layer: Tap = -1,
    ):
        teacher = frozen(teacher)
        self.cfg, self.fixed = cfg, {"teacher": teacher}
        self.teacher = guided_where_sound(teacher, cfg.guidance_scale, null)
        self.student = with_trajectory(teacher) if student is None else trainable(student)
        self.taps = feature_layer if isinstance(feature_layer, tuple) else (feature_layer,)
        self.grid = ascending_grid(cfg)
        self.averages: dict[str, nn.Module] = {}  # the trainer's
        self.players = {"student": self.student}
        self.turns = [Turn("student", self.loss)]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        (x, cond), cfg, g = batch, self.cfg, self.student
        t, between, s = self._levels(len(x), rng, x.device)
        noised, u = add_noise(x, t, rng), between[-1]

        # Soft consistency: to s at once, or to u with the teacher and on to s with the target.
        target = self._target()
        with torch.no_grad():
            solved = noised
            for level, after in pairwise([t, *between]):
                solved = heun_step(self.teacher, solved, level, after, cond)
            there = jump(target, solved, u, s, cond)
        here = jump(g, noised, t, s, cond)
        terms = {"consistency": self._compare(here, there, s, cond, target).mean()}

        # A jump of no length is the denoiser, which the data teach.
        if cfg.dsm:
            sigma = sample_sigma(cfg.p_dsm, len(x), rng, x.device)
            D_x = g(add_noise(x, sigma, rng), sigma, cond, sigma_to=sigma)
            terms["dsm"] = cfg.dsm * losses.denoising(D_x, x, sigma, cfg.sigma_data).mean()
        return terms

    def _levels(self, n: int, rng: torch.Generator, device) -> tuple[Tensor, list[Tensor], Tensor]:
        """t, the grid's levels from below t down to u, and s; t > u >= s, each of shape (n,)."""
        last, grid = self.cfg.levels - 1, self.grid.to(device)
        count = int(torch.randint(1, self.cfg.heun_steps + 1, (), generator=rng, device=device))
        first = torch.randint(count, last + 1, (n,), generator=rng, device=device)
        share = torch.rand(n, generator=rng, device=device)
        lowest = first - count  # u's place; that of s is any of 0..u, both included
        end = torch.minimum((share * (lowest + 1)).long(), lowest)
        return grid[first], [grid[first - k] for k in range(1, count + 1)], grid[end]

    def _compare(
        self, here: Tensor, there: Tensor, s: Tensor, cond: Cond, target: Callable
    ) -> Float[Tensor, " b"]:
        cfg = self.cfg
        if cfg.compare == "features":
            net = self.fixed["teacher"]
            with torch.no_grad():
                wanted = net.features(there, s, cond, tap=self.taps)
            return feature_distance(net.features(here, s, cond, tap=self.taps), wanted)
        if cfg.compare == "sample":
            # The gradient passes through the target's jump to here, and not into its weights.
            zero = torch.zeros_like(s)
            here = jump(target, here, s, zero, cond)
            with torch.no_grad():
                there = jump(target, there, s, zero, cond)
        return distance(here, there, cfg.metric, huber=cfg.huber)

    def _target(self) -> Callable:
        if self.cfg.target == "ema":
            return average_of(self.averages)
        weights = {name: weight.detach() for name, weight in self.student.named_parameters()}
        return lambda *args, **options: functional_call(self.student, weights, args, options)


def feature_distance(a: Hidden, b: Hidden) -> Float[Tensor, " b"]:
    """Squared distance of hidden states of unit length at each place, summed over the tapped
    blocks (SoundCTM's, after LPIPS)."""
    a, b = ([F.normalize(state.float(), dim=-1) for state in hidden] for hidden in (a, b))
    return sum((one - two).square().sum(-1).mean(1) for one, two in zip(a, b, strict=True))


@torch.no_grad()
def with_trajectory(denoiser: nn.Module) -> PrestoDenoiser:
    """A trainable copy that also accepts `sigma_to`, and ignores it until it has learnt."""
    if not isinstance(denoiser, PrestoDenoiser):
        raise ValueError(
            f"a {type(denoiser).__name__} cannot be given a sigma_to: give `student`, a copy of it "
            "that is called with one"
        )
    dit = replace(denoiser.config.dit, trajectory=True)
    copy = PrestoDenoiser(replace(denoiser.config, dit=dit))
    nn.init.zeros_(copy.inner.noise_to.out.bias)  # its weight already is zero
    copy.load_state_dict({**copy.state_dict(), **denoiser.state_dict()})
    return trainable(copy)
