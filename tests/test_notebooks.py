"""Notebooks: what every one of them must look like, and all of them run at the smallest preset."""

import ast
import json
import re
from pathlib import Path

import pytest

from presto_distill.lab import params, runner
from presto_distill.lab.execute import Task, execute
from presto_distill.lab.report import write_report
from presto_distill.lab.runner import (
    NOTEBOOKS,
    START,
    choose_notebooks,
    find_notebooks,
    parameter_names,
    run_notebooks,
)
from presto_distill.presets import preset

FOLDER = Path(__file__).parents[1] / "notebooks"
TYPES = {
    "00_tour": params.Tour,
    "data_and_augmentation": params.DataAndAugmentation,
    "autoencoder": params.Autoencoder,
    "combined_acceleration": params.CombinedAcceleration,
    "samplers": params.Samplers,
    "base_model": params.BaseModel,
    "fake_score_updates": params.FakeScoreUpdates,
    "noise_laws": params.NoiseLaws,
    "nu_weights": params.NuWeights,
    "teacher_guidance": params.TeacherGuidance,
    "layer_distillation": params.LayerDistillation,
    "layer_choices": params.LayerChoices,
    "combined_choices": params.CombinedChoices,
    "baselines": params.Baselines,
    "speed": params.Speed,
    "listening_test": params.ListeningTest,
    "your_own_model": params.YourOwnModel,
}


def code_cells(name: str) -> list[dict]:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_list_of_notebooks_is_the_folder():
    assert find_notebooks() == FOLDER
    assert sorted((*NOTEBOOKS, START)) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_the_start_page_links_every_notebook_and_runs_headless(tmp_path):
    """It asks nothing, so it has no parameters and no verdict; it must not train or show errors."""
    notebook = json.loads((FOLDER / f"{START}.ipynb").read_text())
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    text = "".join(line for cell in notebook["cells"] for line in cell["source"])
    assert sorted(re.findall(r"\]\((\w+)\.ipynb\)", text)) == sorted(NOTEBOOKS)

    copy = tmp_path / "start.ipynb"
    assert execute(Task(FOLDER / f"{START}.ipynb", copy, {})) is None
    shown = copy.read_text()
    assert "bundled model" in shown and "Make it" not in shown


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_form(name):
    """At most 15 code cells, no outputs, one cell of literal parameters first, a verdict last."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = code_cells(name)
    assert 3 <= len(cells) <= 15
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert ["parameters" in cell["metadata"].get("tags", []) for cell in cells].index(True) == 0
    assert ".verdict(" in "".join(cells[-1]["source"])

    body = ast.parse("".join(cells[0]["source"])).body
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in body}
    assert TYPES[name].parse(**values) == TYPES[name]()
    assert list(values) == parameter_names(FOLDER / f"{name}.ipynb")


def test_the_widgets_that_hang_papermill_are_nowhere():
    sources = [path.read_text() for path in Path(params.__file__).parent.rglob("*.py")]
    names = (*NOTEBOOKS, START)
    sources += ["".join(cell["source"]) for name in names for cell in code_cells(name)]
    pattern = r"\b(interact|interact_manual|interactive_output|w\.interactive|Output)\s*\("
    assert not [found for text in sources for found in re.findall(pattern, text)]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The bundled model where there is one, else untrained weights in the same folders."""
    from presto_models import (
        Autoencoder,
        AutoencoderConfig,
        DiTConfig,
        PrestoDenoiser,
        PrestoDenoiserConfig,
        SnapshotError,
    )
    from presto_models.snapshot import find_snapshot

    parts = ("codec", "text", "embedder", "base")
    try:
        bundled = find_snapshot("presto-small")
        if all((bundled / part / "config.json").exists() for part in parts):
            return bundled
    except SnapshotError:
        pass
    from presto_distill.metrics.contrastive import ContrastiveEmbedder

    folder, embedder = tmp_path_factory.mktemp("model"), ContrastiveEmbedder()
    dit = DiTConfig(width=32, depth=4, heads=2, text_attention=False)
    Autoencoder(AutoencoderConfig(width=32, depth=1)).save_pretrained(folder / "codec")
    embedder.save_pretrained(folder / "embedder")
    embedder.text.save_pretrained(folder / "text")
    PrestoDenoiser(PrestoDenoiserConfig(dit)).save_pretrained(folder / "base")
    return folder


