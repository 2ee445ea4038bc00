"""How long music takes: base model, Presto-L, Presto-S and Presto-LS, stage by stage.

    python benchmarks/latency.py [--quick] [--device cuda] [--compile] [--out FOLDER]

One table per device: for each model, length and batch the seconds of text, transformer, decoder
and mono-to-stereo, and what they add up to. The base is 40 Heun steps with guidance (CFG++, three
passes a step that is guided, two of others), Presto-L the same with fewer blocks, Presto-S 4 steps,
Presto-LS 4 steps with fewer blocks. Weights are random, on which time does not depend; text encoder
and codec are the bundled ones. `rate` is the transformer's share of the rate at which
the device multiplies large matrices in the same precision, measured in the same run.

On a CPU the transformer's time is put together from the measured time of a pass at each budget and
the number of such passes, because the base takes hours; `--whole` runs the samplers instead, as on
CUDA. Peak memory of a CPU is the process's highest so far.

A second table has the transformer beside diffusers' StableAudioDiTModel, of equal width, depth,
heads and tokens, both without compilation, calls taking turns; `ratio` is the median over turns.
"""

import argparse
import copy
import csv
import platform
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from presto_models import sizes
from presto_models.autoencoder import Autoencoder
from presto_models.compiled import Compiled
from presto_models.conditioning import Condition, TextEncoder, condition, null_condition
from presto_models.denoiser import prepare
from presto_models.dit import DiT, DiTConfig, PrestoDenoiser, PrestoDenoiserConfig
from presto_models.edm import karras_sigmas
from presto_models.info import step_flops
from presto_models.layer_schedule import LayerSchedule, presto_schedule
from presto_models.precision import multiplies_bfloat16
from presto_models.samplers import few_step_sigmas, heun, multistep, sample
from presto_models.sampling import Sampling
from presto_models.stereo import MonoToStereo

