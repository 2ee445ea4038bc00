"""Faster passes through a network: blocks compiled, and on CUDA whole passes recorded as graphs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from presto_models.conditioning import Condition
from presto_models.denoiser import Cond, pass_on_facts, prepare


def compile_blocks(
    network: nn.Module, *, mode: str | None = None, dynamic: bool | None = None
) -> None:
    """Compile, in place, the blocks that a network keeps in lists; all of it if it has no list.

    How many blocks run depends on the data and stays ordinary Python; what a block does is
    compiled once for all blocks of its kind. Names in the state dict stay. `mode` and `dynamic`
    are those of `torch.compile`.
    """
    # Kernels are made for a number of threads and kept on disk by a key that leaves it out: without
    # this, processes of one thread each run those of two, and wait for each other most of the time.
    threads = {"cpp.threads": torch.get_num_threads()}
    how = {"mode": mode} if mode else {"options": threads}  # torch.compile takes one of them

    def blocks(module: nn.Module) -> list[nn.Module]:
        if isinstance(module, nn.ModuleList):
            return list(module)
        return [block for part in module.children() for block in blocks(part)]

    for block in blocks(network) or [network]:
        block.compile(dynamic=dynamic, **how)


class Compiled(nn.Module):
    """A denoiser for sampling, its blocks compiled once for all budgets.

    On CUDA each pass is recorded as a CUDA graph when its shapes and budget are first seen and
    replayed from then on. The weights are the given denoiser's and must stay where they are;
    cast them to half precision: under autocast every pass casts them again.
    """

    def __init__(self, denoiser: nn.Module, *, mode: str | None = None):
        """`mode` is torch.compile's, such as "max-autotune-no-cudagraphs"."""
        super().__init__()
        compile_blocks(denoiser, mode=mode)
        self.denoiser = denoiser
        pass_on_facts(self, denoiser)
        self.run, self.prepare_once = Recorded(denoiser), Recorded(partial(prepare, denoiser))

    @torch.inference_mode()
    def prepare(self, cond: Cond) -> Cond:
        """The condition with what the denoiser can compute of it, once for all sampler steps."""
        return self.prepare_once(_padded(cond))

    @torch.inference_mode()
    def forward(
        self,
        x: Float[Tensor, "b c *t"],
        sigma: Float[Tensor, " b"],
        cond: Cond = None,
        *,
        budget: int | None = None,
        **options,
    ) -> Float[Tensor, "b c *t"]:
        """What the denoiser gives, without gradients; with options (`sigma_to`) never recorded."""
        if options:
            return self.denoiser(x, sigma, cond, budget=budget, **options)
        if budget is None and (schedule := getattr(self.denoiser, "schedule", None)) is not None:
            budgets = set(schedule(sigma.cpu()).tolist())
            if len(budgets) > 1:  # which samplers do not ask for
                return self.denoiser(x, sigma, cond)
            budget = budgets.pop()
        given = (x, sigma) if cond is None else (x, sigma, cond)
        return self.run(*given, **({} if budget is None else {"budget": budget}))


class Recorded:
    """A function whose work on CUDA is recorded when shapes and settings are first seen, and
    replayed from then on, without its hundreds of launches.

    Its arguments are pytrees of tensors, its keywords settings. What it does may depend on
    nothing else: neither on values of tensors nor on random numbers. Each recording holds its own
    memory. Outside inference mode, and elsewhere than on CUDA, it is the function itself.
    """

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self.graphs: dict[tuple, Graph] = {}

    def __call__(self, *args: Any, **settings: Any) -> Any:
        leaves, spec = tree_flatten(args)
        # A condition may have fields that are None.
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        inputs = [leaves[i] for i in places]
        if not (torch.is_inference_mode_enabled() and any(tensor.is_cuda for tensor in inputs)):
            return self.fn(*args, **settings)
        half = torch.is_autocast_enabled("cuda")
        shapes = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs)
        key = (spec, tuple(places), tuple(sorted(settings.items())), half, shapes)
        if key not in self.graphs:

            def call(*tensors: Tensor) -> Any:
                given: list = [None] * len(leaves)
                for i, tensor in zip(places, tensors, strict=True):
                    given[i] = tensor
                # Weights that autocast keeps would be gone when the graph is replayed.
                with torch.autocast("cuda", enabled=half, cache_enabled=False):
                    return self.fn(*tree_unflatten(given, spec), **settings)

            self.graphs[key] = Graph(call, inputs)
        return self.graphs[key](inputs)


def _padded(cond: Cond, to: int = 32) -> Cond:
    """The condition, on CUDA with masked tokens up to a multiple of `to`: prompts of about one
    length then share a recording."""
    if not (isinstance(cond, Condition) and cond.text.is_cuda):
        return cond
    more = -cond.text.shape[1] % to
    return cond._replace(text=F.pad(cond.text, (0, 0, 0, more)), mask=F.pad(cond.mask, (0, more)))


class Graph:
    """A recorded call of tensors on CUDA; replays copy what they are given into its memory."""

    def __init__(self, call: Callable[..., Any], inputs: Sequence[Tensor]):
        self.inputs = [tensor.clone() for tensor in inputs]
        device = next(tensor.device for tensor in inputs if tensor.is_cuda)
        with torch.cuda.device(device):  # else work would be looked for on the first one
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # compiles and tunes, which cannot be recorded
                for _ in range(3):
                    call(*self.inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=aside):
                self.output = call(*self.inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.graph.replay()
        return tree_map_only(Tensor, Tensor.clone, self.output)
