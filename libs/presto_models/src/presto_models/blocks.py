"""The pieces of the diffusion transformer."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from presto_models.attention import attention, rotate


class Fourier(nn.Module):
    """Cosines and sines of a scalar at `width / 2` log-spaced frequencies, then a linear layer.

    Frequencies are no buffer: they stay float32 in a network that was cast to half precision.
    """

    def __init__(self, width: int, *, low: float = 0.25, high: float = 64.0):
        super().__init__()
        self.low, self.high = math.log10(low), math.log10(high)
        self.out = nn.Linear(width, width)

    def forward(self, value: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        half = self.out.in_features // 2
        frequency = torch.logspace(self.low, self.high, half, device=value.device)
        angle = value[:, None].float() * (2 * math.pi * frequency)
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1) * math.sqrt(2)
        return self.out(waves.to(self.out.weight.dtype))


class Beats(nn.Module):
    """Tells each token where it is in its beat, bar and section, if the tempo is known.

    Waves of the beats since the music began: a network can lay its rhythm on them instead of
    counting frames, and finds the same grid at every noise level. Our default; not stated in the
    paper. `frame_rate` is that of the latents, in Hz.
    """

    WAVES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0)  # per beat

    def __init__(self, width: int, frame_rate: float):
        super().__init__()
        self.frame_rate = frame_rate
        self.out = nn.Linear(2 * len(self.WAVES), width, bias=False)

    def forward(
        self, frames: int, tempo: Float[Tensor, " b"], beat: Float[Tensor, " b"] | None
    ) -> Float[Tensor, "b n d"]:
        """`tempo` in bpm, 0 where unknown; `beat` is the one a clip begins on, None: 0."""
        tempo = tempo.float()[:, None]
        beats = torch.arange(frames, device=tempo.device) * tempo / (60 * self.frame_rate)
        beats = beats if beat is None else beats + beat[:, None]
        # Number by number: a CUDA graph takes no list from the CPU.
        angle = torch.stack([2 * math.pi * beats * wave for wave in self.WAVES], dim=-1)
        grid = torch.cat([angle.cos(), angle.sin()], dim=-1) * (tempo > 0)[..., None]
        return self.out(grid.to(self.out.weight.dtype))


class Linear(nn.Linear):
    """Without a bias. In bfloat16 on a CPU it multiplies rows by the eight: speed hangs on what
    divides their number, and a pass of 689 = 13 x 53 tokens took a quarter longer
    (docs/results.md)."""

    def __init__(self, n: int, m: int):
        super().__init__(n, m, bias=False)

    def forward(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        rows = math.prod(x.shape[:-1])
        missing = -rows % 8 if isinstance(rows, int) else 0  # an exporter may leave it open
        if not (missing and rows > 256 and x.is_cpu and x.dtype == torch.bfloat16):
            return super().forward(x)
        y = super().forward(F.pad(x.reshape(rows, -1), (0, 0, 0, missing)))
        return y[:rows].unflatten(0, x.shape[:-1])


class SelfAttention(nn.Module):
    """Multi-head attention over time with rotary positions and normalised queries and keys."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.gain = nn.Parameter(torch.ones(2, 1, 1, 1, width // heads))
        self.out = Linear(width, width)

    def forward(self, h: Float[Tensor, "b n d"], rotary: Tensor) -> Float[Tensor, "b n d"]:
        qkv = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(normalised(qkv[:2], self.gain), rotary)
        return self.out(attention(q, k, qkv[2]).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention from the music to the tokens of the prompt.

    The prompt does not change while noise is removed: `keys_values` are computed apart, so that
    they can be kept.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.gain = nn.Parameter(torch.ones(2, 1, 1, 1, width // heads))
        self.out = Linear(width, width)

    def keys_values(self, text: Float[Tensor, "b k d"]) -> Float[Tensor, "b 2 h k e"]:
        """The prompt's keys and values. Queries' gain is in the keys, which are fewer."""
        k, v = self.kv(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return torch.stack([normalised(k, self.gain[0] * self.gain[1]), v], dim=1)

    def forward(
        self,
        h: Float[Tensor, "b n d"],
        keys_values: Float[Tensor, "b 2 h k e"],
        mask: Bool[Tensor, "b k"],
    ) -> Float[Tensor, "b n d"]:
        q = self.q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q = normalised(q)
        return self.out(attention(q, *keys_values.unbind(1), mask).transpose(1, 2).flatten(2))


def normalised(x: Float[Tensor, "*b n e"], gain: Tensor | None = None) -> Float[Tensor, "*b n e"]:
    """x over its root mean square, times a learned gain (QK-norm keeps logits bounded)."""
    if x.is_cpu:  # where rms_norm goes over x several times more
        dtype = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
        scale = (norm.square() / x.shape[-1] + torch.finfo(torch.float32).eps).rsqrt()
        x_hat = x * scale.to(x.dtype)
    else:
        x_hat = F.rms_norm(x, x.shape[-1:]).to(x.dtype)  # autocast may have made it float32
    return x_hat if gain is None else x_hat * gain.to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden)
        self.down = Linear(hidden, width)

    def forward(self, h: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Transformer block modulated by noise level, tempo and prompt (AdaLN-single: the modulation
    is computed once and shared, each block adds its own learned offset)."""

    def __init__(self, width: int, heads: int, *, hidden: int, text: bool):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = SelfAttention(width, heads)
        self.text_norm = nn.LayerNorm(width) if text else None
        self.text_attention = CrossAttention(width, heads) if text else None
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = SwiGLU(width, hidden)

    def forward(
        self,
        h: Float[Tensor, "b n d"],
        modulation: Float[Tensor, "b 6 d"],
        rotary: Float[Tensor, "n e"],
        keys_values: Float[Tensor, "b 2 h k e"] | None = None,
        mask: Bool[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            (modulation + self.offset).unsqueeze(2).unbind(1)
        )
        update = self.attention(modulated(self.norm1(h), shift1, scale1), rotary)
        h = torch.addcmul(h, gate1, update)
        if self.text_attention is not None:
            h = h + self.text_attention(self.text_norm(h), keys_values, mask)
        return torch.addcmul(h, gate2, self.mlp(modulated(self.norm2(h), shift2, scale2)))


def modulated(h: Float[Tensor, "b n d"], shift: Tensor, scale: Tensor) -> Float[Tensor, "b n d"]:
    """h (1 + scale) + shift, in one pass over memory."""
    return torch.addcmul(shift, h, 1 + scale)
