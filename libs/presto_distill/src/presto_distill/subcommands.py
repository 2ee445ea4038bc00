"""Commands that have commands: `presto data encode`, `presto listen build`."""

from collections.abc import Callable
from typing import Annotated, Any, Union

import tyro


def one_of(commands: dict[str, Callable]) -> Any:
    """The type whose parsing runs one of the commands and gives what it returns."""
    choices = tuple(
        Annotated[Any, tyro.conf.subcommand(name=name, constructor=command)]
        for name, command in commands.items()
    )
    return Annotated[Union[choices], tyro.conf.arg(name="")]  # noqa: UP007  of as many as there are
