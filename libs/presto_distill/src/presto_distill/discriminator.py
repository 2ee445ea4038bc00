"""The discriminator head that reads the fake score's hidden states."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class DiscriminatorHead(nn.Module):
    """Hidden states over time -> a map of scores over time (about one per 16 frames).

    Four strided convolutions with group norm and SiLU, then one to a single channel. `pooled`
    averages the map to one score per clip, as DMD2 does: the ablation partner. The published fact
    is a least-squares loss on intermediate activations; the head's layers are our default.
    """

    def __init__(self, width: int, *, layers: int = 4, pooled: bool = False):
        super().__init__()
        self.pooled = pooled
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size=4, stride=2, padding=1) for _ in range(layers)
        )
        groups = math.gcd(8, width)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for _ in range(layers))
        self.score = nn.Conv1d(width, 1, kernel_size=1)

    def forward(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b m"]:
        h = hidden.transpose(1, 2)
        if (tokens := h.shape[2]) < (least := 2 ** len(self.layers)):
            raise ValueError(
                f"{tokens} tokens are too few for a head that halves time {len(self.layers)} "
                f"times: it needs {least}, or fewer layers (head_layers)"
            )
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = F.silu(norm(layer(h)))
        score = self.score(h).squeeze(1).float()  # losses are float32 under autocast too
        return score.mean(1, keepdim=True) if self.pooled else score


class DiscriminatorHeads(nn.Module):
    """One head per tapped block; their score maps stand side by side in time."""

    def __init__(self, width: int, taps: int, **options):
        super().__init__()
        self.heads = nn.ModuleList(DiscriminatorHead(width, **options) for _ in range(taps))

    def forward(self, hidden: tuple[Float[Tensor, "b n d"], ...]) -> Float[Tensor, "b m"]:
        return torch.cat([head(h) for head, h in zip(self.heads, hidden, strict=True)], dim=1)
