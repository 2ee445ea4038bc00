"""The notebook on the base model: denoising by noise level, the sign of P_mean, and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from presto_distill import losses
from presto_distill.experiment import Lab, Run
from presto_distill.lab import probes, studies
from presto_distill.lab.params import BaseModel
from presto_distill.lab.plots import COLOURS, FAINT, OF_MODEL, canvas, metrics_by_scale, plain_log
from presto_distill.metrics.scores import mean_scores
from presto_models import LogNormal, Sampling
from presto_models.conditioning import null_condition
from presto_models.edm import SIGMA_MAX, add_noise

BUNDLED, WITHOUT = "bundled base", "bundled base, no condition"
EVERYWHERE = "cfg++, every level"
NAMES = {"cfg++": "CFG++", "cfg": "CFG", EVERYWHERE: "CFG++ at every noise level"}
BUNDLED_COLOURS = {BUNDLED: OF_MODEL["base"], WITHOUT: FAINT}


def trained(lab: Lab, P_mean: float) -> Run:
    """A fresh network of the bundled size trained as briefly as the preset's layer ablations, with
    a base model's learning rate; equal weights, clips and draws whatever the noise law."""
    stage = replace(lab.preset.ablation_layers, lr=1e-3)
    return lab.distill("base", train=stage, p_train=LogNormal(P_mean=P_mean))


def name_of(P_mean: float) -> str:
    """A training's name with the sign that is in question."""
    return f"P_mean = {P_mean:+g}".replace("-", "−")


def denoising(lab: Lab, params: BaseModel) -> DataFrame:
    """Held-out loss by noise level of the bundled base, with and without its condition, and of both
    trainings, with intervals over clips; every model meets the same noise. A network that outputs 0
    has 1 where clips have the deviation sigma_data."""
    x, cond = probes.held_out_clips(lab, params.clips)
    nets = {BUNDLED: (lab.teacher, cond), WITHOUT: (lab.teacher, null_condition(cond))}
    nets |= {name_of(P_mean): (trained(lab, P_mean).denoiser, cond) for P_mean in params.P_means}
    low, high = params.sigmas
    levels = np.geomspace(low, high, params.levels)
    rows = []
    for level in levels.tolist():
        sigma = torch.full((len(x),), level, device=lab.device)
        noised = add_noise(x, sigma, torch.Generator(lab.device).manual_seed(lab.seed))
        for name, (net, told) in nets.items():
            with torch.inference_mode():
                loss = losses.denoising(net(noised, sigma, told), x, sigma).cpu()
            score = mean_scores({"loss": loss}, seed=lab.seed)["loss"]
            interval = {"loss": score.value, "loss_low": score.low, "loss_high": score.high}
            rows.append({"model": name, "sigma": level, **interval})
    return DataFrame(rows)


def judged(params: BaseModel) -> Sampling:
    """How all models are sampled but for guidance: two calls a step, or one without guidance."""
    return Sampling(steps=params.solver_steps, solver="dpmpp_2m")


def trainings(lab: Lab, params: BaseModel) -> DataFrame:
    """Quality of samples of both trainings, by the sampler of `judged`. Without guidance: which
    noise levels a law leaves unlearned decides where guidance misleads."""
    plain = replace(judged(params), guidance="cfg", guidance_scale=1.0)
    entries = [
        studies.Entry(name_of(P_mean), trained(lab, P_mean), plain) for P_mean in params.P_means
    ]
    return studies.quality(lab, entries)


def guidance(lab: Lab, params: BaseModel) -> DataFrame:
    """Quality of the bundled base by kind of guidance and scale: "cfg++" and "cfg" at the noise
    levels where the model says that guidance is sound, EVERYWHERE at all of them."""
    plain = judged(params)
    kinds = {
        "cfg++": (plain, params.cfg_pp_scales),
        "cfg": (replace(plain, guidance="cfg"), params.cfg_scales),
        EVERYWHERE: (replace(plain, guidance_interval=(0.0, SIGMA_MAX)), params.cfg_pp_scales),
    }
    rows = [(kind, how, scale) for kind, (how, scales) in kinds.items() for scale in scales]
    entries = [
        studies.Entry(studies.BASE, None, replace(how, guidance_scale=scale))
        for _, how, scale in rows
    ]
    names, _, scales = zip(*rows, strict=True)
    return studies.quality(lab, entries).assign(guidance=names, scale=scales)


# ---------------------------------------------------------------------- figures


def loss_plot(table: DataFrame, P_means: Sequence[float], *, models: Sequence[str]) -> Figure:
    """Loss by noise level with bands of 95 %, above the densities of the noise laws.

    `table`: rows of `denoising`; of these only `models` are drawn.
    """
    fig, ax = canvas(width=8.0, height=4.4)
    sigma = np.geomspace(table["sigma"].min(), table["sigma"].max(), 200)
    for P_mean in P_means:
        density = np.exp(-((np.log(sigma) - P_mean) ** 2) / 2)
        colour = OF_MODEL["base"] if BUNDLED in models else _colour(name_of(P_mean), P_means)
        ax.fill_between(sigma, 0, 0.25 * density, color=colour, alpha=0.16, lw=0)
        place = (np.exp(P_mean), 0)
        label = f"noise law, {name_of(P_mean)}"
        side = "right" if P_mean < 0 else "left"
        ax.annotate(label, place, (0, 2), textcoords="offset points", ha=side, color=colour)
    for model in models:
        rows = table[table["model"] == model].sort_values("sigma")
        colour = BUNDLED_COLOURS.get(model) or _colour(model, P_means)
        ax.plot(rows["sigma"], rows["loss"], "o-", ms=4.5, color=colour, label=model)
        ax.fill_between(
            rows["sigma"], rows["loss_low"], rows["loss_high"], color=colour, alpha=0.2, lw=0
        )
    ax.axhline(1, color=FAINT, lw=1, ls=":")
    place = (1.01, 1)
    ax.annotate("about what 0 has", place, xycoords=("axes fraction", "data"), va="center",
                color=FAINT, fontsize=9)  # fmt: skip
    ax.set(xscale="log", xlabel="noise level σ", ylabel="held-out denoising loss, λ(σ)-weighted")
    ax.set_ylim(0, max(1.15, 1.05 * table.loc[table["model"].isin(models), "loss_high"].max()))
    plain_log(ax, "x")
    ax.xaxis.get_major_locator().set_params(subs=(1,))
    ax.legend(frameon=False, fontsize=9.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def guidance_plot(table: DataFrame) -> Figure:
    """Three metrics against the guidance scale. The scales of CFG++ and of plain guidance are not
    the same quantity: each line is read by itself."""
    return metrics_by_scale(table.assign(model=table["guidance"].map(NAMES)))


def _colour(model: str, P_means: Sequence[float]) -> str:
    return COLOURS[[name_of(P_mean) for P_mean in P_means].index(model)]


# ---------------------------------------------------------------------- verdicts


def at(table: DataFrame, kind: str, scale: float) -> Series:
    """The row of a kind of guidance at a scale; `table`: rows of `guidance`."""
    return table[(table["guidance"] == kind) & (table["scale"] == scale)].iloc[0]
