"""Tempo, chroma and key of signals built to be known."""

import math

import jaxtyping
import pytest
import torch

from presto_distill.metrics.music import (
    METRICAL,
    chroma,
    chroma_correlation,
    key,
    key_score,
    parse_key,
    tempo,
    tempo_matches,
)

RATE = 44100


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
    noisy = clicks(110) + 0.05 * torch.randn(8 * RATE, generator=torch.Generator().manual_seed(0))
    assert tempo(noisy) == pytest.approx(110, rel=0.02)


def test_tempo_of_silence_is_nan_and_matches_nothing():
    assert math.isnan(tempo(torch.zeros(5 * RATE)))
    assert not tempo_matches(math.nan, 120.0)


def test_silence_is_in_no_key_and_scores_nothing():
    assert key(chroma(torch.zeros(5 * RATE))) == ""
    assert key_score("", "C major") == 0


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


@pytest.mark.parametrize(
    ("factor", "accurate"), [(1, (1, 1)), (2, (0, 1)), (3, (0, 1)), (1.5, (0, 0))]
)
def test_accuracy_2_forgives_another_metrical_level_and_accuracy_1_does_not(factor, accurate):
    for estimated, asked in ((100.0 * factor, 100.0), (100.0, 100.0 * factor)):
        levels = tuple(tempo_matches(estimated, asked, factors=f) for f in ((1,), METRICAL))
        assert levels == accurate


def test_tempo_accuracies_of_clicks_whose_tempo_is_heard_an_octave_off():
    heard = tempo(clicks(200.0), slowest=60, fastest=160)
    assert not tempo_matches(heard, 200.0, factors=(1,))
    assert tempo_matches(heard, 200.0, factors=METRICAL)


@pytest.mark.parametrize("mode", ["major", "minor"])
def test_key_score_of_all_24_keys_against_one(mode):
    """Same, two fifths, relative and parallel: 1 + 2 x 0.5 + 0.3 + 0.2 over all keys."""
    names = [
        f"{tonic} {m}"
        for tonic in ["C", "Db", "D", "D#", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B"]
        for m in ("major", "minor")
    ]
    scores = {name: key_score(name, f"A {mode}") for name in names}
    relative = {"major": "Gb minor", "minor": "C major"}[mode]
    parallel = {"major": "A minor", "minor": "A major"}[mode]
    expected = {f"A {mode}": 1, f"D {mode}": 0.5, f"E {mode}": 0.5, relative: 0.3, parallel: 0.2}
    assert {name: score for name, score in scores.items() if score} == expected


def test_keys_are_the_same_by_either_name():
    assert parse_key("Bb minor") == parse_key("A# minor") == parse_key("Bbm") == (10, "minor")
    assert parse_key("Cb major") == parse_key("B major") == (11, "major")
    assert all(key_score(name, name) == 1 for name in ("F# minor", "C major"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tempo(torch.zeros(RATE)), "1.00 s"),
        (lambda: chroma_correlation(torch.zeros(12, 3), torch.zeros(12, 4)), "one shape"),
        (lambda: key_score("H major", "C major"), "unknown key 'H major'"),
        (lambda: parse_key("C dorian"), "unknown key 'C dorian'"),
        (lambda: parse_key("C## minor"), "unknown key 'C## minor'"),
        (lambda: parse_key(""), "unknown key ''"),
    ],
)
def test_bad_input_is_named(call, message):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            call()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
