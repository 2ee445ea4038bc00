"""Turn folders of clips into a blind, randomised, loudness-matched rating page.

Modelled on MUSHRA (ITU-R BS.1534-3): all versions of a clip side by side, sliders from 0 to 100, a
hidden reference and a low-pass anchor if there is a reference. Text-to-music has none: raters then
see the prompt, which makes it MUSHRA-style only.

    OUT/key.json            which file is whose, and what is asked; not for raters. The key of
                            another test that was there becomes key-ID.json: its raters may answer
    OUT/page/index.html     opens from any folder or stick, needs no server and no network
    OUT/page/audio/*.flac   44.1 kHz, 16 bit, equally loud, names that say nothing
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from presto_data import load_audio
from presto_data.audio import FORMATS
from presto_distill.sound_files import write_audio
from presto_models.snapshot import write_atomic

SAMPLE_RATE = 44_100  # Hz
ANCHOR = "anchor"
ANCHOR_HZ = 3500.0  # BS.1534's low anchor
FADE = 0.02  # seconds, where clips are cut to the same length
PEAK = 0.99


@dataclass(frozen=True)
class TestConfig:
    """What raters are asked, and how the clips are prepared."""

    __test__ = False  # not a test of pytest

    title: str = "Listening test"
    question: str = "How good is this as music, and how well does it fit the description?"
    reference: str | None = None  # the system that the others are compared with
    lufs: float = -23.0  # ITU-R BS.1770, EBU R 128's level; lower where a peak would clip
    seed: int = 0


class Item(NamedTuple):
    """One clip in the versions of all systems."""

    name: str
    text: str
    versions: dict[str, Path]


def build(clips: Path, out: Path, config: TestConfig = TestConfig()) -> Path:
    """Write the page for `clips`/SYSTEM/ITEM.wav (or flac, ogg, mp3) and return its index.html.

    Every system must hold every item; `clips`/prompts.csv (columns file, prompt) says what was
    asked for. Versions of an item are cut to the shortest. Raises ValueError for systems that
    differ in items, fewer than two versions, and audio that is unreadable, silent or too short
    to have a loudness (0.4 s).
    """
    items = list(find_items(clips))
    if config.reference is not None and config.reference not in items[0].versions:
        known = ", ".join(items[0].versions)
        raise ValueError(f"no system {config.reference!r} in {clips}: it holds {known}")
    random = Random(f"{config.seed} {_digest(items)}")  # another test has other names
    levelled = {item.name: prepared(item, config) for item in items}
    gain = min(1.0, *(PEAK / a.abs().max().item() for v in levelled.values() for a in v.values()))

    audio = out / "page" / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    for old in audio.glob("*.flac"):  # of a test built before
        old.unlink()
    key, trials, sounds = {}, [], {}
    for item in items:
        named = {system: f"{random.getrandbits(48):012x}" for system in levelled[item.name]}
        for system, name in named.items():
            sounds[name] = levelled[item.name][system]
            key[name] = {"item": item.name, "system": system}
        trial = {"item": item.name, "text": item.text, "stimuli": sorted(named.values())}
        if config.reference:  # heard openly too, under a name of its own
            trial["reference"] = f"{random.getrandbits(48):012x}"
            sounds[trial["reference"]] = levelled[item.name][config.reference]
        trials.append(trial)
    for name, sound in sorted(sounds.items()):  # in this order times of files say nothing either
        write_audio(audio / f"{name}.flac", gain * sound, SAMPLE_RATE)

    test = f"{random.getrandbits(32):08x}"
    facts = {"test": test, "reference": config.reference, "seed": config.seed}
    level = {"lufs": config.lufs, "gain": gain}
    asked = {"question": config.question, "trials": trials}
    facts |= {**level, **asked, "stimuli": key}
    if (file := out / "key.json").exists():
        earlier = json.loads(file.read_text(encoding="utf-8"))["test"]
        if earlier != test:
            file.rename(out / f"key-{earlier}.json")
    _write_text(file, json.dumps(facts, indent=2) + "\n")
    shown = {"test": test, "title": config.title, **asked}
    page = (files("presto_distill.lab.listening") / "page.html").read_text(encoding="utf-8")
    # A caption may hold anything, "</script>" too.
    inline = json.dumps(shown).replace("<", "\\u003c")
    return _write_text(out / "page" / "index.html", page.replace("{{TEST}}", inline))


def _digest(items: list[Item]) -> str:
    """What a test is of: systems, items, words and sounds."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.name}\n{item.text}\n".encode())
        for system, path in sorted(item.versions.items()):
            digest.update(f"{system}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def find_items(clips: Path) -> Iterator[Item]:
    """The items that the folders of all systems share, by name; ValueError where they differ."""
    if not clips.is_dir():
        raise ValueError(f"{clips}: no such folder; give one with a folder of clips per system")
    systems = {
        folder.name: clips_in(folder) for folder in sorted(clips.iterdir()) if folder.is_dir()
    }
    systems = {name: found for name, found in systems.items() if found}
    if len(systems) < 2:
        raise ValueError(
            f"{clips} holds clips of {len(systems)} systems, at least 2 are compared: "
            f"put them in {clips}/SYSTEM/CLIP.wav"
        )
    if ANCHOR in systems:
        raise ValueError(f"{clips / ANCHOR}: {ANCHOR!r} is the name of the low-pass version")
    names = sorted(set().union(*systems.values()))
    for system, found in systems.items():
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"{clips / system} lacks {', '.join(missing[:5])}")
    prompts = _prompts(clips / "prompts.csv", names)
    for name in names:
        versions = {system: found[name] for system, found in systems.items()}
        yield Item(name, prompts[name], versions)


