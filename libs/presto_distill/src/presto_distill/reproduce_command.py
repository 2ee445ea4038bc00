"""What `presto reproduce` and `presto report` do: run notebooks, and make one page of them."""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import tyro

Out = Annotated[Path | None, tyro.conf.arg(aliases=["-o"])]


def reproduce(
    notebooks: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    preset: str | None = None,
    seed: int | None = None,
    jobs: int = 1,
    audio: Path | None = None,
    out: Out = None,
    model: str = "presto-small",
    stored: Path | None = None,
    again: bool = False,
    list_names: Annotated[bool, tyro.conf.arg(name="list")] = False,
) -> int:
    """Distill the bundled base model in layers, steps and both; measure, draw, report.

    Args:
        notebooks: Names of notebooks to run; by default all, in the preset quick those that fit
            into its minutes.
        preset: smoke, quick (default), cpu, gpu or a100_paper.
        seed: Of data, training and sampling, 0 by default; a preset of several counts on from it.
        jobs: Notebooks to run at a time; they share the cores.
        audio: A folder of your own recordings instead of the rendered corpus.
        out: Folder for results; default runs/PRESET. What it already holds is not redone.
        model: A bundled model or a model folder: base/, codec/, text/ and embedder/.
        stored: Draw the figures of these results instead, e.g. results/cpu, with the preset, seed
            and data they were made with; trains nothing.
        again: Run notebooks too that are done already with the same inputs.
        list_names: Only print the names of the notebooks, for jobs of other launchers.
    """
    require_notebooks()
    from presto_distill.experiment import Lab
    from presto_distill.lab.report import write_report
    from presto_distill.lab.runner import choose_notebooks, run_notebooks
    from presto_distill.presets import check_gpu
    from presto_distill.presets import preset as find_preset

    chosen, size = choose_notebooks(notebooks), find_preset(preset or "quick")
    first = seed or 0
    if first < 0:
        raise ValueError(f"seed must not be negative, got {first}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if list_names:
        print("\n".join(chosen))
        return 0
    how = {"jobs": jobs, "again": again}
    if stored:
        given = {"--preset": preset, "--seed": seed, "--audio": audio}
        if fixed := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{stored} has its own {', '.join(fixed)}: leave out with --stored")
        return draw(chosen, stored, out, model, **how)
    check_gpu(size)
    chosen = choose_notebooks(notebooks or size.notebooks)
    out = out or Path("runs") / (size.name if audio is None else f"{size.name}-{audio.name}")
    failures = []
    for number in size.seeds:
        folder = out if len(size.seeds) == 1 else out / f"seed-{first + number}"
        settings = {"seed": first + number, "out": folder, "audio": audio, "model": model}
        lab = Lab.open(size, **settings)
        print(f"data: {lab.source}")
        lab.encode()  # before the first notebook, or what is wrong with them is said
        failures += run_notebooks(chosen, preset=size.name, **settings, **how)
    return _end(failures, write_report(out))


def draw(
    chosen: list[str], stored: Path, out: Path | None, model: str, *, jobs: int, again: bool
) -> int:
    """Draw the figures of stored results, of one run or of seeds, and their report."""
    from presto_distill.lab.report import runs_of, write_report
    from presto_distill.lab.report.pieces import facts_of, load_facts
    from presto_distill.lab.runner import run_notebooks

    runs = runs_of(stored)
    if not runs and not (stored / "tables").is_dir():
        raise ValueError(f"{stored} holds no stored results: give a folder such as results/cpu")
    out = out or Path("runs") / "stored" / "-".join(stored.resolve().parts[1:][-2:])
    failures = []
    for seed, run in (runs or {"": stored}).items():
        made = facts_of(load_facts(run, "provenance")).get("params", {})
        failures += run_notebooks(
            chosen,
            preset=made.get("preset", "quick"),
            seed=made.get("seed", 0),
            out=out / f"seed-{seed}" if seed else out,
            model=model,
            stored=run,
            jobs=jobs,
            again=again,
        )
    return _end(failures, write_report(out))


def report(folder: tyro.conf.Positional[Path], *, keep: Path | None = None) -> int:
    """Make the page of a folder of results, of one run or of seeds: FOLDER/report.html

    Args:
        folder: What presto reproduce wrote to, e.g. runs/cpu.
        keep: Also copy tables, verdicts and provenance there, to be committed: results/cpu.
    """
    require_notebooks()
    from presto_distill.lab.report import is_stored, write_report
    from presto_distill.lab.report.keep import keep_results

    if is_stored(folder):
        raise ValueError(
            f"{folder} holds stored results: presto reproduce --stored {folder} draws their page"
        )
    print(f"report: {write_report(folder).resolve()}")
    for path in keep_results(folder, keep) if keep else ():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"kept: {path}, {size / 1e6:.2f} MB")
    return 0


def require_notebooks() -> None:
    """Raises ValueError naming the command that installs what notebooks need and is missing."""
    needed = ("papermill", "ipykernel", "pandas", "pyarrow", "seaborn", "scipy")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"notebooks need {', '.join(missing)}: pip install 'presto-distill[notebooks]' "
            "(in a checkout: uv sync)"
        )


def _end(failures: list, page: Path) -> int:
    for failure in failures:
        print(f"presto: {failure}", file=sys.stderr)
    print(f"report: {page.resolve()}")
    return 1 if failures else 0
