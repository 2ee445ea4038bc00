"""Training on a GPU, in bfloat16: a run that was stopped goes on as if it had not been."""

import pytest
import torch

from presto_distill import PrestoL, PrestoS, PrestoSConfig, TrainConfig, Trainer
from presto_distill.objective import Batch
from presto_models import (
    Condition,
    DiTConfig,
    PrestoDenoiser,
    PrestoDenoiserConfig,
    presto_schedule,
)
from presto_models.conditioning import null_condition

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def teacher() -> PrestoDenoiser:
    torch.manual_seed(0)
    dit = DiTConfig(channels=4, width=32, depth=4, heads=2, text_width=8)
    D = PrestoDenoiser(PrestoDenoiserConfig(dit))
    for weight in D.parameters():
        weight.data = torch.randn(weight.shape) * 0.1
    return D


def stream(start: int):
    k = start
    while True:
        rng = torch.Generator().manual_seed(k)
        cond = Condition(
            torch.randn(4, 3, 8, generator=rng), torch.ones(4, 3).bool(), torch.full((4,), 100.0)
        )
        yield Batch(torch.randn(4, 4, 32, generator=rng) / 2, cond)
        k += 1


OBJECTIVES = {
    "PrestoS": lambda: PrestoS(
        teacher(), null_condition, PrestoSConfig(critic_updates=2), feature_layer=1, width=32
    ),
    "PrestoL": lambda: PrestoL(teacher(), null_condition, presto_schedule(4), depth=4),
}


def vectors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What a run goes on with, by name: weights, their averages and Adam's moments of them."""
    state, found = trainer.state_dict(), {}
    for player, optimizer in state["optimizers"].items():
        moments = optimizer["state"].values()
        parts = {
            "weights": state["players"][player].values(),
            "averages": state["averages"][player].values(),
            "exp_avg": [one["exp_avg"] for one in moments],
            "exp_avg_sq": [one["exp_avg_sq"] for one in moments],
        }
        for name, tensors in parts.items():
            found[f"{name} of the {player}"] = torch.cat([t.flatten().float() for t in tensors])
    return found


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_resumes_on_a_gpu(objective):
    def train(steps: int, state: dict | None = None) -> tuple[Trainer, list[float]]:
        trainer = Trainer(OBJECTIVES[objective](), TrainConfig(steps, lr=1e-3), "cuda")
        if state:
            trainer.load_state_dict(state)
        return trainer, [sum(record.losses.values()) for record in trainer.run(stream)]

    straight, losses = train(4)
    first, _ = train(2)
    second, rest = train(4, first.state_dict())
    assert rest == pytest.approx(losses[2:], rel=2e-3)
    # Without its moments a run ends 1 % away in weights, which four steps move by 2 to 4 %, and
    # 50 % away in moments; noise of 1e-6 in the gradients comes to less than half of these bounds.
    found = vectors(second)
    for name, expected in vectors(straight).items():
        apart = (found[name] - expected).norm() / expected.norm()
        assert apart < (1e-2 if "exp_avg" in name else 2e-4), name
