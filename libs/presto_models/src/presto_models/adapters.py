"""Denoisers out of other people's networks: eps-, v- and flow-models, and modules whose middle or
whose blocks have a name.

    denoiser = from_v(net, alphas_cumprod)               # net(x, t, cond)
    denoiser = DropBlocks(denoiser, "inner.blocks")      # now with budget= and tap=
    denoiser = FeatureTap(denoiser, "net.inner.middle")  # tap=0 is another place than a block

All are modules around a module: copies are whole, and a state dict gains a prefix only.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from presto_models.denoiser import Cond, Hidden, Tap, pass_on_facts
from presto_models.edm import Precondition
from presto_models.hooks import find_submodule, one_at_a_time, only_blocks, watch
from presto_models.layer_schedule import Drop, check_budgets, kept_blocks

Time = Callable[[Float[Tensor, " b"]], Tensor]  # noise level -> what the network calls time
Form = Callable[[Float[Tensor, " b"]], tuple[Tensor, Tensor, Tensor, Tensor]]


# ---------------------------------------------------------------------- other parametrisations


class Adapted(Precondition):
    """D(x, sigma, cond) = c_skip x + c_out net(c_in x, t, cond) with the c's and t of `form`.

    `scale` is the deviation of the network's own data over that of ours: with latents of deviation
    1 there and 0.5 here it is 2, and D(x, sigma) = D_net(scale x, scale sigma) / scale. Options
    (`tap`, `budget`) are handed on to the network; `sigma_to` reaches it as `c_noise_to`, a time.
    """

    def __init__(self, inner: Callable, form: Form, scale: float = 1.0):
        super().__init__(inner)
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.form, self.scale = form, scale

    def scalings(self, sigma: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sigma = sigma.to(torch.promote_types(sigma.dtype, torch.float32))
        c_skip, c_out, c_in, t = self.form(self.scale * sigma)
        return c_skip, c_out / self.scale, c_in * self.scale, t


def from_eps(net: Callable, time: Float[Tensor, " steps"] | Time, *, scale: float = 1.0) -> Adapted:
    """A variance-preserving model that predicts the noise: z = (x0 + sigma eps) / sqrt(1 + sigma^2)
    and D = x - sigma net(z, t, cond).

    `time`: the model's table alphas_cumprod (see `table_time`), or a function sigma -> t.
    """
    clock = _clock(time)

    def form(sigma):
        return torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), clock(sigma)

    return Adapted(net, form, scale)


def trig_time(sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Stable Audio's t in 0..1, with z = cos(pi t / 2) x0 + sin(pi t / 2) eps."""
    return sigma.atan() * (2 / math.pi)


def from_v(
    net: Callable, time: Float[Tensor, " steps"] | Time = trig_time, *, scale: float = 1.0
) -> Adapted:
    """A variance-preserving model that predicts v = a eps - s x0 of z = a x0 + s eps, where
    a = 1 / sqrt(1 + sigma^2) and s = sigma a (Salimans & Ho 2022): D = a^2 x - s net(a x, t, cond).

    `time`: by default `trig_time`; or the table alphas_cumprod, or a function sigma -> t.
    """
    clock = _clock(time)

    def form(sigma):
        a = (1 + sigma**2).rsqrt()
        return a**2, -sigma * a, a, clock(sigma)

    return Adapted(net, form, scale)


def from_flow(
    net: Callable, *, clean_at: int = 0, time_scale: float = 1.0, scale: float = 1.0
) -> Adapted:
    """A rectified flow: net(z, t, cond) = eps - x0 with z = (1 - t) x0 + t eps, t = sigma /
    (1 + sigma), so D = (x - sigma net(x / (1 + sigma), t, cond)) / (1 + sigma).

    `clean_at=1` is the other convention: data at t = 1 and a velocity x0 - eps. The network is told
    `time_scale` t (1000 for diffusers' models).
    """
    if clean_at not in (0, 1):
        raise ValueError(f"clean_at must be 0 or 1, got {clean_at}")

    def form(sigma):
        c_in = 1 / (1 + sigma)
        sign, t = (1, c_in) if clean_at else (-1, sigma * c_in)
        return c_in, sign * sigma * c_in, c_in, time_scale * t

    return Adapted(net, form, scale)


