"""Editing: keep a part of a clip and generate the rest, or generate a clip anew from part-way.

    edit = continuation(latent[..., :100], frames=300)     # or variation(latent, strength=0.5)
    D, noise = edit.applied(D, noise)
    *_, last = heun(D, noise, karras_sigmas(40, sigma_max=edit.sigma), cond)

Both are a wrapped denoiser and a shifted noise, so every sampler edits without knowing of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from presto_models.denoiser import Cond, Denoiser
from presto_models.edm import SIGMA_MAX, KarrasUniform


class Edit(NamedTuple):
    """What a sampler starts from instead of nothing."""

    clip: Float[Tensor, "b c t"]
    kept: Bool[Tensor, " t"]  # frames that come out as they went in
    sigma: float = SIGMA_MAX  # the noise level to start from

    def applied(self, D: Callable, noise: Float[Tensor, "b c t"]) -> tuple[Callable, Tensor]:
        """Denoiser and noise for a sampler whose first level is `sigma`; D is already guided."""
        return keeping(D, self.clip, self.kept), starting_from(self.clip, noise, self.sigma)


def continuation(clip: Float[Tensor, "b c k"], *, frames: int) -> Edit:
    """`clip` as the exact beginning of something `frames` long."""
    known = clip.shape[-1]
    if not 0 < known < frames:
        raise ValueError(f"cannot continue {known} frames to {frames}: nothing kept or nothing new")
    kept = torch.arange(frames, device=clip.device) < known
    return Edit(F.pad(clip, (0, frames - known)), kept)


def variation(clip: Float[Tensor, "b c t"], *, strength: float) -> Edit:
    """A clip like `clip`: noised part of the way and denoised from there (Meng et al. 2022).

    `strength` in (0, 1] is the place of the first noise level on Karras' grid (rho = 7): near 0
    the clip comes back, 1 forgets it. How it maps to a noise level is our choice.
    """
    check_strength(strength)
    sigma = KarrasUniform().quantile(torch.tensor(strength, dtype=torch.float64)).item()
    return Edit(clip, torch.zeros(clip.shape[-1], dtype=torch.bool, device=clip.device), sigma)


def keeping(D: Callable, known: Float[Tensor, "b c *t"], kept: Bool[Tensor, "..."]) -> Denoiser:
    """D, but where `kept` (broadcast to a clip) is True its estimate is `known`.

    A solver follows a constant estimate exactly, so at each level the kept part of its state is
    `known` with noise of that level, and the last step, which returns the estimate, returns
    `known` bit for bit. This is inpainting by replacement (Song et al. 2021), for `multistep` too.
    """

    def D_kept(
        x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond, **options
    ) -> Tensor | tuple[Tensor, Tensor]:
        D_x = D(x, sigma, cond, **options)
        if isinstance(D_x, tuple):  # CFG++ gives the estimate and the direction's origin
            return torch.where(kept, known, D_x[0]), torch.where(kept, known, D_x[1])
        return torch.where(kept, known, D_x)

    if hasattr(D, "origin"):
        D_kept.origin = keeping(D.origin, known, kept)
    if hasattr(D, "at"):
        D_kept.at = lambda level: keeping(D.at(level), known, kept)

    return D_kept


def starting_from(
    clip: Float[Tensor, "b c *t"], noise: Float[Tensor, "b c *t"], sigma: float
) -> Float[Tensor, "b c *t"]:
    """The noise for which a sampler that starts at `sigma` starts at clip + sigma * noise."""
    return noise + clip / sigma


def check_strength(strength: float) -> None:
    """ValueError for a place that Karras' grid has not."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength:g}")


def check_edit(
    given: bool, *, strength: float | None, keep_seconds: float | None, seconds: float
) -> None:
    """ValueError unless audio is `given` with one thing to do to it, or neither is."""
    if (strength is not None) + (keep_seconds is not None) != given:
        raise ValueError("audio to start from and one of strength and keep_seconds go together")
    if strength is not None:
        check_strength(strength)
    if keep_seconds is not None and not 0 < keep_seconds < seconds:
        raise ValueError(
            f"keep_seconds must be above 0 and below the clip's {seconds:g} s, got {keep_seconds:g}"
        )
