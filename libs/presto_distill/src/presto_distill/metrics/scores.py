"""The set-level metrics of one model, each with its interval and the facts needed to compare it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from presto_distill.metrics.clap_score import prompt_similarity, retrieval_hits
from presto_distill.metrics.frechet import Gaussian, frechet_distance, frechet_infinity
from presto_distill.metrics.mmd import mmd, weighted_mmd
from presto_distill.metrics.prdc import neighbourhoods
from presto_distill.metrics.reference import ReferenceStatistics


@dataclass(frozen=True)
class Score:
    """A number and the 95 % interval of its sampling noise."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Scores:
    """Everything that must be printed beside a number; lower is better for the first three only.

    Those that compare with single reference samples are None where only their statistics are known.
    """

    frechet_distance: Score
    frechet_infinity: Score  # extrapolated to infinitely many generated samples
    mmd: Score | None
    precision: Score | None
    recall: Score | None
    density: Score | None
    coverage: Score | None
    clap_score: Score | None  # None without text
    prompt_retrieval: Score | None  # share of clips nearest to their own prompt; None without text
    prompt_chance: float | None  # what guessing would reach
    frechet_bias: float  # how much of the Fréchet distance small samples alone may explain
    frechet_infinity_r_squared: float  # of the extrapolation; far below 1 it means little
    embedder: str
    generated_count: int
    reference_count: int
    seed: int
    bootstrap: int

    def as_dict(self) -> dict[str, float | int | str | None]:
        """One flat row for a DataFrame: `mmd`, `mmd_low`, `mmd_high`, ..., `embedder`, `seed`."""
        row = {}
        for name in (field.name for field in fields(self)):
            entry = getattr(self, name)
            if isinstance(entry, Score):
                row |= {name: entry.value, f"{name}_low": entry.low, f"{name}_high": entry.high}
            else:
                row[name] = entry
        return row

    def __str__(self) -> str:
        numbers = [
            f"{field.name} {entry}"
            for field in fields(self)
            if isinstance(entry := getattr(self, field.name), Score)
        ]
        facts = (
            f"({self.embedder}, {self.generated_count} generated, {self.reference_count} reference,"
            f" seed {self.seed}, 95 % of {self.bootstrap} bootstraps)"
        )
        return "  ".join([*numbers, facts])


