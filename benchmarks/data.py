"""From music to batches: how fast each stage is here, and what 3.6 K hours take at that rate.

    python benchmarks/data.py --audio my-recordings --rates rates.json

Rendering and augmentation in seconds of audio per processor second of one core; encoding, with the
reading of files, in seconds of audio per second by one process and by two that share the job, each
with one thread; batches as a trainer gets them from two workers, and how the memory of all three
processes grows meanwhile. `presto data plan --rates rates.json` answers for other sizes.
"""

import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median

import torch
import tyro
from torch.utils.data import DataLoader

from presto_data import (
    Augment,
    BatchStream,
    Clip,
    Corpus,
    LatentShards,
    Metadata,
    encode_corpus,
    folder_corpus,
    synthetic_corpus,
)
from presto_data.genres import GENRES
from presto_data.plan import Rates, plan
from presto_models import Autoencoder
from presto_models.snapshot import find_snapshot

CROP, BATCH = 128, 64  # latent frames, clips
FRAMES, CHANNELS = 690, 64  # of 32 s


def main(
    *,
    audio: Path | None = None,
    seconds: float = 10.0,
    clips: int = 5,
    repeats: int = 3,
    latents: int = 1024,
    minutes: float = 0.5,
    rates: Path | None = None,
    quick: bool = False,
) -> None:
    """Measure every stage and print one table.

    Args:
        audio: A folder of recordings to encode; rendered music by default.
        seconds: Length of the clips that are rendered, augmented and encoded.
        clips: Rendered of each genre.
        repeats: Of encoding by one process and by two, in turns; the medians count.
        latents: Clips of 32 s, of noise, that batches are drawn from.
        minutes: That batches are drawn for.
        rates: Write the rates of encoding to this file.
        quick: Everything once, only to see that it runs.
    """
    torch.set_num_threads(1)
    if quick:
        seconds, clips, repeats, latents, minutes = 1.0, 1, 1, BATCH, 0.02
    folder = Path(tempfile.mkdtemp(prefix="presto-data-"))
    try:
        for genre in GENRES:
            corpus = synthetic_corpus(clips, seed=1, seconds=seconds, genres=[genre])
            row(f"rendering {genre}", per_core(corpus.make, clips))
        songs = synthetic_corpus(5 * clips, seed=1, seconds=seconds, whole_songs=True)
        row("rendering whole songs", per_core(songs.make, 5 * clips))
        recordings = audio or written(folder / "recordings", clips, seconds)
        heard = folder_corpus(recordings, seconds=seconds)
        row("augmentation", augmentation(heard))
        row("corpus", f"{len(heard)} clips of {seconds:g} s from {audio or 'rendered music'}")
        encoding = encoding_rates(recordings, seconds, repeats, folder)
        shards = noise(folder / "latents", latents)
        row("batches", f"crops of {CROP} frames, drawn anew from mean and scale")
        row("batches, 1 core", f"{one_core(shards, 1 if quick else 100):,.0f} crops per second")
        speed, growth = two_workers(shards, minutes * 60)
        row("batches, 2 workers", f"{speed:,.0f} crops per second")
        row("memory of trainer and workers", growth)
        print(f"\n3,600 hours in clips of 32 s: {plan(3600, encoding, workers=(1, 8, 64))}")
        if rates:
            rates.write_text(json.dumps({"encode": vars(encoding)}) + "\n")
    finally:
        shutil.rmtree(folder)


def row(name: str, value: str) -> None:
    print(f"{name:<32} {value}", flush=True)


def per_core(make: Callable[[int], Clip], clips: int) -> str:
    """Seconds of audio per second of processor time in making clip 0, 1, ..."""
    start = time.process_time()
    made = [make(i) for i in range(clips)]
    spent = time.process_time() - start
    audio = sum(clip.audio.shape[1] / clip.sample_rate for clip in made)
    return f"{audio / spent:.1f} x real time per core"


def augmentation(corpus: Corpus) -> str:
    """Rate of the default augmentation, pitch and tempo in one pass."""
    clips, augment = list(corpus), Augment()
    return per_core(lambda i: augment(clips[i], Random(i)), len(clips))


def written(folder: Path, clips: int, seconds: float) -> Path:
    """Rendered music as files, so that encoding reads files either way."""
    import soundfile

    folder.mkdir()
    for clip in synthetic_corpus(8 * clips, seed=0, seconds=seconds):
        soundfile.write(folder / f"{clip.id}.flac", clip.audio.numpy().T, clip.sample_rate)
    return folder


