"""Metrics of embeddings against independent implementations and closed forms."""

import itertools
import math

import jaxtyping
import pytest
import torch
from prdc import compute_prdc
from torchaudio.functional import frechet_distance as torchaudio_frechet_distance
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from presto_distill.metrics import LatentStatistics, ReferenceStatistics, evaluate
from presto_distill.metrics.clap_score import clap_score, retrieval_accuracy
from presto_distill.metrics.embed import channel_statistics
from presto_distill.metrics.frechet import (
    Gaussian,
    fit_line,
    frechet_distance,
    frechet_infinity,
    gaussian_frechet_distance,
    subset_distances,
)
from presto_distill.metrics.latency import real_time_factor, stage_times
from presto_distill.metrics.mmd import gaussian, mmd, weighted_mmd
from presto_distill.metrics.prdc import neighbourhoods, prdc
from presto_distill.metrics.scores import mean_scores
from presto_distill.metrics.tags import TAGS, tag_divergence, tag_divergences, tag_probabilities


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exactly_white(n: int, d: int) -> torch.Tensor:
    """Samples whose mean is exactly 0 and whose unbiased covariance is exactly the identity."""
    x = normal(n, d)
    return torch.linalg.qr(x - x.mean(dim=0)).Q * (n - 1) ** 0.5


# Fréchet distance


def test_frechet_equals_torchaudio():
    x, y = normal(300, 24) @ normal(24, 24, seed=1), normal(200, 24, seed=2) + 0.3
    gaussians = x.mean(0), x.T.cov(), y.mean(0), y.T.cov()
    expected = torchaudio_frechet_distance(*gaussians).item()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert gaussian_frechet_distance(*gaussians) == pytest.approx(expected, rel=1e-9)


def test_frechet_is_zero_on_itself_and_symmetric():
    x, y = normal(60, 8), normal(50, 8, seed=1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-12)


def test_frechet_of_a_shift_is_its_squared_length():
    x, shift = normal(40, 6), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 0.25])
    assert frechet_distance(x, x + shift) == pytest.approx(shift.square().sum().item(), rel=1e-10)


def test_frechet_of_commuting_covariances_is_the_distance_of_deviations():
    a, b = torch.tensor([1.0, 2.0, 0.5, 0.0]).double(), torch.tensor([3.0, 2.0, 0.1, 1.0]).double()
    white, expected = exactly_white(30, 4), (a - b).square().sum().item()
    assert frechet_distance(white * a, white * b) == pytest.approx(expected, rel=1e-10)
    zero, rotation = torch.zeros(4), torch.linalg.qr(normal(4, 4)).Q
    rotated = [rotation @ torch.diag(v.square()) @ rotation.T for v in (a, b)]
    result = gaussian_frechet_distance(zero, rotated[0], zero, rotated[1])
    assert result == pytest.approx(expected, rel=1e-9)


