"""A folder of one's own recordings as a captioned corpus."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from presto_data.audio import FORMATS, load_audio
from presto_data.clips import Clip, Corpus, Metadata

SILENCE = 1e-4  # peak, -80 dB
LONGEST_CAPTION = 300
CREDITS = re.compile(r"\s*(\(c\)|©|copyright|(is )?licen[cs]ed|is in the public domain).*", re.I)


@dataclass(frozen=True)
class Excerpt:
    """Where one clip lies: a file, where in it (seconds) and what is known about it."""

    path: Path
    start: float
    caption: str
    metadata: Metadata


class FolderCorpus(Corpus):
    """Excerpts of the audio files under a folder; `problems`: (path, reason) of those left out."""

    def __init__(self, root: Path, *, seconds: float, sample_rate: int, strict: bool):
        self.root, self.seconds, self.sample_rate = root, seconds, sample_rate
        self.excerpts: list[Excerpt] = []
        self.problems: list[tuple[Path, str]] = []
        unreadable = (".m4a", ".aac", ".wma")  # looked at all the same, so that they are reported
        paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in FORMATS + unreadable)
        for path in paths:
            try:
                self.excerpts += self._scan(path)
            except ValueError as error:
                if strict:
                    raise
                self.problems.append((path, str(error).removeprefix(f"{path}: ")))

    def _scan(self, path: Path) -> list[Excerpt]:
        """Read a file once, from end to end, and return the excerpts that are not silent."""
        import soundfile

        text, metadata = describe(path)
        load_audio(path, seconds=0.01)  # the same errors in the same words
        total = soundfile.info(path).duration
        count = max(1, round(total / self.seconds))
        starts = [min(i * self.seconds, max(0.0, total - self.seconds)) for i in range(count)]
        heard = [s for s in starts if self._read(path, s).abs().max() > SILENCE]
        if not heard:
            raise ValueError(f"{path}: silent")
        return [Excerpt(path, start, text, metadata) for start in heard]

    def _read(self, path: Path, start: float) -> Float[Tensor, "ch s"]:
        audio = load_audio(path, sample_rate=self.sample_rate, start=start, seconds=self.seconds)
        length = round(self.seconds * self.sample_rate)
        if audio.shape[1] < length:
            audio = audio.repeat(1, -(-length // audio.shape[1]))
        if len(audio) > 2:  # surround: the front pair, with the rest in the middle
            audio = (audio[:2] + audio[2:].mean(0)) / 2
        return audio[:, :length].contiguous()

    def __len__(self) -> int:
        return len(self.excerpts)

    @property
    def key(self) -> dict:
        """Names, captions, sizes and times of the files; not their bytes, which may be many."""
        files = {e.path: e.path.stat() for e in self.excerpts}
        rows = [
            (f"{e.path.relative_to(self.root)}", files[e.path].st_size, files[e.path].st_mtime_ns,
             e.start, e.caption, astuple(e.metadata))
            for e in self.excerpts
        ]  # fmt: skip
        return {"folder": rows, "seconds": self.seconds, "sample_rate": self.sample_rate}

    def make(self, index: int) -> Clip:
        where = self.excerpts[index]
        name = f"{where.path.relative_to(self.root).as_posix()}@{where.start:g}"
        audio = self._read(where.path, where.start)
        return Clip(audio, self.sample_rate, where.caption, where.metadata, name)


def folder_corpus(
    path: str | Path, *, seconds: float = 6.0, sample_rate: int = 44_100, strict: bool = False
) -> FolderCorpus:
    """Return the audio files under `path` as clips of `seconds` at `sample_rate`.

    Files are cut into consecutive clips, the last one aligned to the end of the file when at least
    half of it is new; a file shorter than `seconds` is repeated to fill its clip. Captions come
    from NAME.json (caption, tempo, key, mode, genre, instruments, mood), else from the first line
    of NAME.txt, else from the file's name. Files that are unreadable, empty, silent or not finite
    are left out and listed in `.problems` (and counted in one warning); `strict` raises instead.
    Raises ValueError when nothing is left.
    """
    root, formats = Path(path), " ".join(FORMATS)
    if not seconds > 0 or sample_rate < 1:
        raise ValueError(f"seconds {seconds} and sample_rate {sample_rate} must be positive")
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give a folder of {formats} files")
    corpus = FolderCorpus(root, seconds=seconds, sample_rate=sample_rate, strict=strict)
    if not len(corpus):
        why = f" ({len(corpus.problems)} left out)" if corpus.problems else ""
        why += "".join(f"; {p.name}: {reason}" for p, reason in corpus.problems[:3])
        raise ValueError(f"{root}: no usable audio{why}; give a folder of {formats} files")
    if corpus.problems:
        listed = "; ".join(f"{p.name}: {reason}" for p, reason in corpus.problems)
        warnings.warn(f"{root}: {len(corpus.problems)} files left out: {listed}", stacklevel=2)
    return corpus


def describe(path: Path) -> tuple[str, Metadata]:
    """Return a file's caption and metadata from its sidecar, else from its name."""
    sidecar = path.with_suffix(".json")
    if sidecar.is_file():
        return read_sidecar(sidecar)
    text, sidecar = "", path.with_suffix(".txt")
    if sidecar.is_file():
        lines = map(clean, sidecar.read_text(encoding="utf-8", errors="replace").splitlines())
        text = next(filter(None, lines), "")
    if not text:
        words = re.sub(r"[\W_]+", " ", path.stem).strip()
        text = re.sub(r"^[\d ]+(?=\D)", "", words) or path.stem
    bpm = re.search(r"(\d{2,3}(?:\.\d+)?) ?bpm", text, re.I)
    return text[:LONGEST_CAPTION], Metadata(tempo=float(bpm[1]) if bpm else None)


def clean(line: str) -> str:
    """Take web addresses and licence talk out of a line."""
    return CREDITS.sub("", re.sub(r"\S*(https?://|www\.)\S*", "", line)).strip(" \t-:,\ufeff")


def read_sidecar(sidecar: Path) -> tuple[str, Metadata]:
    """Return caption and metadata of a NAME.json; raises ValueError naming what is wrong."""
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        text = facts.pop("caption")
        if not isinstance(text, str) or not text.strip():
            raise ValueError("caption must be text")
        known = {f.name for f in fields(Metadata)}
        facts = {name: value for name, value in facts.items() if name in known and value}
        if "tempo" in facts:
            facts["tempo"] = float(facts["tempo"])
        if "instruments" in facts:
            facts["instruments"] = tuple(map(str, facts["instruments"]))
        return " ".join(text.split())[:LONGEST_CAPTION], Metadata(**facts)
    except KeyError:
        raise ValueError(f"{sidecar}: no caption") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{sidecar}: not a sidecar ({error})") from None
