"""Snapshots: a folder with config.json and model.safetensors, and nothing that can run code."""

import dataclasses
import hashlib
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterable
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

BUNDLED = Path(str(resources.files("presto_models") / "pretrained"))


class SnapshotError(ValueError):
    """A snapshot that is missing, incomplete, not finite or of another kind."""


class Snapshot:
    """Mixin for modules built as `cls(config)` from a frozen dataclass kept as `self.config`."""

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name its config and weights."""
        config = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        digest = hashlib.sha256(config.encode())
        for value in self.state_dict().values():
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:12]

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write config.json and model.safetensors to `folder`, floats as `dtype` if given."""
        folder = own_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: _stored(value, dtype) for name, value in self.state_dict().items()}
        for name, value in state.items():
            if not value.isfinite().all():
                raise SnapshotError(f"{name} is not finite; nothing was written to {folder}")
        header = {
            "class": type(self).__name__,
            "presto_models": metadata.version("presto-models"),
            "config": dataclasses.asdict(self.config),
        }
        write_atomic(folder / "model.safetensors", lambda path: save_file(state, path))
        text = json.dumps(header, indent=2) + "\n"
        write_atomic(folder / "config.json", lambda path: path.write_text(text))
        return folder

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str | torch.device = "cpu"
    ) -> Self:
        """Load a snapshot from a folder or by the name of a bundled one, in float32, for eval.

        Raises SnapshotError, in one line, where the folder or a key is missing or wrong.
        """
        folder = find_snapshot(name_or_path)
        header = read_header(folder)
        try:
            state = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise SnapshotError(f"cannot read the snapshot in {folder}: {error}") from error
        if header["class"] != cls.__name__:
            raise SnapshotError(f"{folder} holds a {header['class']}, not a {cls.__name__}")
        try:
            kind = typing.get_type_hints(cls.__init__)["config"]
            model = cls(from_dict(kind, header["config"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"{folder}: unusable config: {error}") from error
        expected = model.state_dict()
        if expected.keys() != state.keys():
            missing, extra = expected.keys() - state.keys(), state.keys() - expected.keys()
            raise SnapshotError(
                f"{folder}: missing keys {_some(missing)}, unexpected keys {_some(extra)}"
            )
        for name, value in state.items():
            if value.shape != expected[name].shape:
                raise SnapshotError(
                    f"{folder}: {name} has shape {tuple(value.shape)}, "
                    f"the config needs {tuple(expected[name].shape)}"
                )
            if not value.isfinite().all():
                raise SnapshotError(f"{folder}: {name} is not finite")
        model.load_state_dict(
            {name: value.to(expected[name].dtype) for name, value in state.items()}
        )
        return model.to(device).eval()


def find_snapshot(name_or_path: str | Path) -> Path:
    """The folder of a snapshot: by the name of one bundled with this package, else a local path
    (a Path and "./NAME" are always paths)."""
    if is_bundled(name_or_path):
        return BUNDLED / name_or_path
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    names = sorted(
        path.parent.relative_to(BUNDLED).as_posix() for path in BUNDLED.rglob("config.json")
    )
    raise SnapshotError(
        f"no folder {name_or_path!s} and no bundled model of that name: {_some(names)}"
    )


def own_folder(path: str | Path) -> Path:
    """A folder to save to; SnapshotError for a name by which `find_snapshot` finds another."""
    if is_bundled(path):
        raise SnapshotError(f"{path} is the name of a bundled model: save to ./{path}")
    return Path(path)


def is_bundled(name_or_path: str | Path) -> bool:
    """Whether this names a snapshot or model that comes with this package."""
    if isinstance(name_or_path, Path) or name_or_path.startswith("."):
        return False
    return not Path(name_or_path).is_absolute() and (BUNDLED / name_or_path).is_dir()


def read_header(folder: Path) -> dict[str, Any]:
    """What config.json says; SnapshotError where it is of something else, or of a newer library
    than this one."""
    try:
        header = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise SnapshotError(f"cannot read the snapshot in {folder}: {error}") from error
    if not isinstance(header, dict) or not {"class", "config"} <= header.keys():
        raise SnapshotError(f"{folder} holds no snapshot: config.json names no class and config")
    here, there = metadata.version("presto-models"), str(header.get("presto_models", "0"))
    if _release(there) > _release(here):
        raise SnapshotError(
            f"{folder} was written by presto-models {there}, this is {here}: "
            'pip install --upgrade "presto-models"'
        )
    return header


def _release(version: str) -> list[int]:
    """Major and minor number; a third one changes no format."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    A kill or a full disk leaves the earlier file as it was.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # of the same suffix
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def from_dict(kind: Any, value: Any) -> Any:
    """Rebuild a (nested) frozen dataclass from what JSON made of it; unknown keys are an error."""
    if isinstance(kind, types.UnionType):
        return None if value is None else from_dict(typing.get_args(kind)[0], value)
    if typing.get_origin(kind) is tuple:
        return tuple(value)
    if not dataclasses.is_dataclass(kind):
        return value
    known = typing.get_type_hints(kind)
    if unknown := value.keys() - known.keys():
        raise SnapshotError(f"{kind.__name__} has no {_some(unknown)}")
    return kind(**{name: from_dict(known[name], item) for name, item in value.items()})


def _stored(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    value = value.detach().cpu()
    return value.to(dtype or value.dtype).contiguous() if value.is_floating_point() else value


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"
    )
