"""Stable Audio's transformer, tiny and of random weights, through all three objectives."""

from types import SimpleNamespace

import pytest
import torch

from presto_distill import Batch, PrestoL, PrestoLS, PrestoS, TrainConfig, Trainer
from presto_models import presto_schedule
from presto_models.conditioning import Condition, null_condition
from presto_models.stable_audio import from_stable_audio

diffusers = pytest.importorskip("diffusers")

CHANNELS, FRAMES, DEPTH, WIDTH = 4, 40, 4, 32


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    transformer = diffusers.StableAudioDiTModel(
        in_channels=CHANNELS,
        num_layers=DEPTH,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=CHANNELS,
        cross_attention_dim=16,
        time_proj_dim=16,
        global_states_input_dim=24,
        cross_attention_input_dim=12,
    )
    pipe = SimpleNamespace(
        transformer=transformer,
        projection_model=diffusers.StableAudioProjectionModel(16, 12, 0, 512),
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(
            sigma_data=1.0, prediction_type="v_prediction"
        ),
        tokenizer=SimpleNamespace(model_max_length=6),
    )
    return from_stable_audio(pipe, scale=2.0)


def batches(start):
    mask = torch.tensor([[True, True], [True, False]])
    cond = Condition(torch.randn(2, 2, 16), mask, torch.zeros(2), total=torch.tensor([30.0, 10.0]))
    while True:
        yield Batch(torch.randn(2, CHANNELS, FRAMES) * 0.5, cond)


@pytest.mark.parametrize("method", ["steps", "layers", "both"])
def test_the_student_learns_and_the_pipeline_stays(teacher, method):
    schedule, tap = presto_schedule(DEPTH), {"feature_layer": 1, "width": WIDTH}
    before = [weight.clone() for weight in teacher.parameters()]
    if method == "steps":
        objective = PrestoS(teacher, null_condition, **tap)
    elif method == "layers":
        objective = PrestoL(teacher, null_condition, schedule, depth=DEPTH)
    else:
        objective = PrestoLS(teacher, teacher, null_condition, schedule, depth=DEPTH, **tap)
    student = objective.student if method == "layers" else objective.generator
    for record in Trainer(objective, TrainConfig(steps=1, lr=1e-3)).run(batches):
        assert all(torch.isfinite(torch.tensor(loss)) for loss in record.losses.values())
    assert all(map(torch.equal, teacher.parameters(), before))
    assert not all(map(torch.equal, student.parameters(), before))
