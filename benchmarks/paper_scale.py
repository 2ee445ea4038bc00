"""What the published runs would take, computed from the size of the networks: nothing is measured.

    .venv/bin/python benchmarks/paper_scale.py [--clips-per-gpu 5] [--gpus 16]

Networks live on no device: PyTorch counts their multiplications and the bytes that backward keeps.
"""

import argparse
import contextlib

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from presto_distill.objective import Batch
from presto_distill.objectives.presto_s import PrestoS
from presto_models.conditioning import Condition, null_condition
from presto_models.dit import PrestoDenoiser, PrestoDenoiserConfig
from presto_models.layer_schedule import PRESTO

FRAMES, TEXT_TOKENS = 689, 64  # 32 s of latents; our default length of a prompt
PEAK, UTILISATION = 312e12, 0.35  # A100's bfloat16 multiply-adds x 2 per second; our assumption
FLOAT = 4  # bytes; weights, gradients, moments and averages are float32


def batch(net: PrestoDenoiser, clips: int) -> Batch:
    dit = net.config.dit
    mask = torch.ones(clips, TEXT_TOKENS, dtype=torch.bool)
    text = torch.zeros(clips, TEXT_TOKENS, dit.text_width)
    cond = Condition(text, mask, torch.full((clips,), 120.0))
    return Batch(torch.zeros(clips, dit.channels, FRAMES), cond)


def cost(call, *, backward: bool = True) -> tuple[float, float]:
    """Floating-point operations of a call (and its backward), and bytes kept for the backward."""
    kept: dict[int, int] = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    graph = contextlib.nullcontext() if backward else torch.no_grad()
    with counter, graph, torch.autocast("cpu", torch.bfloat16):
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = call()
        if backward:
            loss.backward()
    return counter.get_total_flops(), sum(kept.values())


def presto_s(net: PrestoDenoiser, clips: int) -> tuple[float, float]:
    """Operations per clip and step, and the larger turn's kept bytes for `clips` clips."""
    objective = PrestoS(net, null_condition, feature_layer=net.depth // 2 - 1, width=1024)
    flops, kept = 0.0, 0.0
    for turn in objective.turns:
        for name, player in objective.players.items():
            player.requires_grad_(name == turn.player)
        data = batch(net, clips)
        of, held = cost(lambda turn=turn, data=data: sum(turn.loss(data, None).values()))
        flops, kept = flops + of / clips, max(kept, held)
    return flops, kept


def presto_l(net: PrestoDenoiser, clips: int) -> tuple[float, float]:
    """As `presto_s`: one dropped pass with its backward, and a full one wherever blocks dropped."""
    data, sigma = batch(net, clips), torch.ones(clips)
    net.train().requires_grad_(True)
    budgets = [net.depth - dropped for dropped in PRESTO]  # equally probable, of 24 blocks
    costs = {n: cost(lambda n=n: net(data.x, sigma, data.cond, budget=n).sum()) for n in {*budgets}}
    full, _ = cost(lambda: net(data.x, sigma, data.cond), backward=False)
    flops = sum(costs[n][0] + (full if n < net.depth else 0) for n in budgets) / len(budgets)
    return flops / clips, max(held for _, held in costs.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips-per-gpu", type=int, default=5)
    parser.add_argument("--gpus", type=int, default=16)
    args = parser.parse_args()
    clips, gpus = args.clips_per_gpu, args.gpus

    with FakeTensorMode(allow_non_fake_inputs=True):
        net = PrestoDenoiser(PrestoDenoiserConfig())
        weights = sum(weight.numel() for weight in net.parameters())
        head = PrestoS(net, null_condition, feature_layer=net.depth // 2 - 1, width=1024).head
        head_weights = sum(weight.numel() for weight in head.parameters())
        # Method: operations per clip and step, bytes kept, players' and fixed weights, run's size.
        methods = {
            "Presto-S": (*presto_s(net, clips), 2 * weights + head_weights, weights, 32_000, 80),
            "Presto-L": (*presto_l(net, clips), weights, 0, 60_000, 12),
        }

    def gib(count: float) -> str:
        return f"{count / 2**30:.1f}"

    print(
        f"Denoiser {weights / 1e6:.0f} M parameters, discriminator head {head_weights / 1e6:.0f} M."
    )
    print(f"GiB per GPU, {clips} clips each, {gpus} GPUs; hours at {UTILISATION:.0%} of peak.\n")
    print("| method | strategy | fixed | players | Adam | EMA | gradients | activations | total |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (_, kept, players, fixed, _, _) in methods.items():
        for strategy, parts in (("ddp", 1), ("fsdp", gpus)):
            # Weights are whole in a turn, and gradients until they have met.
            own = players * FLOAT
            ema = own / parts
            rows = [fixed * FLOAT, own, 2 * own / parts, ema, own, kept]
            cells = " | ".join(gib(row) for row in [*rows, sum(rows)])
            print(f"| {name} | {strategy} | {cells} |")
    print("\n| method | TFLOP per clip and step | batch | steps | GPU-hours | hours |")
    print("|---|---|---|---|---|---|")
    for name, (flops, _, _, _, steps, size) in methods.items():
        hours = flops * size * steps / (PEAK * UTILISATION) / 3600
        print(
            f"| {name} | {flops / 1e12:.1f} | {size} | {steps} | {hours:.0f} | {hours / gpus:.1f} |"
        )


if __name__ == "__main__":
    main()
