"""Sound files of commands and notebooks: read as mono, written whole or not at all, with tags."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import soundfile
from torch import Tensor

from presto_data.audio import load_audio
from presto_models.snapshot import write_atomic

LONGEST = 400  # characters of a text in a tag: libsndfile reads no more than 2 kB from a wav file


def load_mono(path: Path, sample_rate: int) -> Tensor:
    """A recording's mid, shape (1, s)."""
    return load_audio(path, sample_rate=sample_rate).mean(0, keepdim=True)


def check_kind(path: Path) -> Path:
    """The path itself, or ValueError where its name is of no kind of file written here."""
    if path.suffix.lower() not in (".wav", ".flac"):
        raise ValueError(f"cannot write {path}: the name must end in .wav or .flac")
    return path


def check_folder(path: Path) -> Path:
    """The path itself, or ValueError where there is no folder for it."""
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: no folder {path.parent}")
    return path


def tags_of(facts: dict[str, Any]) -> dict[str, str]:
    """Title (the prompt), software (with its version) and comment (all else, as JSON)."""
    facts = {name: _shortened(value) for name, value in facts.items() if value is not None}
    title, software = facts.pop("prompt"), f"presto-models {facts['version']}"
    return {
        "title": title,
        "software": software,
        "comment": json.dumps(facts, ensure_ascii=False),
    }


def write_audio(
    path: Path, audio: Tensor, sample_rate: int, tags: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write audio (ch, s) as 16-bit samples with tags; an interrupted write leaves no half file."""
    samples = audio.detach().cpu().numpy().T
    kind = {"subtype": "PCM_16", "format": path.suffix[1:].upper()}

    def write(to: Path) -> None:
        with soundfile.SoundFile(to, "w", sample_rate, samples.shape[1], **kind) as file:
            for name, text in tags.items():
                setattr(file, name, text)
            file.write(samples)

    try:
        write_atomic(path, write)
    except soundfile.SoundFileError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def _shortened(value: Any) -> Any:
    long = isinstance(value, str) and len(value) > LONGEST
    return f"{value[: LONGEST - 1]}…" if long else value
