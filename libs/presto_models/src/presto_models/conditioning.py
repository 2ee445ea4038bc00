"""What the denoiser is told: words, tempo, key, timing and tags."""

import re
import warnings
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from presto_models.attention import attention
from presto_models.blocks import Fourier, SwiGLU
from presto_models.snapshot import Snapshot

MAX_PROMPT = 1000  # characters
TEMPO_RANGE = (20.0, 400.0)  # beats per minute
TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
TIMING_UNIT = 512.0  # seconds, in which Fourier features turn by 1/4 to 64 waves; our default
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)


class Condition(NamedTuple):
    """What a batch of clips should be. A NamedTuple, so it is a pytree and splits by sample.

    The leaves from `key` on are for networks built with them (`DiTConfig`); None: never stated.
    """

    text: Float[Tensor, "b k w"]  # prompt tokens from a text encoder
    mask: Bool[Tensor, "b k"]  # which of them are there
    tempo: Float[Tensor, " b"]  # beats per minute; 0 = not stated
    key: Int[Tensor, " b"] | None = None  # 1 + its place in KEYS; 0 = not stated
    start: Float[Tensor, " b"] | None = None  # seconds into its recording at which the clip begins
    total: Float[Tensor, " b"] | None = None  # seconds the recording lasts; 0 = not stated
    tags: Bool[Tensor, "b g"] | None = None  # one column per tag of the network's vocabulary
    beat: Float[Tensor, " b"] | None = None  # on which the clip begins, since the music did; 0


def null_condition(cond: Condition) -> Condition:
    """The condition of equal shape that says nothing, for guidance and condition dropout.

    It keeps the timing, as Stable Audio does: guidance strengthens what is asked of the music, not
    how long it lasts.
    """
    silent = Condition(*(None if leaf is None else torch.zeros_like(leaf) for leaf in cond))
    return silent._replace(start=cond.start, total=cond.total)


class Prompt(NamedTuple):
    """A prompt taken apart; None = not stated."""

    words: str
    tempo: float | None = None  # beats per minute
    key: str | None = None  # one of KEYS


def parse_prompt(prompt: str) -> Prompt:
    """Split "driving techno --bpm 140 --key A minor" into words, 140.0 and "A minor".

    Raises ValueError for an empty or overlong prompt, an unknown option, an impossible tempo or
    key.
    """
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"prompt has {len(prompt)} characters, at most {MAX_PROMPT} are allowed")
    words, *options = re.split(r"\s--(?=\w)", f" {prompt.strip()}")
    tempo = key = None
    for option in options:
        if (tempo and option.startswith("bpm")) or (key and option.startswith("key")):
            raise ValueError(f"prompt {prompt!r} states {option[:3]} twice")
        if match := re.fullmatch(r"bpm[\s=]+(\d+(?:\.\d+)?)\s*", option):
            tempo = check_tempo(float(match[1]))
        elif match := re.fullmatch(r"key[\s=]+(\S.*)", option):
            key = check_key(match[1])
        else:
            raise ValueError(
                f"unknown prompt option '--{option}': known are '--bpm NUMBER' and '--key KEY'"
            )
    if not words.strip():
        raise ValueError(f"prompt {prompt!r} has no words: describe the music")
    return Prompt(words.strip(), tempo, key)


def check_tempo(tempo: float) -> float:
    """The tempo itself, or ValueError where no music has it."""
    low, high = TEMPO_RANGE
    if not low <= tempo <= high:
        raise ValueError(f"tempo {tempo:g} bpm is outside {low:g}..{high:g}")
    return tempo


