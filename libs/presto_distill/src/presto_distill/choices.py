"""What fields of a config may be."""

from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_choices(config: Any) -> None:
    """ValueError for a field of a dataclass that is none of the words its type lists."""
    for name, kind in get_type_hints(type(config)).items():
        value, allowed = getattr(config, name), get_args(kind)
        if get_origin(kind) is Literal and value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def check_weights(config: Any, *names: str) -> None:
    """ValueError for a field of a dataclass that is below 0."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)}")


def check_share(name: str, value: float) -> None:
    """ValueError for a field that is no share of a whole."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be within 0..1, got {value:g}")
