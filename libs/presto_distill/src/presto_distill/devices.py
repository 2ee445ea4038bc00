"""Where a command may compute."""

import torch


def check_device(name: str) -> None:
    """ValueError where this machine has no such device."""
    kind, _, index = name.partition(":")
    found = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(kind, 0)
    if not found or (index and not (index.isdecimal() and int(index) < found)):
        raise ValueError(f"no device {name!r} here: choose cpu, or cuda on a machine with a GPU")