def test_frechet_ignores_unused_dimensions_when_samples_are_few():
    x, y, embed = normal(10, 4), normal(12, 4, seed=1), torch.linalg.qr(normal(64, 4, seed=2)).Q.T
    assert frechet_distance(x @ embed, y @ embed) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    x, y = normal(10, 64), normal(12, 64, seed=1)
    expected = gaussian_frechet_distance(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_frechet_works_in_float64_whatever_comes_in():
    x = (normal(50, 3) * 1e-3 + 1000).float()
    assert frechet_distance(x, x + 0.5) == pytest.approx(0.75, rel=1e-9)


def test_frechet_equals_torchmetrics_fid():
    x, y = normal(200, 16) @ normal(16, 16, seed=1), normal(150, 16, seed=2) + 0.3
    gaussians = x.mean(0), x.T.cov(), y.mean(0), y.T.cov()
    assert frechet_distance(x, y) == pytest.approx(_compute_fid(*gaussians).item(), rel=1e-9)


# Fréchet distance of infinitely many samples


@pytest.mark.parametrize(("n", "d"), [(300, 8), (96, 64)])
def test_extrapolating_errs_less_than_the_plain_distance_on_average(n, d):
    """The reference is the exact Gaussian, so the true distance is known in closed form."""
    scale, shift = torch.linspace(0.5, 1.5, d).double(), torch.eye(d)[0].double() / 2
    reference = Gaussian(torch.zeros(d).double(), torch.eye(d).double())
    truth = (scale - 1).square().sum().item() + 0.25
    plain, infinity = [], []
    for seed in range(30):
        x = normal(n, d, seed=seed) * scale + shift
        plain.append(abs(frechet_distance(x, reference) - truth))
        infinity.append(abs(frechet_infinity(x, reference, seed=seed).distance.item() - truth))
    assert sum(infinity) < 0.7 * sum(plain)


@pytest.mark.parametrize("d", [5, 40])
def test_subsets_hold_the_leading_rows_of_each_order(d):
    x, y = normal(36, d) + 0.5, normal(60, d, seed=1)
    orders = torch.stack(
        [torch.randperm(36, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    )
    counts, distances = subset_distances(x, y, orders, sizes=4)
    assert counts.tolist() == [9, 12, 18, 36]
    for order, row in zip(orders, distances, strict=True):
        expected = [frechet_distance(x[order[:count]], y) for count in counts.tolist()]
        assert row.tolist() == pytest.approx(expected, rel=1e-9)


def test_a_line_along_the_inverse_count_is_recovered():
    counts = torch.tensor([10, 20, 40])
    line = fit_line(counts, 3 + 50 / counts.double())
    assert line.distance.item() == pytest.approx(3) and line.slope.item() == pytest.approx(50)
    assert line.r_squared.item() == pytest.approx(1)
    bent = fit_line(counts, torch.tensor([1.0, -1.0, 1.0]).double())
    assert bent.r_squared.item() < 0.5


def test_extrapolation_depends_on_the_seed_and_nothing_else():
    x, y = normal(40, 4), normal(50, 4, seed=1)
    first, again, other = (frechet_infinity(x, y, seed=s).distance.item() for s in (0, 0, 1))
    assert first == again != other


# Stored statistics


@pytest.mark.parametrize("n", [200, 20])
def test_distance_from_a_file_equals_that_from_samples(n, tmp_path):
    x, y = normal(50, 32) + 0.2, (normal(n, 32, seed=1) @ normal(32, 32, seed=2)).float()
    ReferenceStatistics.fit(y, embedder="toy").save(tmp_path / "y.safetensors")
    loaded = ReferenceStatistics.load(tmp_path / "y.safetensors", embedder="toy")
    assert loaded.count == n
    expected = frechet_distance(x, y)
    assert frechet_distance(x, loaded.gaussian) == pytest.approx(expected, rel=1e-6)
    moments = x.mean(0), x.T.cov(), loaded.mean, loaded.covariance
    assert gaussian_frechet_distance(*moments) == pytest.approx(expected, rel=1e-6)


def test_stored_statistics_refuse_another_embedder_and_damage(tmp_path):
    path = tmp_path / "y.safetensors"
    stored = ReferenceStatistics.fit(normal(20, 4), embedder="toy")
    stored.save(path)
    assert ReferenceStatistics.load(path, embedder="toy").digest == stored.digest
    assert stored.digest != ReferenceStatistics.fit(normal(20, 4, seed=1), embedder="toy").digest
    with pytest.raises(ValueError, match="statistics of 'toy', not of 'other'"):
        ReferenceStatistics.load(path, embedder="other")
    body = bytearray(path.read_bytes())
    body[-3] ^= 1  # inside the last number
    path.write_bytes(body)
    with pytest.raises(ValueError, match="damaged"):
        ReferenceStatistics.load(path, embedder="toy")
    path.write_bytes(body[:50])
    with pytest.raises(ValueError, match="no reference statistics"):
        ReferenceStatistics.load(path, embedder="toy")


# MMD


def test_mmd_equals_torchmetrics_kid():
    x, y = normal(80, 16), 0.7 * normal(80, 16, seed=1) + 0.4
    assert mmd(x, y) == pytest.approx(poly_mmd(x, y).item(), rel=1e-10)


@pytest.mark.parametrize("kernel", ["polynomial", "gaussian"])
def test_mmd_is_unbiased(kernel):
    """Averaged over all splits of a fixed population into halves, the estimate is exactly 0."""
    population = normal(8, 3)
    options = {}
    if kernel == "gaussian":
        options = {"kernel": gaussian(2.0)}
    estimates = []
    for chosen in itertools.combinations(range(8), 4):
        rest = [i for i in range(8) if i not in chosen]
        estimates.append(mmd(population[list(chosen)], population[rest], **options))
    assert min(estimates) < 0 < max(estimates)
    assert sum(estimates) / len(estimates) == pytest.approx(0, abs=1e-12)


def test_gaussian_mmd_of_two_far_clusters_is_two():
    """Within a tight cluster every kernel value is 1, between far ones 0: 1 + 1 - 2 * 0."""
    x = 1e-9 * normal(20, 4)
    assert mmd(x, x + 100, gaussian(1.0)) == pytest.approx(2, abs=1e-9)


def test_weighting_out_a_sample_removes_it():
    x, y = normal(6, 3), normal(7, 3, seed=1)
    keep = torch.ones(1, 6).double()
    keep[0, 2] = 0
    without = x[[0, 1, 3, 4, 5]]
    weighted = weighted_mmd(x, y, keep, torch.ones(1, 7).double()).item()
    assert weighted == pytest.approx(mmd(without, y), rel=1e-10)


# Precision, recall, density, coverage


@pytest.mark.parametrize("k", [3, 5])
def test_prdc_equals_the_reference_package(k):
    generated, reference = 0.8 * normal(90, 5) + 0.3, normal(110, 5, seed=1)
    expected = compute_prdc(reference.numpy(), generated.numpy(), nearest_k=k)
    assert prdc(generated, reference, k=k) == pytest.approx(expected, abs=1e-6)
    assert min(expected.values()) > 0


def test_prdc_equals_the_reference_package_far_from_the_origin_and_in_float32():
    generated, reference = 0.9 * normal(150, 48) + 100, normal(120, 48, seed=1) + 100
    expected = compute_prdc(reference.float().numpy(), generated.float().numpy(), nearest_k=5)
    ours = prdc(generated.float(), reference.float())
    assert ours == pytest.approx(expected, abs=1e-6)


def test_a_neighbour_on_the_rim_of_a_ball_is_outside_it():
    """On a ring of n equal steps every radius is a distance that rounding may push either way."""
    angles = torch.arange(60).double() * 2 * math.pi / 60
    ring = torch.stack([angles.cos(), angles.sin(), *normal(6, 1).expand(6, 60)])
    ring = ring.T @ torch.linalg.qr(normal(8, 8)).Q
    shifted = ring.roll(7, dims=0)
    for k, inside in ((2, 1), (4, 3)):  # two steps both ways reach 4; the last two are on the rim
        assert prdc(shifted, ring, k=k)["density"] == pytest.approx(inside / k)


def test_prdc_does_not_depend_on_the_block():
    generated, reference = normal(30, 4), normal(41, 4, seed=1)
    whole, blocked = (neighbourhoods(generated, reference, block=n) for n in (1000, 7))
    for name, values in vars(whole).items():
        torch.testing.assert_close(getattr(blocked, name), values, msg=name)


def test_prdc_of_disjoint_and_equal_sets():
    x = normal(40, 3)
    assert set(prdc(x, x + 100).values()) == {0.0}
    same = prdc(x, x)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    # Each of n balls holds, strictly inside, its centre and the k - 1 neighbours before the k-th.
    assert same["density"] == pytest.approx(1)


def test_collapse_costs_coverage_and_not_precision():
    reference = normal(100, 3)
    collapsed = reference[:1] + 1e-3 * normal(50, 3, seed=1)
    result = prdc(collapsed, reference)
    assert result["precision"] == 1
    assert result["coverage"] < 0.3 and result["recall"] < 0.05


# Prompt agreement


def test_clap_score_is_the_cosine_to_the_own_prompt():
    text = normal(9, 12)
    assert clap_score(3 * text, text) == pytest.approx(1)
    assert clap_score(-text, text) == pytest.approx(-1)
    assert clap_score(torch.eye(4)[[0, 1]], torch.eye(4)[[0, 2]]) == pytest.approx(0.5)


def test_retrieval_counts_distinct_prompts():
    prompts = torch.eye(4)
    asked = torch.tensor([0, 0, 1, 2, 3])
    assert retrieval_accuracy(prompts[asked], prompts[asked]) == (1.0, 0.25)
    second_best = 0.9 * prompts[asked] + prompts[(asked + 1) % 4]
    assert retrieval_accuracy(second_best, prompts[asked]) == (0.0, 0.25)
    assert retrieval_accuracy(second_best, prompts[asked], k=2) == (1.0, 0.5)


def test_retrieval_of_deaf_audio_is_chance():
    prompts = normal(6, 10)
    deaf = normal(1, 10, seed=1).expand(6, 10)
    accuracy, chance = retrieval_accuracy(deaf, prompts)
    assert accuracy == pytest.approx(chance) == pytest.approx(1 / 6)


# Tags


def test_tag_probabilities_are_a_softmax_of_similarities():
    tags = torch.eye(3)
    audio = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 5.0]])
    expected = torch.tensor([[10.0, 0, 0], [0, 10 / 2**0.5, 10 / 2**0.5]]).double().softmax(1)
    torch.testing.assert_close(tag_probabilities(audio, tags, temperature=0.1), expected)
    flat = tag_probabilities(audio, tags, temperature=1e6)
    torch.testing.assert_close(flat, torch.full((2, 3), 1 / 3).double(), atol=1e-5, rtol=0)


