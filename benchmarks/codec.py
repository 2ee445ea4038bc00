"""Measure the codec on held-out rendered clips (and on a folder of recordings, if given).

    python benchmarks/codec.py --clips 48 --audio DIR --out codec-report

Mono mixes go through encode and decode. Columns: `log-mel L1` (80 bands, natural log of
magnitude, floor 80 dB below the clip's loudest band), `chroma` (correlation of narrow-band
chromagrams), `onset ms` (median distance from a strong onset to the nearest one decoded, in clips
with drums), `within 10 ms` (share of those onsets), `x real time` (decoding alone).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from presto_data import synthetic_corpus
from presto_distill.objectives.autoencoding import mel_bank
from presto_models.autoencoder import Autoencoder
from presto_models.snapshot import find_snapshot

SAMPLE_RATE = 44_100
ONSET_HOP = 110  # samples, 2.5 ms
COLUMNS = ("log-mel L1", "chroma", "onset ms", "within 10 ms", "x real time")


def magnitudes(audio: Float[Tensor, " s"], window: int, hop: int) -> Float[Tensor, "n f"]:
    shape = torch.hann_window(window)
    return torch.stft(audio, window, hop, window=shape, return_complex=True).abs().T


def log_mel_distance(a: Float[Tensor, " s"], b: Float[Tensor, " s"]) -> float:
    """Mean |log mel a - log mel b|; 80 mel bands of magnitudes, floor 80 dB below the peak of a."""
    x, y = (magnitudes(s, 2048, 512) @ mel_bank(80, 1025, SAMPLE_RATE / 2) for s in (a, b))
    floor = 1e-4 * x.max()
    return (x.maximum(floor).log() - y.maximum(floor).log()).abs().mean().item()


def chromagram(audio: Float[Tensor, " s"]) -> Float[Tensor, "n 12"]:
    """Narrow-band (5 Hz) magnitudes from 80 Hz to 4 kHz, folded into pitch classes."""
    spectrum = magnitudes(audio, 8192, 2048)
    hz = torch.linspace(0, SAMPLE_RATE / 2, spectrum.shape[1])
    kept = (hz > 80) & (hz < 4000)
    pitch_class = torch.round(12 * torch.log2(hz[kept] / 440)).long() % 12
    return torch.zeros(len(spectrum), 12).index_add_(1, pitch_class, spectrum[:, kept])


def chroma_correlation(a: Float[Tensor, " s"], b: Float[Tensor, " s"]) -> float:
    """Correlation of two chromagrams, each frame at unit length, silent frames left out."""
    x, y = chromagram(a), chromagram(b)
    loud = x.norm(dim=1) > 1e-3 * x.norm(dim=1).max()
    pair = torch.stack([F.normalize(c[loud]).flatten() for c in (x, y)])
    return torch.corrcoef(pair)[0, 1].item()


def onset_strength(audio: Float[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Mean rise of log mel magnitudes over 10 ms."""
    mel = magnitudes(audio, 1024, ONSET_HOP) @ mel_bank(40, 513, SAMPLE_RATE / 2)
    level = (mel + 1e-3 * mel.max()).log()
    return (level[4:] - level[:-4]).clamp_min(0).mean(1)


def onset_distances(a: Float[Tensor, " s"], b: Float[Tensor, " s"]) -> list[float]:
    """Milliseconds from each strong onset of a to the nearest onset of b."""
    strengths = [onset_strength(s) for s in (a, b)]
    thresholds = [0.4 * strengths[0].max(), 0.1 * strengths[0].max()]
    times = []
    for rise, threshold in zip(strengths, thresholds, strict=True):
        highest = F.max_pool1d(rise[None, None], 41, 1, 20)[0, 0]
        times.append(torch.nonzero((rise == highest) & (rise > threshold)).flatten())
    if not len(times[1]):
        return [float("inf")] * len(times[0])
    frames = (times[0][:, None] - times[1]).abs().amin(1)
    return (frames * 1000 * ONSET_HOP / SAMPLE_RATE).tolist()


@torch.inference_mode()
def reconstruct(codec: Autoencoder, audio: Float[Tensor, " s"]) -> tuple[Tensor, float]:
    """The decoded clip, as long as `audio`, and the seconds that decoding took."""
    latent = codec.encode(audio[None])
    started = time.perf_counter()
    decoded = codec.decode(latent)[0, : len(audio)]
    return decoded, time.perf_counter() - started


