"""Encoded corpora: a small one in memory, a large one in the shards that `encode_corpus` wrote."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from presto_data.clips import Metadata, Problem

OPEN_FILES = 512  # shards kept open; systems allow a process about 1,000 files
TIMING = ("start", "total", "frame_seconds")
UNREAD, PROBLEMS = "unread.csv", "problems.csv"  # of listing a corpus, and of encoding its clips


@dataclass(frozen=True)
class LatentSet:
    """Latents (n, c, t) of clips of one length with captions and metadata, in memory.

    `scales`: standard deviation of the encoder's posterior, where it is known; `latents` are then
    its mean. `timing`: start of each clip in its recording, length of the recording and length of a
    latent frame, in seconds; 0 where unknown.
    """

    latents: Float[Tensor, "n c t"] = field(repr=False)
    captions: list[str] = field(repr=False)
    metadata: list[Metadata] = field(repr=False)
    scales: Float[Tensor, "n c t"] | None = field(default=None, repr=False)
    timing: Float[Tensor, "n 3"] | None = field(default=None, repr=False)

    def __post_init__(self):
        counts = len(self.latents), len(self.captions), len(self.metadata)
        if self.latents.ndim != 3 or len(set(counts)) != 1:
            raise ValueError(
                f"latents {tuple(self.latents.shape)} must be (n, c, t) with n captions and n "
                f"metadata, not {counts[1]} and {counts[2]}"
            )
        if self.scales is not None and self.scales.shape != self.latents.shape:
            raise ValueError(f"scales {tuple(self.scales.shape)} must be shaped as the latents")
        if self.timing is None:
            object.__setattr__(self, "timing", torch.zeros(len(self), 3, dtype=torch.float64))
        if self.timing.shape != (len(self), 3):
            raise ValueError(f"timing {tuple(self.timing.shape)} must be ({len(self)}, 3)")

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice | Int[Tensor, " m"]) -> LatentSet:
        """Return the clips of a slice, or of a tensor of rows."""
        picked = torch.arange(len(self))[rows].tolist()
        return LatentSet(
            self.latents[rows],
            [self.captions[i] for i in picked],
            [self.metadata[i] for i in picked],
            None if self.scales is None else self.scales[rows],
            self.timing[rows],
        )

    @property
    def frames(self) -> int:
        return self.latents.shape[-1]

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Frames of each clip."""
        return np.full(len(self), self.frames)

    @property
    def tempo(self) -> Float[Tensor, " n"]:
        """Beats per minute; 0 where unknown."""
        return torch.tensor([float(facts.tempo or 0) for facts in self.metadata])

    def caption(self, index: int) -> str:
        return self.captions[index]

    def tonality(self, index: int) -> str | None:
        return self.metadata[index].tonality

    def crop(
        self, index: int, at: int, frames: int
    ) -> tuple[Float[Tensor, "c t"], Float[Tensor, "c t"] | None]:
        """Return mean and, where known, scale of `frames` frames of a clip from frame `at`."""
        check_inside(at, frames, self.frames)
        window = slice(at, at + frames)
        scale = None if self.scales is None else self.scales[index, :, window]
        return self.latents[index, :, window], scale

    def split(self, held_out: int) -> tuple[LatentSet, LatentSet]:
        """Return (all but the last `held_out` clips, the last `held_out` clips)."""
        if not 0 <= held_out < len(self):
            raise ValueError(f"held_out is {held_out}; it must be in [0, {len(self)})")
        return self[: len(self) - held_out], self[len(self) - held_out :]


