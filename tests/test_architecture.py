"""The shape of the project: who may import whom, what an import costs, what a notebook may hold."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CODE_CELLS = 15

IMPORT_ALL = """
import importlib, pathlib, sys
import {package}
folder = pathlib.Path({package}.__path__[0])
for path in folder.rglob("*.py"):
    name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
    if not name.startswith({skipped!r}):
        importlib.import_module(name.removesuffix(".__init__"))
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""


def test_dependencies_point_one_way(monkeypatch):
    """The contracts of pyproject.toml: models and data are strangers, distillation is on top."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        (
            "presto_models",
            {"presto_data", "presto_distill", "torchaudio", "transformers", "diffusers"}
            | {"pandas", "matplotlib", "huggingface_hub", "flash_attn"},
        ),
        (
            "presto_distill",
            {"seaborn", "matplotlib", "pandas", "papermill", "ipywidgets", "IPython"}
            | {"transformers", "diffusers"},
        ),
    ],
)
def test_imports_are_cheap(package, unwanted):
    """Every module of a package imports without what only some of its functions need.

    The lab is what notebooks share; it alone may need the extra `notebooks`.
    """
    script = IMPORT_ALL.format(package=package, skipped="presto_distill.lab")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert package in imported
    assert not imported & unwanted


def cells(notebook: Path, kind: str = "code") -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_committed_without_outputs(notebook):
    for cell in cells(notebook):
        assert cell["outputs"] == [], source(cell)
        assert cell["execution_count"] is None, source(cell)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_short_parametrised_and_runs_on_any_kernel(notebook):
    code = cells(notebook)
    assert len(code) <= MAX_CODE_CELLS
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    # papermill reads one; the page JupyterLab opens on takes none
    assert len(tagged) == (notebook.stem != "start")
    assert json.loads(notebook.read_text())["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_shows_widgets_through_the_lab_only(notebook):
    """`interact` and `Output` hang at random when papermill runs the notebook."""
    for cell in cells(notebook):
        assert not re.search(r"\b(interact|Output)\s*\(", source(cell)), source(cell)


def test_the_lab_uses_no_widget_that_hangs_papermill():
    for path in ROOT.glob("libs/presto_distill/src/presto_distill/lab/*.py"):
        assert not re.search(r"\w\.(interact\w*|Output)\(", path.read_text()), path
