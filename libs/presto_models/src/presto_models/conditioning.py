"""Prompts and tempo: from words and numbers to what the denoiser is told."""

import re
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from presto_models.attention import attention
from presto_models.blocks import SwiGLU
from presto_models.snapshot import Snapshot

MAX_PROMPT = 1000  # characters
TEMPO_RANGE = (20.0, 400.0)  # beats per minute


class Condition(NamedTuple):
    """What a batch of clips should be. A NamedTuple, so it is a pytree and splits by sample."""

    text: Float[Tensor, "b k w"]  # prompt tokens from a text encoder
    mask: Bool[Tensor, "b k"]  # which of them are there
    tempo: Float[Tensor, " b"]  # beats per minute; 0 = not stated


def null_condition(cond: Condition) -> Condition:
    """The condition of equal shape that says nothing, for guidance and condition dropout."""
    return Condition(*map(torch.zeros_like, cond))


def parse_prompt(prompt: str) -> tuple[str, float | None]:
    """Split "driving techno --bpm 140" into ("driving techno", 140.0).

    Raises ValueError for an empty or overlong prompt, an unknown option or an impossible tempo.
    """
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"prompt has {len(prompt)} characters, at most {MAX_PROMPT} are allowed")
    words, *options = re.split(r"\s--(?=\w)", f" {prompt.strip()}")
    tempo = None
    for option in options:
        if not (match := re.fullmatch(r"bpm[\s=]+(\d+(?:\.\d+)?)\s*", option)):
            raise ValueError(f"unknown prompt option '--{option}': only '--bpm NUMBER' is known")
        tempo = check_tempo(float(match[1]))
    if not words.strip():
        raise ValueError(f"prompt {prompt!r} has no words: describe the music")
    return words.strip(), tempo


def check_tempo(tempo: float) -> float:
    """The tempo itself, or ValueError where no music has it."""
    low, high = TEMPO_RANGE
    if not low <= tempo <= high:
        raise ValueError(f"tempo {tempo:g} bpm is outside {low:g}..{high:g}")
    return tempo


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

        Words beyond `max_tokens` are left out.
        """
        pieces = [
            [self._pieces(word) for word in split_words(caption)[: self.config.max_tokens]]
            for caption in captions
        ]
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
    encoder: nn.Module, captions: list[str], tempo: list[float | None] | Tensor
) -> Condition:
    """Encode captions and tempi (bpm; None or 0 = not stated) with a frozen text encoder."""
    text, mask = encoder(captions)
    if not isinstance(tempo, Tensor):
        tempo = torch.tensor([bpm or 0.0 for bpm in tempo])
    return Condition(text, mask, tempo.to(text.device, torch.float32))
