"""Captioned music for generative audio: a rendered corpus, folders of recordings, latent caches."""

from presto_data.audio import audio_info, load_audio
from presto_data.augment import Augment, augmented
from presto_data.batches import Batch, BatchStream, Mixture, batches
from presto_data.captions import caption, describe, paraphrases
from presto_data.clips import Clip, ClipError, Corpus, Metadata, Problem
from presto_data.corpora import FileCorpus
from presto_data.encode import encode_corpus
from presto_data.faults import report
from presto_data.folder import folder_corpus
from presto_data.latents import LatentSet, LatentShards
from presto_data.manifest import manifest_corpus
from presto_data.song_describer import song_describer
from presto_data.songs import Section, Song, compose, compose_whole
from presto_data.synthetic import render, synthetic_corpus

__all__ = [
    "Augment",
    "Batch",
    "BatchStream",
    "Clip",
    "ClipError",
    "Corpus",
    "FileCorpus",
    "LatentSet",
    "LatentShards",
    "Metadata",
    "Mixture",
    "Problem",
    "Section",
    "Song",
    "audio_info",
    "augmented",
    "batches",
    "caption",
    "compose",
    "compose_whole",
    "describe",
    "encode_corpus",
    "folder_corpus",
    "load_audio",
    "manifest_corpus",
    "paraphrases",
    "render",
    "report",
    "song_describer",
    "synthetic_corpus",
]
