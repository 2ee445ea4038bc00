"""Speed: the real-time factor, and the time each named stage of generation takes."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def real_time_factor(seconds_of_audio: float, seconds_of_compute: float) -> float:
    """Seconds of audio per second of compute: HIGHER is faster, and 1 keeps up with playback.

    Some papers print the inverse under the same name; state the direction wherever it appears.
    """
    if not (seconds_of_audio > 0 and seconds_of_compute > 0):
        raise ValueError(f"need positive seconds, got {seconds_of_audio} and {seconds_of_compute}")
    return seconds_of_audio / seconds_of_compute


def stage_times(
    stages: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 1,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each named callable, in the order given.

    Rounds visit every stage in turn, so a slow spell of the machine falls on all of them alike.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"need repeats >= 1 and warmup >= 0, got {repeats} and {warmup}")
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for round_number in range(warmup + repeats):
        for name, stage in stages.items():
            _synchronize()
            start = clock()
            stage()
            _synchronize()
            if round_number >= warmup:
                seconds[name].append(clock() - start)
    return {name: median(values) for name, values in seconds.items()}


def _synchronize() -> None:
    """Wait for CUDA, where calls return before their work is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
