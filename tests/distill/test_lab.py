"""The lab: typed parameters, comparisons, result files and the report made of them."""

import json
import math
from dataclasses import asdict

import pandas as pd
import pytest
import torch

from presto_distill.experiment import Lab
from presto_distill.lab import plots, results, studies, widgets
from presto_distill.lab.params import (
    Baselines,
    FakeScoreUpdates,
    LayerDistillation,
    ListeningTest,
    NuWeights,
    Params,
)
from presto_distill.lab.report import paper, write_report
from presto_distill.presets import preset
from presto_distill.trainer import Diverged
from presto_models import Sampling


def scored(model: str, value: float, width: float = 0.1, **facts) -> dict:
    """A row of `studies.quality` whose metrics all have one value and interval."""
    names = ("frechet_distance", "mmd", "density", "recall", "coverage", "clap_score")
    row = {"model": model, "prompt_retrieval": 0.2, "prompt_chance": 0.05, "embedder": "e"}
    row |= {"prompt_retrieval_low": 0.1, "prompt_retrieval_high": 0.3}
    row |= {"generated_count": 8, "reference_count": 9, "seed": 0, "bootstrap": 10, **facts}
    for name in names:
        row |= {name: value, f"{name}_low": value - width, f"{name}_high": value + width}
    return row


# ---------------------------------------------------------------------- parameters


def test_parameters_are_typed():
    parsed = FakeScoreUpdates.parse(preset="smoke", critic_updates=[1, 5])
    assert parsed.critic_updates == (1, 5) and parsed.seed == 0
    assert NuWeights.parse(nu_pairs=[[0, 1]]).nu_pairs == ((0.0, 1.0),)
    assert LayerDistillation.parse(nus=[1]).nus == (1.0,)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"sead": 1}, "unknown parameter 'sead': choose from preset, seed, out, audio, model"),
        ({"seed": "1"}, "seed must be like 0, got '1'"),
        ({"seed": True}, "seed must be like 0, got True"),
        ({"preset": "quik"}, "unknown preset 'quik': choose one of smoke, quick"),
    ],
)
def test_wrong_parameters_say_what_is_allowed(values, said):
    with pytest.raises(ValueError, match=said):
        Params.parse(**values)


@pytest.mark.parametrize("value", [[], 3, [1.5], ["1"]])
def test_a_list_parameter_must_be_a_list_of_its_kind(value):
    with pytest.raises(ValueError, match="critic_updates must be like"):
        FakeScoreUpdates.parse(critic_updates=value)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"nu_pairs": [[0.1]]}, r"nu_pairs must be like \(0.0, 0.0\), got \[0.1\]"),
        ({"nu_pairs": [[0.1, 0.1, 0.1]]}, "nu_pairs must be like"),
        ({"heads": [["softplus", "pool"]]}, "softplus must go with map or pooled, got 'pool'"),
    ],
)
def test_pairs_of_weights_and_heads_are_checked(values, said):
    with pytest.raises(ValueError, match=said):
        NuWeights.parse(**values)


# ---------------------------------------------------------------------- studies


def test_below_needs_intervals_that_do_not_overlap():
    low, middle, high = (pd.Series(scored("m", value)) for value in (1.0, 1.15, 2.0))
    lost = pd.Series(scored("m", math.nan))
    assert studies.below(low, high) is True and studies.below(high, low) is False
    assert studies.below(low, middle) is None and studies.below(low, low) is None
    assert studies.below(low, lost) and not studies.below(lost, low)
    assert studies.below(lost, lost) is None
    assert studies.state(lost) == "diverged"


def test_where_all_variants_diverged_there_is_nothing_to_compare():
    def train():
        raise Diverged("dsm is nan at step 1")

    with pytest.raises(ValueError, match="every variant diverged, a: dsm is nan at step 1"):
        studies.ablate(Lab.__new__(Lab), {"a": train}, Sampling())


def test_divergence_is_a_curve_that_ends_far_above_its_start():
    def records(*values):
        return [{"dsm": value} for value in values]

    assert studies.divergence(records(1, 1, 1, 1, 1, 1, 2.9, 2.9)) == ""
    assert studies.divergence(records(1, 1, 1, 1, 1, 1, 4, 4)) == "dsm grew from 1 to 4"
    assert studies.divergence(records(1, 100)) == ""  # too short to tell
    assert studies.divergence([]) == ""


