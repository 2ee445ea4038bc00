"""LAION-CLAP from a transformers snapshot or, through its own package, from a .pt checkpoint.

The two are different weights with different preprocessing and give different numbers even where
their titles agree, so the name of each says which one it is, and six digits of its weights.
"""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor


def open_clap(path: str) -> "TransformersClap | LaionClap":
    """A .pt file by the package laion_clap; a folder or hub id by transformers."""
    if path.endswith(".pt"):
        return LaionClap(Path(path))
    return TransformersClap(path)


class TransformersClap:
    """`transformers.ClapModel` from a folder or a hub id; audio at 48 kHz.

    The model hears windows of 10 s. Where the original takes a random one of a longer clip, this
    takes the mean over consecutive ones, the last aligned to the end: our default.
    """

    def __init__(self, folder: str):
        if not Path(folder).is_dir() and (folder.count("/") != 1 or folder[0] in "./~"):
            raise ValueError(f"no folder {folder!r} to load CLAP from, and no hub id such as org/x")
        try:
            from transformers import ClapModel, ClapProcessor
        except ImportError:
            raise ValueError(
                "CLAP needs transformers 5: pip install 'presto-distill[clap]'"
            ) from None
        self.model = ClapModel.from_pretrained(folder).eval()
        processor = ClapProcessor.from_pretrained(folder)
        self.features, self.tokenizer = processor.feature_extractor, processor.tokenizer
        weights = hashlib.sha256()
        for value in self.model.state_dict().values():
            weights.update(value.reshape(-1).view(torch.uint8).numpy())
        self.name = f"LAION-CLAP {Path(folder).name} (transformers, {weights.hexdigest()[:6]})"
        self.dim = self.model.config.projection_dim
        self.sample_rate = self.features.sampling_rate

    @torch.inference_mode()
    def embed(self, inputs: Float[Tensor, "b ch s"]) -> Float[Tensor, "b d"]:
        parts = windows(inputs.mean(dim=1), self.features.nb_max_samples)
        heard = self.features(
            list(parts.flatten(0, 1).cpu().numpy()),
            sampling_rate=self.sample_rate,
            return_tensors="pt",
        )["input_features"]
        # No window is longer than the model's, which the extractor says of a random one.
        longer = torch.zeros(len(heard), 1, dtype=torch.bool)
        embedded = self.model.get_audio_features(heard, is_longer=longer).pooler_output
        return embedded.unflatten(0, parts.shape[:2]).mean(dim=1)

    @torch.inference_mode()
    def embed_text(self, prompts: list[str]) -> Float[Tensor, "b d"]:
        tokens = self.tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
        return self.model.get_text_features(
            tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output


class LaionClap:
    """A LAION-CLAP checkpoint by the authors' package, quantised to 16 bits as they do.

    The architecture follows the authors' naming: `music*` are HTSAT-base, the others HTSAT-tiny,
    those with `fusion` in their name the fusion variant. The package unpickles the file, so only
    open checkpoints that you trust. Windows as in `TransformersClap`.
    """

    sample_rate = 48000
    dim = 512

    def __init__(self, path: Path):
        if not path.is_file():
            raise ValueError(f"no checkpoint {path}")
        try:
            from laion_clap import CLAP_Module
        except ImportError:
            raise ValueError(
                f"{path} needs the package laion_clap: pip install laion_clap"
            ) from None
        tower = "HTSAT-base" if path.name.startswith("music") else "HTSAT-tiny"
        self.module = CLAP_Module("fusion" in path.name, device="cpu", amodel=tower)
        self.module.load_ckpt(str(path), verbose=False)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.name = f"LAION-CLAP {path.name} (laion_clap, {digest[:6]})"

    @torch.inference_mode()
    def embed(self, inputs: Float[Tensor, "b ch s"]) -> Float[Tensor, "b d"]:
        parts = windows(inputs.mean(dim=1), 10 * self.sample_rate)
        embedded = self.module.get_audio_embedding_from_data(parts.flatten(0, 1).cpu().numpy())
        return torch.from_numpy(embedded).unflatten(0, parts.shape[:2]).mean(dim=1)

    @torch.inference_mode()
    def embed_text(self, prompts: list[str]) -> Float[Tensor, "b d"]:
        return torch.from_numpy(self.module.get_text_embedding(prompts))


def windows(audio: Float[Tensor, "b s"], length: int) -> Float[Tensor, "b w l"]:
    """Consecutive windows that cover the audio, the last aligned to its end; short audio whole."""
    total = audio.shape[1]
    if total <= length:
        return audio[:, None]
    starts = [min(start, total - length) for start in range(0, total, length)]
    return torch.stack([audio[:, start : start + length] for start in starts], dim=1)
