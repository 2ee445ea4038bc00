"""What takes how long, what batches change, and what speed buys: the best of several clips."""

from __future__ import annotations

import math
from statistics import median

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from pandas import DataFrame
from torch import Tensor

from presto_distill.experiment import Lab
from presto_distill.lab.params import Speed
from presto_distill.lab.plots import COLOURS, OF_MODEL, canvas, colour_of, plain_log
from presto_distill.lab.studies import Entry, pipeline_of, warm_up
from presto_distill.metrics import LatentStatistics, Score, evaluate
from presto_distill.metrics.clap_score import prompt_similarity
from presto_distill.metrics.scores import mean_scores
from presto_models import Pipeline, Sampling

STAGES = {"text": COLOURS[4], "denoise": COLOURS[0], "decode": COLOURS[2], "stereo": COLOURS[3]}
MEASURES = {
    "similarity": "similarity to the prompt\n(the embedder that chose)",
    "likeness": "likeness to the prompt's real clip\n(latent statistics)",
    "frechet": "Fréchet distance\n(the embedder that chose)",
    "frechet_statistics": "Fréchet distance\n(latent statistics)",
}
HIGHER = ("similarity", "likeness")


def systems(lab: Lab, params: Speed) -> list[Entry]:
    """The base model, Presto-L, Presto-S and Presto-LS, by the runs of combined_acceleration."""
    layers = lab.distill("layers")
    steps = lab.distill("steps", start=lab.warm_start())
    both = lab.distill("both", start=lab.warm_start(layers) or layers)
    heun, few = Sampling(steps=lab.preset.base_steps), Sampling(steps=params.few_steps)
    return [
        Entry("base", None, heun),
        Entry("Presto-L", layers, heun),
        Entry("Presto-S", steps, few),
        Entry("Presto-LS", both, few),
    ]


def devices(lab: Lab) -> list[str]:
    """The lab's device, and the CPU."""
    return list(dict.fromkeys([lab.device.type, "cpu"]))


def timings(lab: Lab, params: Speed) -> DataFrame:
    """Seconds per stage of one clip of `params.seconds`, for each system and device: medians of
    rounds that visit all systems in turn. Stereo where the model has it."""
    entries = systems(lab, params)
    return _timed(lab, params, entries, params.seconds, (1,), params.repeats)


def batches(lab: Lab, params: Speed) -> DataFrame:
    """The same for `params.batches` clips of the preset's length at once, timed once each: of the
    slowest system and the fastest."""
    ends = [entry for entry in systems(lab, params) if entry.model in ("base", "Presto-LS")]
    seconds = lab.preset.frames * lab.codec.hop_length / lab.codec.sample_rate
    return _timed(lab, params, ends, seconds, params.batches, 1)


def _timed(
    lab: Lab,
    params: Speed,
    entries: list[Entry],
    seconds: float,
    batches: tuple[int, ...],
    repeats: int,
) -> DataFrame:
    stereo = Pipeline.from_pretrained(params.model).stereo
    pipelines = [pipeline_of(lab, entry.run) for entry in entries]
    laps: dict[tuple, list[dict[str, float]]] = {}
    try:
        for device in devices(lab):
            for entry, pipeline in zip(entries, pipelines, strict=True):
                pipeline.stereo = stereo
                pipeline.to(device)
                warm_up(pipeline, params.prompt, entry.sampling)
            for batch in batches:
                for number in range(repeats):
                    for entry, pipeline in zip(entries, pipelines, strict=True):
                        made = pipeline(
                            [params.prompt] * batch,
                            seconds=seconds,
                            seed=number,
                            sampling=entry.sampling,
                            stereo=stereo is not None,
                        )
                        key = (device, batch, entry.model, entry.sampling.steps)
                        laps.setdefault(key, []).append(made.stage_seconds)
    finally:
        for pipeline in pipelines:
            pipeline.to(lab.device)
    rows = []
    for (device, batch, model, steps), times in laps.items():
        stages = {stage: median(lap[stage] for lap in times) for stage in times[0]}
        total, audio = sum(stages.values()), seconds * batch
        facts = {"device": device, "batch": batch, "model": model, "steps": steps}
        factor = {"total": total, "real_time_factor": audio / total}
        rows.append({**facts, "audio_seconds": audio, **stages, **factor})
    return DataFrame(rows)


