"""Captioned music for generative audio: a rendered corpus, folders of recordings, latent caches."""

from presto_data.clips import Clip, Corpus, Metadata
from presto_data.songs import Song, compose
from presto_data.synthetic import render, synthetic_corpus

__all__ = ["Clip", "Corpus", "Metadata", "Song", "compose", "render", "synthetic_corpus"]