def test_tag_divergence_is_zero_on_itself_and_known_for_coins():
    fair, loaded = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    assert tag_divergence(fair, fair) == 0
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert tag_divergence(loaded, fair) == pytest.approx(expected)
    # What only the generated clip has costs nothing by itself, what it lacks costs everything.
    certain = torch.tensor([[0.0, 1.0]])
    assert tag_divergence(fair, certain) == pytest.approx(math.log(2))
    assert tag_divergence(certain, fair) == math.inf


def test_tag_divergence_equals_torch():
    p, q = normal(7, 5).softmax(1), normal(7, 5, seed=1).softmax(1)
    expected = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(1)
    torch.testing.assert_close(tag_divergences(q, p), expected)
    assert tag_divergence(q, p) == pytest.approx(expected.mean().item())


def test_default_tags_are_distinct():
    assert len(set(TAGS)) == len(TAGS)


# Latency


def test_real_time_factor_is_higher_when_faster():
    assert real_time_factor(32.0, 43.34) == pytest.approx(0.738, abs=1e-3)
    assert real_time_factor(32.0, 4.0) == 8


def test_stage_times_are_medians_of_warm_rounds():
    now = 0.0
    costs = {"text": iter([50, 1, 2, 9]), "sample": iter([70, 5, 3, 4])}
    order = []

    def stage(name):
        def work():
            nonlocal now
            now += next(costs[name])
            order.append(name)

        return work

    stages = {name: stage(name) for name in costs}
    assert stage_times(stages, warmup=1, repeats=3, clock=lambda: now) == {"text": 2, "sample": 4}
    assert order == ["text", "sample"] * 4