class LatentShards:
    """A folder of shards as `encode_corpus` leaves it: any crop of any clip, read when asked for.

    `path` is the folder, or a folder that holds exactly one. Clips may differ in length. Reading
    does not map the files into memory: pages of a map count as the process's own, and over a corpus
    they grow without bound. Safe to hand to worker processes.
    Raises ValueError where there is no complete set.
    """

    def __init__(self, path: str | Path):
        import pyarrow.parquet as pq

        self.path = find_set(Path(path))
        self.table = pq.read_table(self.path / "index.parquet").combine_chunks()
        self.stats = json.loads((self.path / "stats.json").read_text(encoding="utf-8"))
        self.channels: int = self.stats["channels"]

    def __len__(self) -> int:
        return self.table.num_rows

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_open"}

    def _column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()

    @cached_property
    def _open(self):
        """Opens a shard by its name; the longest unused file closes when it is dropped."""
        return lru_cache(OPEN_FILES)(self._open_shard)

    def _open_shard(self, name: str) -> BinaryIO:
        return open(self.path / name, "rb", buffering=0)

    @cached_property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Frames of each clip."""
        return self._column("frames")

    @cached_property
    def tempo(self) -> Float[Tensor, " n"]:
        """Beats per minute; 0 where unknown."""
        known = np.nan_to_num(self._column("tempo").astype(np.float32))
        return torch.from_numpy(known)

    @cached_property
    def timing(self) -> Float[Tensor, "n 3"]:
        """Start, length of the recording and length of a latent frame; 0 where unknown."""
        return torch.from_numpy(np.stack([self._column(name) for name in TIMING], axis=1))

    @cached_property
    def _places(self) -> dict[str, Int[np.ndarray, "n 2"]]:
        """Where the arrays of each kind lie in their shard, and how many bytes they have."""
        kinds = ["mean", *["scale"] * self.stats["scales"]]
        spans = {k: (self._column(f"{k}_offset"), self._column(f"{k}_bytes")) for k in kinds}
        return {kind: np.stack(pair, axis=1) for kind, pair in spans.items()}

    @property
    def problems(self) -> list[Problem]:
        """What is not in the set, and why: recordings that could not be read, then clips."""
        return self.unread + read_left_out(self.path / PROBLEMS)

    @property
    def unread(self) -> list[Problem]:
        """What the corpus itself left out, when it was last encoded."""
        return read_left_out(self.path / UNREAD)

    def caption(self, index: int) -> str:
        return self.table["caption"][index].as_py()

    def tonality(self, index: int) -> str | None:
        return self._tonalities[index]

    @cached_property
    def _tonalities(self) -> list[str | None]:
        columns = (self.table[name].to_pylist() for name in ("key", "mode"))
        return [Metadata(key=key, mode=mode).tonality for key, mode in zip(*columns, strict=True)]

    def metadata(self, index: int) -> Metadata:
        names = [f.name for f in fields(Metadata) if f.name in self.table.column_names]
        row = {name: self.table[name][index].as_py() for name in names}
        return Metadata.from_json(row)

    def crop(
        self, index: int, at: int, frames: int
    ) -> tuple[Float[Tensor, "c t"], Float[Tensor, "c t"] | None]:
        """Return mean and, where known, scale of `frames` frames of a clip from frame `at`."""
        check_inside(at, frames, int(self.lengths[index]))
        file = self._open(self.table["shard"][index].as_py())
        parts = [self._read(file, kind, index, at, frames) for kind in self._places]
        return parts[0], parts[1] if len(parts) > 1 else None

    def _read(
        self, file: BinaryIO, kind: str, index: int, at: int, frames: int
    ) -> Float[Tensor, "c t"]:
        offset, size = self._places[kind][index].tolist()
        frame = 2 * self.channels  # bytes of a frame
        # The array is the end of its .npy file, whatever the length of the header.
        first = offset + size - frame * (int(self.lengths[index]) - at)
        body = os.pread(file.fileno(), frame * frames, first)
        if len(body) < frame * frames:
            raise ValueError(f"{file.name}: truncated, clip {index} is not whole")
        values = np.frombuffer(body, "<f2").astype(np.float32)
        return torch.from_numpy(values).view(frames, self.channels).T

    def load(self) -> LatentSet:
        """Return the whole set in memory; ValueError where clips differ in length."""
        frames = np.unique(self.lengths).tolist()
        if len(frames) > 1:
            raise ValueError(
                f"{self.path}: clips of {frames[0]} to {frames[-1]} frames, not of one"
            )
        clips = [self.crop(i, 0, frames[0]) for i in range(len(self))]
        means, scales = zip(*clips, strict=True)
        return LatentSet(
            torch.stack(means),
            self.table["caption"].to_pylist(),
            [self.metadata(i) for i in range(len(self))],
            torch.stack(scales) if self.stats["scales"] else None,
            self.timing,
        )


def check_inside(at: int, frames: int, length: int) -> None:
    """Raise IndexError for a crop that is not within its clip."""
    if not 0 <= at <= at + frames <= length:
        raise IndexError(f"frames {at} to {at + frames} of a clip of {length}")


def read_left_out(path: Path) -> list[Problem]:
    """Return the problems in a CSV file; none where there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Problem(*row) for row in csv.reader(file)][1:]


def find_set(path: Path) -> Path:
    """Return the folder of a complete set: `path`, or the only one in it."""
    if (path / "index.parquet").is_file():
        return path
    found = sorted(index.parent for index in path.glob("*/index.parquet"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{path} holds {len(found)} sets: {', '.join(p.name for p in found)}")
    begun = any(any(path.glob(f"{where}key.json")) for where in ("", "*/"))
    why = "encoding is not finished, run the same command again" if begun else "no index.parquet"
    raise ValueError(f"{path}: no complete set of latents ({why})")
