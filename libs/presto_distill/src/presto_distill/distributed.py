"""Training in several processes: PyTorch's own engines (DDP, FSDP2), one under every turn.

A loss calls players as plain modules, as often as it likes, also by other methods than `forward`,
and runs on each rank the blocks that its samples call for. So an engine sees a turn as a whole:
gradients meet once, at its end, and no communication depends on which blocks ran.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from presto_distill.objective import Batch, Losses, Turn

Strategy = Literal["single", "ddp", "fsdp"]
Players = dict[str, nn.Module]


@dataclass(frozen=True)
class World:
    """This process among `size` of them; `start` makes one from the launcher's environment.

    "ddp" keeps everything on every rank. "fsdp" keeps a part of the players' weights, averages and
    optimizer states on each rank, and whole players only for the length of a turn.
    """

    rank: int = 0
    size: int = 1
    strategy: Strategy = "single"
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.strategy not in ENGINES:
            raise ValueError(f"strategy must be one of {', '.join(ENGINES)}, got {self.strategy!r}")
        if self.strategy == "single" and self.size > 1:
            raise ValueError(f'strategy "single" has one process, got {self.size}')

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Each value's mean over ranks, which must all have the same names."""
        if self.size == 1:
            return values
        import torch.distributed as dist

        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.size).tolist(), strict=True))

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every rank; no rank continues before all have come here."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, device=torch.device(self.device))
        dist.barrier()
        return values[0]

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """What follows runs on the leading rank, and when that is through on the others."""
        if not self.leads:
            self.agree(None)
        yield
        if self.leads:
            self.agree(None)


def start(strategy: Strategy = "ddp", device: str | None = None) -> World:
    """Join the processes that torchrun started, NCCL between GPUs and gloo between CPUs.

    Without a launcher (no RANK in the environment) a single process. `device` is cuda or cpu;
    by default cuda where there is one, then the GPU of the local rank.
    """
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    if "RANK" not in os.environ:
        return World(device=device or kind)
    import torch.distributed as dist

    local = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else None
    if local is not None:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if local else "gloo", device_id=local)
    atexit.register(dist.destroy_process_group)
    return World(dist.get_rank(), dist.get_world_size(), strategy, local or torch.device("cpu"))


def shard(
    stream: Callable[[int], Iterator[Batch]], rank: int, size: int
) -> Callable[[int], Iterator[Batch]]:
    """The batches start + rank, start + rank + size, ... of a stream.

    Every rank reads whole rounds of `size` batches, so that all of them see the same end.
    """

    def mine(start: int) -> Iterator[Batch]:
        batches = iter(stream(start))  # a list would begin anew every time
        while len(turn := list(islice(batches, size))) == size:
            yield turn[rank]

    return mine


# --- engines -------------------------------------------------------------------------------------


class Single:
    """One process: an engine with nothing to do. The others say what they do differently."""

    def __init__(self, world: World, players: Players, averages: Players, *, taught: bool):
        """`averages` are the players' moving averages; `taught`: losses may call them."""

    def gathered(self, *, averages: bool = True) -> AbstractContextManager:
        """Within it players, and averages if asked for, can be called on every rank."""
        return nullcontext()

    def turn(self, player: str) -> AbstractContextManager:
        """Around the micro-batches of one turn; gradients are complete when it is left."""
        return nullcontext()

    def part(self, player: str) -> AbstractContextManager:
        """Around each micro-batch of a turn but the last."""
        return nullcontext()

    def terms(self, turn: Turn, batch: Batch, rng: torch.Generator) -> Losses:
        """The turn's loss."""
        return turn.loss(batch, rng)


class Whole(nn.Module):
    """A player as engines see it: one forward call is whatever a function does with the player."""

    def __init__(self, player: nn.Module):
        super().__init__()
        self.player = player

    def forward(self, function: Callable, *arguments: Any) -> Any:
        return function(*arguments)


class DDP(Single):
    """Players are the same on every rank; gradients are averaged as backward produces them."""

    def __init__(self, world: World, players: Players, averages: Players, *, taught: bool):
        from torch.nn.parallel import DistributedDataParallel

        # Blocks that no sample of a rank called for stay unused there.
        self.players = {
            name: DistributedDataParallel(
                Whole(player.requires_grad_(True)), find_unused_parameters=True
            )
            for name, player in players.items()
        }

    def part(self, player: str) -> AbstractContextManager:
        return self.players[player].no_sync()

    def terms(self, turn: Turn, batch: Batch, rng: torch.Generator) -> Losses:
        return self.players[turn.player](turn.loss, batch, rng)


class FSDP(Single):
    """Players and averages are cut over the ranks (FSDP2), gathered whole for each turn.

    Not block by block: ranks whose samples call for different blocks would wait for each other in
    different places. Gathered once, players are plain modules until gradients meet.
    """

    def __init__(self, world: World, players: Players, averages: Players, *, taught: bool):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.world, self.taught = world, taught
        mesh = init_device_mesh(torch.device(world.device).type, (world.size,))
        self.players, self.averages = (
            {name: fully_shard(Whole(module), mesh=mesh) for name, module in group.items()}
            for group in ({k: v.requires_grad_(True) for k, v in players.items()}, averages)
        )
        # FSDP looks once, at the first gathering, at which weights learn: now all players' do.
        with self.gathered():
            pass

    @contextmanager
    def gathered(self, *, averages: bool = True) -> Iterator[None]:
        modules = [*self.players.values(), *(self.averages.values() if averages else ())]
        for module in modules:
            module.unshard()
        try:
            yield
        finally:
            for module in modules:
                module.reshard()

    @contextmanager
    def turn(self, player: str) -> Iterator[None]:
        with self.gathered(averages=self.taught):
            yield
            self._meet(self.players[player])

    def _meet(self, player: nn.Module) -> None:
        """Average the gradients that have gathered on the ranks, by a loss that adds nothing.

        A weight that some ranks used gets a zero on the others; one that none used, no gradient.
        """
        import torch.distributed as dist

        weights = list(player.parameters())
        used = [float(weight.grad is not None) for weight in weights]
        used = torch.tensor(used, device=self.world.device)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        met = [weight for weight, by in zip(weights, used.tolist(), strict=True) if by]
        player(lambda: sum(0 * weight.sum() for weight in met)).backward()


ENGINES: dict[str, type[Single]] = {"single": Single, "ddp": DDP, "fsdp": FSDP}


# --- state ---------------------------------------------------------------------------------------


def same_start(world: World, modules: list[nn.Module]) -> None:
    """Give every rank the weights and buffers of rank 0, in place."""
    if world.size == 1:
        return
    import torch.distributed as dist

    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def whole(state: Any, world: World = World()) -> Any:
    """A state with tensors in one piece, on rank 0; others keep no tensor that was cut.

    All ranks must call it. Where nothing is cut the state itself.
    """
    if world.strategy != "fsdp":
        return state
    from torch.distributed.tensor import DTensor

    def gather(leaf: DTensor) -> Tensor | None:
        full = leaf.full_tensor()
        return full.cpu() if world.leads else None

    return tree_map_only(DTensor, gather, state)


def cut(value: Any, like: Any) -> Any:
    """`value`, cut over the ranks if `like` is a tensor of its shape that is."""
    if not hasattr(like, "device_mesh") or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    # Every rank has read the same file: nobody needs to send anything.
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
