"""What `presto eval` does: measure a folder of generated audio against a reference and prompts.

Every number is printed with its interval and beside the embedder, counts and seed it depends on.
Speed cannot be told from files: see `metrics.latency`.
"""

import csv
import json
import math
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from presto_data import FileCorpus, folder_corpus
from presto_distill.metrics import ReferenceStatistics, Score, evaluate
from presto_distill.metrics.clap_score import prompt_similarity, retrieval_hits
from presto_distill.metrics.embed import AudioEmbedder, JointEmbedder, open_embedder
from presto_distill.metrics.music import (
    METRICAL,
    chroma,
    key,
    key_score,
    parse_key,
    tempo,
    tempo_matches,
)
from presto_distill.metrics.scores import mean_scores
from presto_distill.metrics.tags import TAGS, tag_divergences, tag_probabilities

SMALLEST = 6  # clips in a set: precision and recall look at five neighbours
LONGEST = 3600  # seconds of a clip; a folder of them must fit into memory
BATCH = 16  # clips embedded at once


@dataclass(frozen=True)
class EvalConfig:
    """What to compare with what. Our defaults."""

    generated: Path
    reference: Path | None = None  # a folder of audio, or statistics that `save_reference` wrote
    embedder: str = "presto-small"  # or log-mel, or clap:PATH
    prompts: Path | None = None  # CSV of file and any of prompt, bpm, key
    paired: bool = False  # clip i of both folders belong together, in order of their names
    seconds: float = 10.0  # of the clips that files are cut into, or repeated to fill
    seed: int = 0
    bootstrap: int = 100
    save_reference: Path | None = None

    def __post_init__(self):
        if self.reference is None and self.prompts is None:
            raise ValueError("nothing to compare with: give --reference, --prompts or both")
        if self.seconds > LONGEST:
            raise ValueError(f"--seconds must be at most {LONGEST}, got {self.seconds:g}")
        folder = self.reference is not None and not self.reference.is_file()
        for option in ("paired", "save_reference"):
            if getattr(self, option) and not folder:
                name = option.replace("_", "-")
                raise ValueError(f"--{name} needs --reference to be a folder of audio")