def table_time(alphas_cumprod: Float[Tensor, " steps"]) -> Time:
    """The step of a table whose noise level sqrt((1 - a) / a) is sigma, linear in ln sigma between
    steps and hence fractional. Beyond the table it stays at its ends."""
    a = alphas_cumprod.detach().double().cpu()
    levels = ((1 - a) / a).log() / 2
    if len(levels) < 2 or not levels[0].isfinite() or not (levels.diff() > 0).all():
        raise ValueError("alphas_cumprod must fall from step to step, from below 1 to 0 or above")

    @cache  # a copy from the CPU cannot be part of a CUDA graph
    def table_on(device: torch.device, dtype: torch.dtype) -> Tensor:
        return levels.to(device, dtype)

    def time(sigma):
        table = table_on(sigma.device, sigma.dtype)
        level = sigma.log().clamp(table[0], table[-1])
        after = torch.searchsorted(table, level).clamp(1, len(table) - 1)
        low, high = table[after - 1], table[after]
        return after - 1 + (level - low) / (high - low)

    return time


def _clock(time: Tensor | Time) -> Time:
    return table_time(time) if isinstance(time, Tensor) else time


# ---------------------------------------------------------------------- hidden states


class FeatureTap(nn.Module):
    """Shows what named submodules of a denoiser put out, by forward hooks that live for one call.

    `paths` as in `net.get_submodule`; `tap` is an index into them. tap=-1, the state entering the
    output head, is the wrapped denoiser's business: `DropBlocks` has it. `channels` says where the
    submodules keep theirs; hidden states come out as (b, n, d). Other options are handed on.
    """

    def __init__(self, net: nn.Module, paths: str | Sequence[str], *, channels: str = "first"):
        super().__init__()
        self.net, self.channels = net, channels
        self.paths = (paths,) if isinstance(paths, str) else tuple(paths)
        pass_on_facts(self, net)
        for path in self.paths:
            find_submodule(net, path)

    def forward(
        self,
        x: Float[Tensor, "b c *t"],
        sigma: Float[Tensor, " b"],
        cond: Cond = None,
        *,
        tap: Tap | None = None,
        **options,
    ) -> Float[Tensor, "b c *t"] | tuple[Float[Tensor, "b c *t"], Hidden]:
        """The denoised latent and, with `tap`, the hidden states beside it."""
        if tap is not None and isinstance(options.get("budget"), Tensor):
            return _grouped(self, (x, sigma, cond, {**options, "tap": tap}))
        seen, result = self._run(x, sigma, cond, tap, options)
        return result if tap is None else (result, _as_asked(seen, tap))

    def features(
        self, x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond = None, *, tap: Tap
    ) -> Hidden:
        """The hidden states alone; the pass ends at the last one needed."""
        return _as_asked(self._run(x, sigma, cond, tap, {}, stop=True)[0], tap)

    @one_at_a_time
    def _run(self, x, sigma, cond, tap: Tap | None, options: dict, stop: bool = False):
        """Hidden states by tap, and the denoised latent unless the pass was stopped before it."""
        wanted = _as_tuple(tap)
        for i in wanted:
            if not -1 <= i < len(self.paths):
                raise ValueError(f"tap {i} is none of 0..{len(self.paths) - 1}: {self.paths}")
        head = -1 in wanted
        if head and not hasattr(getattr(self.net, "inner", self.net), "features"):
            raise ValueError("tap=-1 needs a denoiser that knows its output head: see DropBlocks")
        modules = {i: find_submodule(self.net, self.paths[i]) for i in wanted if i >= 0}
        options = {**options, "tap": -1} if head else options
        result = None
        with watch(modules, self.channels, stop=stop and not head) as seen:
            result = self.net(x, sigma, cond, **options)
        if head:
            result, seen[-1] = result
        return seen, result


