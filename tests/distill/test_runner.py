"""Notebooks headless: what is skipped, what runs at a time, what a death leaves behind."""

import json
import threading
import time

import nbformat
import papermill
import pytest

from presto_distill.experiment import Lab
from presto_distill.lab import runner
from presto_distill.lab.execute import Task, execute
from presto_distill.lab.inputs import inputs_digest
from presto_distill.lab.runner import run_notebooks
from presto_distill.provenance import code_digest


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes notebooks of these cells, the first of parameters, and lets the runner find them."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(runner, "find_notebooks", lambda: folder)

    def write(name, *cells):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.cells[0].metadata["tags"] = ["parameters"]
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
        return folder / f"{name}.ipynb"

    return write


def test_what_is_done_with_the_same_inputs_is_skipped(write, tmp_path, capsys):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write(str(seed))"
    save = """
import os
from presto_distill.lab import params, results
p = params.Params(out=out, seed=seed)
keep = results.open_results(p, "a")
if seed == 2:
    os.kill(os.getpid(), 9)
keep.save_provenance(p);
"""
    path = write("a", "out = ''\nseed = 0", count, save)

    def run(**more):
        settings = {"preset": "smoke", "out": tmp_path / "out", "again": False, **more}
        assert run_notebooks(["a"], **settings) == []
        return (tmp_path / "count").read_text()

    assert run() == "0"
    assert run() == "0"
    assert "a: done already with the same inputs" in capsys.readouterr().err
    assert run(seed=1) == "01"
    (tmp_path / "out" / "figures").mkdir()
    (tmp_path / "out" / "figures" / "a-renamed.png").touch()
    assert run(again=True, seed=1) == "011"
    assert not list((tmp_path / "out" / "figures").iterdir()), "no whole run makes that figure now"
    killed = Task(path, tmp_path / "killed.ipynb", {"seed": 2, "out": str(tmp_path / "out")})
    assert "DeadKernelError" in execute(killed).error
    assert run(seed=1) == "01121", "some of its tables may be of the run that died"
    write("a", "out = ''\nseed = 0", count + "  # another source", save)
    assert run(seed=1) == "011211"


def test_inputs_are_cells_values_and_code_but_not_the_place(write, monkeypatch):
    path = write("a", "seed = 0")
    first = inputs_digest(path, {"seed": 0, "out": "x"})
    assert first == inputs_digest(path, {"seed": 0, "out": "y"})
    assert first != inputs_digest(path, {"seed": 1, "out": "x"})
    clips, values = (
        path.parent / "clips",
        {"seed": 0, "others": [["A", str(path.parent / "clips")]]},
    )
    clips.mkdir()
    before = inputs_digest(path, values)
    (clips / "a.wav").touch()
    assert inputs_digest(path, values) != before
    monkeypatch.setenv("PRESTO_THEME", "dark")
    assert first != inputs_digest(path, {"seed": 0, "out": "x"})
    monkeypatch.delenv("PRESTO_THEME")
    package = path.parent / "package"
    package.mkdir()
    monkeypatch.setattr("presto_distill.provenance.resources.files", lambda name: package)
    before = code_digest.__wrapped__("package")
    (package / "page.html").touch()
    assert code_digest.__wrapped__("package") != before
    monkeypatch.setattr("presto_distill.lab.inputs.code_digest", lambda package: "other code")
    assert first != inputs_digest(path, {"seed": 0, "out": "x"})


def test_jobs_run_at_a_time_and_a_failure_stops_none(write, tmp_path):
    """Each of two notebooks waits for the other; a third fails meanwhile."""
    for mine, other in (("a", "b"), ("b", "a")):
        wait = (
            "import time, pathlib\n"
            f"folder = pathlib.Path({str(tmp_path)!r}); (folder / '{mine}').touch()\n"
            f"end = time.time() + 60\nwhile not (folder / '{other}').exists():\n"
            "    assert time.time() < end; time.sleep(0.05)"
        )
        write(mine, "seed = 0", wait)
    write("c", "seed = 0", "1 / 0")
    out = tmp_path / "out"
    (failure,) = run_notebooks(preset="smoke", out=out, jobs=2, progress=False)
    assert failure.notebook == "c" and "ZeroDivisionError" in failure.error
    log = json.loads((out / "run.json").read_text())
    assert [(item["notebook"], item["error"] is None) for item in log] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert sorted(path.name for path in (out / "notebooks").iterdir()) == [
        "a.ipynb",
        "b.ipynb",
        "c.ipynb",
    ]


