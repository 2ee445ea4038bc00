"""The pieces of the diffusion transformer."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from presto_models.attention import attention, rotate


class Fourier(nn.Module):
    """Cosines and sines of a scalar at `width / 2` log-spaced frequencies, then a linear layer."""

    def __init__(self, width: int, *, low: float = 0.25, high: float = 64.0):
        super().__init__()
        frequency = torch.logspace(math.log10(low), math.log10(high), width // 2)
        self.register_buffer("frequency", 2 * math.pi * frequency, persistent=False)
        self.out = nn.Linear(width, width)

    def forward(self, value: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        angle = value[:, None].float() * self.frequency
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1) * math.sqrt(2)
        return self.out(waves.to(self.out.weight.dtype))


class SelfAttention(nn.Module):
    """Multi-head attention over time with rotary positions and normalised queries and keys."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gain = nn.Parameter(torch.ones(2, 1, 1, 1, width // heads))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, h: Float[Tensor, "b n d"], rotary: Tensor) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(normalised(torch.stack([q, k]), self.gain), rotary)
        return self.out(attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention from the music to the tokens of the prompt."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.gain = nn.Parameter(torch.ones(2, 1, 1, 1, width // heads))
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, h: Float[Tensor, "b n d"], text: Float[Tensor, "b k d"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, "b n d"]:
        q = self.q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = normalised(q, self.gain[0]), normalised(k, self.gain[1])
        return self.out(attention(q, k, v, mask).transpose(1, 2).flatten(2))


def normalised(x: Float[Tensor, "*b n e"], gain: Tensor) -> Float[Tensor, "*b n e"]:
    """x over its root mean square, times a learned gain (QK-norm keeps logits bounded)."""
    return F.rms_norm(x, x.shape[-1:]) * gain.to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, h: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Transformer block modulated by noise level, tempo and prompt (AdaLN-single: the modulation
    is computed once and shared, each block adds its own learned offset)."""

    def __init__(self, width: int, heads: int, *, text: bool):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = SelfAttention(width, heads)
        self.text_norm = nn.LayerNorm(width) if text else None
        self.text_attention = CrossAttention(width, heads) if text else None
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = SwiGLU(width, 8 * width // 3)

    def forward(
        self,
        h: Float[Tensor, "b n d"],
        modulation: Float[Tensor, "b 6 d"],
        rotary: Float[Tensor, "n e"],
        text: Float[Tensor, "b k d"] | None,
        mask: Bool[Tensor, "b k"] | None,
    ) -> Float[Tensor, "b n d"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            (modulation + self.offset).unsqueeze(2).unbind(1)
        )
        h = h + gate1 * self.attention(self.norm1(h) * (1 + scale1) + shift1, rotary)
        if self.text_attention is not None:
            h = h + self.text_attention(self.text_norm(h), text, mask)
        return h + gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2)
