"""Metrics against independent implementations, closed forms and signals built to be known."""

import itertools
import math
from dataclasses import replace

import jaxtyping
import pytest
import torch
from prdc import compute_prdc
from torchaudio.functional import frechet_distance as torchaudio_frechet_distance
from torchmetrics.image.kid import poly_mmd

from presto_distill.metrics import LatentStatistics, evaluate
from presto_distill.metrics.clap_score import clap_score, retrieval_accuracy
from presto_distill.metrics.embed import channel_statistics
from presto_distill.metrics.frechet import frechet_distance, gaussian_frechet_distance
from presto_distill.metrics.latency import real_time_factor, stage_times
from presto_distill.metrics.mmd import gaussian, median_bandwidth, mmd, weighted_mmd
from presto_distill.metrics.music import chroma, chroma_correlation, key, tempo, tempo_matches
from presto_distill.metrics.prdc import neighbourhoods, prdc

RATE = 44100


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
    # The square root of an eigenvalue that is 0 up to rounding is only good to 1e-8.
    result = gaussian_frechet_distance(zero, rotated[0], zero, rotated[1])
    assert result == pytest.approx(expected, abs=1e-6)


def test_frechet_ignores_unused_dimensions_when_samples_are_few():
    x, y, embed = normal(10, 4), normal(12, 4, seed=1), torch.linalg.qr(normal(64, 4, seed=2)).Q.T
    assert frechet_distance(x @ embed, y @ embed) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    x, y = normal(10, 64), normal(12, 64, seed=1)
    expected = gaussian_frechet_distance(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_frechet_works_in_float64_whatever_comes_in():
    x = (normal(50, 3) * 1e-3 + 1000).float()
    assert frechet_distance(x, x + 0.5) == pytest.approx(0.75, rel=1e-9)


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
        options = {"kernel": gaussian(median_bandwidth(population))}
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


def test_median_bandwidth_of_three_points_on_a_line():
    assert median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2)


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


# Tempo, chroma, key


def clicks(bpm: float, seconds: float = 8.0, offset: float = 0.13) -> torch.Tensor:
    """Decaying 1 kHz bursts on every beat."""
    audio = torch.zeros(int(seconds * RATE))
    time = torch.arange(2000) / RATE
    burst = torch.sin(2 * math.pi * 1000 * time) * torch.exp(-200 * time)
    for beat in range(int((seconds - offset - 0.05) * bpm / 60) + 1):
        start = round((offset + beat * 60 / bpm) * RATE)
        audio[start : start + 2000] += burst
    return audio


def tones(*midi: int, seconds: float = 1.0) -> torch.Tensor:
    time = torch.arange(int(seconds * RATE)) / RATE
    return sum(torch.sin(2 * math.pi * 440 * 2 ** ((m - 69) / 12) * time) for m in midi)


@pytest.mark.parametrize("bpm", [86.0, 97.5, 120.0, 133.0, 160.0])
def test_tempo_of_clicks(bpm):
    audio = clicks(bpm)
    assert tempo(audio) == pytest.approx(bpm, rel=0.01)
    assert tempo(0.01 * audio) == pytest.approx(tempo(audio), rel=1e-3)


@pytest.mark.parametrize("bpm", [64.0, 180.0, 198.0])
def test_tempo_of_slow_and_fast_clicks_up_to_an_octave(bpm):
    assert tempo_matches(tempo(clicks(bpm)), bpm, tolerance=0.01)


def test_tempo_through_noise():
    noisy = clicks(110) + 0.05 * normal(8 * RATE).float()
    assert tempo(noisy) == pytest.approx(110, rel=0.02)


def test_tempo_of_silence_is_nan_and_matches_nothing():
    assert math.isnan(tempo(torch.zeros(5 * RATE)))
    assert not tempo_matches(math.nan, 120.0)


def test_tempo_matches_half_and_double_within_tolerance():
    assert all(tempo_matches(bpm, 120.0) for bpm in (120.0, 116.0, 124.0, 60.0, 240.0, 61.0, 235.0))
    assert not any(tempo_matches(bpm, 120.0) for bpm in (114.0, 126.0, 80.0, 180.0, 40.0))
    assert not tempo_matches(123.0, 120.0, tolerance=0.02)


@pytest.mark.parametrize("root", [48, 57, 66])
def test_chroma_of_a_triad_peaks_at_its_notes(root):
    frames = chroma(tones(root, root + 4, root + 7))
    assert frames.shape[0] == 12
    inner = frames[:, 3:-3]
    torch.testing.assert_close(inner.sum(0), torch.ones_like(inner.sum(0)))
    notes = {root % 12, (root + 4) % 12, (root + 7) % 12}
    assert set(inner.mean(1).topk(3).indices.tolist()) == notes
    assert inner[sorted(notes)].sum(0).min() > 0.9


