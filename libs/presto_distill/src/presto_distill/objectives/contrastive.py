"""Training of the bundled embedder: captions and clips that belong together, found in a batch."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from presto_distill.metrics.contrastive import ContrastiveEmbedder
from presto_distill.objective import Batch, Losses, Turn
from presto_models.edm import add_noise


@dataclass(frozen=True)
class ContrastiveConfig:
    """Ours: the embedder stands in for CLAP, whose training is not part of the method."""

    jitter: float = 0.05  # deviation of the noise added to latents, against overfitting


class Contrastive:
    """Symmetric cross-entropy over the batch (InfoNCE). `batch.cond` is the list of captions.

    Clips whose captions are equal are each other's matches: their texts are one point.
    """

    def __init__(self, embedder: ContrastiveEmbedder, cfg: ContrastiveConfig = ContrastiveConfig()):
        self.embedder, self.cfg = embedder, cfg
        self.players = {"embedder": embedder}
        self.turns = [Turn("embedder", self.loss)]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        jitter = batch.x.new_full((len(batch.x),), self.cfg.jitter)
        audio = self.embedder.embed(add_noise(batch.x, jitter, rng))
        text = self.embedder.embed_text(batch.cond)
        logits = self.embedder.log_temperature.exp() * audio @ text.T
        own = torch.arange(len(logits), device=audio.device)
        pull = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
        return {"contrastive": pull / 2}
