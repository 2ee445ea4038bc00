"""Where results and weights come from: machine, versions, commit."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("presto-models", "presto-data", "presto-distill", "torch", "numpy", "seaborn")


def hardware() -> dict[str, Any]:
    """CPU model, cores this process may use, torch's threads, memory in GB, GPU if any."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": names[0].strip() if names else platform.processor() or platform.machine(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gb": _guess(lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@cache
def code_digest(package: str) -> str:
    """Of every file of a package but bundled models, whether committed or not."""
    root, digest = Path(str(resources.files(package))), sha256()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not {"__pycache__", "pretrained"} & set(name.parts):
            digest.update(str(name).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str | None:
    """The checkout's commit, marked if files differ from it; None outside a checkout.

    A virtual environment inside another project's repository is outside.
    """

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    def ask() -> str:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = " with local changes" if git("status", "--porcelain", "-uno") else ""
        return git("rev-parse", "--short", "HEAD") + changed

    return _guess(ask)


def peak_memory_gb() -> float | None:
    """The most memory this process ever held, in GB; None where the system does not say."""

    def peak() -> float:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)

    return _guess(peak)


def _guess(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (OSError, ValueError, ImportError, subprocess.SubprocessError):
        return None