class DropBlocks(nn.Module):
    """Runs `budget` of the blocks in the nn.ModuleList or nn.Sequential that `path` names.

    For networks that walk through the list, each block turning a hidden state into one of the same
    shape. `tap` is the index of a block, -1 the last one that runs, whose output enters what
    follows; its channels are where `channels` says. A network that should know its budget must take
    it itself: an embedding of it cannot be put in from outside. Checkpointing
    block by block is fine; of the whole walk it is not, which the backward pass repeats in full.
    """

    def __init__(
        self,
        net: nn.Module,
        path: str,
        *,
        drop: Drop = "shifted",
        channels: str = "first",
    ):
        super().__init__()
        find_submodule(net, path, lists_only=True)
        self.net, self.path, self.drop, self.channels = net, path, drop, channels
        pass_on_facts(self, net)

    @property
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        """The list whose blocks are dropped."""
        return self.net.get_submodule(self.path)

    @property
    def depth(self) -> int:
        """Number of blocks of the full network."""
        return len(self.blocks)

    def forward(
        self,
        x: Float[Tensor, "b c *t"],
        sigma: Float[Tensor, " b"],
        cond: Cond = None,
        *,
        budget: int | Int[Tensor, " b"] | None = None,
        tap: Tap | None = None,
        **options,
    ) -> Float[Tensor, "b c *t"] | tuple[Float[Tensor, "b c *t"], Hidden]:
        """The denoised latent and, with `tap`, the hidden state after that block beside it.

        `budget`: number of blocks to run, for all or per sample; None runs all of them.
        """
        if isinstance(budget, Tensor):
            return _grouped(self, (x, sigma, cond, {**options, "budget": budget, "tap": tap}))
        seen, result = self._run(x, sigma, cond, budget=budget, tap=tap, options=options)
        return result if tap is None else (result, _as_asked(seen, tap))

    def features(
        self, x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond = None, *, tap: Tap
    ) -> Hidden:
        """The full network's hidden state after block `tap`; no later block runs."""
        return _as_asked(self._run(x, sigma, cond, tap=tap, stop=True)[0], tap)

    @one_at_a_time
    def _run(self, x, sigma, cond, *, budget=None, tap=None, options=None, stop=False):
        blocks, wanted = self.blocks, _as_tuple(tap)
        kept = kept_blocks(len(blocks) if budget is None else budget, len(blocks), self.drop)
        if missing := [i for i in wanted if i not in (-1, *kept)]:
            raise ValueError(f"tap {missing[0]} is not among the blocks that run: {kept}")
        modules = {i: blocks[kept[-1] if i == -1 else i] for i in wanted}
        result = None
        with only_blocks(blocks, kept, self.path), watch(modules, self.channels, stop=stop) as seen:
            result = self.net(x, sigma, cond, **(options or {}))
        return seen, result


def _grouped(denoiser: nn.Module, inputs: tuple):
    """Run each budget's samples together and put them back in order."""
    budget = inputs[-1]["budget"]
    check_budgets(budget, len(inputs[0]))
    groups = [(budget == n).nonzero().squeeze(1) for n in budget.unique()]
    parts = []
    for rows in groups:
        *given, options = tree_map_only(Tensor, lambda leaf, rows=rows: leaf[rows], inputs)
        parts.append(denoiser(*given, **{**options, "budget": int(budget[rows[0]])}))
    order = torch.cat(groups).argsort()
    return tree_map(lambda *leaf: torch.cat(leaf)[order], *parts)


def _as_tuple(tap: Tap | None) -> tuple[int, ...]:
    return () if tap is None else tap if isinstance(tap, tuple) else (tap,)


def _as_asked(seen: dict[int, Tensor], tap: Tap) -> Hidden:
    if missing := [i for i in _as_tuple(tap) if i not in seen]:
        raise ValueError(
            f"tap {missing[0]}: the pass did not come through its module (in a network compiled "
            "as a whole no hook is called: compile its blocks)"
        )
    return tuple(seen[i] for i in tap) if isinstance(tap, tuple) else seen[tap]