@pytest.fixture
def as_users_run():
    """Without shape checks of signatures, where the library's own errors must speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(normal(1, 2), normal(5, 2)), "at least 2"),
        (lambda: mmd(normal(5, 2), normal(1, 2)), "at least 2"),
        (lambda: gaussian(0.0), "bandwidth"),
        (lambda: prdc(normal(5, 2), normal(9, 2), k=5), "k=5"),
        (lambda: frechet_infinity(normal(5, 2), normal(9, 2)), "6 samples and 2 sizes, got 5"),
        (lambda: ReferenceStatistics.fit(normal(1, 2), embedder="e"), "at least 2"),
        (
            lambda: evaluate(
                normal(9, 2),
                ReferenceStatistics.fit(normal(9, 2), embedder="a"),
                seed=0,
                embedder="b",
            ),
            "statistics of 'a', not of 'b'",
        ),
        (lambda: mean_scores({"tempo": torch.zeros(0)}, seed=0), "tempo: no clips"),
        (lambda: tag_probabilities(normal(2, 3), normal(4, 3), temperature=0.0), "temperature"),
        (lambda: tag_divergence(normal(2, 3).softmax(1), normal(3, 3).softmax(1)), "one reference"),
        (lambda: tag_divergence(normal(2, 3).softmax(1), normal(2, 3)), "reference rows must be"),
        (lambda: clap_score(normal(4, 2), normal(5, 2)), "one prompt per clip"),
        (lambda: retrieval_accuracy(normal(4, 2), normal(4, 2), k=5), "k=5"),
        (lambda: real_time_factor(32.0, 0.0), "positive"),
        (lambda: stage_times({}, repeats=0), "repeats"),
        (lambda: LatentStatistics.fit(normal(1, 2, 8)), "at least 2"),
        (lambda: channel_statistics(normal(4, 2, 2)), "3 latent frames"),
        (lambda: evaluate(normal(9, 2), normal(9, 3), seed=0, embedder="e"), "2 and 3"),
        (
            lambda: evaluate(normal(9, 2).log(), normal(9, 2), seed=0, embedder="e"),
            "9 generated embeddings are not finite",
        ),
    ],
)
def test_bad_input_is_named(call, message, as_users_run):
    with pytest.raises(ValueError, match=message):
        call()
