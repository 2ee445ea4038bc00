"""Files that run without this library: a generator's step, a codec's decoder and mono to stereo.

The suffix says which kind: .onnx (needs the extra `onnx`) or .pt2, a program of `torch.export`.
Batch, time and length of the prompt stay free; how many blocks run is fixed, so that each budget
is a file of its own. Of a codec the network and its bands are exported, not Griffin-Lim, whose
seeded start and running maxima ONNX has no words for: `phase.griffin_lim` or any other phase
retrieval turns the magnitudes into sound.
"""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from presto_models.conditioning import Condition
from presto_models.snapshot import write_atomic

FRAMES = 32  # of the example that is traced; any other number works too


def export_denoiser(
    denoiser: nn.Module,
    cond: Condition,
    path: str | Path,
    *,
    channels: int = 64,
    budget: int | None = None,
) -> Path:
    """Write D(x, sigma, cond) to `denoised`, at a fixed budget; None runs all blocks.

    `cond` is an example of at least two prompts of at least two tokens; its fields become inputs
    of their names, without those that are None.
    """
    fields = {name: leaf for name, leaf in cond._asdict().items() if leaf is not None}
    batch, tokens = cond.mask.shape
    if min(batch, tokens) < 2:
        raise ValueError(f"the example needs 2 prompts of 2 tokens, got {batch} of {tokens}")
    if budget is None and getattr(denoiser, "schedule", None) is not None:
        raise ValueError("this denoiser's blocks vary with the noise: state the budget to export")
    x = torch.zeros(batch, channels, FRAMES, device=cond.mask.device)
    shapes = {name: {0: "batch"} for name in fields}
    shapes["text"] = shapes["mask"] = {0: "batch", 1: "tokens"}
    return _export(
        _Step(denoiser, budget),
        (x, torch.ones_like(x[:, 0, 0]), fields),
        ({0: "batch", 2: "frames"}, {0: "batch"}, shapes),
        path,
        names=(["x", "sigma", *fields], ["denoised"]),
    )


def export_decoder(codec: nn.Module, path: str | Path) -> Path:
    """Write a spectral codec's `latent` (b, c, t) to `magnitude` (b, n, f)."""
    latent = torch.zeros(2, codec.channels, FRAMES, device=next(codec.parameters()).device)
    shapes = ({0: "batch", 2: "frames"},)
    return _export(_Spectrum(codec), (latent,), shapes, path, names=(["latent"], ["magnitude"]))


def export_stereo(stereo: nn.Module, path: str | Path) -> Path:
    """Write mono to stereo as `mid` to `side`, both (b, n, hop): audio in frames of the hop. Left
    is mid + side, right mid - side."""
    mid = torch.zeros(2, FRAMES, stereo.hop, device=stereo.window.device)
    shapes = ({0: "batch", 1: "frames"},)
    return _export(_Side(stereo), (mid,), shapes, path, names=(["mid"], ["side"]))


class _Step(nn.Module):
    """A denoiser whose condition comes as a dict of tensors."""

    def __init__(self, denoiser: nn.Module, budget: int | None):
        super().__init__()
        self.denoiser, self.options = denoiser, {} if budget is None else {"budget": budget}

    def forward(self, x: Tensor, sigma: Tensor, fields: dict[str, Tensor]) -> Tensor:
        return self.denoiser(x, sigma, Condition(**fields), **self.options)


class _Spectrum(nn.Module):
    """A codec's magnitudes from a latent, without the phase."""

    def __init__(self, codec: nn.Module):
        super().__init__()
        self.codec = codec

    def forward(self, latent: Float[Tensor, "b c t"]) -> Float[Tensor, "b n f"]:
        return self.codec.spectrum(latent)


class _Side(nn.Module):
    """The side signal without its chunks."""

    def __init__(self, stereo: nn.Module):
        super().__init__()
        self.stereo = stereo

    def forward(self, mid: Float[Tensor, "b n hop"]) -> Float[Tensor, "b n hop"]:
        return self.stereo.whole_side(mid.flatten(1)).unflatten(1, (-1, mid.shape[2]))


def _export(
    module: nn.Module,
    inputs: tuple,
    shapes: tuple,  # the same pytree, of {axis: name of a size that stays free}
    path: str | Path,
    *,
    names: tuple[list[str], list[str]],
) -> Path:
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"cannot export to {path}: the name must end in .onnx or .pt2")
    if path.suffix == ".onnx" and importlib.util.find_spec("onnxscript") is None:
        raise ValueError('ONNX needs an extra: pip install "presto-models[onnx]"')

    # The trace sees 2 of everything and holds for 1 too, unless something fixes a size: an error
    # here, where torch.onnx on its own would fix it and say nothing.
    dims: dict[str, Any] = {
        "batch": torch.export.Dim("batch", min=1, max=4096),
        "tokens": torch.export.Dim("tokens", min=1, max=4096),
        "frames": torch.export.Dim("frames", min=1, max=2**20),
    }

    def free(shape: dict) -> dict:
        return {
            axis: free(size) if isinstance(size, dict) else dims[size]
            for axis, size in shape.items()
        }

    training = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            program = torch.export.export(
                module.eval(), inputs, dynamic_shapes=tuple(map(free, shapes)), strict=False
            )
    finally:
        for part, mode in training.items():
            part.training = mode
    if path.suffix == ".pt2":
        write_atomic(path, lambda to: torch.export.save(program, to))
        return path
    onnx = torch.onnx.export(
        program, (), dynamo=True, input_names=names[0], output_names=names[1], verbose=False
    )
    # Of more than 1.5 GiB, weights lie in a file beside it, which is put in place first.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx.save(Path(folder) / path.name)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)
    return path