def check_key(key: str) -> str:
    """The key as KEYS spells it: "a# min", "A♯ minor" and "Bbm" are "Bb minor"."""
    accidental, mode = r"#|♯|b|♭|(?i:sharp|flat)", r"(?i:maj|major|min|minor)|m"
    if not (match := re.fullmatch(rf"([A-Ga-g])\s*({accidental})?\s*({mode})", key.strip())):
        raise ValueError(f"unknown key {key!r}: write it as A minor, Bb major or Am")
    shift = {"#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}
    moved = shift.get((match[2] or "").lower(), 0)
    tonic = (TONICS.index(match[1].upper()) + moved) % len(TONICS)
    return f"{TONICS[tonic]} {'major' if match[3].lower().startswith('ma') else 'minor'}"


def tag_columns(tags: Sequence[Collection[str]], vocabulary: Sequence[str]) -> Bool[Tensor, "b g"]:
    """Which tags of a network's vocabulary each clip has; ValueError for those it does not know."""
    if unknown := {tag for own in tags for tag in own} - set(vocabulary):
        known = ", ".join(vocabulary) or "none"
        raise ValueError(f"unknown tag {min(unknown)!r}: choose from {known}")
    return torch.tensor([[tag in own for tag in vocabulary] for own in tags], dtype=torch.bool)


class Metadata(nn.Module):
    """Adds key, timing and tags to the vector that modulates a network, if it was built with them.

    Embedders are our default; the paper's are not stated. An unstated key and an unstated timing
    have embeddings of their own; a clip without tags adds nothing.
    """

    def __init__(self, width: int, *, key: bool, timing: bool, tags: int):
        super().__init__()
        if tags < 0:
            raise ValueError(f"tags must be a number of tags, at least 0, got {tags}")
        self.key = nn.Embedding(1 + len(KEYS), width) if key else None
        if self.key is not None:
            nn.init.zeros_(self.key.weight)
        self.start, self.total = (Fourier(width) if timing else None for _ in range(2))
        self.no_timing = nn.Parameter(torch.zeros(width)) if timing else None
        self.tags = nn.Linear(tags, width, bias=False) if tags else None

    def forward(self, vector: Float[Tensor, "b d"], cond: Condition | None) -> Float[Tensor, "b d"]:
        """Raises ValueError for what is stated to a network built without it."""
        key, start, total, tags = (
            (None,) * 4 if cond is None else (cond.key, cond.start, cond.total, cond.tags)
        )
        told = {"key": key, "timing": start if total is None else total, "tags": tags}
        for name, built in (("key", self.key), ("timing", self.total), ("tags", self.tags)):
            if told[name] is not None and built is None:
                raise ValueError(
                    f"{name} is stated to a network that was built without (DiTConfig.{name}): "
                    "leave it out"
                )
        unstated = vector.new_zeros(vector.shape[0])  # not len(vector): exporters would fix it
        if self.key is not None:
            vector = vector + self.key(unstated.long() if key is None else key)
        if self.total is not None:
            total = unstated if total is None else total
            start = unstated if start is None else start
            timing = self.start(start / TIMING_UNIT) + self.total(total / TIMING_UNIT)
            vector = vector + torch.where(total[:, None] > 0, timing, self.no_timing)
        if tags is not None:
            if (given := tags.shape[1]) != (known := self.tags.in_features):
                raise ValueError(f"{given} tags for a network of {known}: see tag_columns")
            vector = vector + self.tags(tags.to(self.tags.weight.dtype))
        return vector


@runtime_checkable
class PromptEncoder(Protocol):
    """Turns captions into tokens and a mask that tells them from padding.

    `config` has the tokens' `width` and their greatest number, `max_tokens`.
    """

    config: Any

    def __call__(
        self, captions: list[str]
    ) -> tuple[Float[Tensor, "b k w"], Bool[Tensor, "b k"]]: ...


def warn_truncated(last: str, read: int, words: int) -> None:
    """Say where a text encoder stopped reading a caption."""
    warnings.warn(f"prompt truncated after {last!r} ({read} of {words} words)", stacklevel=2)


@dataclass(frozen=True)
class TextEncoderConfig:
    """Size of the small text tower. Our default; the paper's text encoder is not stated."""

    buckets: int = 4096  # hashed words and letter trigrams
    width: int = 128
    depth: int = 2
    heads: int = 4
    max_tokens: int = 40


class TextEncoder(nn.Module, Snapshot):
    """A small transformer over hashed words; it needs no vocabulary file.

    A word is the mean of its own embedding and those of its letter trigrams, so that a word never
    seen resembles the seen ones it is spelled like. Trained with the audio embedder.
    """

    def __init__(self, config: TextEncoderConfig = TextEncoderConfig()):
        super().__init__()
        self.config = config
        self.words = nn.EmbeddingBag(config.buckets, config.width, mode="mean")
        self.position = nn.Parameter(torch.randn(config.max_tokens, config.width) * 0.02)
        self.layers = nn.ModuleList(
            _TextLayer(config.width, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, captions: list[str]) -> tuple[Float[Tensor, "b k w"], Bool[Tensor, "b k"]]:
        """Token embeddings and their mask, padded to the longest caption of the batch.

        Words beyond `max_tokens` are left out, with a warning.
        """
        pieces = []
        for caption in captions:
            words, room = split_words(caption), self.config.max_tokens
            if len(words) > room:
                warn_truncated(words[room - 1], room, len(words))
            if caption.strip() and not words:
                warnings.warn(f"prompt {caption!r} has no word that is read", stacklevel=2)
            pieces.append([self._pieces(word) for word in words[:room]])
        longest = max(1, max(map(len, pieces)))
        flat = [piece for words in pieces for piece in words]
        device = self.position.device
        mask = torch.tensor(
            [[i < len(words) for i in range(longest)] for words in pieces], device=device
        )
        h = self.position.new_zeros(len(captions), longest, self.config.width)
        if flat:
            ids = torch.tensor([i for piece in flat for i in piece], device=device)
            starts = torch.tensor([0, *map(len, flat[:-1])], device=device).cumsum(0)
            h[mask] = self.words(ids, starts).to(h.dtype)
        h = h + self.position[:longest]
        for layer in self.layers:
            h = layer(h, mask)
        return self.norm(h) * mask[..., None], mask

    def _pieces(self, word: str) -> list[int]:
        marked = f"<{word}>"
        pieces = {marked, *(marked[i : i + 3] for i in range(len(marked) - 2))}
        return sorted(zlib.crc32(piece.encode()) % self.config.buckets for piece in pieces)


class _TextLayer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = SwiGLU(width, 2 * width)

    def forward(self, h: Float[Tensor, "b k w"], mask: Bool[Tensor, "b k"]) -> Tensor:
        q, k, v = self.qkv(self.norm1(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # An empty caption attends to its padding, which its mask then zeroes.
        seen = mask | ~mask.any(1, keepdim=True)
        h = h + self.out(attention(q, k, v, seen).transpose(1, 2).flatten(2))
        return h + self.mlp(self.norm2(h))


def split_words(caption: str) -> list[str]:
    """Lower-case words and numbers; "D#" and "F♯" keep their sharp."""
    return re.findall(r"[^\W_]+#?", caption.lower().replace("♯", "#"))


def pool(text: Float[Tensor, "b k w"], mask: Bool[Tensor, "b k"]) -> Float[Tensor, "b w"]:
    """Mean over the tokens that are there; zeros for an empty prompt."""
    return (text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


@torch.no_grad()
def condition(
    encoder: PromptEncoder,
    captions: list[str],
    tempo: Sequence[float | None] | Tensor,
    *,
    key: Sequence[str | None] | None = None,
    start: Sequence[float] | Tensor | None = None,
    total: Sequence[float] | Tensor | None = None,
    tags: Bool[Tensor, "b g"] | None = None,
    beat: Float[Tensor, " b"] | None = None,
) -> Condition:
    """Encode captions with a frozen text encoder and put what else is known beside them.

    `tempo` in bpm (None or 0 = not stated), `key` as `check_key` reads it, `start` and `total` in
    seconds, `tags` from `tag_columns`, `beat` in beats since the music began. Raises ValueError
    where their number is not the captions', for an unknown key, impossible tempi and seconds.
    """
    stated = {
        "tempo": tempo,
        "key": key,
        "start": start,
        "total": total,
        "tags": tags,
        "beat": beat,
    }
    for name, values in stated.items():
        if values is not None and len(values) != len(captions):
            raise ValueError(f"{name} has {len(values)} values for {len(captions)} captions")
    if start is not None and total is None:
        raise ValueError("start needs total: a place in a recording of unknown length says nothing")
    text, mask = encoder(captions)
    if key is not None:
        key = [0 if one is None else 1 + KEYS.index(check_key(one)) for one in key]
        key = torch.tensor(key, device=text.device)
    start, total = (_seconds(v, text.device) for v in (start, total))
    tags = None if tags is None else tags.to(text.device)
    beat = None if beat is None else _numbers(beat, text.device)
    tempo = _numbers(tempo, text.device)
    if not (tempo.isfinite() & (tempo >= 0)).all():
        raise ValueError(f"tempo must be finite and at least 0 (not stated), got {tempo.tolist()}")
    return Condition(text, mask, tempo, key, start, total, tags, beat)


def _seconds(values: Sequence[float] | Tensor | None, device: torch.device) -> Tensor | None:
    if values is None:
        return None
    seconds = _numbers(values, device)
    if not (seconds.isfinite() & (seconds >= 0)).all():
        raise ValueError(f"seconds must be finite and at least 0, got {seconds.tolist()}")
    return seconds


def _numbers(values: Sequence[float | None] | Tensor, device: torch.device) -> Float[Tensor, " b"]:
    if not isinstance(values, Tensor):
        values = torch.tensor([value or 0.0 for value in values])
    return values.to(device, torch.float32)