def encoding_rates(recordings: Path, seconds: float, repeats: int, folder: Path) -> Rates:
    """Print and return the medians of what one process encodes, and each of two."""
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for repeat in range(repeats):
        for processes in found:
            out = folder / f"{processes}-{repeat}"
            found[processes].append(encode_with(processes, recordings, seconds, out))
            shutil.rmtree(out)
    rates = {n: [median(values) for values in zip(*runs, strict=True)] for n, runs in found.items()}
    for n, (rate, per_processor) in rates.items():
        row(
            f"encoding, {n} process{'es' * (n > 1)}",
            f"{rate:.1f} x real time, x {rate / rates[1][0]:.2f}; "
            f"{per_processor:.1f} x per processor second",
        )
    return Rates(alone=rates[1][0], together=rates[2][0] / 2)


def encode_with(processes: int, recordings: Path, seconds: float, out: Path) -> tuple[float, float]:
    """Seconds of audio per second until the index is there, and per second of processor time.

    Where other programs keep the cores busy the second says what the first would be.
    """
    spawn = multiprocessing.get_context("spawn")
    ready, spent = spawn.Barrier(processes + 1), spawn.Array("d", processes)
    team = [
        spawn.Process(target=encode, args=(recordings, seconds, out, ready, spent, number))
        for number in range(processes)
    ]
    for process in team:
        process.start()
    ready.wait()
    start = time.time()
    for process in team:
        process.join()
    shards = LatentShards(out)  # raises if the team failed
    audio = shards.stats["hours"] * 3600
    # A process that finds nothing left looks again now and then: the index says when it was over.
    elapsed = (shards.path / "index.parquet").stat().st_mtime - start
    return audio / elapsed, audio / sum(spent)


def encode(recordings: Path, seconds: float, out: Path, ready, spent, number: int) -> None:
    """One process's share, in batches and shards small enough that both have some of each."""
    torch.set_num_threads(1)
    codec = Autoencoder.from_pretrained(find_snapshot("presto-small") / "codec")
    corpus = folder_corpus(recordings, seconds=seconds)
    codec.encode_distribution(torch.zeros(1, codec.sample_rate))
    noise(out.parent / f"warm-{out.name}-{number}", 1)  # imports
    ready.wait()
    start = time.process_time()
    options = {"hop_length": codec.hop_length, "batch_size": 4, "shard_clips": 4}
    encode_corpus(corpus, codec.encode_distribution, out, key={}, **options, progress=False)
    spent[number] = time.process_time() - start


class Index(Corpus):
    """Clips of one sample each, that an encoder of noise makes 32 s latents of."""

    key = {"index": 1}  # noqa: RUF012

    def __init__(self, clips: int):
        self.clips = clips

    def __len__(self) -> int:
        return self.clips

    def make(self, index: int) -> Clip:
        caption = f"clip number {index} of an orchestra of noise, {60 + index % 100} bpm"
        return Clip(torch.zeros(1, FRAMES), 21, caption, Metadata(tempo=60.0), f"{index}")


def noise(out: Path, clips: int) -> LatentShards:
    """Shards of so many clips with means and scales."""
    rng = torch.Generator().manual_seed(0)

    def encoder(audio):
        mean = torch.randn(len(audio), CHANNELS, FRAMES, generator=rng)
        return mean / 2, mean.abs() / 10

    return encode_corpus(Index(clips), encoder, out, key={}, progress=False)


def one_core(shards: LatentShards, number: int) -> float:
    """Crops per second of processor time, in so many batches."""
    stream = BatchStream(shards, batch_size=BATCH, frames=CROP, seed=1)
    stream.batch(0)
    start = time.process_time()
    for k in range(1, number + 1):
        stream.batch(k)
    return number * BATCH / (time.process_time() - start)


def two_workers(shards: LatentShards, seconds: float) -> tuple[float, str]:
    """Crops per second that two workers hand over, and how memory grew after the first tenth."""
    stream = BatchStream(shards, batch_size=BATCH, frames=CROP, seed=0)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=2))
    for _ in range(8):  # they start
        next(batches)
    drawn, start = 0, time.perf_counter()
    sizes: list[tuple[float, float]] = []  # by time
    while not sizes or sizes[-1][0] < seconds:
        next(batches)
        drawn += 1
        if drawn % 25 == 0:
            sizes.append((time.perf_counter() - start, resident()))
    elapsed, last = sizes[-1]
    settled = next(size for at, size in sizes if at >= elapsed / 10)
    growth = f"{settled:.0f} to {last:.0f} MB, {last / settled - 1:+.2%} in {elapsed:.0f} s"
    return drawn * BATCH / elapsed, growth


def resident() -> float:
    """Megabytes of this process and of its children."""
    team = [multiprocessing.process.current_process().pid]
    team += [child.pid for child in multiprocessing.active_children()]
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in team]
    return sum(pages) * 4096 / 1e6


if __name__ == "__main__":
    tyro.cli(main)
