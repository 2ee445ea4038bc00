"""Cached statistics of a reference set: embed it once, compare with it from then on."""

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from presto_distill.metrics.frechet import Gaussian
from presto_models.snapshot import write_atomic


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Mean and unbiased covariance of `count` embeddings, in float64, and whose embeddings."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    count: int
    embedder: str

    @classmethod
    def fit(cls, samples: Float[Tensor, "n d"], *, embedder: str) -> "ReferenceStatistics":
        """Raises ValueError below two samples and for samples that are not finite."""
        finite = samples.isfinite().all(dim=1).sum().item()
        if len(samples) < 2 or finite < len(samples):
            raise ValueError(
                f"need at least 2 embeddings, all finite; {finite} of {len(samples)} are"
            )
        samples = samples.detach().double().cpu()
        return cls(samples.mean(dim=0), samples.mT.cov(), len(samples), embedder)

    @cached_property
    def gaussian(self) -> Gaussian:
        return Gaussian.of_moments(self.mean, self.covariance)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the content: equal digits, the same reference."""
        content = sha256(f"{self.count} {self.embedder}".encode())
        for part in (self.mean, self.covariance):
            content.update(part.contiguous().numpy().tobytes())
        return content.hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically."""
        from safetensors.torch import save_file

        tensors = {"mean": self.mean.contiguous(), "covariance": self.covariance.contiguous()}
        facts = {"count": self.count, "embedder": self.embedder, "digest": self.digest}
        about = {"facts": json.dumps(facts)}
        write_atomic(Path(path), lambda to: save_file(tensors, to, about))

    @classmethod
    def load(cls, path: Path, *, embedder: str) -> "ReferenceStatistics":
        """Read what `save` wrote for this embedder; ValueError for any other file or embedder."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in ("mean", "covariance")}
            loaded = cls(**tensors, count=facts["count"], embedder=facts["embedder"])
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: no reference statistics ({error})") from None
        if loaded.digest != facts["digest"]:
            raise ValueError(f"{path}: damaged, digest {loaded.digest} and not {facts['digest']}")
        if loaded.embedder != embedder:
            raise ValueError(f"{path}: statistics of {loaded.embedder!r}, not of {embedder!r}")
        return loaded
