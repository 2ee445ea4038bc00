"""What makes a set of shards complete: its index, statistics and list of what was left out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from presto_data.clips import Problem
from presto_data.latents import PROBLEMS
from presto_data.shards import stored_clips, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

SIGMA_DATA = 0.5  # what EDM's scalings, and so the denoiser, expect of every channel
FAR = 1.25  # times more or less deserves a warning


def summary(shard: Path, problems: Sequence[Problem]) -> dict:
    """Return, as JSON, one row of facts per clip of a shard, and the moments of its latents.

    The moments are of the values as they are stored, so it does not matter how often their encoding
    was interrupted. Sums of squares of half-precision numbers lose nothing in float64.
    """
    rows, frames = [], 0
    sums: dict[str, np.ndarray] = {}
    with shard.open("rb") as file:
        for clip in stored_clips(shard):
            row, bodies = {}, {}
            for kind, (offset, size) in clip.members.items():
                file.seek(offset)
                bodies[kind] = file.read(size)
                if kind != "json":
                    name = kind.removesuffix(".npy")
                    row |= {f"{name}_offset": offset, f"{name}_bytes": size}
            facts = json.loads(bodies.pop("json"))
            facts |= facts.pop("metadata")
            values = {kind: np.load(io.BytesIO(b)).astype(np.float64) for kind, b in bodies.items()}
            mean = values["mean.npy"]
            terms = {"sum": mean.sum(1), "square": np.square(mean).sum(1)}
            if "scale.npy" in values:
                terms["scale_square"] = np.square(values["scale.npy"]).sum(1)
            sums = {name: sums.get(name, 0) + term for name, term in terms.items()}
            frames += mean.shape[1]
            rows.append({**facts, **row, "frames": mean.shape[1]})
    moments = {name: value.tolist() for name, value in sums.items()}
    return {"rows": rows, "frames": frames, "moments": moments, "problems": list(problems)}


def write_index(folder: Path) -> None:
    """Merge the summaries in `folder`/job and clear it.

    The index comes last: where it is, the set is complete.
    Raises ValueError when every clip was left out.
    """
    import pyarrow as pa

    problems, summaries, tables = [], [], []
    for shard in sorted(folder.glob("shard-*.tar")):
        part = json.loads((folder / "job" / f"{shard.name}.json").read_bytes())
        problems += [Problem(*problem) for problem in part["problems"]]
        if rows := part.pop("rows"):
            summaries.append(part)
            tables.append(table(rows, shard.name))
    if not tables:
        first = ": ".join(problems[0])
        raise ValueError(
            f"{folder}: nothing to keep, {len(problems)} clips left out ({first}; ...)"
        )
    # Permissive: what no clip of one shard has may be text in another.
    index = pa.concat_tables(tables, promote_options="permissive")
    stats = {
        "clips": len(index),
        "hours": float(index["seconds"].to_numpy().sum() / 3600),
        **statistics(summaries),
    }
    write_atomically(folder / "stats.json", (json.dumps(stats, indent=1) + "\n").encode())
    write_problems(folder / PROBLEMS, problems)
    # Of processes killed in the midst of writing; no other writes here until the index is there.
    for path in folder.glob("*.partial"):
        path.unlink(missing_ok=True)
    write_atomically(folder / "index.parquet", parquet_bytes(index))
    # The folder stays: another process may be about to lock a file in it.
    for path in (folder / "job").iterdir():
        path.unlink(missing_ok=True)


def statistics(summaries: Sequence[dict]) -> dict:
    """Return mean and standard deviation of every channel, and whether they suit a denoiser.

    `std` is that of the means, `scale_rms` the posterior's, `sigma_data` that of draws from it over
    all channels. Merged in float64.
    """
    frames = sum(part["frames"] for part in summaries)
    total = {
        name: np.sum([part["moments"][name] for part in summaries], axis=0) / frames
        for name in summaries[0]["moments"]
    }
    mean = total["sum"]
    variance = np.maximum(total["square"] - mean**2, 0)
    drawn = np.sqrt(variance + total.get("scale_square", 0))
    far = np.flatnonzero((drawn < SIGMA_DATA / FAR) | (drawn > SIGMA_DATA * FAR))
    named = ", ".join(f"{i} ({drawn[i]:.2g})" for i in far)
    warning = f"{len(far)} of {len(mean)} channels have a deviation far from {SIGMA_DATA}: {named}"
    scales = "scale_square" in total
    return {
        "frames": frames,
        "channels": len(mean),
        "scales": scales,
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "scale_rms": np.sqrt(total["scale_square"]).tolist() if scales else None,
        "sigma_data": float(np.sqrt(np.square(drawn).mean())),
        "warning": warning if len(far) else "",
    }


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write problems as CSV, in UTF-8 whatever a file's name may hold."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows([Problem._fields, *printable(problems)])
    write_atomically(path, file.getvalue().encode())


def printable(problems: Sequence[Problem]) -> list[Problem]:
    """Return problems with question marks for what UTF-8 cannot hold."""
    return [
        Problem(*(str(p).encode("utf-8", "replace").decode() for p in problem))
        for problem in problems
    ]


def table(rows: Sequence[dict], shard: str) -> pa.Table:
    """Return the rows of a shard as a table with one column per fact."""
    import pyarrow as pa

    known = {"tempo": pa.float64()}  # also where no clip has one
    columns = {name: pa.array([row[name] for row in rows], known.get(name)) for name in rows[0]}
    return pa.table({**columns, "shard": pa.array([shard] * len(rows))})


def parquet_bytes(index: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(index, file)
    return file.getvalue()
