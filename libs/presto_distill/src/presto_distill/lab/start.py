"""What the start page shows: whether this machine is ready."""

from __future__ import annotations

import torch
from pandas import DataFrame

from presto_distill.provenance import hardware, versions
from presto_models.precision import multiplies_bfloat16
from presto_models.snapshot import SnapshotError, find_snapshot


def machine() -> DataFrame:
    """What runs need, what is here, and what to do where it is missing; one row each."""
    facts, gpu = hardware(), torch.cuda.is_available()
    try:
        model = str(find_snapshot("presto-small").name)
    except SnapshotError as error:
        model = f"missing: {error}"
    fast = multiplies_bfloat16(torch.device("cuda" if gpu else "cpu"))
    rows = {
        "processor": f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} torch threads",
        "memory": f"{facts['memory_gb']:.0f} GB" if facts["memory_gb"] else "unknown",
        "GPU": facts["gpu"] or "none: trainings run on the processor, use preset quick or cpu",
        "bfloat16": "used, the hardware has it" if fast else "not used, the hardware lacks it",
        "bundled model": model,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    return DataFrame(rows.items(), columns=["what", "here"])
