"""Is this run healthy? Losses do not tell: they fall while samples collapse, and rise while they
improve. Everything here is measured on one fixed batch with the same noise every time.

A row names its `measure` and `value`, with the noise level `sigma` and `budget` it belongs to.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map_only

from presto_distill import losses
from presto_distill.logs import Row
from presto_distill.metrics.frechet import frechet_distance
from presto_distill.metrics.mmd import mmd
from presto_distill.objective import Batch, Objective
from presto_distill.objectives.presto_l import PrestoL, full_depth_distance
from presto_distill.objectives.presto_s import PrestoS
from presto_models.edm import SigmaLaw, add_noise
from presto_models.layer_schedule import ScheduledDenoiser

Embed = Callable[[Float[Tensor, "b c t"]], Float[Tensor, "b d"]]
BUCKETS = 5  # of equal probability under a noise law; each is probed at its median
PROBED = (PrestoS, PrestoL)  # and what is built on them
CLIPS = 16  # of the batch that are noised; samples are made for all of it


@torch.no_grad()
def probe(
    objective: Objective, batch: Batch, rng: torch.Generator, embed: Embed | None = None
) -> list[Row]:
    """Rows for objectives that are PROBED; none for others.

    Give the same held-out `batch` and an equally seeded `rng` every time. `embed` unlocks the
    Fréchet distance and MMD of one-step samples to the batch. Players look in evaluation mode, and
    nothing of them changes.
    """
    modules = [part for player in objective.players.values() for part in player.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.random.fork_rng([batch.x.device] if batch.x.is_cuda else []):
            if isinstance(objective, PrestoS):
                samples = one_step_samples(objective, batch, rng, embed)
                return [*few_step(objective, batch, rng), *samples]
            if isinstance(objective, PrestoL):
                return list(fewer_layers(objective, batch, rng))
        return []
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def few_step(objective: PrestoS, batch: Batch, rng: torch.Generator) -> Iterator[Row]:
    """Per noise level: `gap` = |D_fake - D_real| / |D_real|, and the discriminator's mean scores.

    Over all: mean, and maximum over median, of the matching weight 1 / mean |x - D_real|.
    """
    cfg, batch = objective.cfg, _first(batch, CLIPS)
    fake = objective.generate(batch, rng)
    weights = []
    for sigma in levels(cfg.p_dmd, batch):
        noised = add_noise(fake, sigma, rng)
        D_fake = objective.fake_score(noised, sigma, batch.cond).float()
        D_real = objective.teacher(noised, sigma, batch.cond).float()
        yield _row("gap", (D_fake - D_real).norm() / D_real.norm(), sigma)
        weights.append(1 / ((fake - D_real).abs().flatten(1).mean(1) + 1e-6))
    weight = torch.cat(weights)
    yield _row("dm_weight_mean", weight.mean())
    yield _row("dm_weight_max_over_median", weight.max() / weight.median())
    if cfg.nu_2:  # else the head has learned nothing
        for sigma in levels(cfg.p_gan, batch):
            for name, x in (("score_real", batch.x), ("score_fake", fake)):
                scores = objective._score_noised(add_noise(x, sigma, rng), sigma, batch.cond)
                yield _row(name, scores.mean(), sigma)


def one_step_samples(
    objective: PrestoS, batch: Batch, rng: torch.Generator, embed: Embed | None
) -> Iterator[Row]:
    """Standard deviation of real clips and of samples from pure noise, and their distances."""
    generator = objective.generator
    if hasattr(objective, "schedule"):
        generator = ScheduledDenoiser(generator, objective.schedule)
    top = objective.cfg.p_gen.quantile(torch.ones((), dtype=torch.float64)).item()
    sigma = torch.full((len(batch.x),), top, device=batch.x.device)
    samples = generator(add_noise(torch.zeros_like(batch.x), sigma, rng), sigma, batch.cond)
    yield _row("std_real", batch.x.std())
    yield _row("std_generated", samples.std())
    if embed:
        ours, theirs = embed(samples.float()), embed(batch.x.float())
        yield _row("frechet", frechet_distance(ours, theirs))
        yield _row("mmd", mmd(ours, theirs))


def fewer_layers(objective: PrestoL, batch: Batch, rng: torch.Generator) -> Iterator[Row]:
    """At as many equally probable noise levels as the schedule has bins: the denoising loss, and
    how far the hidden state entering the head is from the network's own at full depth."""
    student, cfg = objective.student, objective.cfg
    for sigma in levels(cfg.p_train, batch, count=len(objective.schedule.budgets)):
        noised, budget = add_noise(batch.x, sigma, rng), objective.schedule(sigma)
        dropped = student(noised, sigma, batch.cond, budget=budget, tap=-1)
        loss = losses.denoising(dropped[0], batch.x, sigma, cfg.sigma_data)
        distance = full_depth_distance(
            student, dropped, noised, sigma, batch.cond, budget, depth=objective.depth
        )
        for name, value in (("denoising", loss.mean()), ("hidden_distance", distance.mean())):
            yield {**_row(name, value, sigma), "budget": int(budget[0])}


def levels(law: SigmaLaw, batch: Batch, *, count: int = BUCKETS) -> Iterator[Float[Tensor, " b"]]:
    """The medians of `count` equally probable buckets of a law, each for the whole batch."""
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    for sigma in law.quantile(centres).tolist():
        yield torch.full((len(batch.x),), sigma, device=batch.x.device)


def _first(batch: Batch, n: int) -> Batch:
    return tree_map_only(Tensor, lambda leaf: leaf[:n], batch)


def _row(measure: str, value: float | Tensor, sigma: Tensor | None = None) -> Row:
    where = {} if sigma is None else {"sigma": float(sigma[0])}
    return {"measure": measure, **where, "value": float(value)}