def affordable(times: DataFrame, device: str) -> float:
    """How many clips Presto-LS makes, one at a time, while the base model makes one."""
    seconds = times[times["device"] == device].set_index("model")["total"]
    return seconds["base"] / seconds["Presto-LS"]


# ---------------------------------------------------------------------- the best of n


def keep_best(
    similarity: Float[Tensor, "k n"], candidates: Float[Tensor, "k n ..."]
) -> Float[Tensor, "n ..."]:
    """Of k candidates per prompt the one most similar to it."""
    best = similarity.argmax(dim=0)
    return candidates[best, torch.arange(candidates.shape[1])]


def best_of(lab: Lab, params: Speed) -> DataFrame:
    """The base model's clips, and the best of n Presto-LS clips for each n of `params.best_of`.

    The bundled embedder chooses, so it flatters what it chose. A second judge, statistics of latent
    channels in which nothing is learned, gives a Fréchet distance of its own, and the likeness
    (cosine) of each clip to the held-out clip whose caption was its prompt. All with intervals.
    """
    base, both = (entry for entry in systems(lab, params) if entry.model in ("base", "Presto-LS"))
    frames, wanted = lab.preset.frames, lab.prompt_embeddings
    statistics = LatentStatistics.fit(lab.train.latents[..., :frames])
    real = statistics.embed(lab.held_out.latents[..., :frames])
    paired = real[[i % len(real) for i in range(lab.preset.samples)]]

    draws = range(max(params.best_of))
    latents = torch.stack([lab.latents(both.run, both.sampling, draw=k) for k in draws])
    embedded = torch.stack([lab.embeddings(both.run, both.sampling, draw=k) for k in draws])
    similarity = torch.stack([prompt_similarity(one, wanted) for one in embedded])

    def measure(model: str, n: int, clips: Tensor, vectors: Tensor) -> dict:
        judged = statistics.embed(clips)
        each = {
            "similarity": prompt_similarity(vectors, wanted),
            "likeness": prompt_similarity(judged, paired),
        }
        chose = lab.score(vectors)
        second = evaluate(judged, real, seed=lab.seed, embedder=statistics.name)
        scores = mean_scores(each, seed=lab.seed)
        scores |= {"frechet": chose.frechet_distance, "frechet_statistics": second.frechet_distance}
        scores |= {"recall": chose.recall, "coverage": chose.coverage}
        return {"model": model, "n": n, "clips": len(clips), **_flat(scores)}

    own = (lab.latents(None, base.sampling), lab.embeddings(None, base.sampling))
    rows = [measure("base", 1, *own)]
    for n in sorted({1, *params.best_of}):
        kept = [keep_best(similarity[:n], all_[:n]) for all_ in (latents, embedded)]
        rows.append(measure("Presto-LS", n, *kept))
    return DataFrame(rows)


def _flat(scores: dict[str, Score]) -> dict[str, float]:
    row = {}
    for name, score in scores.items():
        row |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    return row


# ---------------------------------------------------------------------- figures