METHODS = ("base", "Presto-L", "Presto-S", "Presto-LS")
FEW_STEP, FEWER_BLOCKS = METHODS[2:], METHODS[1::2]
PROMPT = "warm driving techno with a rolling bass line and bright open hi-hats at night"
HEUN_STEPS, FEW_STEPS = 40, 4


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    bfloat16 = device.type == "cuda" or (args.compile and multiplies_bfloat16(device))
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    clock = Clock(device, args.repeats)
    with torch.inference_mode():
        peak = matmul_rate(clock, dtype)
        rows = [row for name in args.models for row in measure(name, clock, dtype, peak, args)]
    facts = (
        f"{device_name(device)}, {dtype}, torch {torch.__version__}, {torch.get_num_threads()} "
        f"threads, {'compiled' if args.compile else 'eager'}; {peak / 1e12:.3g} TFLOP/s in matrices"
    )
    tables = [rows] if args.no_diffusers else [rows, beside_diffusers(clock, dtype, args.quick)]
    text = "\n\n".join([facts, *map(markdown, tables)]) + "\n"
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"latency-{device.type}.md").write_text(text)
        with open(args.out / f"latency-{device.type}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=["large", "presto-small"])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--seconds", nargs="+", type=float, default=[10.0, 32.0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile blocks, and the decoder")
    parser.add_argument("--mode", help="of torch.compile, e.g. max-autotune-no-cudagraphs")
    parser.add_argument("--whole", action="store_true", help="run whole samplers on a CPU too")
    parser.add_argument("--no-diffusers", action="store_true", help="leave out the second table")
    parser.add_argument("--quick", action="store_true", help="one small model, length and batch")
    parser.add_argument("--out", type=Path, help="folder for latency-DEVICE.md and .csv")
    args = parser.parse_args()
    if args.mode and not args.compile:
        parser.error("--mode is a mode of --compile")
    if args.quick:
        args.models, args.batches, args.seconds = ["presto-small"], [1], [10.0]
        args.repeats = min(args.repeats, 3)
    return args


class Clock(NamedTuple):
    """Times calls on a device: the median of some, after one that warms up."""

    device: torch.device
    repeats: int

    def __call__(self, call: Callable[[], Any]) -> float:
        call()
        return statistics.median(self.once(call) for _ in range(self.repeats))

    def once(self, call: Callable[[], Any]) -> float:
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(name: str, clock: Clock, dtype: torch.dtype, peak: float, args) -> list[dict]:
    """Rows of one model: one network behind all methods, the bundled text encoder and codec."""
    device, config = clock.device, find_config(name)
    dit = config.dit
    with torch.device(device):
        network = PrestoDenoiser(config).to(dtype)
    shorter = copy.copy(network)  # the same weights
    shorter.config = replace(network.config, schedule=presto_schedule(dit.depth))
    codec = Autoencoder.from_pretrained("presto-small/codec", device=device)
    text = TextEncoder.from_pretrained("presto-small/text", device=device)
    stereo = MonoToStereo.from_pretrained("presto-small/stereo", device=device)
    full, fewer = network, shorter
    if args.compile:
        full, fewer = Compiled(network, mode=args.mode), Compiled(shorter, mode=args.mode)
        for part in (codec, stereo):
            part.compile()

    rows = []
    for seconds, batch in product(args.seconds, args.batches):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        frames = -(-round(seconds * codec.sample_rate) // codec.hop_length)
        noise = torch.randn(batch, dit.channels, frames, device=device)
        cond = condition(text, [PROMPT] * batch, [120.0] * batch)
        mono = codec.decode(noise)[:, None]
        read = clock(partial(text, [PROMPT] * batch))
        decode = clock(partial(codec.decode, noise))
        widen = clock(partial(stereo, mono))
        for method in args.methods:
            denoiser, schedule = (
                (fewer, shorter.schedule) if method in FEWER_BLOCKS else (full, None)
            )
            passes = passes_of(method, network.config, schedule, cond)
            flops = sum(
                batch * n * step_flops(dit, budget, frames=frames, tokens=cond.mask.shape[1])
                for budget, n in passes.items()
            )
            if args.whole or device.type == "cuda":
                denoise = clock(partial(run_sampler, denoiser, method, noise, cond))
            else:
                denoise = time_passes(clock, denoiser, noise, cond, passes)
            total = read + denoise + decode
            rows.append(
                {"model": name, "method": method, "seconds": f"{seconds:g}", "batch": batch}
                | {"text ms": ms(read), "transformer ms": ms(denoise), "decode ms": ms(decode)}
                | {"stereo ms": ms(widen), "all, mono ms": ms(total)}
                | {"all, stereo ms": ms(total + widen)}
                | {"x real time": f"{batch * seconds / total:.1f}"}
                | {"rate": f"{flops / denoise / peak:.0%}", "peak GB": f"{peak_gb(device):.2f}"}
            )
    return rows


def find_config(name: str) -> PrestoDenoiserConfig:
    """Of a size, by its function's name, or of a model folder's base."""
    if name in ("micro", "small", "base", "large"):
        return PrestoDenoiserConfig(getattr(sizes, name)())
    return PrestoDenoiser.from_pretrained(f"{name}/base").config


def passes_of(
    method: str, config: PrestoDenoiserConfig, schedule: LayerSchedule | None, cond: Condition
) -> Counter:
    """How often the network runs with which budget, by a stand-in that the sampler runs."""
    levels = []

    def stand_in(x: Tensor, sigma: Tensor, cond: Condition) -> Tensor:
        levels.append(sigma[0])
        return x

    stand_in.guidance_interval = config.guidance_interval
    run_sampler(stand_in, method, torch.zeros(len(cond.tempo), 1, 1), cond)
    if schedule is None:
        return Counter({config.dit.depth: len(levels)})
    return Counter(schedule(torch.stack(levels)).tolist())


def run_sampler(denoiser, method: str, noise: Tensor, cond: Condition) -> Tensor:
    ready = prepare(denoiser, cond)
    if method in FEW_STEP:
        rng = torch.Generator(noise.device).manual_seed(0)
        return sample(multistep(denoiser, noise, few_step_sigmas(FEW_STEPS), ready, rng=rng))
    null = prepare(denoiser, null_condition(cond))
    sampling = Sampling(HEUN_STEPS, guidance_scale=0.8).resolved(denoiser, few_step=False)
    guided = sampling.guide(denoiser, lambda cond: null)
    return sample(heun(guided, noise, karras_sigmas(HEUN_STEPS), ready))


def time_passes(clock: Clock, denoiser, noise: Tensor, cond: Condition, passes: Counter) -> float:
    """Seconds of so many passes at each budget, from the time of one."""
    sigma, ready = torch.ones(len(noise), device=noise.device), prepare(denoiser, cond)
    return sum(
        n * clock(partial(denoiser, noise, sigma, ready, budget=budget))
        for budget, n in passes.items()
    )


def beside_diffusers(clock: Clock, dtype: torch.dtype, quick: bool) -> list[dict]:
    """Forward, and forward and backward, beside a transformer of equal width, depth and heads."""
    cuda, rows = clock.device.type == "cuda", []
    sizes = ((512, 2),) if quick else ((1024, 24),) if cuda else ((512, 6), (1024, 6))
    lengths = (216,) if quick else (216, 689)  # 10 s and 32 s
    batches = (1, 16) if cuda else (1,)
    for (width, depth), frames, batch in product(sizes, lengths, batches):
        calls = ours_and_theirs(width, depth, (batch, frames), clock.device, dtype)
        for name, backward in (("forward", False), ("forward + backward", True)):
            times: tuple[list, list] = [], []
            with torch.set_grad_enabled(backward):
                for _ in range(clock.repeats + 1):
                    for call, taken in zip(calls, times, strict=True):
                        run = (lambda f=call: f().square().mean().backward()) if backward else call
                        taken.append(clock.once(run))
            pairs = list(zip(*times, strict=True))[1:]  # the first warms up
            ours, theirs = map(statistics.median, zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            rows.append(
                {"width": width, "depth": depth, "batch": batch, "tokens": frames, "pass": name}
                | {"ours ms": ms(ours), "diffusers ms": ms(theirs), "ratio": f"{ratio:.2f}"}
            )
    return rows


def ours_and_theirs(width: int, depth: int, size: tuple[int, int], device, dtype):
    """One call of each on inputs of the same shapes: latents, noise level, 32 text tokens."""
    from diffusers import StableAudioDiTModel
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    (batch, frames), heads, channels, text_width, tokens = size, width // 64, 64, 128, 32
    with torch.device(device):
        ours = DiT(DiTConfig(channels, width, depth, heads, text_width)).to(dtype)
        theirs = StableAudioDiTModel(
            sample_size=frames,
            in_channels=channels,
            out_channels=channels,
            num_layers=depth,
            attention_head_dim=width // heads,
            num_attention_heads=heads,
            num_key_value_attention_heads=heads,
            cross_attention_dim=width,
            cross_attention_input_dim=text_width,
            global_states_input_dim=width,
        ).to(dtype)
        x = torch.randn(batch, channels, frames, dtype=dtype)
        text = torch.randn(batch, tokens, text_width, dtype=dtype)
        noise, summary = torch.ones(batch), torch.zeros(batch, 1, width, dtype=dtype)
        mask = torch.ones(batch, tokens, dtype=torch.bool)
        turns = get_1d_rotary_pos_embed(
            width // heads // 2, frames + 1, use_real=True, repeat_interleave_real=False
        )
        cond = Condition(text, mask, torch.full((batch,), 120.0))
        turns = tuple(table.to(device) for table in turns)
    return (
        lambda: ours(x, noise, cond),
        lambda: theirs(
            x,
            noise.to(dtype),
            encoder_hidden_states=text,
            global_hidden_states=summary,
            rotary_embedding=turns,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0],
    )


def matmul_rate(clock: Clock, dtype: torch.dtype) -> float:
    """Operations per second of a product of large square matrices."""
    n = 8192 if clock.device.type == "cuda" else 2048
    a = torch.randn(n, n, device=clock.device, dtype=dtype)
    return 2 * n**3 / clock(lambda: a @ a)


def peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def markdown(rows: list[dict]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    main()
