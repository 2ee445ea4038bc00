"""Measure the codec on held-out rendered clips (and on a folder of recordings, if given).

    python benchmarks/codec.py --clips 24 --audio DIR --out codec-report

`presto_distill.lab.autoencoder.round_trips` says what is measured; the table holds means over
clips, for the codec as it decodes and for 16 iterations of Griffin-Lim alone; the pictures are
spectrograms of the first ones. The notebook `autoencoder` shows more.
"""

import json
import platform
from pathlib import Path

import torch
import tyro

from presto_data import folder_corpus, synthetic_corpus
from presto_distill.lab.autoencoder import round_trip, round_trips
from presto_distill.lab.plots import spectrograms
from presto_models import Autoencoder
from presto_models.snapshot import find_snapshot

COLUMNS = ["log_mel", "chroma", "onset_ms", "within_10_ms", "times_real_time"]


def main(
    *,
    codec: str = "presto-small/codec",
    clips: int = 24,
    seed: int = 1000,
    audio: Path | None = None,
    threads: int = 2,
    card: bool = False,
    out: Path = Path("codec-report"),
) -> None:
    """Print the table, write codec.json and pictures.

    Args:
        codec: Folder or bundled name.
        clips: Rendered, 6 s each.
        seed: Of these; the codec was trained on seed 0.
        audio: Also measure all excerpts of 10 s of the recordings in this folder.
        threads: Of torch.
        card: Note the table in the codec's card.
        out: Folder for the results.
    """
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    net = Autoencoder.from_pretrained(codec)
    sets = {"rendered": list(synthetic_corpus(clips, seed=seed, seconds=6.0))}
    if audio:
        sets["recordings"] = list(folder_corpus(audio, seconds=10.0))
    ways = [(net.config.phase, net.config.iterations), ("griffin-lim", 16)]
    table = {}
    for name, music in sets.items():
        table[name] = {"clips": len(music)}
        for phase, count in dict.fromkeys(ways):
            means = round_trips(net, music, [count], phases=[phase])[COLUMNS].mean()
            table[name][f"{phase}, {count} iterations"] = means.round(3).to_dict()
        for number, clip in enumerate(music[:3]):
            sound = clip.mono().audio[0]
            sounds = {"original": sound, "decoded": round_trip(net, sound)[0]}
            fig = spectrograms(sounds, sample_rate=clip.sample_rate)
            fig.savefig(out / f"{name}-{number}.png", dpi=120)

    print(f"seed {seed}, {threads} threads, {platform.processor() or platform.machine()}")
    print(json.dumps(table, indent=1))
    (out / "codec.json").write_text(json.dumps(table, indent=1) + "\n")
    if card:
        path = find_snapshot(codec) / "card.json"
        measured = {"held_out_seed": seed, "threads": threads, **table}
        facts = json.loads(path.read_text()) | {"metrics": measured}
        path.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
