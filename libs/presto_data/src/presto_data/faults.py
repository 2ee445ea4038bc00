"""What is wrong with a recording, in words that can be counted and listed at the end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from presto_data.clips import ClipError, Problem

SILENCE = 1e-4  # peak, -80 dB
FULL_SCALE = 0.999  # from here on a sample counts as clipped when its neighbours are so too
CLIPPED_SHARE = 0.01
LISTED = 10  # names per reason


class Faults(list[Problem]):
    """The problems found so far; with `strict` the first one is raised as a ClipError."""

    def __init__(self, *, strict: bool = False):
        super().__init__()
        self.strict = strict

    def add(self, name: str, reason: str) -> None:
        if self.strict:
            raise ClipError(name, reason)
        self.append(Problem(name, reason))


def audible_fault(audio: Float[Tensor, "ch s"]) -> str | None:
    """Return "silent" or "clipped, p %" for audio as it is stored, None for sound audio.

    Our definitions: silent is a peak below -80 dB; clipped is more than 1 % of the samples in runs
    of three or more at full scale (0.999). A loud master has single samples or short runs there;
    resampling would hide them.
    """
    level = audio.abs()
    if level.max() <= SILENCE:
        return "silent"
    full = level >= FULL_SCALE
    if full.float().mean() <= CLIPPED_SHARE:
        return None
    middles = full[:, :-2] & full[:, 1:-1] & full[:, 2:]
    in_runs = full.new_zeros(full.shape)
    for shift in range(3):
        in_runs[:, shift : shift + middles.shape[1]] |= middles
    share = in_runs.float().mean().item()
    return f"clipped, {share:.0%} of the samples" if share > CLIPPED_SHARE else None


def report(problems: Iterable[Problem]) -> str:
    """Return how many were left out for each kind of reason, then their names; "" for none.

    The kind is a reason's words before its details, which begin at a comma or parenthesis.
    """
    problems = list(problems)
    if not problems:
        return ""
    kinds = Counter(kind(problem.reason) for problem in problems).most_common()
    lines = [f"{len(problems)} left out: " + ", ".join(f"{n} {reason}" for reason, n in kinds)]
    for reason, n in kinds:
        lines.append(f"{reason}:")
        some = [problem for problem in problems if kind(problem.reason) == reason][:LISTED]
        lines += [
            f"  {name}{why.removeprefix(reason).replace(', ', ': ', 1)}" for name, why in some
        ]
        lines += [f"  and {n - LISTED} more"] * (n > LISTED)
    return "\n".join(lines)


def kind(reason: str) -> str:
    return re.split(r"[,(]", reason, maxsplit=1)[0].strip()
