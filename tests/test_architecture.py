"""The shape of the project: who may import whom, and what an import costs."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]

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