def evaluate(
    generated: Float[Tensor, "m d"],
    reference: Float[Tensor, "n d"] | ReferenceStatistics,
    *,
    text: Float[Tensor, "m d"] | None = None,
    seed: int,
    embedder: str,
    bootstrap: int = 100,
) -> Scores:
    """All set-level metrics of generated against reference embeddings, both sets resampled.

    `text` holds the embedding of each generated clip's prompt. Intervals answer "how much would
    this number move with other samples, as many as these?":

    - Fréchet distances, of Gaussians: both sets are drawn anew from the Gaussians fitted to them,
      since resamples, which repeat rows, scatter about twice too much. Small samples inflate the
      distance once more, so its interval is moved back onto the estimate, and the inflation is kept
      as `frechet_bias`: about what the estimate itself holds. Compare models at equal counts. The
      interval of the distance is up to half too wide. Likewise for the extrapolated distance, with
      the reference as it is.
    - MMD: copies of a sample are never paired; its interval is up to twice too wide.
    - precision, recall, density, coverage: neighbourhoods stay those of the full sets, as copies
      would shrink them to nothing; these intervals are too narrow, by a fifth to a half.
    - statistics in place of reference samples: only the generated set is resampled.

    How wide intervals are was measured where the truth is known, as in the tests of this module.
    Models of equal counts and seed meet the same resamples. Raises ValueError for sets that differ
    in dimension or embedder, hold non-finite numbers or are smaller than 6.
    """
    if bootstrap < 2:
        raise ValueError(f"an interval needs at least 2 bootstraps, got {bootstrap}")
    x, y, near = _checked("generated", generated), None, None
    if isinstance(reference, ReferenceStatistics):
        if reference.embedder != embedder:
            raise ValueError(f"statistics of {reference.embedder!r}, not of {embedder!r}")
        real, reference_count = reference.gaussian, reference.count
    else:
        y = _checked("reference", reference)
        real, reference_count = Gaussian.fit(y), len(y)
    if x.shape[1] != len(real.mean):
        raise ValueError(f"dimensions differ: {x.shape[1]} and {len(real.mean)}")

    random = torch.Generator().manual_seed(seed)
    draws_x = torch.randint(len(x), (bootstrap, len(x)), generator=random)
    draws_y = torch.randint(reference_count, (bootstrap, reference_count), generator=random)

    def mean_score(values: Float[Tensor, " k"], draws: Int[Tensor, "r k"]) -> Score:
        return _score(values.mean().item(), values[draws].mean(dim=1))

    distance, line = frechet_distance(x, real), frechet_infinity(x, real, seed=seed)
    made, distances, lines = Gaussian.fit(x), x.new_empty(bootstrap), x.new_empty(bootstrap)
    for i in range(bootstrap):
        again = made.draw(len(x), random)
        distances[i] = frechet_distance(again, real if y is None else real.draw(len(y), random))
        lines[i] = frechet_infinity(again, real, seed=seed).distance
    inflation = distances.mean() - distance

    discrepancy = None
    if y is not None:
        near = neighbourhoods(x, y)
        weighted = weighted_mmd(x, y, _counts(draws_x), _counts(draws_y))
        discrepancy = _score(mmd(x, y), weighted)
    similarity = retrieval = chance = None
    if text is not None:
        text = text.detach().double().cpu()
        hits, chance = retrieval_hits(x, text)
        similarity = mean_score(prompt_similarity(x, text), draws_x)
        retrieval = mean_score(hits, draws_x)
    return Scores(
        frechet_distance=_score(distance, (distances - inflation).clamp(min=0)),
        frechet_infinity=_score(line.distance.item(), lines - lines.mean() + line.distance),
        mmd=discrepancy,
        precision=near and mean_score(near.precision, draws_x),
        recall=near and mean_score(near.recall, draws_y),
        density=near and mean_score(near.density, draws_x),
        coverage=near and mean_score(near.coverage, draws_y),
        clap_score=similarity,
        prompt_retrieval=retrieval,
        prompt_chance=chance,
        frechet_bias=inflation.item(),
        frechet_infinity_r_squared=line.r_squared.item(),
        embedder=embedder,
        generated_count=len(x),
        reference_count=reference_count,
        seed=seed,
        bootstrap=bootstrap,
    )


def mean_scores(
    values: Mapping[str, Float[Tensor, " _"]], *, seed: int, bootstrap: int = 100
) -> dict[str, Score]:
    """The mean of each measure of single clips with its interval, from the resamples of `evaluate`.

    Raises ValueError for a measure of no clips.
    """
    scores = {}
    for name, each in values.items():
        if not len(each):
            raise ValueError(f"{name}: no clips")
        random = torch.Generator().manual_seed(seed)
        draws = torch.randint(len(each), (bootstrap, len(each)), generator=random)
        scores[name] = _score(each.mean().item(), each[draws].mean(dim=1))
    return scores


def _checked(name: str, samples: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """In float64 on the CPU, and finite."""
    samples = samples.detach().double().cpu()
    if broken := (~samples.isfinite()).any(dim=1).sum().item():
        raise ValueError(f"{broken} of {len(samples)} {name} embeddings are not finite")
    return samples


def _score(value: float, resampled: Float[Tensor, " r"]) -> Score:
    # A resample of one sample again and again has no pairs, and so no MMD.
    low, high = resampled.nanquantile(resampled.new_tensor([0.025, 0.975])).tolist()
    return Score(value, low, high)


def _counts(draws: Int[Tensor, "r n"]) -> Float[Tensor, "r n"]:
    """How often each resample holds each sample."""
    return torch.zeros(draws.shape, dtype=torch.float64).scatter_add_(
        1, draws, torch.ones(draws.shape, dtype=torch.float64)
    )