def test_network_calls(tiny_denoiser):
    from dataclasses import replace

    base = tiny_denoiser()
    calls = {
        # Two per Heun step, one in the last; guided, so all of it twice.
        119: Sampling(steps=40),  # three a step, two in the last
        30: Sampling(steps=8, solver="dpmpp_2s"),
        16: Sampling(steps=8, solver="dpmpp_2m"),
        14: Sampling(steps=7, solver="euler", guidance="cfg"),
        7: Sampling(steps=7, solver="euler", guidance="cfg", guidance_scale=1.0),
    }
    assert [studies.network_calls(base, sampling) for sampling in calls.values()] == list(calls)
    base.config = replace(base.config, few_step=True)
    assert studies.network_calls(base, Sampling(steps=4)) == 4


def test_speed_adds_the_stages_up():
    stages = pd.DataFrame(
        [
            {"model": model, "steps": 4, "audio_seconds": 10.0, "stage": stage, "seconds": seconds}
            for model, times in (("b", (0.1, 3.9, 1.0)), ("a", (0.1, 0.1, 0.8)))
            for stage, seconds in zip(("text", "denoise", "decode"), times, strict=True)
        ]
    )
    table = studies.speed(stages)
    assert list(table["model"]) == ["b", "a"]
    assert table["total"].tolist() == pytest.approx([5.0, 1.0])
    assert table["real_time_factor"].tolist() == pytest.approx([2.0, 10.0])


# ---------------------------------------------------------------------- figures


def test_spectrogram_puts_a_tone_at_its_frequency():
    rate, hertz = 44_100, 1000.0
    tone = torch.sin(2 * torch.pi * hertz * torch.arange(rate) / rate)
    levels, times, frequencies = plots._log_spectrogram(tone, rate)
    assert frequencies[levels.mean(1).argmax()] == pytest.approx(hertz, rel=0.03)
    assert levels.max() == pytest.approx(0) and times[-1] == pytest.approx(1, abs=0.02)


