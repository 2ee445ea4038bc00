"""Train the bundled codec on the rendered corpus: less than half an hour on two CPU cores.

python benchmarks/train_codec.py --clips 2400 --minutes 15 --out presto-small/codec
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.multiprocessing as mp
from jaxtyping import Float
from torch import Tensor

from presto_data import synthetic_corpus
from presto_distill.objective import Batch
from presto_distill.objectives.autoencoding import (
    Autoencoding,
    fit_linear_paths,
    standardise_latents,
)
from presto_models.autoencoder import Autoencoder

SECONDS = 6.0
FRAMES = 128  # spectrogram frames in a training window, 3 s


def clip_log_bands(index: int, *, count: int, seed: int) -> Float[Tensor, "n bands"]:
    """Log magnitudes of one rendered clip, in half precision."""
    torch.set_num_threads(1)
    audio = synthetic_corpus(count, seed=seed, seconds=SECONDS)[index].audio.mean(0)
    return Autoencoder().log_bands(audio[None])[0].half()


def corpus_log_bands(count: int, *, seed: int, workers: int) -> Float[Tensor, "b n bands"]:
    """Log magnitudes of `count` rendered clips, all of one length."""
    make = partial(clip_log_bands, count=count, seed=seed)
    with mp.get_context("spawn").Pool(workers) as pool:
        return torch.stack([x.clone() for x in pool.imap(make, range(count), chunksize=8)])


def augmented_batches(
    log_bands: Float[Tensor, "b n bands"], *, batch: int, rng: torch.Generator
) -> Iterator[Float[Tensor, "b n bands"]]:
    """Random windows; a third are two clips at once; gain up to 6 dB and tilt up to 9 dB."""
    slope = torch.linspace(-0.5, 0.5, log_bands.shape[-1])

    def windows() -> Tensor:
        clips = torch.randint(len(log_bands), (batch,), generator=rng).tolist()
        starts = torch.randint(log_bands.shape[1] - FRAMES, (batch,), generator=rng).tolist()
        pairs = zip(clips, starts, strict=True)
        return torch.stack([log_bands[c, s : s + FRAMES] for c, s in pairs]).float()

    def uniform() -> Tensor:
        return 2 * torch.rand(batch, 1, 1, generator=rng) - 1

    decibel = math.log(10) / 20
    while True:
        x, mixed = windows(), batch // 3
        # Magnitudes of unrelated signals add as powers, near enough.
        x[:mixed] = torch.logaddexp(2 * x[:mixed], 2 * windows()[:mixed]) / 2
        yield x + decibel * (6 * uniform() + 9 * uniform() * slope)


def train(
    log_bands: Float[Tensor, "b n bands"],
    *,
    minutes: float,
    batch: int = 16,
    peak_lr: float = 1e-3,
    seed: int = 0,
    out: Path | None = None,
    autoencoder: Autoencoder | None = None,
) -> tuple[Autoencoder, list[dict[str, float]]]:
    """Adam with a cosine schedule over the time given; returns the codec and its loss curve."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    codec = autoencoder or Autoencoder()
    some = log_bands[:: max(1, len(log_bands) // 400)].float().clamp_min(codec.floor)
    fit_linear_paths(codec, some)
    objective = Autoencoding(codec)
    optimizer = torch.optim.AdamW(
        codec.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    curve, sums, started = [], {}, time.monotonic()
    for step, x in enumerate(augmented_batches(log_bands, batch=batch, rng=rng), start=1):
        done = (time.monotonic() - started) / (60 * minutes)
        if done >= 1:
            break
        lr = peak_lr * min(1, step / 100) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast("cpu", torch.bfloat16):
            terms = objective.loss(Batch(x), rng)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if step in (10, 50, 100) or step % 200 == 0:
            since = step - (curve[-1]["step"] if curve else 0)
            record = {name: round(total / since, 4) for name, total in sums.items()}
            curve.append({"step": step, **record, "minutes": round(done * minutes, 2)})
            sums = {}
            print(curve[-1], flush=True)
            if out and step % 1000 == 0:
                standardise_latents(codec, some)
                codec.save_pretrained(out, dtype=torch.bfloat16)
    standardise_latents(codec, some)
    return codec.eval(), curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="keep the corpus's magnitudes in this file")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    if args.cache and args.cache.exists():
        log_bands = torch.load(args.cache)
    else:
        log_bands = corpus_log_bands(args.clips, seed=args.seed, workers=args.threads)
        if args.cache:
            torch.save(log_bands, args.cache)
    torch.set_num_threads(args.threads)
    print(f"{len(log_bands)} clips of {SECONDS} s", flush=True)
    started = time.time()
    codec, curve = train(log_bands, minutes=args.minutes, out=args.out)
    codec.save_pretrained(args.out, dtype=torch.bfloat16)
    card = {
        "what": "Spectral VAE codec of our own, mono 44.1 kHz, 64 channels at 21.5 Hz",
        "data": f"presto_data.synthetic_corpus({len(log_bands)}, seed={args.seed}, "
        f"seconds={SECONDS}), rendered; no recordings",
        "augmentation": "gain +-6 dB, tilt +-4.5 dB, a third of the windows two clips at once",
        "parameters": sum(p.numel() for p in codec.parameters()),
        "steps": curve[-1]["step"] if curve else 0,
        "batch": "16 windows of 128 spectrogram frames",
        "wall_clock_minutes": round((time.time() - started) / 60, 1),
        "hardware": f"{args.threads} threads of {platform.machine()} CPU, bfloat16 autocast",
        "command": "python benchmarks/train_codec.py " + " ".join(sys.argv[1:]),
        "loss_curve": curve,
    }
    (args.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
