"""How fast the synthetic corpus renders: seconds of stereo audio per CPU-core second, by genre.

python benchmarks/data.py [clips per genre]
"""

import sys
import time

import torch

from presto_data import synthetic_corpus
from presto_data.genres import GENRES

SECONDS = 6.0


def rate(corpus) -> float:
    """Render a corpus on one core and return seconds of audio per second of processor time."""
    start = time.process_time()
    for clip in corpus:
        assert clip.audio.isfinite().all()
    return len(corpus) * SECONDS / (time.process_time() - start)


def main(clips: int) -> None:
    torch.set_num_threads(1)
    print(f"first {5 * clips} clips, samples decoded on the way: {rate(mixed(5 * clips)):5.1f} s/s")
    for genre in GENRES:
        print(f"{genre:>12}: {rate(synthetic_corpus(clips, seed=1, genres=[genre])):6.1f} s/s")
    print(f"{'all':>12}: {rate(mixed(5 * clips)):6.1f} s/s")


def mixed(clips: int):
    return synthetic_corpus(clips, seed=0, seconds=SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
