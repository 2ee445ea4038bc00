"""The clips of a listening test, made by the systems under test."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from presto_distill.experiment import Lab, Run
from presto_distill.lab import probes, studies
from presto_distill.sound_files import write_audio
from presto_models import Sampling


@torch.inference_mode()
def clips_to_rate(
    lab: Lab, systems: dict[str, tuple[Run | None, Sampling]], folder: Path, *, clips: int
) -> Path:
    """Write what a listening test compares to `folder`/SYSTEM/NUMBER.flac, with prompts.csv.

    Every system plays the captions of the same held-out clips; these are there too, decoded from
    their latents as the others are, as "held-out music".
    """
    n = min(clips, len(lab.held_out), lab.preset.samples)
    sound = {"held-out music": lab.codec.decode(probes.held_out_clips(lab, n)[0])[:, None]}
    for name, (run, sampling) in systems.items():
        made = studies.pipeline_of(lab, run)(
            lab.held_out.captions[:n],
            bpm=None,
            seconds=lab.preset.frames * lab.codec.hop_length / lab.codec.sample_rate,
            seed=lab.seed,
            sampling=sampling,
        )
        sound[name] = made.audios
    for old in folder.glob("*/*.flac"):  # clips of earlier runs are of another test
        old.unlink()
    for name, audios in sound.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, audio in enumerate(audios):
            write_audio(folder / name / f"{number}.flac", audio, lab.codec.sample_rate)
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{i}.flac", lab.held_out.captions[i]) for i in range(n)]
        csv.writer(file).writerows([("file", "prompt"), *rows])
    return folder
