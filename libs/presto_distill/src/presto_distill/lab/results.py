"""What a notebook leaves behind: figures, tables, audio, verdicts and where they come from.

Every file is written atomically into the folder of the run; the report is made from them alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float
from torch import Tensor

from presto_distill.lab.params import Params
from presto_distill.provenance import commit, hardware, peak_memory_gb, versions
from presto_models.snapshot import write_atomic

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from presto_distill.experiment import Lab

DPI = 160  # of figures as png
Rule = Literal["above", "not below"]
# Parameters that name one machine's files.
PLACES = ("out", "audio", "model", "stored", "ratings", "others")


@dataclass(frozen=True)
class Results:
    """The results of one notebook in the folder `out`, which all notebooks of a run share."""

    out: Path
    notebook: str
    stored: Path | None = None  # a folder of earlier results, whose tables are shown instead
    started: float = field(default_factory=time.perf_counter)

    def save_figure(self, fig: Figure, name: str, caption: str) -> Image:
        """Keep a figure as png and svg under figures/, with the sentence to print below it.

        Returns the picture for the notebook to show, at the size the report shows it.
        """
        from IPython.display import Image

        for kind in ("png", "svg"):
            path = self._path("figures", name, kind)
            write_atomic(path, lambda to, kind=kind: fig.savefig(to, format=kind, dpi=DPI))
        self._json("figures", name, {"notebook": self.notebook, "caption": caption})
        return Image(str(self._path("figures", name, "png")), width=int(100 * fig.get_figwidth()))

    def table(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        """The table that `make` measures, kept; or, where stored results are shown, theirs.

        Raises ValueError where they lack it, naming the tables of this notebook that they hold.
        """
        if self.stored is None:
            return self.save_table(make(), name)
        import pandas as pd

        folder, file = self.stored / "tables", f"{self.notebook}-{name}.parquet"
        if not self.has_stored(name):
            held = ", ".join(sorted(p.stem for p in folder.glob(f"{self.notebook}-*.parquet")))
            raise ValueError(f"{folder} has no {file}, only: {held or 'nothing of this notebook'}")
        body = (folder / file).read_bytes()  # the same file, not one written anew
        write_atomic(self._path("tables", name, "parquet"), lambda to: to.write_bytes(body))
        return pd.read_parquet(folder / file)

    def has_stored(self, name: str) -> bool:
        """Whether stored results are shown, and hold this table."""
        file = f"{self.notebook}-{name}.parquet"
        return self.stored is not None and (self.stored / "tables" / file).exists()

    @property
    def source(self) -> str:
        """Which data the figures show, in one sentence."""
        if self.stored is None:
            return f"Measured here, kept in {self.out}."
        facts = stored_facts(self.stored, self.notebook)
        params, machine = facts["params"], facts["hardware"]
        return (
            f"Stored results, {self.stored}: preset {params['preset']}, seed {params['seed']}, "
            f"commit {facts['commit']}, {facts['time']}, on {machine['gpu'] or machine['cpu']}. "
            "Nothing is trained."
        )

    def save_table(self, table: DataFrame, name: str) -> DataFrame:
        """Keep a table as tables/NOTEBOOK-NAME.parquet."""
        write_atomic(self._path("tables", name, "parquet"), lambda to: table.to_parquet(to))
        return table

    def save_audio(
        self, audio: Float[Tensor, "*ch s"], name: str, *, sample_rate: int, row: str, column: str
    ) -> Path:
        """Keep a clip as 16-bit flac under audio/; the report puts it at (`row`, `column`)."""
        from presto_distill.sound_files import write_audio

        path = self._path("audio", name, "flac")
        write_audio(path, audio.reshape(-1, audio.shape[-1]), sample_rate)
        facts = {"notebook": self.notebook, "row": row, "column": column, "time": time.time()}
        self._json("audio", name, facts)
        return path

    def verdict(
        self,
        claim: str,
        held: bool | None,
        evidence: str,
        *,
        effect: float | None = None,
        of: str = "",
        rule: Rule = "above",
    ) -> str:
        """Say whether a claim held here (None: the numbers do not decide), and by which numbers.

        `effect` is one number for the report to average over seeds, positive where it speaks for
        the claim; `of` says what it is ("Fréchet distance, ASE minus Presto-L"). Over seeds the
        claim holds where the interval of the mean effect lies above 0 or, by rule "not below" for
        claims such as "equal or better", where it does not lie below and no seed says no.
        """
        held = None if held is None else bool(held)  # tables give numpy's
        facts = {
            "notebook": self.notebook,
            "claim": claim,
            "held": held,
            "evidence": evidence,
            "effect": None if effect is None else float(effect),
            "of": of,
            "rule": rule,
            "time": time.time(),
        }
        self._json("verdicts", re.sub(r"\W+", "-", claim.lower()).strip("-")[:120], facts)
        word = {True: "held here", False: "did not hold here", None: "not decided here"}[
            facts["held"]
        ]
        return f"{word}: {claim} ({evidence})"

    def save_provenance(self, params: Params, lab: Lab | None = None) -> dict[str, Any]:
        """Keep what produced these results; call it last, so that time and memory are whole.

        Of stored results: what produced them, and from where they were drawn.
        """
        if self.stored:
            facts = stored_facts(self.stored, self.notebook) | {"drawn_from": str(self.stored)}
            self._json("provenance", "run", facts)
            return facts
        facts = {
            "notebook": self.notebook,
            "params": asdict(params),
            **(_of_lab(lab) if lab else {}),
            "seconds": round(time.perf_counter() - self.started, 1),
            "peak_memory_gb": peak_memory_gb(),
            "hardware": hardware(),
            "versions": versions(),
            "commit": commit(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        }
        self._json("provenance", "run", facts)
        return facts

    def _path(self, kind: str, name: str, suffix: str) -> Path:
        folder = self.out / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.notebook}-{name}.{suffix}"

    def _json(self, kind: str, name: str, facts: dict[str, Any]) -> None:
        write_json(self._path(kind, name, "json"), facts)


def open_results(params: Params, notebook: str) -> Results:
    """Where a notebook of these parameters leaves its results: no whole ones until it ends."""
    stored = Path(params.stored) if params.stored else None
    if stored and not stored_facts(stored, notebook):
        raise ValueError(f"stored: {stored} holds no finished run of {notebook}")
    made = stored_facts(stored, notebook)["params"] if stored else {}
    given = json.loads(json.dumps(asdict(params)))  # as they are stored
    for name in given.keys() & made.keys() - set(PLACES):
        if made[name] != given[name]:
            raise ValueError(f"{stored} was made with {name} {made[name]!r}: set {name} to that")
    out = Path(params.out)
    if not (stored and out.resolve() == stored.resolve()):  # drawn again where they lie
        provenance_file(out, notebook).unlink(missing_ok=True)
    return Results(out, notebook, stored)


def stored_facts(stored: Path, notebook: str) -> dict[str, Any]:
    """The provenance of a notebook in a folder of results; empty where there is none."""
    path = provenance_file(stored, notebook)
    return json.loads(path.read_text()) if path.exists() else {}


def provenance_file(out: Path, notebook: str) -> Path:
    """What says that a notebook's results in a folder are whole, and what made them."""
    return out / "provenance" / f"{notebook}-run.json"


def _of_lab(lab: Lab) -> dict[str, Any]:
    return {
        "preset": asdict(lab.preset),
        "data": lab.source,
        "training_clips": len(lab.train),
        "held_out_clips": len(lab.held_out),
        "embedder": lab.embedder.name,
        "teacher_parameters": sum(p.numel() for p in lab.teacher.parameters()),
    }


def write_json(path: Path, facts: Any) -> None:
    """Write JSON atomically; numbers that are not finite become null, as JSON has none."""
    text = json.dumps(_finite(facts), indent=1, allow_nan=False) + "\n"
    write_atomic(path, lambda to: to.write_text(text))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
