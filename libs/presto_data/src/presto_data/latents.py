"""Encode a corpus once and keep its latents: atomic, keyed by content, resumable after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from presto_data.clips import Clip, Corpus, Metadata

CHUNK = 64  # clips encoded between two writes: the most a kill can cost

Encoder = Callable[[Float[Tensor, "b s"]], Float[Tensor, "b c t"]]


@dataclass(frozen=True)
class LatentSet:
    """Latents (n, c, t) of a corpus with captions and metadata, in the corpus's order."""

    latents: Float[Tensor, "n c t"] = field(repr=False)
    captions: list[str] = field(repr=False)
    metadata: list[Metadata] = field(repr=False)

    def __post_init__(self):
        counts = len(self.latents), len(self.captions), len(self.metadata)
        if self.latents.ndim != 3 or len(set(counts)) != 1:
            raise ValueError(
                f"latents {tuple(self.latents.shape)} must be (n, c, t) with n captions and n "
                f"metadata, not {counts[1]} and {counts[2]}"
            )

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice) -> LatentSet:
        return LatentSet(self.latents[rows], self.captions[rows], self.metadata[rows])

    @property
    def frames(self) -> int:
        return self.latents.shape[-1]

    @property
    def tempo(self) -> Float[Tensor, " n"]:
        """Beats per minute; 0 where unknown."""
        return torch.tensor([facts.tempo or 0.0 for facts in self.metadata])

    def split(self, held_out: int) -> tuple[LatentSet, LatentSet]:
        """Return (all but the last `held_out` clips, the last `held_out` clips)."""
        if not 0 <= held_out < len(self):
            raise ValueError(f"held_out is {held_out}; it must be in [0, {len(self)})")
        return self[: len(self) - held_out], self[len(self) - held_out :]

    def save(self, path: str | Path) -> None:
        """Write latents (as float16), captions and metadata to one safetensors file, atomically."""
        from safetensors.torch import save

        rows = [
            {"caption": caption, **asdict(facts)}
            for caption, facts in zip(self.captions, self.metadata, strict=True)
        ]
        body = save({"latents": self.latents.half().contiguous()}, {"clips": json.dumps(rows)})
        write_atomically(Path(path), body)

    @classmethod
    def load(cls, path: str | Path) -> LatentSet:
        """Read what `save` wrote, latents as float32; raises ValueError for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                latents = file.get_tensor("latents").float()
                rows = json.loads(file.metadata()["clips"])
        except (OSError, SafetensorError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: not a latent set ({error})") from None
        captions = [row.pop("caption") for row in rows]
        facts = [Metadata.from_json(row) for row in rows]
        return cls(latents, captions, facts)

    @classmethod
    def join(cls, parts: list[LatentSet]) -> LatentSet:
        """Return the sets one after the other as one."""
        return cls(
            torch.cat([part.latents for part in parts]),
            [caption for part in parts for caption in part.captions],
            [facts for part in parts for facts in part.metadata],
        )


def write_atomically(path: Path, body: bytes) -> None:
    """Write a file so that a kill or a full disk leaves the old one or none, never half of one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def encode_corpus(
    corpus: Corpus,
    encode: Encoder,
    out: str | Path,
    *,
    key: dict,
    batch_size: int = 16,
    workers: int = 0,
    progress: bool = True,
) -> LatentSet:
    """Return the latents of a corpus, encoding only what `out` does not hold for this `key` yet.

    `encode` maps mono audio (b, s) to latents (b, c, t). `key` is any JSON that names the encoder:
    change it when that changes; the corpus names itself. Every key has its own folder in `out`,
    written 64 clips at a time, so a killed run goes on where it stopped; `workers` processes make
    clips, the caller's own encodes.
    Raises ValueError for an empty corpus and for latents that are not finite or not (b, c, t).
    """
    from torch.utils.data import DataLoader, Subset
    from tqdm import tqdm

    if not len(corpus):
        raise ValueError("the corpus is empty")
    text = json.dumps({"corpus": corpus.key, "encoder": key}, sort_keys=True)
    folder = Path(out) / sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "key.json", text.encode())

    files = {i: folder / f"clips-{i:07d}.safetensors" for i in range(0, len(corpus), CHUNK)}
    missing = [i for i, file in files.items() if not file.exists()]
    rows = [row for i in missing for row in range(i, min(i + CHUNK, len(corpus)))]
    loader = DataLoader(Subset(corpus, rows), batch_size=None, num_workers=workers, collate_fn=same)
    pending: list[Clip] = []
    shown = tqdm(loader, "encode", disable=not (progress and rows))
    for row, clip in zip(rows, shown, strict=True):
        pending.append(clip)
        if (row + 1) % CHUNK == 0 or row + 1 == len(corpus):
            encode_clips(pending, encode, batch_size).save(files[row // CHUNK * CHUNK])
            pending = []
    return LatentSet.join([LatentSet.load(file) for file in files.values()])


def same(clip: Clip) -> Clip:
    """Hand a clip through the loader as it is."""
    return clip


@torch.no_grad()
def encode_clips(clips: list[Clip], encode: Encoder, batch_size: int) -> LatentSet:
    """Return the latents of the mono mix of `clips`, `batch_size` at a time."""
    latents = []
    for i in range(0, len(clips), batch_size):
        some = clips[i : i + batch_size]
        z = encode(torch.cat([clip.mono().audio for clip in some])).float().cpu()
        if z.ndim != 3 or len(z) != len(some) or not z.half().isfinite().all():
            raise ValueError(
                f"latents {tuple(z.shape)} of {some[0].id} and on must be finite (b, c, t)"
            )
        latents.append(z)
    return LatentSet(torch.cat(latents), [c.caption for c in clips], [c.metadata for c in clips])
