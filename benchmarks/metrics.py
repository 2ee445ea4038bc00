"""Time the Fréchet distance against a general matrix square root, and neighbourhoods at full size.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py [--samples 10000] [--dim 512] [--repeats 9]

`sqrtm` is the formula of common FAD tools: scipy.linalg.sqrtm of the product of both covariances,
with eps added to their diagonals where the root is not finite. Each round times every variant in
turn; the ratio is the median over rounds. Memory is the peak of a fresh process above its inputs.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import scipy.linalg
import torch

from presto_distill.metrics.frechet import frechet_distance, gaussian_frechet_distance
from presto_distill.metrics.prdc import prdc

EPS = 1e-6


def sqrtm_distance(mean_x, covariance_x, mean_y, covariance_y) -> float:
    """d² with the trace of the matrix square root of Cx Cy."""
    root = scipy.linalg.sqrtm(covariance_x @ covariance_y)
    if not np.isfinite(root).all():
        offset = EPS * np.eye(len(mean_x))
        root = scipy.linalg.sqrtm((covariance_x + offset) @ (covariance_y + offset))
    trace = np.trace(covariance_x) + np.trace(covariance_y) - 2 * np.trace(root.real)
    return float(((mean_x - mean_y) ** 2).sum() + trace)


def samples(count: int, dim: int, seed: int) -> torch.Tensor:
    """Correlated and off centre, as embeddings are."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=random) / dim**0.5
    return torch.randn(count, dim, generator=random) @ mix + 0.1 * seed


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_frechet(count: int, dim: int, repeats: int) -> None:
    x, y = samples(count, dim, 0).double(), samples(count, dim, 1).double()
    moments = x.mean(0), x.T.cov(), y.mean(0), y.T.cov()
    arrays = [m.numpy() for m in moments]

    def sqrtm_from_samples() -> float:
        a, b = x.numpy(), y.numpy()
        return sqrtm_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))

    variants = {
        "sqrtm, from moments": lambda: sqrtm_distance(*arrays),
        "ours, from moments": lambda: gaussian_frechet_distance(*moments),
        "sqrtm, from samples": sqrtm_from_samples,
        "ours, from samples": lambda: frechet_distance(x, y),
    }
    values = [work() for work in variants.values()]  # also the warm-up
    spread = (max(values) - min(values)) / values[0]
    rounds = [[seconds(work) for work in variants.values()] for _ in range(repeats)]
    print(f"Fréchet distance, {count} samples of {dim} dimensions, relative spread {spread:.1e}")
    for name, each in zip(variants, zip(*rounds, strict=True), strict=True):
        print(f"  {name}: {1e3 * median(each):.1f} ms")
    for name, first in (("moments", 0), ("samples", 2)):
        ratio = median(times[first] / times[first + 1] for times in rounds)
        print(f"  from {name}: {ratio:.1f} x faster")


def measure_prdc(count: int, dim: int) -> None:
    torch.set_num_threads(1)
    x, y = samples(count, dim, 0), samples(count, dim, 1) - 0.1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = seconds(lambda: print(prdc(x, y)))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"  {taken:.1f} s, {peak:.0f} MiB above the inputs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"one thread; torch {torch.__version__}, scipy {scipy.__version__}")
    time_frechet(2 * args.dim, args.dim, args.repeats)
    print(f"precision, recall, density, coverage, {args.samples} x {args.samples} x {args.dim}")
    process = multiprocessing.get_context("spawn").Process(
        target=measure_prdc, args=(args.samples, args.dim)
    )
    process.start()
    process.join()


if __name__ == "__main__":
    main()
