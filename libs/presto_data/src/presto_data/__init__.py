"""Captioned music for generative audio: a rendered corpus, folders of recordings, latent caches."""

from presto_data.audio import load_audio
from presto_data.batches import Batch, BatchStream, Mixture, batches
from presto_data.clips import Clip, ClipError, Corpus, Metadata, Problem
from presto_data.corpora import folder_corpus
from presto_data.encode import encode_corpus
from presto_data.latents import LatentSet, LatentShards
from presto_data.songs import Song, compose
from presto_data.synthetic import render, synthetic_corpus

__all__ = [
    "Batch",
    "BatchStream",
    "Clip",
    "ClipError",
    "Corpus",
    "LatentSet",
    "LatentShards",
    "Metadata",
    "Mixture",
    "Problem",
    "Song",
    "batches",
    "compose",
    "encode_corpus",
    "folder_corpus",
    "load_audio",
    "render",
    "synthetic_corpus",
]