@dataclass(frozen=True)
class Asked:
    """What the clips of one file should be; empty or None where nothing was asked."""

    prompt: str = ""
    bpm: float | None = None
    key: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Scores with the number of generated clips behind each, and the facts they depend on."""

    scores: dict[str, tuple[Score, int]]
    facts: dict[str, Any]

    def as_json(self) -> str:
        rows = {name: {**asdict(s), "clips": count} for name, (s, count) in self.scores.items()}
        return json.dumps({"scores": rows, **self.facts}, indent=2) + "\n"

    def __str__(self) -> str:
        width = max(map(len, self.scores))
        rows = [f"{'':<{width}}  {'value':>9}  {'95 % interval':<22}  clips"]
        for name, (s, count) in self.scores.items():
            interval = f"[{s.low:.4g}, {s.high:.4g}]"
            rows.append(f"{name:<{width}}  {s.value:>9.4g}  {interval:<22}  {count:>5}")
        facts = [
            f"{name.replace('_', ' ')}: {f'{value:.3g}' if isinstance(value, float) else value}"
            for name, value in self.facts.items()
        ]
        return "\n".join([*rows, "", *facts])


def evaluate_folder(config: EvalConfig) -> Evaluation:
    """Embed the folders and compute every metric that applies.

    Set-level metrics need a reference; those of single samples a reference folder. CLAP score and
    retrieval need prompts and an embedder of words, tempo and key what was asked for them, and KL
    on tags paired folders. Intervals take clips for independent: where files are cut into several,
    they are too narrow. Raises ValueError, in one line, for input that cannot be used.
    """
    embedder = open_embedder(config.embedder)
    joint = isinstance(embedder, JointEmbedder)
    if config.paired and not joint:
        raise ValueError(f"--paired compares tags, and {config.embedder} knows no words")
    # Statistics over time depend on the length, so it is part of what they are statistics of.
    measure = f"{embedder.name}, clips of {config.seconds:g} s"
    facts: dict[str, Any] = {
        "embedder": measure,
        "seed": config.seed,
        "bootstrap": config.bootstrap,
    }
    asked = read_prompts(config.prompts) if config.prompts else {}

    corpus = open_folder(config.generated, embedder, config.seconds)
    wishes = wishes_of(corpus, asked) if asked else []
    if config.seconds < 4 and any(wish.bpm for wish in wishes):
        raise ValueError(f"tempo needs clips of at least 4 s, got --seconds {config.seconds:g}")
    reference = None
    if config.reference is not None and config.reference.is_file():
        reference = ReferenceStatistics.load(config.reference, embedder=measure)
        facts["reference_digest"] = reference.digest
    elif config.reference is not None:
        other = open_folder(config.reference, embedder, config.seconds)
        if config.paired:
            check_pairs(corpus, other)
        reference = embed_corpus(other, embedder)
        statistics = ReferenceStatistics.fit(reference, embedder=measure)
        facts |= {"reference_digest": statistics.digest, "reference_left_out": len(other.problems)}
        if config.save_reference:
            statistics.save(config.save_reference)

    generated = embed_corpus(corpus, embedder)
    facts |= {"generated_clips": len(generated), "generated_left_out": len(corpus.problems)}
    scores: dict[str, tuple[Score, int]] = {}
    if reference is not None:
        sets = evaluate(
            generated, reference, seed=config.seed, embedder=measure, bootstrap=config.bootstrap
        )
        facts["reference_clips"] = sets.reference_count
        facts["frechet_bias"] = sets.frechet_bias
        facts["frechet_infinity_r_squared"] = sets.frechet_infinity_r_squared
        scores = {
            name: (s, len(generated)) for name, s in vars(sets).items() if isinstance(s, Score)
        }

    each: dict[str, Tensor] = {}
    prompted = [i for i, wish in enumerate(wishes) if wish.prompt]
    if joint and prompted:
        text = embed_texts(embedder, [wishes[i].prompt for i in prompted])
        each["clap_score"] = prompt_similarity(generated[prompted], text)
        each["prompt_retrieval"], facts["prompt_chance"] = retrieval_hits(generated[prompted], text)
    if config.paired:
        tags = embed_texts(embedder, list(TAGS))
        heard, meant = (tag_probabilities(x, tags) for x in (generated, reference))
        each["tag_divergence"] = tag_divergences(heard, meant)
    each |= musical_measures(corpus, wishes)
    means = mean_scores(each, seed=config.seed, bootstrap=config.bootstrap)
    scores |= {name: (score, len(each[name])) for name, score in means.items()}
    if not scores:
        raise ValueError(f"{config.prompts}: nothing that {config.embedder} can measure")
    return Evaluation(scores, facts)


def open_folder(folder: Path, embedder: AudioEmbedder, seconds: float) -> FileCorpus:
    """The clips of a folder; names files that cannot be used, and ValueError for too few clips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names the same files, less readably
        corpus = folder_corpus(folder, seconds=seconds, sample_rate=embedder.sample_rate)
    for name, reason in corpus.problems:
        print(f"left out {name}: {reason}", file=sys.stderr)
    if len(corpus) < SMALLEST:
        raise ValueError(
            f"{folder}: {len(corpus)} clips of {seconds:g} s, at least {SMALLEST} are needed"
        )
    return corpus


@torch.inference_mode()
def embed_corpus(corpus: FileCorpus, embedder: AudioEmbedder) -> Float[Tensor, "n d"]:
    """One row per clip, from its mono mix."""
    parts = []
    for first in range(0, len(corpus), BATCH):
        last = min(first + BATCH, len(corpus))
        audio = torch.stack([corpus[i].mono().audio for i in range(first, last)])
        parts.append(embedder.embed(audio).double().cpu())
    return torch.cat(parts)


