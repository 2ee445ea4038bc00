"""All set-level metrics at once: the values of each, intervals that hold, facts beside them."""

import pytest
import torch

from presto_distill.metrics import ReferenceStatistics, evaluate
from presto_distill.metrics.clap_score import clap_score, prompt_similarity, retrieval_accuracy
from presto_distill.metrics.frechet import frechet_distance, frechet_infinity
from presto_distill.metrics.mmd import mmd
from presto_distill.metrics.prdc import prdc
from presto_distill.metrics.scores import mean_scores


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_evaluate_agrees_with_each_metric_and_carries_its_facts():
    x, y, text = normal(40, 6), normal(50, 6, seed=1) + 0.5, normal(40, 6, seed=2)
    scores = evaluate(x, y, text=text, seed=3, embedder="toy", bootstrap=20)
    assert scores.frechet_distance.value == frechet_distance(x, y)
    assert scores.mmd.value == mmd(x, y)
    ours = {name: getattr(scores, name).value for name in ("precision", "recall", "density")}
    assert ours.items() <= prdc(x, y).items()
    assert scores.clap_score.value == clap_score(x, text)
    assert (scores.prompt_retrieval.value, scores.prompt_chance) == retrieval_accuracy(x, text)
    row = scores.as_dict()
    assert row["frechet_distance_low"] <= row["frechet_distance"] <= row["frechet_distance_high"]
    assert (row["embedder"], row["generated_count"], row["reference_count"]) == ("toy", 40, 50)
    assert all(f in str(scores) for f in ("toy", "40 generated", "50 reference", "seed 3", "20"))


def test_evaluate_with_stored_statistics_agrees_where_no_single_sample_is_needed():
    x, y = normal(40, 6), normal(50, 6, seed=1) + 0.5
    stored = ReferenceStatistics.fit(y, embedder="toy")
    ours = evaluate(x, stored, seed=0, embedder="toy", bootstrap=5)
    full = evaluate(x, y, seed=0, embedder="toy", bootstrap=5)
    for name in ("frechet_distance", "frechet_infinity"):
        assert getattr(ours, name).value == pytest.approx(getattr(full, name).value, rel=1e-9)
    assert ours.mmd is ours.precision is ours.recall is ours.density is ours.coverage is None
    assert ours.reference_count == 50
    assert full.frechet_infinity.value == frechet_infinity(x, y, seed=0).distance.item()


def test_a_resample_of_one_clip_alone_has_no_pairs_and_does_not_count():
    scores = evaluate(normal(6, 4), normal(8, 4, seed=1), seed=28, embedder="toy", bootstrap=100)
    assert scores.mmd.low < scores.mmd.value < scores.mmd.high


def test_mean_scores_resample_like_evaluate():
    x, text = normal(20, 3), normal(20, 3, seed=1)
    scores = evaluate(x, x, text=text, seed=4, embedder="e", bootstrap=20)
    means = mean_scores({"clap": prompt_similarity(x, text)}, seed=4, bootstrap=20)
    assert means["clap"] == scores.clap_score


def test_evaluate_depends_on_the_seed_and_nothing_else():
    x, y = normal(30, 4), normal(30, 4, seed=1)
    first, again, other = (evaluate(x, y, seed=s, embedder="e", bootstrap=10) for s in (0, 0, 1))
    assert first == again
    assert first.mmd.value == other.mmd.value and first.mmd.low != other.mmd.low
    assert first.clap_score is None and first.as_dict()["clap_score"] is None


def test_intervals_cover_the_truth_they_claim():
    """The mean similarity of iid clips is known here, so its interval must hold it mostly."""
    truth, inside = 0.0, 0
    for seed in range(40):
        x, text = normal(40, 3, seed=seed), torch.eye(3)[:1].expand(40, 3)
        similarity = prompt_similarity(x, text)
        score = mean_scores({"clap": similarity}, seed=seed, bootstrap=50)["clap"]
        inside += score.low <= truth <= score.high
    assert inside >= 34  # of 40, where 38 are expected


def clips(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Of 13 genres, as unit vectors: no Gaussian, and the truth about samples is known."""
    random = torch.Generator().manual_seed(seed)
    genres = normal(13, 16, seed=99)
    drawn = genres[torch.randint(13, (n,), generator=random)]
    drawn = drawn + 0.7 * torch.randn(n, 16, generator=random, dtype=torch.float64)
    drawn[:, 0] += shift
    return torch.nn.functional.normalize(drawn, dim=1)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_are_about_as_wide_as_other_samples_scatter(shift):
    """Half an interval over 1.96 deviations between independent samples, by metric."""
    names = ("frechet_distance", "frechet_infinity", "mmd", "precision", "coverage")
    values, widths = [], []
    for seed in range(40):
        x, y = clips(96, seed), clips(256, 1000 + seed, shift)
        scores = evaluate(x, y, seed=seed, embedder="toy", bootstrap=40)
        each = [getattr(scores, name) for name in names]
        values.append([score.value for score in each])
        widths.append([(score.high - score.low) / 3.92 for score in each])
    ratio = torch.tensor(widths).mean(0) / torch.tensor(values).std(0)
    assert (ratio[:2] > 0.8).all() and (ratio[:2] < 1.7).all()
    assert 0.8 < ratio[2] < 2.2 and (ratio[3:] > 0.4).all()


def test_frechet_bias_is_the_order_of_what_the_samples_hold():
    """Both sets come from one Gaussian: the true distance is 0 and all that is measured is bias."""
    scores = evaluate(normal(200, 8), normal(200, 8, seed=1), seed=0, embedder="e", bootstrap=50)
    assert 0.5 < scores.frechet_bias / scores.frechet_distance.value < 2
