"""The bundled embedder: a small audio tower on codec latents beside the prompt encoder.

It stands in for CLAP where no weights can be downloaded. Its numbers are not CLAP's, and must
never stand beside the paper's as if they were.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from presto_models.conditioning import TextEncoder, TextEncoderConfig, pool
from presto_models.snapshot import Snapshot


@dataclass(frozen=True)
class ContrastiveConfig:
    """Sizes of the audio tower and the shared space. Our defaults; the paper uses LAION-CLAP."""

    channels: int = 64
    width: int = 192
    depth: int = 4
    dim: int = 64  # of the shared space
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)


class ContrastiveEmbedder(nn.Module, Snapshot):
    """Embeds latents and captions into one space, unit length, by towers trained together.

    The audio tower is a dilated convolutional network, pooled by mean and deviation over time, so
    it takes latents of any length from 16 frames on.
    """

    def __init__(self, config: ContrastiveConfig = ContrastiveConfig()):
        super().__init__()
        self.config = config
        self.enter = nn.Conv1d(config.channels, config.width, 3, padding=1)
        self.layers = nn.ModuleList(
            _Layer(config.width, dilation=2**i) for i in range(config.depth)
        )
        self.to_space = nn.Sequential(
            nn.LayerNorm(2 * config.width), nn.Linear(2 * config.width, config.dim)
        )
        self.text = TextEncoder(config.text)
        self.text_to_space = nn.Linear(config.text.width, config.dim)
        self.log_temperature = nn.Parameter(torch.tensor(2.0))

    @property
    def name(self) -> str:
        """What is printed beside every number this embedder has a part in: another one's numbers
        do not compare."""
        return f"presto-small latent contrastive ({self.config.dim}-d, {self.digest[:6]})"

    @property
    def dim(self) -> int:
        """Dimension of the shared space."""
        return self.config.dim

    def embed(self, inputs: Float[Tensor, "b c t"]) -> Float[Tensor, "b d"]:
        """Embed latents, which the codec standardises to a deviation of sigma_data."""
        h = self.enter(2 * inputs)
        for layer in self.layers:
            h = layer(h)
        moments = torch.cat([h.mean(2), (h.var(2) + 1e-5).sqrt()], dim=1)
        return F.normalize(self.to_space(moments), dim=1)

    def embed_text(self, prompts: list[str]) -> Float[Tensor, "b d"]:
        """Embed captions."""
        return F.normalize(self.text_to_space(pool(*self.text(prompts))), dim=1)


class _Layer(nn.Module):
    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.around = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, h: Float[Tensor, "b w t"]) -> Float[Tensor, "b w t"]:
        return h + self.mix(F.gelu(self.around(self.norm(h))))
