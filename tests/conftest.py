"""Checks the shapes and types in signatures while testing; in production they are free."""

import beartype.typing  # noqa: F401  the checker below needs it
import jaxtyping
import pytest
import torch

# As for static checkers an int passes for a float; Self is only understood on decorated classes.
CHECKER = """beartype.beartype(conf=beartype.BeartypeConf(
    is_pep484_tower=True,
    hint_overrides=beartype.FrozenDict({beartype.typing.Self: object}),
))"""

jaxtyping.install_import_hook(["presto_models", "presto_distill"], CHECKER)
torch.set_num_threads(1)

CHANNELS, WIDTH, DEPTH, TEXT_WIDTH = 4, 16, 4, 8


def pytest_collection_modifyitems(items):
    """Longest first: the notebooks, while other processes run the rest."""
    items.sort(key=lambda item: item.path.stem != "test_notebooks")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tiny_denoiser():
    """Builds a denoiser of four thin blocks whose weights are random, none of them zero."""
    from presto_models.dit import DiTConfig, PrestoDenoiser, PrestoDenoiserConfig

    def build(
        *, seed: int = 0, schedule=None, guidance_interval=None, guidance_scale=None, **options
    ) -> PrestoDenoiser:
        size = dict(channels=CHANNELS, width=WIDTH, depth=DEPTH, heads=2, text_width=TEXT_WIDTH)
        dit = DiTConfig(**{**size, **options})
        told = {"guidance_interval": guidance_interval, "guidance_scale": guidance_scale}
        denoiser = PrestoDenoiser(PrestoDenoiserConfig(dit, schedule=schedule, **told))
        source = rng(seed)
        with torch.no_grad():
            for weight in denoiser.parameters():
                weight.copy_(torch.randn(weight.shape, generator=source) * 0.3)
        return denoiser

    return build


@pytest.fixture
def tiny_condition():
    """Builds the condition of `batch` clips: up to 3 tokens each, every other tempo known."""
    from presto_models.conditioning import Condition

    def build(batch: int, *, seed: int = 0) -> Condition:
        tempo = torch.tensor([120.0, 0.0]).repeat(batch)[:batch]
        mask = torch.tensor([[True, True, True], [True, True, False]]).repeat(batch, 1)[:batch]
        return Condition(torch.randn(batch, 3, TEXT_WIDTH, generator=rng(seed)), mask, tempo)

    return build


@pytest.fixture
def batch(request, tiny_condition):
    """BATCH clips of FRAMES frames, as the test's module sets them, with their conditions."""
    from presto_distill.objective import Batch

    n, frames = request.module.BATCH, request.module.FRAMES
    return Batch(torch.randn(n, CHANNELS, frames, generator=rng(9)), tiny_condition(n))
