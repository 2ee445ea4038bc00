"""What `--set NAME=VALUE` reaches, and how the resolved configuration is kept and compared."""

import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin

from presto_distill.presets import Stage


@dataclass(frozen=True)
class Blocks:
    """Which of the network's blocks a method may be told to use: none."""


@dataclass(frozen=True)
class Tapped(Blocks):
    """Whose hidden states the discriminator reads; empty: those of the block at half depth."""

    tap: tuple[int, ...] = ()


@dataclass(frozen=True)
class Budgeted(Blocks):
    """How many run, per equally probable bin of noise, cleanest first; empty: the student's own
    schedule, or Presto-L's default."""

    budgets: tuple[int, ...] = ()


@dataclass(frozen=True)
class TappedAndBudgeted(Tapped, Budgeted):
    """Both."""


@dataclass(frozen=True)
class Settings:
    """The objective's config, how to train it, and on which blocks."""

    objective: Any
    train: Stage
    blocks: Blocks = Blocks()

    def __post_init__(self) -> None:
        if self.train.steps < 1:
            raise ValueError(f"train.steps must be at least 1, got {self.train.steps}")


def with_pairs(settings: Settings, pairs: Iterable[str]) -> Settings:
    """`settings` after some NAME=VALUE: the objective's fields by their name, others with prefix.

    Dots lead on into a field: train.steps=100, p_gen.rho=9. ValueError lists the valid names.
    """
    changes: dict[tuple[str, ...], tuple[str, str]] = {}
    for pair in pairs:
        name, given, text = pair.partition("=")
        if not given:
            raise ValueError(f"--set takes NAME=VALUE, got {pair!r}")
        path = name if name.split(".")[0] in ("train", "blocks") else f"objective.{name}"
        if path not in (names := list(_names(settings))):
            inside = [valid for valid in names if valid.startswith(f"{path}.")]
            valid = ", ".join(valid.removeprefix("objective.") for valid in inside or names)
            problem = f"{name} is set by its parts" if inside else f"unknown setting {name!r}"
            raise ValueError(f"{problem}: choose from {valid}")
        changes[tuple(path.split("."))] = name, text
    return _with(settings, changes)


def plain(value: Any) -> Any:
    """Configurations as JSON holds them, each with its class beside its fields."""
    if is_dataclass(value):
        kept = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {"class": type(value).__name__, **kept}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def differences(
    before: dict[str, Any], now: dict[str, Any], *, ignore: tuple[str, ...] = ()
) -> str:
    """One line that names what changed between two plain configurations; empty if nothing did."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    names = [
        name for name in {**old, **new} if name not in ignore and old.get(name) != new.get(name)
    ]
    return ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in names)


def _names(config: Any, prefix: str = "") -> Iterator[str]:
    """Every field that holds a value; those that hold a config are given by their own fields."""
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            yield from _names(value, f"{name}.")
        else:
            yield name


def _with(config: Any, changes: dict[tuple[str, ...], tuple[str, str]]) -> Any:
    """`config` with the fields at some paths read from texts, all of them at once: what one value
    may be can depend on another. Names are for errors."""
    values = {}
    for field in {path[0] for path in changes}:
        inside = {path[1:]: change for path, change in changes.items() if path[0] == field}
        if () not in inside:
            values[field] = _with(getattr(config, field), inside)
            continue
        (name, text), kind = inside[()], typing.get_type_hints(type(config))[field]
        try:
            values[field] = _read(kind, text)
        except (ValueError, KeyError):
            raise ValueError(f"{name} must be {_describe(kind)}, got {text!r}") from None
    return replace(config, **values)


def _read(kind: Any, text: str) -> Any:
    """A value of the annotated type; ValueError or KeyError for text that is none."""
    inner = get_args(kind)
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in inner}[text]
    if get_origin(kind) is tuple:
        values = tuple(_read(inner[0], item) for item in text.split(","))
        if inner[-1] is not Ellipsis and len(values) != len(inner):
            raise ValueError
        return values
    if get_origin(kind) is dict:
        pairs = (item.split(":") for item in text.split(","))
        return {player: _read(inner[1], value) for player, value in pairs}
    if isinstance(kind, types.UnionType):
        simple, other = inner
        return _read(other if ":" in text else simple, text)
    value = kind(text)
    if value != value:
        raise ValueError
    return value


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is dict:
        return "player:value,..."
    if get_origin(kind) is tuple:
        return f"{_describe(get_args(kind)[0])}s with commas between"
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_describe, get_args(kind)))
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, str(kind))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)
    else:
        yield name, value
