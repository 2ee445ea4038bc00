"""What can be done to a module from outside: look at its submodules' outputs, stop it, shorten it.

Everything lasts for one call, so that copies of a module share nothing and its weights keep their
names. Meanwhile other threads would see it too: let them wait (`one_at_a_time`).
"""

import difflib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

_turn = threading.RLock()


def one_at_a_time(function: Callable) -> Callable:
    """The function, for one thread at a time of all that call functions made so."""

    @functools.wraps(function)
    def waiting(*args, **options):
        with _turn:
            return function(*args, **options)

    return waiting


class Enough(Exception):
    """Ends a pass of which no more is needed."""


@contextmanager
def watch(modules: dict[int, nn.Module], channels: str, *, stop: bool) -> Iterator[dict]:
    """A dict that receives each module's output as tokens, by the key it goes by.

    With `stop`, what runs within ends where the last of them is known.
    """
    seen: dict[int, Tensor] = {}
    enough = Enough()

    def note(key: int):
        def hook(module, inputs, output):
            seen[key] = tokens(output[0] if isinstance(output, tuple) else output, channels)
            if stop and len(seen) == len(modules):
                raise enough

        return hook

    handles = [module.register_forward_hook(note(key)) for key, module in modules.items()]
    try:
        yield seen
    except Enough as raised:
        if raised is not enough:  # somebody else's who watches from further out
            raise
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def only_blocks(blocks: nn.Module, kept: list[int], path: str) -> Iterator[None]:
    """Within this context the list holds the kept blocks, which must leave shapes as they are."""

    def check(i: int):
        def hook(module, args, kwargs, output):
            before = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
            after = output[0] if isinstance(output, tuple) else output
            if before.shape != after.shape:
                raise ValueError(
                    f"block {i} of {path!r} turns {tuple(before.shape)} into {tuple(after.shape)}: "
                    "only blocks that keep the shape can be dropped"
                )

        return hook

    handles = [blocks[i].register_forward_hook(check(i), with_kwargs=True) for i in kept]
    every = blocks._modules
    blocks._modules = {str(n): blocks[i] for n, i in enumerate(kept)}
    try:
        yield
    finally:
        blocks._modules = every
        for handle in handles:
            handle.remove()


def tokens(hidden: Float[Tensor, "b ..."], channels: str) -> Float[Tensor, "b n d"]:
    """A module's output as tokens, from (b, d, *spatial) with channels "first", as convolutions
    have them, or (b, *n, d) with channels "last"; a vector is one token."""
    if channels not in ("first", "last"):
        raise ValueError(f'channels must be "first" or "last", got {channels!r}')
    if hidden.ndim == 2:
        return hidden.unsqueeze(1)
    return hidden.flatten(1, -2) if channels == "last" else hidden.flatten(2).transpose(1, 2)


def find_submodule(net: nn.Module, path: str, *, lists_only: bool = False) -> nn.Module:
    """The submodule of that path; ValueError lists those there are, the most similar first."""
    found = {
        name: module
        for name, module in net.named_modules()
        if name and (not lists_only or isinstance(module, nn.ModuleList | nn.Sequential))
    }
    if path in found:
        return found[path]
    near = difflib.get_close_matches(path, found, n=len(found) or 1, cutoff=0.0)[:20]
    rest = f" and {len(found) - len(near)} more" if len(found) > len(near) else ""
    kind = "nn.ModuleList or nn.Sequential" if lists_only else "submodule"
    raise ValueError(f"no {kind} {path!r}: choose from {', '.join(near) or 'none'}{rest}")
