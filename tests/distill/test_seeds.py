"""Several seeds: one verdict over them, one page, and what is kept of a run."""

import json
import shutil
import subprocess

import pandas as pd
import pytest

from presto_distill import cli
from presto_distill.lab import plots, results
from presto_distill.lab.params import Baselines, Params
from presto_distill.lab.report import runs_of, seeds, write_report
from presto_distill.lab.report.keep import keep_results
from presto_distill.lab.report.paper import missing
from presto_distill.presets import check_gpu, preset
from presto_distill.provenance import commit
from presto_distill.reproduce_command import report


def scored(model: str, value: float, **facts) -> dict:
    """A row of `studies.quality` with one metric."""
    row = {"model": model, "solver": "few-step", "steps": 4, "calls": 4, "embedder": "e"}
    row |= {"generated_count": 8, "reference_count": 9, "seed": 0, "bootstrap": 10, **facts}
    row |= {"frechet_distance": value, "prompt_chance": 0.1}
    return row | {"frechet_distance_low": value - 0.1, "frechet_distance_high": value + 0.1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of a study with four claims."""
    out = tmp_path_factory.mktemp("runs")
    for seed, effect in enumerate((1.0, 1.1, 1.2)):
        folder = out / f"seed-{seed}"
        keep = results.Results(folder, "combined_acceleration")
        rows = [scored("base", 2.0), scored("Presto-S", 1.0 + seed, steps=2)]
        keep.save_table(pd.DataFrame(rows), "quality")
        keep.verdict("Clear", None, "e", effect=effect, of="gain")
        keep.verdict("Against", None, "e", effect=-effect, of="gain")
        keep.verdict("Wide", True, "e", effect=effect - 1.1, of="gain")
        keep.verdict("Not worse", None, "e", effect=effect - 1.2, of="gain", rule="not below")
        keep.verdict("No number", True, f"seed {seed}", effect=float("nan"))
        fig, ax = plots.canvas()
        ax.plot([0, 1])
        keep.save_figure(fig, "line", "A line.")
        keep.save_provenance(Params(preset="cpu", seed=seed, out=str(folder)))
    return out


def test_verdicts_over_seeds_follow_the_interval_of_the_mean_effect(runs):
    rows = {row["claim"]: row for row in seeds.claims(runs_of(runs))}
    assert {claim: row["held"] for claim, row in rows.items()} == {
        "Clear": True,
        "Against": False,
        "Wide": None,
        "Not worse": True,
        "No number": True,
    }
    effect = rows["Clear"]["effect"]
    half = 4.30265 * 0.1 / 3**0.5  # Student's t with 2 degrees of freedom
    assert effect["mean"] == pytest.approx(1.1)
    assert effect["high"] - effect["mean"] == pytest.approx(half, rel=1e-4)
    assert rows["No number"]["effect"] is None
    assert rows["Clear"]["held_by_seed"] == {"0": None, "1": None, "2": None}


def test_without_intervals_seeds_must_agree():
    assert seeds.interval_over_seeds([1.0]) is None
    assert seeds.interval_over_seeds([1.0, None]) is None
    assert seeds.interval_over_seeds([4.5, 4.5]) is None  # nothing random was measured
    assert seeds.overall([True, True], None, "above") is True
    assert seeds.overall([True, False], None, "above") is None
    assert seeds.overall([None, None], None, "above") is None


def test_as_good_needs_no_seed_against_it():
    wide = seeds.Effect(-0.2, -0.5, 0.1)
    assert seeds.overall([True, True], wide, "not below") is True
    assert seeds.overall([True, None], wide, "not below") is True
    assert seeds.overall([True, False], wide, "not below") is None
    assert seeds.overall([True, True], seeds.Effect(-2.0, -3.0, -1.0), "not below") is False


def test_one_page_over_all_seeds(runs):
    page = write_report(runs).read_text()
    assert "seeds <b>0, 1, 2</b>" in page
    assert "<b>1.1</b> [0.852, 1.35]" in page
    row = page.split("<b>Presto-S</b>")[1].split("</tr>")[0]
    assert "2<div class='small'>± 1</div>" in row
    assert page.count("data:image/png;base64,") == 1 and "http" not in page
    assert "Not run: 00_tour" in page and "What differs from the paper" in page
    claims = json.loads((runs / "claims.json").read_text())
    assert len(claims) == 5
    table = (runs / "claims.md").read_text().splitlines()
    assert len(table) == 2 + 2 + 5
    (line,) = (row for row in table if row.startswith("| Clear | `combined_acceleration`, "))
    assert line.endswith(" | held | +1, +1.1, +1.2 | +1.1 [+0.852, +1.35] | gain |")
    assert (commit() or "no checkout") in line
    assert any("| No number |" in row and "held, held, held | no interval" in row for row in table)
    assert all((runs / f"seed-{seed}" / "report.html").exists() for seed in range(3))


def test_all_machines_and_commits_are_named(tmp_path):
    for number, name in enumerate(("a", "b", "c")):
        results.Results(tmp_path, name).save_provenance(Params())
        path = tmp_path / "provenance" / f"{name}-run.json"
        machine = {"cpu": f"make {min(number, 1)}", "cores": 2, "gpu": None}
        facts = json.loads(path.read_text()) | {"commit": f"c0de{number}", "hardware": machine}
        results.write_json(path, facts)
    page = write_report(tmp_path).read_text()
    assert page.count("<span>make 0, 2 cores</span><span>make 1, 2 cores</span>") == 1
    assert "c0de0, c0de1, c0de2" in page and "one machine" not in page


def test_kept_results_are_tables_verdicts_and_provenance_without_places(runs, tmp_path):
    (tmp_path / "seed-1" / "tables").mkdir(parents=True)
    (tmp_path / "seed-1" / "tables" / "combined_acceleration-old.parquet").touch()
    (tmp_path / "seed-1" / "tables" / "samplers-other.parquet").touch()  # not run this time
    failed = runs / "seed-1" / "tables" / "baselines-half.parquet"
    shutil.copyfile(next((runs / "seed-1" / "tables").glob("*.parquet")), failed)  # no provenance
    assert keep_results(runs, tmp_path) == [tmp_path / f"seed-{seed}" for seed in range(3)]
    kept = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert {path.split("/")[1] for path in kept if "/" in path} == {
        "tables",
        "verdicts",
        "provenance",
    }
    assert not any("old" in path for path in kept) and {"claims.json", "claims.md"} <= kept
    assert "seed-1/tables/samplers-other.parquet" in kept
    assert "seed-1/tables/baselines-half.parquet" not in kept
    failed.unlink()
    before = sorted(runs.rglob("*.parquet"))
    with pytest.raises(ValueError, match="is where results are to be kept"):
        keep_results(runs, runs)
    assert before and sorted(runs.rglob("*.parquet")) == before
    facts = json.loads((tmp_path / "seed-1/provenance/combined_acceleration-run.json").read_text())
    assert facts["params"]["out"] == "seed-1" and facts["params"]["seed"] == 1

    stored = results.open_results(
        Params(preset="cpu", seed=1, out=str(tmp_path / "drawn"), stored=str(tmp_path / "seed-1")),
        "combined_acceleration",
    )
    assert stored.table("quality", lambda: 1 / 0)["frechet_distance"].tolist() == [2.0, 2.0]
    drawn = stored.save_provenance(Params(preset="cpu", seed=1))
    assert drawn["drawn_from"] == str(tmp_path / "seed-1") and drawn["time"] == facts["time"]
    with pytest.raises(ValueError, match=r"made with seed 1: set seed to that"):
        results.open_results(
            Params(preset="cpu", stored=str(tmp_path / "seed-1")), "combined_acceleration"
        )


def test_folders_of_other_systems_are_kept_by_name(tmp_path):
    rivals = Baselines(others=(("A", str(tmp_path / "clips")),))
    keep = results.Results(tmp_path / "run", "baselines")
    keep.save_table(pd.DataFrame({"x": [1]}), "others")
    keep.save_provenance(rivals)
    keep_results(tmp_path / "run", tmp_path / "kept")
    facts = results.stored_facts(tmp_path / "kept", "baselines")
    assert facts["params"]["others"] == [["A", "clips"]]
    params = Baselines(out=str(tmp_path / "drawn"), stored=str(tmp_path / "kept"))
    assert results.open_results(params, "baselines").has_stored("others")


def test_the_commit_is_that_of_a_checkout_that_holds_the_code(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "provenance.py").touch()
    monkeypatch.setattr("presto_distill.provenance.__file__", str(tmp_path / "provenance.py"))
    git("init")
    git("commit", "--allow-empty", "-m", "another project")
    assert commit() is None
    git("add", ".")
    assert commit().endswith(" with local changes")


def test_stored_results_get_no_page_beside_them(runs, tmp_path):
    stored = tmp_path / "stored"
    assert report(runs, keep=stored) == 0
    before = sorted(stored.rglob("*"))
    for folder in (stored, stored / "seed-0"):
        with pytest.raises(ValueError, match=f"presto reproduce --stored {folder} draws"):
            report(folder)
    assert sorted(stored.rglob("*")) == before


def test_results_without_tables_or_too_large_are_not_kept(runs, tmp_path, monkeypatch):
    results.write_json(tmp_path / "run.json", [])
    with pytest.raises(ValueError, match="holds no tables"):
        keep_results(tmp_path, tmp_path / "kept")
    monkeypatch.setattr("presto_distill.lab.report.keep.LIMIT", 100)
    with pytest.raises(ValueError, match="too many to keep"):
        keep_results(runs, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_what_is_missing_depends_on_what_ran():
    ran = [{"notebook": "listening_test", "params": {"ratings": "folder"}}]
    assert any("nobody has rated" in line for line in missing([], {}))
    lines = missing(ran, {"embedder": "mine"})
    assert any(line.endswith("takes no part in what is measured.") for line in lines)
    assert any("the notebook speed" in line for line in missing([{"notebook": "speed"}], {}))
    assert not any("nobody has rated" in line for line in lines)
    assert any("mine" in line for line in lines)
    assert any(line.startswith("Not run:") and "listening" not in line for line in lines)


def test_commands(monkeypatch, capsys, tmp_path):
    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["presto", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code, said.out + said.err

    assert run("reproduce", "nu_weights", "00_tour", "--list") == (0, "00_tour\nnu_weights\n")
    code, said = run("reproduce", "--stored", str(tmp_path))
    assert code == 2 and "holds no stored results" in said
    code, said = run("report", str(tmp_path))
    assert code == 2 and "holds no results" in said


def test_a_preset_for_a_gpu_says_so_where_there_is_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check_gpu(preset("cpu"))
    with pytest.raises(ValueError, match="preset gpu needs a GPU"):
        check_gpu(preset("gpu"))