def test_curves_of_unlike_runs_share_one_figure():
    rows = [
        {"model": model, "step": step, "term": term, "value": 1 / step}
        for model, terms in (("Presto-L", ["dsm"]), ("Presto-S", ["dsm", "dm"]))
        for term in terms
        for step in (1, 2)
    ]
    fig = plots.curves(pd.DataFrame(rows), terms=["dsm", "dm", "gan_d"])
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["dsm", "dm"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["Presto-L", "Presto-S"]


# ---------------------------------------------------------------------- results and report


def test_nobody_sits_in_front_of_a_test(monkeypatch):
    assert not widgets.interactive()
    monkeypatch.setenv("PRESTO_HEADLESS", "1")
    assert not widgets.interactive()
    widgets.explore({}, prompt="nothing happens")


def test_json_has_no_nan(tmp_path):
    results.write_json(tmp_path / "a.json", {"x": math.nan, "y": (1.5, math.inf), "z": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [1.5, None], "z": None}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a main study in which Presto-S meets one of its two numbers."""
    tmp_path = tmp_path_factory.mktemp("out")
    keep = results.Results(tmp_path, "combined_acceleration")
    quality = [
        scored("base", 1.0, solver="Heun", steps=24, calls=94, rho=7.0),
        scored("Presto-S", 1.6, solver="few-step", steps=2, calls=2, rho=7.0),
        scored("Presto-S", 1.2, solver="few-step", steps=4, calls=4, rho=7.0),
    ]
    keep.save_table(pd.DataFrame(quality), "quality")
    keep.save_table(pd.DataFrame([scored("real clips", 0.5), scored("Gaussian", 9.0)]), "bounds")
    speed = pd.DataFrame(
        [
            {"model": "base", "steps": 40, "text": 0.1, "denoise": 9.3, "decode": 0.6},
            {"model": "Presto-LS", "steps": 4, "text": 0.1, "denoise": 0.3, "decode": 2.1},
        ]
    )
    speed["total"], speed["audio_seconds"] = speed[["text", "denoise", "decode"]].sum(axis=1), 10.0
    speed["real_time_factor"] = speed["audio_seconds"] / speed["total"]
    keep.save_table(speed, "speed")
    keep.verdict("Five < six", None, "a & b")
    sound = torch.zeros(1, 4410)
    keep.save_audio(sound, "x", sample_rate=44_100, row="<jazz>", column="base")
    fig, ax = plots.canvas()
    ax.plot([0, 1])
    keep.save_figure(fig, "line", "A line.")
    keep.save_provenance(Params())
    half = results.Results(tmp_path, "samplers")  # killed, while it wrote a table
    half.verdict("Half a run", True, "e")
    half.save_table(pd.DataFrame({"x": [1]}), "y").to_csv(tmp_path / "tables" / ".1.a-y.parquet")
    path = write_report(tmp_path)
    (tmp_path / "tables" / ".1.a-y.parquet").unlink()
    assert not [left for left in tmp_path.rglob(".*")], "a temporary file was left"
    return path.read_text()


def test_report_states_met_and_not_met(page):
    said = {
        name: page.split(name)[1].split("</tr>")[0]
        for name in (
            "Presto-S, 4 steps",
            "Presto-S, 2 steps",
            "Base model: distance",
            "10 s clip: denoising stage",
            "10 s clip: end to end",
        )
    }
    met = {name: ">met<" in text for name, text in said.items()}
    assert list(met.values()) == [True, False, True, True, False]
    assert "31.0 ×" in said["10 s clip: denoising stage"]
    assert "4.0 ×" in said["10 s clip: end to end"]


def test_a_folder_of_different_runs_says_so(tmp_path):
    def page_of(**values) -> str:
        for number, name in enumerate(("a", "b")):
            keep = results.Results(tmp_path, name)
            keep.save_provenance(Params(**{key: value[number] for key, value in values.items()}))
        return write_report(tmp_path).read_text()

    assert "differ in" not in page_of(out=("x", "y"))
    assert "differ in preset and seed" in page_of(preset=("quick", "smoke"), seed=(0, 1))


def test_relative_paths_mean_the_same_beside_the_notebooks(tmp_path, monkeypatch):
    here = tmp_path / "notebooks"
    here.mkdir()
    (here / "00_tour.ipynb").touch()
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(here)
    rated = ListeningTest.parse(ratings="sent", model="my-model", stored="")
    assert (rated.ratings, rated.model) == (str(tmp_path / "sent"), str(tmp_path / "my-model"))
    assert (rated.stored, ListeningTest.parse(model="presto-small").model) == ("", "presto-small")
    compared = Baselines.parse(others=[["A", "clips/a"], ["B", "/b"]])
    assert compared.others == (("A", str(tmp_path / "clips/a")), ("B", "/b"))


def test_report_is_self_contained_and_escapes(page):
    assert "data:image/png;base64," in page and "data:audio/ogg;base64," in page
    assert "http" not in page
    assert "&lt;jazz&gt;" in page and "Five &lt; six" in page and "a &amp; b" in page
    assert "not decided here" in page and "Half a run" not in page


def test_clearly_worse_is_worse_in_either_direction():
    best, worst = pd.Series(scored("a", 0.2)), pd.Series(scored("b", 0.9))
    assert studies.worse(worst, best) == ["frechet distance", "mmd"]
    assert studies.worse(best, worst) == ["density", "recall", "coverage", "clap score"]
    assert studies.worse(best, pd.Series(scored("c", 0.25))) == []


def test_what_the_paper_does_not_state_is_not_its_number():
    facts = {"preset": asdict(preset("quick"))}
    assert ["length of a clip in training", "not stated", "3.0 s"] in paper._settings(facts)
    assert "3.6 K hours of music)" in paper.missing([], {})[0]


def test_report_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no results"):
        write_report(tmp_path)


def test_stored_tables_are_shown_instead_of_measured(tmp_path):
    measured = results.Results(tmp_path / "a", "x")
    measured.table("t", lambda: pd.DataFrame({"value": [1.5]}))
    measured.save_provenance(Params())
    shown = results.Results(tmp_path / "b", "x", stored=tmp_path / "a")
    assert shown.table("t", lambda: 1 / 0)["value"].tolist() == [1.5]
    assert (tmp_path / "b" / "tables" / "x-t.parquet").exists()
    assert "Stored results" in shown.source and "Measured here" in measured.source
    with pytest.raises(ValueError, match=r"no x-u\.parquet, only: x-t"):
        shown.table("u", lambda: 1 / 0)
    assert shown.has_stored("t") and not shown.has_stored("u") and not measured.has_stored("t")
    with pytest.raises(ValueError, match=r"made with nu_pairs \[\[0\.0, 0\.0\]\]: set nu_pairs to"):
        results.Results(tmp_path / "a", "n").save_provenance(NuWeights(nu_pairs=((0.0, 0.0),)))
        results.open_results(NuWeights(stored=str(tmp_path / "a")), "n")
    with pytest.raises(ValueError, match="holds no finished run of y"):
        results.open_results(Params(stored=str(tmp_path / "a")), "y")
