"""The diffusion transformer, whose depth is an argument of the call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only
from torch.utils.checkpoint import checkpoint

from presto_models.attention import rotary_table
from presto_models.blocks import Beats, Block, Fourier
from presto_models.conditioning import Condition, Metadata
from presto_models.denoiser import Hidden, Tap
from presto_models.edm import SIGMA_DATA, Precondition
from presto_models.layer_schedule import Drop, LayerSchedule, check_budgets, kept_blocks
from presto_models.snapshot import Snapshot


@dataclass(frozen=True)
class DiTConfig:
    """Size and options of the transformer.

    "A diffusion transformer" is published; depth 24, width 1024, 16 heads, rotary positions,
    shared AdaLN and SwiGLU are our defaults, not stated in the paper.
    """

    channels: int = 64
    width: int = 1024
    depth: int = 24
    heads: int = 16
    text_width: int = 128  # of the prompt's tokens; 0 for a network without text
    text_attention: bool = True  # False: the prompt enters as one pooled vector only
    budget_embedding: bool = True  # tell the network how many blocks will run
    checkpointing: bool = False  # run blocks again in the backward pass instead of keeping states
    trajectory: bool = False  # tell it the noise level a jump is to end at (consistency trajectory)
    drop: Drop = "shifted"  # which blocks a smaller budget drops
    key: bool = False  # tell it the musical key
    timing: bool = False  # tell it where in a recording of what length the clip begins
    tags: tuple[str, ...] = ()  # tell it which of these the clip has
    frame_rate: float = 0.0  # of the latents, Hz: tell its tokens where in their beat they are
    mlp_width: int | None = None  # of feed-forward layers; None: 8/3 of width, to the next 64

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layers; multiples of 64 are multiplied faster than others."""
        return self.mlp_width or 64 * -(-8 * self.width // (3 * 64))


class Prepared(NamedTuple):
    """A condition beside what every block of one network computes of its prompt.

    Like the condition a pytree whose tensors split and concatenate by sample.
    """

    cond: Condition
    keys_values: Float[Tensor, "b l 2 h k e"]  # of each of the l blocks


class DiT(nn.Module):
    """F(x, c_noise, cond): one token per latent frame, `budget` of its blocks run.

    A smaller budget runs only the blocks `layer_schedule.kept_blocks` names, so time falls with
    it. Budgets may differ within a batch: each block runs for the samples that keep it.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        if config.width % (2 * config.heads):
            raise ValueError(f"width {config.width} must be a multiple of 2 x {config.heads} heads")
        self.config = config
        width = config.width
        self.input = nn.Linear(config.channels, width)
        self.noise = Fourier(width)
        self.tempo = Fourier(width, low=0.05, high=8.0)
        self.no_tempo = nn.Parameter(torch.zeros(width))
        self.beats = Beats(width, config.frame_rate) if config.frame_rate else None
        self.metadata = Metadata(width, key=config.key, timing=config.timing, tags=len(config.tags))
        self.budget = nn.Embedding(config.depth, width) if config.budget_embedding else None
        self.noise_to = Fourier(width) if config.trajectory else None
        if config.text_width:
            self.text = nn.Linear(config.text_width, width)
            self.no_text = nn.Parameter(torch.zeros(width))
        self.embedding = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulation = nn.Linear(width, 6 * width)
        self.cross = bool(config.text_width) and config.text_attention
        self.blocks = nn.ModuleList(
            Block(width, config.heads, hidden=config.hidden, text=self.cross)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.output_modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, config.channels)
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        # Residual branches start closed and the output at zero; an unused budget says nothing.
        for layer in (self.modulation, self.output_modulation, self.output):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for block in self.blocks:
            if block.text_attention is not None:
                nn.init.zeros_(block.text_attention.out.weight)
        if self.budget is not None:
            nn.init.zeros_(self.budget.weight)
        if self.noise_to is not None:
            nn.init.zeros_(self.noise_to.out.weight)

    def prepare(self, cond: Condition | Prepared | None) -> Condition | Prepared | None:
        """The condition with its prompt's keys and values, computed once for all sampler steps.

        The network's output does not change by a bit. Without attention to text (or a condition)
        there is nothing to keep. Not to be kept while weights change.
        """
        if not self.cross or not isinstance(cond, Condition):
            return cond
        text, _ = self._prompt(cond, cond.mask.shape[0])
        pairs = [block.text_attention.keys_values(text) for block in self.blocks]
        return Prepared(cond, torch.stack(pairs, dim=1))

    def forward(
        self,
        x: Float[Tensor, "b c t"],
        c_noise: Float[Tensor, " b"],
        cond: Condition | Prepared | None = None,
        *,
        budget: int | Int[Tensor, " b"] | None = None,
        tap: Tap | None = None,
        c_noise_to: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c t"] | tuple[Float[Tensor, "b c t"], Hidden]:
        """The network's output and, with `tap`, the hidden state after that block beside it.

        `budget`: number of blocks to run, for all or per sample; None runs all of them.
        `tap`: index of a block or several, -1 for the hidden state entering the output head.
        `c_noise_to`: where a jump is to end, if the network was built with `trajectory`.
        """
        if isinstance(budget, Tensor):  # largest first: a block then runs for the first n samples
            check_budgets(budget, x.shape[0])
            order = budget.argsort(descending=True, stable=True)
            inputs = tree_map_only(Tensor, lambda v: v[order], (x, c_noise, cond, c_noise_to))
            out = self._forward(*inputs, budgets=budget[order], tap=tap)
            back = order.argsort()
            return tree_map(lambda leaf: leaf[back], out)
        budget = self.config.depth if budget is None else budget
        return self._forward(x, c_noise, cond, c_noise_to, budgets=budget, tap=tap)

    def features(
        self,
        x: Float[Tensor, "b c t"],
        c_noise: Float[Tensor, " b"],
        cond: Condition | Prepared | None = None,
        *,
        tap: Tap,
    ) -> Hidden:
        """The full network's hidden state after block `tap`; no later block runs."""
        depth = self.config.depth
        return self._run(x, c_noise, cond, None, budgets=depth, tap=tap, stop=True)[1]

    def _forward(self, x, c_noise, cond, c_noise_to, *, budgets: int | Tensor, tap: Tap | None):
        h, tapped, embedding = self._run(x, c_noise, cond, c_noise_to, budgets=budgets, tap=tap)
        shift, scale = self.output_modulation(embedding).unsqueeze(1).chunk(2, dim=-1)
        F_x = self.output(self.norm(h) * (1 + scale) + shift).transpose(1, 2)
        return F_x if tap is None else (F_x, tapped)

    def _run(
        self,
        x: Tensor,
        c_noise: Tensor,
        cond: Condition | Prepared | None,
        c_noise_to: Tensor | None,
        *,
        budgets: int | Tensor,  # descending if they differ
        tap: Tap | None,
        stop: bool = False,
    ):
        """Embed and run the kept blocks: final hidden state, tapped one(s), noise embedding."""
        batch = x.shape[0]  # not len(x), which an exporter would take for a constant
        counts = self._counts(budgets, batch)
        wanted = () if tap is None else tap if isinstance(tap, tuple) else (tap,)
        everyone = [i for i, n in enumerate(counts) if n == batch]
        if missing := [i for i in wanted if i != -1 and i not in everyone]:
            raise ValueError(f"tap {missing[0]} is not among the blocks that run: {everyone}")
        h = self.input(x.to(self.input.weight.dtype).transpose(1, 2))
        head_width = self.config.width // self.config.heads
        rotary = rotary_table(h.shape[1], head_width, h.device, h.dtype)
        cond, ready = cond if isinstance(cond, Prepared) else (cond, None)
        if self.beats is not None and cond is not None:
            h = h + self.beats(h.shape[1], cond.tempo, cond.beat)
        embedding, text, mask = self._embed(c_noise, cond, budgets, c_noise_to)
        modulation = self.modulation(embedding).unflatten(-1, (6, -1))
        # Under autocast blocks leave float32: the first is given it too, and compiled but once.
        h = h.to(torch.promote_types(h.dtype, self.input.weight.dtype))
        states, waiting = {}, []  # samples wait while blocks run that they do not keep
        for i, n in enumerate(counts):
            if n == 0 or (stop and states.keys() >= set(wanted)):
                continue
            if n > h.shape[0]:
                h, waiting = torch.cat([h, *waiting]), []
            elif n < h.shape[0]:
                h, waiting = h[:n], [h[n:], *waiting]
            attended = ()
            if self.cross:
                block = self.blocks[i].text_attention
                pair = block.keys_values(text) if ready is None else ready[:, i]
                attended = pair[:n], mask[:n]
            h = self._block(i)(h, modulation[:n], rotary, *attended)
            if i in wanted:
                states[i] = h
        h = states[-1] = torch.cat([h, *waiting]) if waiting else h
        tapped = tuple(states[i] for i in wanted)
        return h, tapped if isinstance(tap, tuple) else tapped[0] if tapped else None, embedding

    def _block(self, i: int) -> Callable:
        if self.config.checkpointing and torch.is_grad_enabled():
            return partial(checkpoint, self.blocks[i], use_reentrant=False)
        return self.blocks[i]

    def _counts(self, budgets: int | Tensor, batch: int) -> list[int]:
        """For each block, how many of the batch's samples keep it."""
        depth, drop = self.config.depth, self.config.drop
        if not isinstance(budgets, Tensor):
            kept = kept_blocks(budgets, depth, drop)
            return [batch if i in kept else 0 for i in range(depth)]
        counts = [0] * depth
        for budget, n in zip(
            *(v.tolist() for v in budgets.unique(return_counts=True)), strict=True
        ):
            for i in kept_blocks(budget, depth, drop):
                counts[i] += n
        return counts

    def _embed(self, c_noise: Tensor, cond: Condition | None, budgets, c_noise_to):
        """One vector for noise, budget, metadata and prompt; and the prompt's tokens with mask."""
        vector = self.noise(c_noise)
        if self.budget is not None:
            vector = vector + self.budget.weight[budgets - 1]
        if c_noise_to is not None:
            if self.noise_to is None:
                raise ValueError("a network that jumps to sigma_to is built with trajectory=True")
            vector = vector + self.noise_to(c_noise_to)
        if cond is None:
            known, log_tempo = c_noise.new_zeros(len(c_noise), 1, dtype=torch.bool), c_noise * 0
        else:
            known, log_tempo = cond.tempo[:, None] > 0, (cond.tempo.clamp(min=1) / 100).log2()
        vector = vector + torch.where(known, self.tempo(log_tempo), self.no_tempo)
        vector = self.metadata(vector, cond)
        text = mask = None
        if self.config.text_width:
            text, mask = self._prompt(cond, c_noise.shape[0])
            weight = mask[..., None].to(text.dtype)
            vector = vector + (text * weight).sum(1) / weight.sum(1)
        return self.embedding(vector), text, mask

    def _prompt(self, cond: Condition | None, batch: int):
        """Prompt tokens at the network's width; a learned token stands first, so none is empty."""
        first = self.no_text.expand(batch, 1, -1)
        seen = torch.ones(batch, 1, dtype=torch.bool, device=first.device)
        if cond is None:
            return first, seen
        text = self.text(cond.text.to(first.dtype))
        return torch.cat([first, text], dim=1), torch.cat([seen, cond.mask], dim=1)


@dataclass(frozen=True)
class PrestoDenoiserConfig:
    """A transformer, its preconditioning and what distillation made of it."""

    dit: DiTConfig = field(default_factory=DiTConfig)
    sigma_data: float = SIGMA_DATA
    schedule: LayerSchedule | None = None
    few_step: bool = False  # a distilled generator, to be sampled by `samplers.multistep`
    boundary: float = 0.0  # the noise level at which it returns its input; see edm.scalings
    # How sampling guides unless told otherwise: where guidance is sound, for sigma in (low, high],
    # and the scale of CFG++; None: everywhere, and 0.8.
    guidance_interval: tuple[float, float] | None = None
    guidance_scale: float | None = None


class PrestoDenoiser(Precondition, Snapshot):
    """The project's denoiser: a preconditioned DiT that can be saved and loaded.

    With a layer schedule every call spends the blocks its noise level calls for, unless
    `budget` says otherwise. A network built with `trajectory` jumps to 0 unless told where to.
    """

    def __init__(self, config: PrestoDenoiserConfig):
        if config.schedule is not None:
            config.schedule.within(config.dit.depth)
        super().__init__(DiT(config.dit), config.sigma_data, config.boundary)
        self.config = config

    @property
    def depth(self) -> int:
        """Number of blocks of the full network."""
        return self.config.dit.depth

    @property
    def schedule(self) -> LayerSchedule | None:
        """How many blocks a call spends, by noise level; None where it always runs all."""
        return self.config.schedule

    @property
    def trajectory(self) -> bool:
        """Whether it knows where a jump is to end, and so is sampled by `samplers.jumps`."""
        return self.config.dit.trajectory

    @property
    def guidance_interval(self) -> tuple[float, float] | None:
        """The noise levels to guide at unless told otherwise; None: all of them."""
        return self.config.guidance_interval

    @property
    def guidance_scale(self) -> float | None:
        """The scale of CFG++ to guide by unless told otherwise; None: the usual one."""
        return self.config.guidance_scale

    def forward(self, x, sigma, cond=None, *, budget=None, sigma_to=None, **options):
        if budget is None and self.schedule is not None:
            budget = self.schedule(sigma)
        if sigma_to is None and self.trajectory:
            sigma_to = torch.zeros_like(sigma)
        return super().forward(x, sigma, cond, budget=budget, sigma_to=sigma_to, **options)

    def features(self, x, sigma, cond=None, *, tap):
        """The hidden state after block `tap` of the pass that a call makes."""
        if self.schedule is None and not self.trajectory:
            return super().features(x, sigma, cond, tap=tap)  # which runs no later block
        return self(x, sigma, cond, tap=tap)[1]
