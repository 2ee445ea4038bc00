"""What `presto distill` and `Lab.distill` can train: each method is its default settings and a plan
made of them. A further one is two functions and an entry in METHODS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from presto_distill.baselines.ase import ase_denoiser
from presto_distill.baselines.consistency import ConsistencyConfig, ConsistencyDistillation
from presto_distill.baselines.dmd_gan import dmd_gan
from presto_distill.baselines.trajectory import (
    TrajectoryDistillation,
    ditto_ctm,
    soundctm,
    with_trajectory,
)
from presto_distill.objective import Objective, trainable
from presto_distill.objectives.denoising import Denoising, DenoisingConfig
from presto_distill.objectives.presto_l import PrestoL, PrestoLConfig
from presto_distill.objectives.presto_ls import PrestoLS, PrestoLSConfig
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.objectives.regression import Regression, RegressionConfig, point_stream
from presto_distill.presets import Preset, Stage
from presto_distill.settings import Budgeted, Settings, Tapped, TappedAndBudgeted
from presto_distill.trainer import Stream
from presto_models import LayerSchedule, PrestoDenoiser, PrestoDenoiserConfig, presto_schedule
from presto_models.conditioning import null_condition
from presto_models.edm import SigmaLaw
from presto_models.layer_schedule import ase_schedule, quantile_schedule

if TYPE_CHECKING:
    from presto_distill.experiment import Lab


class Plan(NamedTuple):
    """What to train on what, and what to keep of it."""

    make: Callable[[], Objective]  # called once, as networks are copied
    player: str  # whose moving average is the student
    config: PrestoDenoiserConfig  # of the student
    stream: Stream

    def student(self, weights: dict[str, Tensor]) -> PrestoDenoiser:
        """The student with the weights that the player's average ended with."""
        student = PrestoDenoiser(self.config)
        # A consistency function wraps the denoiser whose config says the same.
        student.load_state_dict({k.removeprefix("denoiser."): v for k, v in weights.items()})
        return student


class Method(NamedTuple):
    """Default settings, given the config of the student that it starts from, if there is one, and
    the plan that follows from settings and that student."""

    settings: Callable[[Preset, PrestoDenoiserConfig | None], Settings]
    plan: Callable[[Lab, Settings, PrestoDenoiser | None], Plan]


