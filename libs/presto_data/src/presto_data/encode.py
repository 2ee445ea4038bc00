"""Encode a corpus once, in any number of processes that may die at any moment.

There is no coordinator: every process runs the same call on the same folder. A shard belongs to
whoever holds its lock, which the system releases when that process ends, however it ends; the next
one cuts the shard back to its last whole batch and goes on. Who finds all shards there writes the
index, which is what makes a set complete.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from presto_data import shards
from presto_data.clips import Clip, ClipError, Corpus, Problem
from presto_data.faults import SILENCE
from presto_data.index import printable, summary, write_index, write_problems
from presto_data.latents import UNREAD, LatentShards

if TYPE_CHECKING:
    from tqdm import tqdm

POLL = 0.5  # seconds between looks at shards that others are at work on

Mean = Float[Tensor, "b c t"]
Encoder = Callable[[Float[Tensor, "b s"]], Mean | tuple[Mean, Mean]]


def encode_corpus(
    corpus: Corpus,
    encode: Encoder,
    out: str | Path,
    *,
    key: dict,
    hop_length: int | None = None,
    batch_size: int = 16,
    shard_clips: int = shards.CLIPS,
    workers: int = 0,
    strict: bool = False,
    progress: bool = True,
) -> LatentShards:
    """Return the latents of a corpus, encoding only what `out` does not hold for this `key` yet.

    `encode` maps mono audio (b, s) to latents (b, c, t), or to their mean and standard deviation.
    `key` is any JSON that names the encoder: change it when that changes; the corpus names itself.
    Every key has its own folder in `out`. `hop_length`: samples in a latent frame, by default those
    of a clip divided by its frames. `workers` processes make clips, the caller's own encodes.

    A killed call goes on where it stopped, at most one batch is encoded again. Several processes
    share the work by making the same call; each returns when the whole set is there. Clips that
    cannot be served, whose sides cancel out in mono or whose latents are not finite are left out
    and listed in `.problems` of the result, after the corpus's, or raise ClipError if `strict`.
    Raises ValueError for an empty corpus and for latents that are not (b, c, t), OSError in one
    line where the folder cannot be written; what is complete is kept.
    """
    if not len(corpus):
        raise ValueError("the corpus is empty")
    if batch_size < 1 or shard_clips < 1:
        raise ValueError(f"batch_size {batch_size} and shard_clips {shard_clips} must be >= 1")
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if hop_length is not None and hop_length < 1:
        raise ValueError(f"hop_length is {hop_length}; it must be at least 1")
    facts = {"corpus": corpus.key, "encoder": key, "hop_length": hop_length}
    layout = {"layout": shards.LAYOUT, "shard_clips": shard_clips}
    text = json.dumps({**facts, **layout}, sort_keys=True)
    folder = Path(out) / sha256(text.encode()).hexdigest()[:16]
    if not (folder / "index.parquet").exists():
        with writing(folder):
            (folder / "job").mkdir(parents=True, exist_ok=True)
            if not (folder / "key.json").exists():
                shards.write_atomically(folder / "key.json", text.encode())
        job = Job(corpus, encode, folder, hop_length, batch_size, shard_clips, workers, strict)
        job.run(progress)
    found = LatentShards(folder)
    if found.unread != (unread := printable(corpus.problems)):  # may change while the clips do not
        with writing(folder):
            write_problems(folder / UNREAD, unread)
    if strict and found.problems:  # of an earlier call that was not
        raise ClipError(*found.problems[0])
    return found


@dataclass(frozen=True)
class Job:
    """One process's share in encoding a corpus."""

    corpus: Corpus
    encode: Encoder
    folder: Path
    hop_length: int | None
    batch_size: int
    shard_clips: int
    workers: int
    strict: bool

    def run(self, progress: bool) -> None:
        """Encode every shard that nobody else does, wait for the others, write the index."""
        from tqdm import tqdm

        watched = sys.stderr.isatty()
        bar = tqdm(
            desc="encode",
            unit=" clips",
            total=len(self.corpus),
            disable=not progress,
            mininterval=0.1 if watched else 30,
            ascii=None if watched else True,
        )
        missing = list(range(-(-len(self.corpus) // self.shard_clips)))
        with bar:
            while missing:
                left = [number for number in missing if not self.settle(number, bar)]
                if left == missing:  # the others work on them, or died a moment ago
                    time.sleep(POLL)
                missing = left
        with claimed(self.folder / "job" / "index.lock", wait=True), writing(self.folder):
            if not (self.folder / "index.parquet").exists():
                write_index(self.folder)

    def settle(self, number: int, bar: tqdm) -> bool:
        """Encode a shard unless another process is at it; return whether it is there."""
        if not self.shard(number).exists():
            with claimed(self.job_file(number, "lock")) as mine:
                if not mine:
                    return False
                if not self.shard(number).exists():  # nor finished between the look and the claim
                    self.encode_shard(number, bar)
                    return True
        bar.update(len(self.rows(number)))
        return True

    def encode_shard(self, number: int, bar: tqdm) -> None:
        """Write a shard, or the rest of one that a dead process has left; the lock is ours."""
        rows, partial = self.rows(number), self.job_file(number, "partial")
        left_out = self.job_file(number, "left_out")
        with writing(self.folder):
            first = shards.recover(partial, left_out, rows, self.batch_size)
        bar.update(first - rows.start)
        items = iter(
            DataLoader(
                Attempts(self.corpus, range(first, rows.stop)),
                batch_size=None,
                num_workers=self.workers,
                collate_fn=same,
                generator=torch.Generator(),  # else it draws from the caller's random numbers
            )
        )
        for at in range(first, rows.stop, self.batch_size):
            batch = dict(enumerate(islice(items, min(self.batch_size, rows.stop - at)), at))
            body, problems = self.encode_batch(batch)
            if problems and self.strict:
                raise ClipError(*next(iter(problems.values())))
            with writing(self.folder):
                if problems:
                    shards.append(left_out, shards.problem_lines(problems))
                shards.append(partial, body)
            bar.update(len(batch))
        with writing(self.folder):
            facts = summary(partial, list(shards.read_problems(left_out).values()))
            shards.write_atomically(self.job_file(number, "json"), json.dumps(facts).encode())
            shards.append(partial, shards.END)
            os.replace(partial, self.shard(number))

    @torch.no_grad()
    def encode_batch(self, batch: dict[int, Clip | Problem]) -> tuple[bytes, dict[int, Problem]]:
        """Return the tar members of the clips of a batch, by row, and what had to be left out."""
        problems = {row: item for row, item in batch.items() if isinstance(item, Problem)}
        clips = {row: item for row, item in batch.items() if isinstance(item, Clip)}
        stored: dict[int, bytes] = {}
        for length in dict.fromkeys(clip.audio.shape[1] for clip in clips.values()):
            some = [row for row, clip in clips.items() if clip.audio.shape[1] == length]
            latents = self.encode(torch.cat([clips[row].audio for row in some]))
            halves = checked(latents if isinstance(latents, tuple) else (latents,), len(some))
            for row, *arrays in zip(some, *halves, strict=True):
                if all(np.isfinite(array).all() for array in arrays):
                    facts = self.facts(clips[row], arrays[0].shape[1])
                    stored[row] = shards.clip_bytes(row, facts, *arrays)
                else:
                    problems[row] = Problem(clips[row].id, "latent not finite in half precision")
        return b"".join(stored[row] for row in sorted(stored)), problems

    def facts(self, clip: Clip, frames: int) -> dict:
        """What a shard says about a clip."""
        hop_length = self.hop_length or clip.audio.shape[1] / frames
        return {
            "id": clip.id,
            "caption": clip.caption,
            "sample_rate": clip.sample_rate,
            "seconds": clip.audio.shape[1] / clip.sample_rate,
            "start": float(clip.start),
            "total": float(clip.total),
            "frame_seconds": hop_length / clip.sample_rate,
            "metadata": asdict(clip.metadata),
        }

    def shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:06d}.tar"

    def job_file(self, number: int, suffix: str) -> Path:
        return self.folder / "job" / f"{self.shard(number).name}.{suffix}"

    def rows(self, number: int) -> range:
        """Numbers of the clips in a shard."""
        first = number * self.shard_clips
        return range(first, min(first + self.shard_clips, len(self.corpus)))


class Attempts(Dataset):
    """Clips of a corpus in mono, each of which may turn out to be a problem."""

    def __init__(self, corpus: Corpus, rows: range):
        self.corpus, self.rows = corpus, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Clip | Problem:
        try:
            clip = self.corpus[self.rows[index]]
        except ClipError as error:
            return error.problem
        except StopIteration as error:  # a loader would take it for the end of the corpus
            raise RuntimeError(f"clip {self.rows[index]} raised StopIteration") from error
        mid = clip.mono()
        if mid.audio.abs().max() <= SILENCE < clip.audio.abs().max():
            return Problem(clip.id, "silent in mono, its sides cancel out")
        return mid


def same(item: Clip | Problem) -> Clip | Problem:
    """Hand an item through the loader as it is."""
    return item


def checked(latents: tuple[Tensor, ...], count: int) -> list[np.ndarray]:
    """Return latents in half precision; ValueError where their shapes are not those promised."""
    shapes = [tuple(part.shape) for part in latents]
    if len(set(shapes)) > 1 or len(shapes) > 2 or len(shapes[0]) != 3 or shapes[0][0] != count:
        raise ValueError(f"latents {shapes} of {count} clips must be (b, c, t), or a pair of such")
    return [part.half().cpu().numpy() for part in latents]


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file, unless another process does; whoever dies lets go of it.

    A dead process's loader workers hold it on until they notice, after some seconds.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one line that a folder cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder}: cannot write ({error.strerror}); what is complete is kept, "
            "run the same command again"
        ) from error
