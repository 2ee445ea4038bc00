"""Shards: tar files that grow clip by clip, survive a kill, and that WebDataset reads as they are.

Clip number 12 of a corpus is three members of a shard, in this order:

    000000012.mean.npy     float16 (c, t), frame after frame in memory: a crop is one run of bytes
    000000012.scale.npy    the same for the posterior's standard deviation, if the encoder gives it
    000000012.json         id, caption, metadata, sample_rate, seconds, start, total

The JSON comes last: where it is whole, the clip is. Equal clips make equal bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from jaxtyping import Float16

from presto_data.clips import Problem

LAYOUT = 1  # raise it when the bytes of a shard change: caches notice
CLIPS = 256  # in a shard
BLOCK = 512  # bytes, of the tar format
END = bytes(2 * BLOCK)  # of an archive

Span = tuple[int, int]  # where a member's bytes begin, and how many they are


class Stored(NamedTuple):
    """A whole clip in a shard: its number in the corpus, its members, and where they end."""

    row: int
    members: dict[str, Span]  # by mean.npy, scale.npy, json
    end: int


def clip_bytes(
    row: int,
    facts: dict,
    mean: Float16[np.ndarray, "c t"],
    scale: Float16[np.ndarray, "c t"] | None = None,
) -> bytes:
    """Return clip number `row` as the members of a tar file."""
    bodies = {"mean.npy": npy_bytes(mean)}
    if scale is not None:
        bodies["scale.npy"] = npy_bytes(scale)
    # File names may hold what UTF-8 cannot: it becomes a question mark.
    bodies["json"] = json.dumps(facts, ensure_ascii=False).encode("utf-8", "replace")
    return b"".join(member(f"{row:09d}.{name}", body) for name, body in bodies.items())


def npy_bytes(values: Float16[np.ndarray, "c t"]) -> bytes:
    """Return an array as a .npy file in column order."""
    file = io.BytesIO()
    np.save(file, np.asfortranarray(values, dtype="<f2"))
    return file.getvalue()


def member(name: str, body: bytes) -> bytes:
    """Return a file as a tar member without owner or time."""
    info = tarfile.TarInfo(name)
    info.size = len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % BLOCK)


def members(path: Path) -> Iterator[tuple[str, Span]]:
    """Yield name and place of the whole members of a tar file, up to the first that is not."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + BLOCK <= size:
            file.seek(at)
            try:
                info = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "strict")
            except tarfile.HeaderError:  # the end of the archive, or what a power cut left
                return
            start, at = at + BLOCK, at + BLOCK + info.size + -info.size % BLOCK
            if at <= size:
                yield info.name, (start, info.size)


def stored_clips(path: Path) -> Iterator[Stored]:
    """Yield the whole clips of a shard, finished or not."""
    found: dict[str, Span] = {}
    for name, (start, size) in members(path):
        row, kind = name.split(".", 1)
        found[kind] = start, size
        if kind == "json":
            yield Stored(int(row), found, start + size + -size % BLOCK)
            found = {}


def recover(partial: Path, left_out: Path, rows: range, batch_size: int) -> int:
    """Cut what a dead process left back to whole batches; return the first row to encode.

    Whole batches, because an encoder's last digits may depend on what else is in a batch: a resumed
    shard is equal to one written at once, byte for byte.
    """
    stored = list(stored_clips(partial)) if partial.exists() else []
    problems = read_problems(left_out)
    done = {clip.row for clip in stored} | problems.keys()
    first = rows.start
    while first < rows.stop and done.issuperset(range(first, min(first + batch_size, rows.stop))):
        first += batch_size
    if partial.exists():
        os.truncate(partial, max((clip.end for clip in stored if clip.row < first), default=0))
    if left_out.exists():
        kept = {row: problem for row, problem in problems.items() if row < first}
        write_atomically(left_out, problem_lines(kept))
    return min(first, rows.stop)


def problem_lines(problems: dict[int, Problem]) -> bytes:
    """Return the problems of a shard as JSON lines of row, name and reason."""
    return "".join(json.dumps([row, *problem]) + "\n" for row, problem in problems.items()).encode()


def read_problems(path: Path) -> dict[int, Problem]:
    """Return the problems of a shard by row; a line that a kill cut short is no problem yet."""
    problems = {}
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        if line.endswith(b"\n"):
            row, *problem = json.loads(line)
            problems[row] = Problem(*problem)
    return problems


def append(path: Path, body: bytes) -> None:
    """Add bytes to a file and wait for the disk; if it is full, the file stays as it was."""
    length = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        if path.exists():
            os.truncate(path, length)
        raise


def write_atomically(path: Path, body: bytes) -> None:
    """Write a file so that a kill or a full disk leaves the old one or none, never half of one."""
    # Process ids would not do: those of two machines may be equal.
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
