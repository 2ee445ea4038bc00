"""What happens inside the network as blocks are dropped, on held-out clips."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from pandas import DataFrame
from torch import Tensor
from torch.utils._pytree import tree_map_only

from presto_distill import losses
from presto_distill.experiment import Lab, Run
from presto_distill.lab import studies
from presto_models import LogNormal, PrestoDenoiser, presto_schedule
from presto_models.conditioning import Condition
from presto_models.edm import add_noise
from presto_models.layer_schedule import Drop


def held_out_clips(lab: Lab, clips: int) -> tuple[Float[Tensor, "n c t"], Condition]:
    """So many held-out latents, cut to the preset's length, with their conditions."""
    n = min(clips, len(lab.held_out), lab.preset.samples)
    x = lab.held_out.latents[:n, :, : lab.preset.frames].to(lab.device)
    return x, tree_map_only(Tensor, lambda leaf: leaf[:n], lab.prompts)


def dropping(base: PrestoDenoiser, drop: Drop) -> PrestoDenoiser:
    """A copy of `base` that drops its last blocks ("tail") or those before the last ("shifted")."""
    net = PrestoDenoiser(replace(base.config, dit=replace(base.config.dit, drop=drop)))
    net.load_state_dict(base.state_dict())
    return net


@torch.inference_mode()
def depth_probe(
    lab: Lab, *, sigmas: tuple[float, ...] = (0.2, 1.0, 5.0), clips: int = 16
) -> DataFrame:
    """The base model with fewer and fewer blocks, not trained for it: the scale (root mean square)
    of the hidden state entering the output head, over that of all blocks, for both ways to drop.

    It is the motivation of keeping the last block: what the head was trained to read.
    """
    x, cond = held_out_clips(lab, clips)
    rows = []
    for drop in ("tail", "shifted"):
        net = dropping(lab.teacher, drop).to(lab.device).eval()
        for level in sigmas:
            sigma = torch.full((len(x),), level, device=lab.device)
            noised = add_noise(x, sigma, torch.Generator(lab.device).manual_seed(lab.seed))
            states = {
                blocks: net(noised, sigma, cond, budget=blocks, tap=-1)
                for blocks in range(1, net.depth + 1)
            }
            full = states[net.depth][1].square().mean()
            rows += [
                {
                    "drop": drop,
                    "sigma": level,
                    "blocks": blocks,
                    "scale": (hidden.square().mean() / full).sqrt().item(),
                    "loss": losses.denoising(D_x, x, sigma).mean().item(),
                }
                for blocks, (D_x, hidden) in states.items()
            ]
    return DataFrame(rows)


@torch.inference_mode()
def layer_probe(
    lab: Lab,
    runs: dict[str, Run | None],
    *,
    budgets: tuple[int, ...] = (),
    clips: int = 64,
    seed: int | None = None,
) -> DataFrame:
    """Held-out denoising loss, and the scale of the hidden state entering the head, per budget.

    One noise level in the middle of each bin of the schedule; every model meets the same noise.
    Scale is relative to the base model at full depth. A run of None is the base model with blocks
    dropped and no training. `budgets` replace those of the default schedule; `seed`: of the noise,
    by default the lab's.
    """
    seed = lab.seed if seed is None else seed
    x, cond = held_out_clips(lab, clips)
    n = len(x)
    depth, schedule = lab.teacher.depth, presto_schedule(lab.teacher.depth)
    schedule = replace(schedule, budgets=budgets) if budgets else schedule
    bins = len(schedule.budgets)
    middles = LogNormal().quantile((torch.arange(bins, dtype=torch.float64) + 0.5) / bins)
    rows = []
    for middle in middles.tolist():
        sigma = torch.full((n,), middle, device=lab.device)
        rng = torch.Generator(lab.device).manual_seed(seed)
        noised = add_noise(x, sigma, rng)
        budget = int(schedule(sigma)[0])
        D_full, full = lab.teacher(noised, sigma, cond, budget=depth, tap=-1)
        seen = {f"{studies.BASE}, all blocks": (D_full, full, depth)}
        for name, run in runs.items():
            D_x, hidden = studies.denoiser_of(lab, run)(noised, sigma, cond, budget=budget, tap=-1)
            seen[name] = (D_x, hidden, budget)
        for name, (D_x, hidden, blocks) in seen.items():
            loss = losses.denoising(D_x, x, sigma).mean().item()
            scale = (hidden.square().mean() / full.square().mean()).sqrt().item()
            facts = {"model": name, "sigma": middle, "bin_budget": budget, "blocks": blocks}
            rows.append({**facts, "loss": loss, "scale": scale})
    return DataFrame(rows)
