"""scikit-learn's digits, and two networks for them that never heard of this project.

All that joins the networks to the objectives are adapters: see `convolutions` and `transformer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from presto_distill import Batch
from presto_distill.trainer import Stream
from presto_models import DropBlocks, Precondition, from_v, presto_schedule
from presto_models.edm import SIGMA_DATA
from presto_models.layer_schedule import LayerSchedule

CLASSES = 10  # the label 10 says nothing


class Digits(NamedTuple):
    """Images (n, 1, 8, 8) of deviation sigma_data with their labels, to learn from and to judge."""

    train: Batch
    held_out: Batch

    def stream(self, batch: int, seed: int) -> Stream:
        """Endless batches of training digits; batch k depends on its number alone."""

        def batches(start: int) -> Iterator[Batch]:
            for k in count(start):
                source = torch.Generator().manual_seed(1_000_003 * seed + k)
                rows = torch.randint(len(self.train.x), (batch,), generator=source)
                yield Batch(self.train.x[rows], self.train.cond[rows])

        return batches

    def read(self, images: Float[Tensor, "n 1 8 8"]) -> Int[Tensor, " n"]:
        """The digit that most of an image's 5 nearest training images show."""
        near = torch.cdist(images.flatten(1), self.train.x.flatten(1)).topk(5, largest=False)
        return self.train.cond[near.indices].mode(1).values


def load_digits(*, held_out: int = 360, seed: int = 0) -> Digits:
    """scikit-learn's 1797 handwritten digits, without mean and scaled; every run holds some out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, labels = torch.tensor(found.images).float().unsqueeze(1), torch.tensor(found.target)
    x = (x - x.mean()) / x.std() * SIGMA_DATA
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, labels = x[order], labels[order]
    return Digits(Batch(x[held_out:], labels[held_out:]), Batch(x[:held_out], labels[:held_out]))


def no_label(labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The null condition: an extra label."""
    return torch.full_like(labels, CLASSES)


# ---------------------------------------------------------------------- two networks


class Own(NamedTuple):
    """A network of one's own behind adapters, and what the objectives must know of it."""

    name: str
    denoiser: nn.Module
    depth: int  # number of blocks that may be dropped
    width: int  # of the hidden states

    @property
    def schedule(self) -> LayerSchedule:
        """Presto-L's, scaled to the depth."""
        return presto_schedule(self.depth)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.denoiser.parameters())

    @property
    def middle(self) -> int:
        """The block whose hidden state the discriminator reads."""
        return self.depth // 2 - 1


class ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.modulation = nn.Linear(width, 2 * width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 1)

    def forward(self, h, embedding):
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, dim=1)
        h_in = self.norm(h) * (1 + scale) + shift
        return h + self.second(F.silu(self.first(h_in)))


class ConvNet(nn.Module):
    """A plain residual network F(x, c_noise, label): no taps, no budgets."""

    def __init__(self, width: int = 48, depth: int = 4):
        super().__init__()
        self.frequencies = nn.Buffer(torch.linspace(0.5, 8, width // 2))
        self.noise = nn.Linear(width, width)
        self.label = nn.Embedding(CLASSES + 1, width)
        self.enter = nn.Conv2d(1, width, 4, stride=2, padding=1)
        self.place = nn.Parameter(torch.zeros(width, 4, 4))
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.leave = nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x, c_noise, label):
        angles = c_noise[:, None] * self.frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        embedding = F.silu(self.noise(waves) + self.label(label))
        h = self.enter(x) + self.place
        for block in self.blocks:
            h = block(h, embedding)
        return self.leave(F.silu(h))


def convolutions() -> Own:
    """A raw network: EDM's preconditioning makes a denoiser of it."""
    net = ConvNet()
    denoiser = DropBlocks(Precondition(net, SIGMA_DATA), "inner.blocks")
    return Own("convolutions", denoiser, depth=len(net.blocks), width=net.enter.out_channels)


class DiffusersTransformer(nn.Module):
    """diffusers' class-conditional DiT as net(x, t, label), with t in 0..1 told in thousandths."""

    def __init__(self, heads: int = 3, depth: int = 4):
        super().__init__()
        from diffusers import DiTTransformer2DModel

        self.model = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=16,
            in_channels=1,
            out_channels=1,
            num_layers=depth,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=CLASSES,
        )
        for module in self.model.modules():  # labels are dropped by the objectives
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0

    def forward(self, x, t, label):
        return self.model(x, timestep=1000 * t, class_labels=label, return_dict=False)[0]


def transformer() -> Own:
    """A v-model whose own data have deviation 1: twice that of ours."""
    net = DiffusersTransformer()
    blocks = "inner.model.transformer_blocks"
    denoiser = DropBlocks(from_v(net, scale=1 / SIGMA_DATA), blocks, channels="last")
    width = net.model.config.num_attention_heads * net.model.config.attention_head_dim
    return Own("diffusers transformer", denoiser, depth=denoiser.depth, width=width)


NETWORKS = {"convolutions": convolutions, "transformer": transformer}


def build(name: str, *, seed: int) -> Own:
    """One of NETWORKS, with weights that the seed decides; ValueError names them."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}")
    torch.manual_seed(seed)
    return NETWORKS[name]()
