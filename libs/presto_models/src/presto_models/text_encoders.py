"""Prompt encoders out of other people's weights, and a cache around any of them.

    encoder = T5Text.from_pretrained("google-t5/t5-base")     # or a local folder
    tokens, mask = Cached(encoder)(["driving techno"])

They are frozen. All but the cache need the extra `transformers`.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from presto_models.conditioning import PromptEncoder, pool, warn_truncated

MAX_TOKENS = 128  # Stable Audio Open's; our default for every encoder


@dataclass(frozen=True)
class FrozenTextConfig:
    """What `PromptEncoder` asks for."""

    width: int
    max_tokens: int


class FrozenText(nn.Module):
    """A model of `transformers` with its (fast) tokenizer; subclasses say which and what of it.

    Captions of more than `max_tokens` tokens, or than the tokenizer allows, are truncated with a
    warning that says where.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, max_tokens: int = MAX_TOKENS):
        super().__init__()
        # A tokenizer may frame a caption by two tokens of its own.
        if max_tokens < 3:
            raise ValueError(f"max_tokens must be at least 3, got {max_tokens}")
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} cannot tell which words its tokens are of"
            )
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        limit = min(max_tokens, tokenizer.model_max_length)
        self.config = FrozenTextConfig(self._width(model.config), limit)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, max_tokens: int = MAX_TOKENS, device: str = "cpu"
    ) -> Self:
        """Load from a folder or, where there is none, by a hub id.

        Raises ValueError, in one line, where it is neither, and without the extra.
        """
        name = str(name_or_path)
        # Of a missing folder the hub would say that its name is no repository's.
        if not Path(name).is_dir() and (name.count("/") != 1 or name[0] in "./~"):
            raise ValueError(f"no folder {name!r} to load a text encoder from, and no hub id org/x")
        try:
            import transformers
        except ImportError:
            raise ValueError(
                f"{cls.__name__} needs transformers: pip install 'presto-models[transformers]'"
            ) from None
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = getattr(transformers, cls.architecture).from_pretrained(name)
        return cls(model, tokenizer, max_tokens=max_tokens).to(device)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is trained around it."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, captions: list[str]) -> tuple[Float[Tensor, "b k w"], Bool[Tensor, "b k"]]:
        """Float32 tokens, zero where the mask is False."""
        given = self.tokenizer(
            captions,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.config.max_tokens,
            return_tensors="pt",
        )
        for caption, encoding in zip(captions, given.encodings, strict=True):
            if encoding.overflowing:
                read = caption[: max(end for _, end in encoding.offsets)].split()
                warn_truncated(read[-1], len(read), len(caption.split()))
        device = next(self.model.parameters()).device
        text, mask = self._encode(given.input_ids.to(device), given.attention_mask.to(device))
        return text.float() * mask[..., None], mask


class T5Text(FrozenText):
    """The last hidden states of a T5 encoder (Raffel et al. 2020), one per token."""

    architecture = "T5EncoderModel"

    @staticmethod
    def _width(config: Any) -> int:
        return config.d_model

    def _encode(self, ids: Int[Tensor, "b k"], mask: Int[Tensor, "b k"]) -> tuple[Tensor, Tensor]:
        return self.model(ids, attention_mask=mask).last_hidden_state, mask.bool()


class ClapText(FrozenText):
    """One token: the caption's embedding in the space that CLAP (Wu et al. 2023) shares with
    audio."""

    architecture = "ClapModel"

    @staticmethod
    def _width(config: Any) -> int:
        return config.projection_dim

    def _encode(self, ids: Int[Tensor, "b k"], mask: Int[Tensor, "b k"]) -> tuple[Tensor, Tensor]:
        embedded = self.model.get_text_features(ids, attention_mask=mask).pooler_output
        return embedded[:, None], mask.new_ones(len(ids), 1).bool()


class SentenceText(FrozenText):
    """One token: the mean of any encoder's last hidden states, as sentence encoders are used."""

    architecture = "AutoModel"

    @staticmethod
    def _width(config: Any) -> int:
        return config.hidden_size

    def _encode(self, ids: Int[Tensor, "b k"], mask: Int[Tensor, "b k"]) -> tuple[Tensor, Tensor]:
        states = self.model(ids, attention_mask=mask).last_hidden_state
        return pool(states, mask.bool())[:, None], mask.new_ones(len(ids), 1).bool()


class Cached(nn.Module):
    """A prompt encoder that remembers the captions it was asked for last, in memory.

    Captions are encoded one by one, so that what comes out depends on no batch and no past.
    """

    def __init__(self, encoder: PromptEncoder, size: int = 10_000):
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1 caption, got {size}")
        self.encoder, self.config, self.size = encoder, encoder.config, size
        self.known: OrderedDict[str, Tensor] = OrderedDict()

    def forward(self, captions: list[str]) -> tuple[Float[Tensor, "b k w"], Bool[Tensor, "b k"]]:
        """Tokens and mask, padded to the longest caption of the batch."""
        rows = [self._row(caption) for caption in captions]
        # An empty caption still has a place.
        longest = max(1, *map(len, rows))
        tokens = rows[0].new_zeros(len(rows), longest, self.config.width)
        mask = tokens.new_zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        return tokens, mask

    def _apply(self, *args, **options) -> Self:
        """Forget what was known before the encoder moved to another device or precision."""
        self.known.clear()
        return super()._apply(*args, **options)

    # Remembered by inference, they must serve training too.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _row(self, caption: str) -> Float[Tensor, "k w"]:
        if caption not in self.known:
            text, mask = self.encoder([caption])
            self.known[caption] = text[0][mask[0]]
            if len(self.known) > self.size:
                self.known.popitem(last=False)
        self.known.move_to_end(caption)
        return self.known[caption]
