"""Baselines and speed: what is counted, what is chosen, and what their figures show."""

import pandas as pd
import pytest
import torch

from presto_distill.lab import baselines, speed
from presto_distill.lab.params import Baselines


def test_others_are_pairs_of_words():
    assert Baselines.parse(others=[]).others == ()
    assert Baselines.parse(others=[["a", "b/c"]]).others == (("a", "b/c"),)
    with pytest.raises(ValueError, match="others must be like"):
        Baselines.parse(others="clips")


def test_evaluations_count_the_blocks_that_run(tiny_denoiser, tiny_condition):
    net, x, sigma = tiny_denoiser(), torch.randn(2, 4, 8), torch.ones(2)
    with baselines.counted(net.depth) as spent, torch.no_grad():
        net(x, sigma, tiny_condition(2))
        assert spent[0] == 2
        net(x, sigma, tiny_condition(2), budget=torch.tensor([4, 2]))
        assert spent[0] == 3.5
    net(x, sigma, tiny_condition(2))
    assert spent[0] == 3.5  # closed


def test_a_rival_that_hardly_trained_can_win_but_not_lose():
    def row(value: float) -> pd.Series:
        names = ("frechet_distance", "frechet_distance_low", "frechet_distance_high")
        return pd.Series(dict.fromkeys(names, value))

    assert baselines.beats(row(1.0), row(2.0), updates=10) is True
    assert baselines.beats(row(1.0), row(2.0), updates=9) is None
    assert baselines.beats(row(2.0), row(1.0), updates=1) is False


def test_the_panel_names_systems_and_says_who_diverged():
    row = {name + end: 0.5 for name in baselines.METRICS for end in ("", "_low", "_high")}
    rows = [
        {"model": "Presto-S", "solver": "few-step", "steps": 4, **row},
        {"model": "ASE", "solver": "Heun", "steps": 8, **row},
        {"model": "CM", "solver": "few-step", "steps": 1},
        {"model": "MusicGen", "solver": "clips", "steps": 0, **row},
    ]
    fig = baselines.panel(pd.DataFrame(rows))
    assert [ax.get_xlabel().split()[0] for ax in fig.axes] == list(baselines.METRICS)
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert names == ["Presto-S, 4 steps", "ASE, 8 Heun steps", "CM, 1 step", "MusicGen"]
    assert [text.get_text() for text in fig.axes[1].texts] == ["diverged"]


def test_the_best_candidate_of_each_prompt_is_kept():
    similarity = torch.tensor([[0.1, 0.9], [0.2, 0.3]])
    candidates = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    assert speed.keep_best(similarity, candidates).tolist() == [[3.0], [2.0]]


@pytest.fixture
def times():
    rows = [
        {"device": "cpu", "batch": batch, "model": model, "steps": 4, "audio_seconds": 10.0 * batch,
         "text": 0.1, "denoise": seconds, "decode": 0.5, "stereo": 0.4, "total": seconds + 1.0,
         "real_time_factor": 10 * batch / (seconds + 1)}
        for model, seconds in (("base", 6.0), ("Presto-LS", 1.0))
        for batch in (1, 4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_figures_of_time(times):
    assert speed.affordable(times[times["batch"] == 1], "cpu") == 3.5
    (ax,) = speed.stage_bars(times[times["batch"] == 1]).axes
    assert ax.get_xlabel() == "seconds for a 10 s clip, batch 1"
    assert "7 s = 1.43 × real time" in ax.texts[0].get_text()
    (ax,) = speed.throughput(times).axes
    assert [text.get_text() for text in ax.texts] == ["base, cpu", "Presto-LS, cpu"]
    assert "seconds of audio per second" in ax.get_ylabel()


def test_best_of_at_equal_time():
    rows = [("base", 1, 0.5), ("Presto-LS", 1, 0.4), ("Presto-LS", 2, 0.6), ("Presto-LS", 4, 0.7)]
    ends = ("", "_low", "_high")
    table = pd.DataFrame(
        {"model": m, "n": n, **{k + e: v for k in speed.MEASURES for e in ends}} for m, n, v in rows
    )
    assert [speed.at_equal_time(table, equal)["n"] for equal in (0.5, 1.9, 2.0, 99)] == [1, 1, 2, 4]
    fig = speed.best_of_panel(table, equal=3.5)
    assert len(fig.axes) == 4 and fig.axes[0].get_xlabel() == "n clips, the best kept"
    named = [text.get_text() for text in fig.legends[0].get_texts()]
    assert named == ["Presto-LS, best of n", "base, one clip", "equal time (n = 3.5)"]