def steps(lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """Presto-S; the generator starts from `start`, or from the teacher."""
    teacher, cfg, tap = lab.teacher, settings.objective, taps(lab, settings)
    return Plan(
        lambda: PrestoS(teacher, null_condition, cfg, generator=start, **tap),
        "generator",
        replace((start or teacher).config, few_step=True),
        lab.stream(settings.train.micro_batch),
    )


def layers(lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """Presto-L of the base model, or of `start`."""
    base, cfg = start or lab.teacher, settings.objective
    schedule = chosen_schedule(base, settings, cfg.p_train)
    return Plan(
        lambda: PrestoL(base, null_condition, schedule, cfg, depth=base.depth),
        "student",
        replace(base.config, schedule=schedule, few_step=False),
        lab.stream(settings.train.micro_batch),
    )


def both(lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """Presto-LS from `start` (a Presto-L student: layers first), or from the base at once."""
    base, student, cfg = lab.teacher, start or lab.teacher, settings.objective
    schedule = chosen_schedule(student, settings, cfg.p_dmd)
    tap = taps(lab, settings)
    return Plan(
        lambda: PrestoLS(base, student, null_condition, schedule, cfg, depth=base.depth, **tap),
        "generator",
        replace(student.config, schedule=schedule, few_step=True),
        lab.stream(settings.train.micro_batch),
    )


def ase(lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """ASE: the last blocks dropped, by its public schedule, and nobody told."""
    student = ase_denoiser(start or lab.teacher)
    schedule = ase_schedule(student.depth, settings.objective.p_train)
    if settings.blocks.budgets:
        schedule = chosen_schedule(student, settings, settings.objective.p_train)
    return Plan(
        lambda: PrestoL(student, null_condition, schedule, settings.objective, depth=student.depth),
        "student",
        replace(student.config, schedule=schedule, few_step=False),
        lab.stream(settings.train.micro_batch),
    )


def consistency(lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """Consistency distillation; the student is kept with its boundary condition."""
    teacher, cfg = lab.teacher, settings.objective
    if start and start.config.boundary:  # which the consistency function has, too
        weights, start = start.state_dict(), PrestoDenoiser(replace(start.config, boundary=0.0))
        start.load_state_dict(weights)
    return Plan(
        lambda: ConsistencyDistillation(teacher, null_condition, cfg, student=start),
        "student",
        replace((start or teacher).config, few_step=True, boundary=cfg.sigma_min),
        lab.stream(settings.train.micro_batch),
    )


def trajectory(lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """Consistency trajectories, as SoundCTM or DITTO-CTM learn them."""
    student, tap = with_trajectory(start or lab.teacher), taps(lab, settings)["feature_layer"]
    cfg = settings.objective
    return Plan(
        lambda: TrajectoryDistillation(
            lab.teacher, null_condition, cfg, student=student, feature_layer=tap
        ),
        "student",
        replace(student.config, few_step=True),
        lab.stream(settings.train.micro_batch),
    )


def warm_start(lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """Regression on the teacher's trajectories, which Presto-S may start from."""
    student, train = start or lab.teacher, settings.train
    points = point_stream(
        lab.trajectories(settings.objective), batch=train.micro_batch, seed=train.seed
    )
    config = replace(student.config, few_step=True)
    return Plan(
        lambda: Regression(student, settings.objective.sigma_data), "generator", config, points
    )


def base(lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """Base training of a fresh denoiser of the teacher's size, or of `start`."""
    teacher = lab.teacher.config
    fresh = PrestoDenoiserConfig(teacher.dit, sigma_data=teacher.sigma_data)

    def make() -> Objective:
        network = trainable(start) if start else PrestoDenoiser(fresh)
        return Denoising(network, null_condition, settings.objective)

    config = replace(start.config, few_step=False) if start else fresh
    return Plan(make, "base", config, lab.stream(settings.train.micro_batch))


def make_plan(method: str, lab: Lab, settings: Settings, start: PrestoDenoiser | None) -> Plan:
    """The plan of a method; ValueError where its losses and the model differ in sigma_data, or its
    student would keep a start's ear for where jumps end, which it does not train."""
    own = lab.teacher.config.sigma_data
    if (assumed := getattr(settings.objective, "sigma_data", own)) != own:
        raise ValueError(f"sigma_data is {assumed:g}, the model's {own:g}: set sigma_data={own:g}")
    plan = METHODS[method].plan
    if start and start.trajectory and plan is not trajectory:
        raise ValueError(
            f"the start jumps to any noise level, which {method} does not train: give another "
            "start, or train soundctm or ditto-ctm from this one"
        )
    return plan(lab, settings, start)


def _of_steps(preset: Preset, start: PrestoDenoiserConfig | None) -> Stage:
    """How the preset trains few-step generators: to the end from a `start`, from the base at the
    length of ablations."""
    return preset.steps if start else preset.ablation_steps


METHODS: dict[str, Method] = {
    "steps": Method(
        lambda preset, start: Settings(
            PrestoSConfig(guidance_scale=preset.guidance_scale),
            _of_steps(preset, start),
            Tapped(),
        ),
        steps,
    ),
    "layers": Method(
        lambda preset, start: Settings(PrestoLConfig(), preset.layers, Budgeted()), layers
    ),
    # To a start that never met dropped blocks the self-teacher has to teach them.
    "both": Method(
        lambda preset, start: Settings(
            PrestoLSConfig(
                guidance_scale=preset.guidance_scale, nu=0.0 if start and start.schedule else 0.1
            ),
            _of_steps(preset, start),
            TappedAndBudgeted(),
        ),
        both,
    ),
    "dmd-gan": Method(
        lambda preset, start: Settings(
            dmd_gan(guidance_scale=preset.guidance_scale), _of_steps(preset, start), Tapped()
        ),
        steps,
    ),
    "consistency": Method(
        lambda preset, start: Settings(
            ConsistencyConfig(guidance_scale=preset.guidance_scale), preset.layers
        ),
        consistency,
    ),
    "soundctm": Method(
        lambda preset, start: Settings(
            replace(soundctm(), guidance_scale=preset.guidance_scale), preset.layers, Tapped()
        ),
        trajectory,
    ),
    "ditto-ctm": Method(
        lambda preset, start: Settings(
            replace(ditto_ctm(), guidance_scale=preset.guidance_scale), preset.layers, Tapped()
        ),
        trajectory,
    ),
    "ase": Method(
        lambda preset, start: Settings(PrestoLConfig(nu=0.0), preset.layers, Budgeted()), ase
    ),
    "warm-start": Method(
        lambda preset, start: Settings(
            RegressionConfig(guidance_scale=preset.guidance_scale),
            preset.warm_start or preset.steps,
        ),
        warm_start,
    ),
    "base": Method(
        lambda preset, start: Settings(DenoisingConfig(), replace(preset.layers, lr=1e-3)), base
    ),
}


def taps(lab: Lab, settings: Settings) -> dict[str, Any]:
    """The hidden states the discriminator reads: by default the one at half depth."""
    depth = lab.teacher.depth
    wanted = settings.blocks.tap or (depth // 2 - 1,)
    if missing := [tap for tap in wanted if not 0 <= tap < depth]:
        raise ValueError(f"blocks.tap {missing[0]} does not exist: choose from 0..{depth - 1}")
    return {"feature_layer": wanted, "width": lab.teacher.config.dit.width}


def chosen_schedule(student: PrestoDenoiser, settings: Settings, law: SigmaLaw) -> LayerSchedule:
    """The schedule of `blocks.budgets`, or else the student's own, or Presto-L's default."""
    if settings.blocks.budgets:
        return quantile_schedule(settings.blocks.budgets, law).within(student.depth)
    return student.config.schedule or presto_schedule(student.depth, law)
