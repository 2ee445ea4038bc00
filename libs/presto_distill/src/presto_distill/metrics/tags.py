"""How far two sets of paired clips disagree on their tags, told by a joint embedder (zero-shot).

Papers measure this with a supervised tagger, whose numbers are not comparable with these.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

# Our default: genres, moods and instruments that music is commonly described with.
TAGS = (
    *("ambient", "blues", "classical", "country", "disco", "drum and bass", "folk", "funk"),
    *("hip hop", "house", "jazz", "latin", "metal", "pop", "reggae", "rock", "soul", "techno"),
    *("calm", "dark", "dreamy", "energetic", "happy", "romantic", "sad", "tense"),
    *("bass", "brass", "drums", "flute", "guitar", "organ", "percussion", "piano", "strings"),
    *("synthesizer", "violin"),
)


def tag_probabilities(
    audio: Float[Tensor, "n d"], tags: Float[Tensor, "k d"], *, temperature: float = 0.1
) -> Float[Tensor, "n k"]:
    """Softmax over tags of the cosine similarity to each clip over a temperature, in float64.

    The temperature scales the divergence: compare only at equal ones. 0.1 is our default.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    similarity = normalize(audio.double(), dim=1) @ normalize(tags.double(), dim=1).mT
    return (similarity / temperature).softmax(dim=1)


def tag_divergence(generated: Float[Tensor, "n k"], reference: Float[Tensor, "n k"]) -> float:
    """Mean KL(reference ‖ generated) in nats of the tag probabilities of paired clips; 0 is best.

    Raises ValueError for sets that are not paired or not probabilities.
    """
    return tag_divergences(generated, reference).mean().item()


def tag_divergences(
    generated: Float[Tensor, "n k"], reference: Float[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """KL(reference ‖ generated) of each pair in nats; infinite where only the reference hears."""
    if generated.shape != reference.shape:
        raise ValueError(
            f"one reference per clip: got {tuple(generated.shape)} and {tuple(reference.shape)}"
        )
    q, p = generated.double(), reference.double()
    for name, rows in (("generated", q), ("reference", p)):
        if (rows < 0).any() or ((rows.sum(dim=1) - 1).abs() > 1e-4).any():
            raise ValueError(f"{name} rows must be probabilities that sum to 1")
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=1)