def measure(codec: Autoencoder, clips: list[Tensor], percussive: list[bool]) -> dict[str, float]:
    """Means over clips; onsets are those of the clips with drums."""
    mel, chroma, onsets, took = [], [], [], 0.0
    for audio, drums in zip(clips, percussive, strict=True):
        decoded, seconds = reconstruct(codec, audio)
        took += seconds
        mel.append(log_mel_distance(audio, decoded))
        chroma.append(chroma_correlation(audio, decoded))
        if drums:
            onsets += onset_distances(audio, decoded)
    late = torch.tensor(onsets or [float("nan")])
    speed = sum(len(audio) for audio in clips) / SAMPLE_RATE / took
    values = (
        sum(mel) / len(mel),
        sum(chroma) / len(chroma),
        late.median().item(),
        (late <= 10).float().mean().item(),
        speed,
    )
    return dict(zip(COLUMNS, (round(v, 3) for v in values), strict=True))


def rendered(count: int, *, seed: int) -> tuple[list[Tensor], list[bool]]:
    """Mono mixes of rendered clips, and whether drums play in them."""
    clips = list(synthetic_corpus(count, seed=seed, seconds=6.0))
    drums = [any("drum" in name for name in clip.metadata.instruments) for clip in clips]
    return [clip.audio.mean(0) for clip in clips], drums


def recorded(folder: Path, *, seconds: float = 10.0) -> tuple[list[Tensor], list[bool]]:
    """The middle of each recording in a folder, as mono at 44.1 kHz."""
    import soundfile
    import torchaudio

    clips = []
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in {".ogg", ".wav", ".flac", ".mp3"}
    ):
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = torchaudio.functional.resample(torch.from_numpy(audio.mean(1)), rate, SAMPLE_RATE)
        length = min(len(mono), round(seconds * SAMPLE_RATE))
        start = (len(mono) - length) // 2
        clips.append(mono[start : start + length])
    return clips, [True] * len(clips)


def draw(codec: Autoencoder, clips: list[Tensor], path: Path) -> None:
    """Narrow-band spectrograms up to 5 kHz, the full band, and chroma: original above decoded."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2 * len(clips), 3, figsize=(18, 5 * len(clips)), squeeze=False)
    for i, audio in enumerate(clips):
        decoded, _ = reconstruct(codec, audio)
        for row, (name, sound) in zip(
            axes[2 * i : 2 * i + 2], (("original", audio), ("decoded", decoded)), strict=True
        ):
            seconds = len(sound) / SAMPLE_RATE
            level = 20 * magnitudes(sound, 4096, 512).clamp_min(1e-4).log10().T
            wide = 20 * magnitudes(sound, 1024, 256).clamp_min(1e-4).log10().T
            top = level.max().item()
            for ax, image, khz, loudest in (
                (row[0], level[: 2049 * 5 // 22], 5, top),
                (row[1], wide, 22.05, wide.max().item()),
            ):
                extent = (0, seconds, 0, khz)
                ax.imshow(image, origin="lower", aspect="auto", extent=extent, cmap="magma",
                          vmin=loudest - 80, vmax=loudest)  # fmt: skip
                ax.set(title=f"{name}, clip {i}", ylabel="kHz")
            row[2].imshow(F.normalize(chromagram(sound)).T, origin="lower", aspect="auto",
                          extent=(0, seconds, -0.5, 11.5))  # fmt: skip
            row[2].set(title=f"{name}, chroma from A", xlabel="seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", default="presto-small/codec", help="folder or bundled name")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1000, help="the codec was trained on seed 0")
    parser.add_argument("--audio", type=Path, help="also measure the recordings in this folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--card", action="store_true", help="note the table in the codec's card")
    parser.add_argument("--out", type=Path, default=Path("codec-report"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    codec = Autoencoder.from_pretrained(args.codec)
    sets = {f"{args.clips} rendered": rendered(args.clips, seed=args.seed)}
    if args.audio:
        sets["recordings"] = recorded(args.audio)
    table = {name: measure(codec, *clips) for name, clips in sets.items()}

    print(f"seed {args.seed}, {args.threads} threads, {platform.processor() or platform.machine()}")
    print(f"{'':14}" + "".join(f"{name:>14}" for name in COLUMNS))
    for name, row in table.items():
        print(f"{name:14}" + "".join(f"{row[column]:14.3f}" for column in COLUMNS))
    (args.out / "codec.json").write_text(json.dumps(table, indent=1) + "\n")
    if args.card:
        path = find_snapshot(args.codec) / "card.json"
        measured = {"held_out_seed": args.seed, "threads": args.threads, **table}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": measured}, indent=1))
    for name, (clips, _) in sets.items():
        draw(codec, clips[:3], args.out / f"{name.split()[-1]}.png")


if __name__ == "__main__":
    main()