@torch.inference_mode()
def embed_texts(embedder: JointEmbedder, texts: list[str]) -> Float[Tensor, "n d"]:
    """One row per text, equal for equal texts."""
    distinct = list(dict.fromkeys(texts))
    rows = embedder.embed_text(distinct).double().cpu()
    return rows[[distinct.index(text) for text in texts]]


def musical_measures(corpus: FileCorpus, wishes: list[Asked]) -> dict[str, Float[Tensor, " _"]]:
    """Tempo accuracies 1 and 2 and the key score of each clip for which a tempo or key was asked.

    A clip without a pulse misses every tempo.
    """
    tempos, keys = [], []
    for index, wish in enumerate(wishes):
        if not (wish.bpm or wish.key):
            continue
        clip = corpus[index].mono()
        audio, rate = clip.audio[0], clip.sample_rate
        if wish.bpm:
            estimate = tempo(audio, sample_rate=rate)
            levels = [tempo_matches(estimate, wish.bpm, factors=f) for f in ((1,), METRICAL)]
            tempos.append(levels)
        if wish.key:
            keys.append(key_score(key(chroma(audio, sample_rate=rate)), wish.key))
    measures = {}
    if tempos:
        exact, metrical = torch.tensor(tempos).double().T
        measures = {"tempo_accuracy_1": exact, "tempo_accuracy_2": metrical}
    if keys:
        scored = torch.tensor(keys).double()
        measures |= {"key_accuracy": (scored == 1).double(), "key_score": scored}
    return measures


def read_prompts(path: Path) -> dict[str, Asked]:
    """What was asked of each file, from a CSV with the column file and any of prompt, bpm, key.

    Raises ValueError naming the line that cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if not rows or "file" not in rows[0] or not rows[0].keys() & {"prompt", "bpm", "key"}:
        raise ValueError(f"{path}: needs rows with the column file and any of prompt, bpm, key")
    asked = {}
    for number, row in enumerate(rows, start=2):
        cells = {name: (row.get(name) or "").strip() for name in ("file", "prompt", "bpm", "key")}
        try:
            bpm = float(cells["bpm"]) if cells["bpm"] else None
            if bpm is not None and not (math.isfinite(bpm) and bpm > 0):
                raise ValueError(f"{bpm} is no tempo")
            if cells["key"]:
                parse_key(cells["key"])
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        if cells["file"] in asked:
            raise ValueError(f"{path}, row {number}: a second row for {cells['file']}")
        asked[cells["file"]] = Asked(cells["prompt"], bpm, cells["key"])
    return asked


def wishes_of(corpus: FileCorpus, asked: dict[str, Asked]) -> list[Asked]:
    """What was asked of each clip, by its file's path in the folder; ValueError where unknown."""
    wishes = []
    for excerpt in corpus.excerpts:
        name = excerpt.recording.name
        if name not in asked:
            raise ValueError(f"the prompts have no row for the file {name}")
        wishes.append(asked[name])
    return wishes


def check_pairs(generated: FileCorpus, reference: FileCorpus) -> None:
    """ValueError unless clip i of one can belong to clip i of the other."""
    if problems := [*generated.problems, *reference.problems]:
        name, reason = problems[0]
        raise ValueError(f"paired folders must be whole, but {name} cannot be used: {reason}")
    counts = len(generated), len(reference)
    if counts[0] != counts[1]:
        raise ValueError(f"paired folders differ: {counts[0]} clips generated, {counts[1]} given")
    for ours, theirs in zip(generated.excerpts, reference.excerpts, strict=True):
        if ours.start != theirs.start:
            raise ValueError(
                f"paired clips differ: {ours.recording.path.name} at {ours.start:g} s, "
                f"{theirs.recording.path.name} at {theirs.start:g} s"
            )
