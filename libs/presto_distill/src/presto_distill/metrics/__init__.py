"""Measures of generated music: distances between embedded sets, prompt agreement, tempo, speed.

`evaluate` computes the set-level numbers with their intervals; each metric alone lives in the
module of its name (`frechet`, `mmd`, `prdc`, `clap_score`, `tags`, `music`, `latency`).
"""

from presto_distill.metrics.embed import Embedder, JointEmbedder, LatentStatistics
from presto_distill.metrics.reference import ReferenceStatistics
from presto_distill.metrics.scores import Score, Scores, evaluate

__all__ = [
    "Embedder",
    "JointEmbedder",
    "LatentStatistics",
    "ReferenceStatistics",
    "Score",
    "Scores",
    "evaluate",
]
