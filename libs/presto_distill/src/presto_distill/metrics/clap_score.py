"""Agreement of audio with its prompt in a joint audio and text embedding space (CLAP score)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def clap_score(audio: Float[Tensor, "n d"], text: Float[Tensor, "n d"]) -> float:
    """Mean cosine similarity of each clip's embedding with that of its own prompt, in [-1, 1]."""
    return prompt_similarity(audio, text).mean().item()


def prompt_similarity(
    audio: Float[Tensor, "n d"], text: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Cosine similarity of each clip's embedding with that of its own prompt, in float64."""
    if audio.shape != text.shape:
        raise ValueError(f"one prompt per clip: got {tuple(audio.shape)} and {tuple(text.shape)}")
    return cosine_similarity(audio.double(), text.double(), dim=1)


def retrieval_accuracy(
    audio: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, k: int = 1
) -> tuple[float, float]:
    """Share of clips whose own prompt is among the k nearest distinct prompts, and chance level."""
    hits, chance = retrieval_hits(audio, text, k=k)
    return hits.mean().item(), chance


def retrieval_hits(
    audio: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, k: int = 1
) -> tuple[Float[Tensor, " n"], float]:
    """1 where a clip finds its own prompt among the first k; and chance, k over distinct prompts.

    Prompts are told apart by their embeddings, so embed a repeated prompt once and repeat the row.
    """
    if audio.shape != text.shape:
        raise ValueError(f"one prompt per clip: got {tuple(audio.shape)} and {tuple(text.shape)}")
    prompts, index = torch.unique(text.double(), dim=0, return_inverse=True)
    if not 1 <= k <= len(prompts):
        raise ValueError(f"k={k} must be in [1, {len(prompts)}], the number of distinct prompts")
    similarity = normalize(audio.double(), dim=1) @ normalize(prompts, dim=1).mT
    nearest = similarity.topk(k, dim=1).indices
    return (nearest == index[:, None]).any(dim=1).double(), k / len(prompts)