def test_what_a_failed_run_left_is_no_whole_result(write, tmp_path):
    out = tmp_path / "out"
    provenance = out / "provenance" / "sick-run.json"
    provenance.parent.mkdir(parents=True)
    provenance.write_text("{}")  # of an earlier run, which ended well
    write("sick", "seed = 0", "raise ValueError('no')")
    (failure,) = run_notebooks(preset="smoke", out=out, progress=False)
    assert "no" in failure.error and not provenance.exists()


def test_a_notebook_killed_while_it_draws_leaves_the_earlier_figures(write, tmp_path):
    draw = """
import os
from pathlib import Path
from presto_distill.lab import plots, results
keep = results.Results(Path(out), "a")
fig, ax = plots.canvas()
def half(to, **_):
    Path(to).write_bytes(b"half a picture")
    os.kill(os.getpid(), 9)
if die:
    fig.savefig = half
keep.save_figure(fig, "line", "A line.");
"""
    write("a", "out = ''\ndie = False", draw)
    out = tmp_path / "out"
    settings = {"preset": "smoke", "out": out, "progress": False, "again": False}
    assert run_notebooks(parameters={"die": False}, **settings) == []
    figures = {path.name: path.read_bytes() for path in (out / "figures").iterdir()}
    executed = (out / "notebooks" / "a.ipynb").read_bytes()

    (failure,) = run_notebooks(parameters={"die": True}, **settings)
    assert "DeadKernelError" in failure.error
    assert figures.items() <= {p.name: p.read_bytes() for p in (out / "figures").iterdir()}.items()
    assert (out / "notebooks" / "a.ipynb").read_bytes() == executed
    assert json.loads((out / "run.json").read_text())[0]["error"] == str(failure)


def test_a_name_that_papermill_injects_must_be_known(write, tmp_path):
    cell = "from presto_distill.lab.params import Params\nParams.parse(seed=seed, out=out)"
    path = write("a", "seed = 0\nout = 'o'", cell)
    with pytest.raises(papermill.PapermillExecutionError) as raised:
        papermill.execute_notebook(path, None, {"sead": 1}, progress_bar=False)
    assert "unknown parameter 'sead': choose from seed, out" in raised.value.evalue


def test_a_missing_package_is_named_with_the_command_that_installs_it(write, tmp_path):
    write("a", "seed = 0", "import no_such_package")
    (failure,) = run_notebooks(preset="smoke", out=tmp_path / "out", progress=False)
    assert "No module named 'no_such_package'" in failure.error
    assert "pip install 'presto-distill[notebooks]'" in failure.error


def test_stored_results_skip_what_they_hold_no_tables_of(write, tmp_path, capsys):
    write("a", "stored = ''", "1 / 0")
    write("b", "seed = 0", "1 / 0")
    (tmp_path / "stored" / "tables").mkdir(parents=True)
    settings = {"preset": "smoke", "out": tmp_path / "out"}
    assert run_notebooks(stored=tmp_path / "stored", **settings) == []
    assert capsys.readouterr().err.count("holds no finished run of it") == 2
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        run_notebooks(jobs=0, **settings)


def test_two_that_need_one_run_make_it_once(tmp_path):
    made = []

    def make():
        with Lab._alone(None, tmp_path / "records.json"):
            if not (tmp_path / "records.json").exists():
                made.append(1)
                time.sleep(0.1)
                (tmp_path / "records.json").touch()

    threads = [threading.Thread(target=make) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert made == [1]