def test_chroma_correlation_of_the_same_other_and_absent_harmony():
    c_major, f_sharp_major = tones(60, 64, 67), tones(66, 70, 73)
    ours = chroma(c_major)
    assert chroma_correlation(ours, chroma(0.1 * c_major)) == pytest.approx(1, abs=1e-6)
    assert chroma_correlation(ours, chroma(tones(72, 76, 79))) > 0.9
    assert chroma_correlation(ours, chroma(f_sharp_major)) < 0
    assert math.isnan(chroma_correlation(ours, torch.zeros_like(ours)))


@pytest.mark.parametrize("transposed", [0, 2, 7])
def test_key_of_a_cadence(transposed):
    major, minor = (0, 4, 7), (0, 3, 7)
    in_c_major = [(60, major), (65, major), (67, major), (60, major)]
    in_a_minor = [(57, minor), (62, minor), (64, minor), (57, minor)]
    expected = {0: ("C", "A"), 2: ("D", "B"), 7: ("G", "E")}[transposed]
    for cadence, tonic, mode in zip(
        (in_c_major, in_a_minor), expected, ("major", "minor"), strict=True
    ):
        chords = [tones(*(root + transposed + step for step in triad)) for root, triad in cadence]
        assert key(chroma(torch.cat(chords))) == f"{tonic} {mode}"


# The unlearned embedder


def test_channel_statistics_of_known_sequences():
    alternating = torch.tensor([3.0, -1.0]).repeat(50)  # mean 1, deviation 2
    features = channel_statistics(alternating.expand(1, 1, 100))[0]
    expected = torch.tensor([1, math.log(2), -0.99 / 0.99, math.log(16)])
    torch.testing.assert_close(features.float(), expected, atol=1e-5, rtol=1e-5)


def test_latent_statistics_embeds_its_reference_as_standard_and_decorrelated():
    latents = normal(200, 5, 40) * torch.arange(1, 6)[None, :, None] + normal(200, 5, 1, seed=1)
    embedder = LatentStatistics.fit(latents, dim=12)
    embedded = embedder.embed(latents)
    assert embedder.name == "latent-statistics-12" and embedded.shape == (200, embedder.dim)
    torch.testing.assert_close(embedded.mean(0), torch.zeros(12).double(), atol=1e-9, rtol=0)
    covariance = embedded.T.cov()
    torch.testing.assert_close(covariance, torch.diag(covariance.diag()), atol=1e-9, rtol=0)
    assert (covariance.diag().diff() <= 1e-12).all()


def test_latent_statistics_hear_what_smoothing_does():
    latents = normal(60, 3, 64)
    embedder = LatentStatistics.fit(latents)
    assert embedder.dim == 12
    smooth = torch.nn.functional.avg_pool1d(latents, 3, stride=1, padding=1)
    fresh = embedder.embed(normal(60, 3, 64, seed=1))
    reference = embedder.embed(latents)
    assert frechet_distance(embedder.embed(smooth), reference) > 10 * frechet_distance(
        fresh, reference
    )


# All of it at once


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


def test_evaluate_depends_on_the_seed_and_nothing_else():
    x, y = normal(30, 4), normal(30, 4, seed=1)
    first, again, other = (evaluate(x, y, seed=s, embedder="e", bootstrap=10) for s in (0, 0, 1))
    assert first == again
    assert first.mmd.value == other.mmd.value and first.mmd.low != other.mmd.low
    assert first.clap_score is None and first.as_dict()["clap_score"] is None
    assert replace(first, seed=1) != first


def test_intervals_cover_the_truth_they_claim():
    """The mean similarity of iid clips is known here, so its interval must hold it mostly."""
    truth, inside = 0.0, 0
    for seed in range(40):
        x, text = normal(40, 3, seed=seed), torch.eye(3)[:1].expand(40, 3)
        score = evaluate(x, x, text=text, seed=seed, embedder="e", bootstrap=50).clap_score
        inside += score.low <= truth <= score.high
    assert inside >= 34  # of 40, where 38 are expected


def test_frechet_bias_is_the_order_of_what_the_samples_hold():
    """Both sets come from one Gaussian: the true distance is 0 and all that is measured is bias."""
    scores = evaluate(normal(200, 8), normal(200, 8, seed=1), seed=0, embedder="e", bootstrap=50)
    assert 0.5 < scores.frechet_bias / scores.frechet_distance.value < 2


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
        (lambda: clap_score(normal(4, 2), normal(5, 2)), "one prompt per clip"),
        (lambda: retrieval_accuracy(normal(4, 2), normal(4, 2), k=5), "k=5"),
        (lambda: real_time_factor(32.0, 0.0), "positive"),
        (lambda: stage_times({}, repeats=0), "repeats"),
        (lambda: tempo(torch.zeros(RATE)), "1.00 s"),
        (lambda: chroma_correlation(torch.zeros(12, 3), torch.zeros(12, 4)), "one shape"),
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