def clips_in(folder: Path) -> dict[str, Path]:
    """Audio files by the stem of their names; ValueError where two share one."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in FORMATS and found.setdefault(path.stem, path) is not path:
            raise ValueError(f"{path} and {found[path.stem].name}: which is the clip {path.stem}?")
    return found


def prepared(item: Item, config: TestConfig) -> dict[str, Float[Tensor, "ch s"]]:
    """An item's versions by system, equally long and loud; with the anchor, if there is a
    reference."""
    versions = {name: load_audio(path) for name, path in item.versions.items()}
    length = min(audio.shape[1] for audio in versions.values())
    fade = torch.linspace(1, 0, min(length, round(FADE * SAMPLE_RATE)))
    for name, audio in versions.items():
        # BS.1770 adds channels up: a mono version beside a stereo one would play 3 dB louder.
        cut = audio[:2, :length].expand(2, -1).clone()
        if audio.shape[1] > length:
            cut[:, -len(fade) :] *= fade
        versions[name] = cut
    if config.reference:
        versions[ANCHOR] = low_passed(versions[config.reference])
    return {
        name: at_loudness(audio, config.lufs, f"{item.name} of {name}")
        for name, audio in versions.items()
    }


def low_passed(audio: Float[Tensor, "ch s"]) -> Float[Tensor, "ch s"]:
    """Nothing above 3.5 kHz (cut off in the spectrum of the whole clip)."""
    spectrum = torch.fft.rfft(audio)
    hertz = torch.fft.rfftfreq(audio.shape[1], 1 / SAMPLE_RATE)
    return torch.fft.irfft(spectrum * (hertz < ANCHOR_HZ), audio.shape[1])


def at_loudness(audio: Float[Tensor, "ch s"], lufs: float, name: str) -> Float[Tensor, "ch s"]:
    """The audio at an integrated loudness (BS.1770); peaks may pass 1."""
    from torchaudio.functional import loudness

    if audio.shape[1] < 0.4 * SAMPLE_RATE:
        raise ValueError(f"{name} is {audio.shape[1] / SAMPLE_RATE:.2f} s short: 0.4 s are needed")
    # torchaudio's filters clip at 1, and the first lifts treble by 4 dB: measure at a quarter.
    now = loudness(audio / 4, SAMPLE_RATE).item() + 20 * math.log10(4)
    if not now > -70:  # BS.1770's absolute gate; silence gives NaN or minus infinity
        raise ValueError(f"{name} is silent")
    return audio * 10 ** ((lufs - now) / 20)


def _prompts(path: Path, names: list[str]) -> dict[str, str]:
    """What was asked for, by the stem of the file's name; that name where no file says so."""
    if not path.is_file():
        return {name: name for name in names}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"file", "prompt"} <= rows[0].keys():
        raise ValueError(f"{path} needs the columns file and prompt, not {', '.join(rows[0])}")
    if bare := [row["file"] for row in rows if not row["prompt"]]:
        raise ValueError(f"{path} has no prompt for {bare[0]}")
    prompts = {Path(row["file"]).stem: row["prompt"] for row in rows}
    if missing := [name for name in names if name not in prompts]:
        raise ValueError(f"{path} has no row for {missing[0]}")
    return prompts


def _write_text(path: Path, text: str) -> Path:
    write_atomic(path, lambda to: to.write_text(text, encoding="utf-8"))
    return path