def run_small(names: list[str], model: Path, out: Path, **more) -> None:
    """Run notebooks at their smallest; nothing may fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # two threads on shared cores wait for each other
        settings = {"preset": "smoke", "out": out, "model": model, "progress": False, **more}
        failures = run_notebooks(names, **settings)
    assert [str(failure) for failure in failures] == []


@pytest.fixture(scope="session")
def smoke(model, tmp_path_factory):
    """The results of all notebooks at the smallest preset."""
    out = tmp_path_factory.mktemp("smoke")
    run_small([], model, out)
    return out


def test_all_run_at_the_smallest_preset(smoke):
    """Every notebook reaches its end headless and leaves a verdict, figures, and its origin."""
    for name in NOTEBOOKS:
        assert '"image/png"' in (smoke / "notebooks" / f"{name}.ipynb").read_text()
        for kind, suffix in (("verdicts", "json"), ("figures", "svg"), ("provenance", "json")):
            assert list((smoke / kind).glob(f"{name}-*.{suffix}")), (name, kind)
        facts = json.loads((smoke / "provenance" / f"{name}-run.json").read_text())
        assert {"params", "seconds", "hardware", "versions", "commit", "time"} <= facts.keys()
    page = write_report(smoke).read_text()
    assert page.count("<audio") == len(list((smoke / "audio").glob("*.flac"))) > 0
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


def tables(out: Path, pattern: str = "*") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "tables").glob(f"{pattern}.parquet")}


def test_stored_results_are_drawn_without_training(smoke, model, tmp_path):
    """Every notebook that holds tables draws its figures from them alone, and keeps the same."""
    drawable = {name.split("-")[0] for name in tables(smoke)}
    drawn = [
        name
        for name in NOTEBOOKS
        if name in drawable and "stored" in parameter_names(FOLDER / f"{name}.ipynb")
    ]
    assert {"combined_acceleration", "layer_distillation"} <= set(drawn)
    run_small([], model, tmp_path, stored=smoke)
    assert not (tmp_path / "latents").exists() and not (tmp_path / "cache").exists()
    for name in drawn:
        assert tables(tmp_path, f"{name}-*") == tables(smoke, f"{name}-*")
        assert list((tmp_path / "figures").glob(f"{name}-*.png")), name
        facts = json.loads((tmp_path / "provenance" / f"{name}-run.json").read_text())
        assert facts["drawn_from"] == str(smoke)


def test_same_seed_and_machine_same_tables(smoke, model, tmp_path):
    run_small(["layer_distillation"], model, tmp_path)
    mine, theirs = tables(tmp_path), tables(smoke, "layer_distillation-*")
    assert mine and mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_the_quick_preset_names_notebooks_that_exist():
    names = preset("quick").notebooks
    assert list(names) == choose_notebooks(names)  # in running order, too


def test_the_smoke_preset_sets_parameters_that_exist():
    known = {name for one in NOTEBOOKS for name in parameter_names(FOLDER / f"{one}.ipynb")}
    assert preset("smoke").parameters.keys() <= known


def test_unknown_names_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="unknown notebook 'tour': choose from 00_tour"):
        run_notebooks(["tour"], preset="smoke", out=tmp_path / "a")
    with pytest.raises(ValueError, match=r"unknown parameter 'heun_step': .*heun_steps"):
        run_notebooks(preset="smoke", out=tmp_path / "b", parameters={"heun_step": 3})
    assert list(tmp_path.iterdir()) == []


def test_one_failure_does_not_stop_the_next(tmp_path, monkeypatch):
    """A failure is one line that says where; the other notebook still runs."""
    import nbformat

    sources = {"a": ["seed = 0", "1 / 0  # fails\n"], "b": ["seed = 0", "assert seed == 3"]}
    for name, cells in sources.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.cells[0].metadata["tags"] = ["parameters"]
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(runner, "find_notebooks", lambda: tmp_path)

    (failure,) = run_notebooks(preset="smoke", seed=3, out=tmp_path / "out", progress=False)
    assert str(failure).startswith("notebook a failed, code cell ")
    assert str(failure).endswith(": ZeroDivisionError: division by zero")
    log = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [entry["error"] for entry in log] == [str(failure), None]