def stage_bars(times: DataFrame) -> Figure:
    """Seconds per stage of one clip, stacked, with the real-time factor; one bar per row."""
    fig, ax = canvas(height=1.5 + 0.42 * len(times), width=8.0)
    names = [f"{row.model}, {row.steps:g} steps, {row.device}" for row in times.itertuples()]
    left = pd.Series(0.0, index=times.index)
    for stage, colour in STAGES.items():
        if stage in times:
            ax.barh(names, times[stage], left=left, color=colour, label=stage, height=0.62)
            left = left + times[stage]
    for i, row in enumerate(times.itertuples()):
        text = f"  {row.total:.2g} s = {row.real_time_factor:.3g} × real time"
        ax.annotate(text, (row.total, i), va="center", fontsize=9)
    ax.set_xlabel(f"seconds for a {times['audio_seconds'].iloc[0]:g} s clip, batch 1")
    ax.set_xlim(0, left.max() * 1.4)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    fig.legend(ncols=len(STAGES), frameon=False, loc="outside upper right", fontsize=9)
    return fig


def throughput(times: DataFrame) -> Figure:
    """Seconds of audio per second of compute against the batch; one line per system and device,
    dashed on the second device."""
    fig, ax = canvas(height=4.0)
    for device, style in zip(times["device"].unique(), ("-", "--"), strict=False):
        for i, (model, rows) in enumerate(
            times[times["device"] == device].groupby("model", sort=False)
        ):
            colour, rows = colour_of(model, i), rows.sort_values("batch")
            ax.plot(rows["batch"], rows["real_time_factor"], "o", ls=style, color=colour)
            place = (rows["batch"].iloc[-1], rows["real_time_factor"].iloc[-1])
            ax.annotate(
                f"{model}, {device}", place, (8, 0), textcoords="offset points", va="center",
                color=colour, fontsize=9, fontweight="bold",
            )  # fmt: skip
    batches = sorted(times["batch"].unique())
    ax.set(xscale="log", yscale="log", xlabel="clips at once (batch)")
    ax.set_ylabel("seconds of audio per second\n(higher is faster)")
    ax.set_xticks(batches, [f"{batch:g}" for batch in batches])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(batches[0] * 0.8, batches[-1] * (batches[-1] / batches[0]) ** 0.3 * 1.2)
    plain_log(ax)
    return fig


def best_of_panel(table: DataFrame, *, equal: float) -> Figure:
    """Four measures against n, the base model as a band, and a line at the n of equal time."""
    fig, axes = canvas(4, width=13.0, height=3.6)
    base, few = table[table["model"] == "base"].iloc[0], table[table["model"] == "Presto-LS"]
    for ax, (name, title) in zip(axes, MEASURES.items(), strict=True):
        error = [few[name] - few[f"{name}_low"], few[f"{name}_high"] - few[name]]
        error = [side.clip(lower=0) for side in error]
        colour = OF_MODEL["Presto-LS"]
        ax.errorbar(few["n"], few[name], yerr=error, fmt="o-", color=colour, capsize=3)
        ax.axhline(base[name], color=OF_MODEL["base"], ls="--", lw=1.4)
        band = (base[f"{name}_low"], base[f"{name}_high"])
        ax.axhspan(*band, color=OF_MODEL["base"], alpha=0.1, lw=0)
        ax.set_xscale("log")
        ax.set_xticks(few["n"], [f"{n:g}" for n in few["n"]])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel="n clips, the best kept")
        better = "higher" if name in HIGHER else "lower"
        ax.set_title(f"{title}\n{better} is better", fontsize=9)
        if equal >= 1:
            ax.axvline(equal, color=COLOURS[2], ls=":", lw=1.6)
    shown = axes[0].get_lines()
    handles = {"Presto-LS, best of n": shown[0], "base, one clip": shown[-1 - (equal >= 1)]}
    if equal >= 1:
        handles[f"equal time (n = {equal:.1f})"] = shown[-1]
    fig.legend(handles.values(), handles, frameon=False, ncols=3, loc="outside lower center")
    return fig


def at_equal_time(table: DataFrame, equal: float) -> pd.Series:
    """The row of the largest n that fits in the base model's time; n = 1 where none does."""
    few = table[table["model"] == "Presto-LS"].sort_values("n")
    fits = few[few["n"] <= max(equal, few["n"].min())]
    return fits.iloc[-1] if math.isfinite(equal) else few.iloc[0]
