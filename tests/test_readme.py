"""What the README and the guides say is true of this checkout."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_two_commands_stand_on_the_first_screen_and_ci_runs_them():
    first_screen = "\n".join(README.splitlines()[:25])
    setup = "python3 -m venv .uv && .uv/bin/pip install -q uv && .uv/bin/uv run"
    assert f"{setup} presto reproduce" in first_screen
    assert f"{setup} pytest" in first_screen
    ci = (ROOT / ".ci" / "run").read_text()
    assert "command_with pytest" in ci and "command_with 'presto reproduce'" in ci


def test_every_link_and_every_folder_named_exists():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("libs/*/README.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for name in re.findall(r"`libs/(\w+)/…/(\w+(?:/|\.py))", README):
        assert list(ROOT.glob(f"libs/{name[0]}/src/{name[0]}/**/{name[1].strip('/')}")), name


def test_the_guide_to_your_own_model_runs(capsys):
    guide = (ROOT / "docs" / "your_own_model.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", guide, flags=re.S)
    assert len(programs) == 4  # one per rung
    variables: dict = {}
    for program in programs:
        exec(compile(program, "your_own_model.md", "exec"), variables)
    assert variables["clean"].isfinite().all() and variables["clean"].shape == (8, 4, 32)
    assert all(D_x.shape == (8, 4, 32) for D_x in variables["estimates"])
    assert len(capsys.readouterr().out.splitlines()) == 4
