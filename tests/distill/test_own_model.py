"""Networks that are not ours, behind adapters, through all three objectives."""

import math

import pytest
import torch

from presto_distill import Batch, PrestoLS, PrestoS
from presto_distill.lab import digits, own_model
from presto_models import FeatureTap
from presto_models.edm import SIGMA_DATA

SMOKE = own_model.sizes("smoke")


@pytest.fixture(scope="module")
def data():
    return digits.load_digits()


def test_digits_have_the_deviation_the_method_expects_and_are_split(data):
    x = torch.cat([data.train.x, data.held_out.x])
    assert x.std().item() == pytest.approx(SIGMA_DATA, rel=1e-5) and len(data.held_out.x) == 360
    assert abs(x.mean().item()) < 1e-6 and len(x) == 1797
    assert sorted(set(data.train.cond.tolist())) == list(range(digits.CLASSES))


def test_a_batch_of_digits_depends_on_its_number_alone(data):
    stream = data.stream(4, seed=3)
    batches = stream(0)
    next(batches)
    for ours, theirs in zip(next(batches), next(stream(1)), strict=True):
        assert torch.equal(ours, theirs)


def test_held_out_digits_are_legible_and_noise_is_not(data):
    x, labels = data.held_out
    assert (data.read(x) == labels).double().mean() > 0.95
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert (data.read(noise) == labels).double().mean() < 0.3


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="unknown network 'lstm': choose from convolutions"):
        digits.build("lstm", seed=0)


def test_a_plain_network_goes_through_all_three_objectives(data):
    """Every model differs from the teacher, and what is drawn costs what its schedule says."""
    own = digits.convolutions()
    models = own_model.distill(own, data, SMOKE, seed=0)
    made = {one.model: one for one in own_model.draw(own, models, SMOKE, seed=0)}
    for student, rival in own_model.RIVALS.items():
        assert made[student].images.isfinite().all()
        assert not torch.equal(made[student].images, made[rival].images)
    steps, depth = SMOKE.heun_steps, own.depth
    assert made[own_model.TEACHER].blocks == (2 * steps - 1) * depth
    assert made["Presto-S"].blocks == made[own_model.FEW].blocks == 4 * depth
    assert made["Presto-LS"].blocks < made["Presto-S"].blocks
    table = own_model.measure(list(made.values()), data, SMOKE, seed=0)
    assert len(table) == len(made) + 1 and table["frechet_distance"].notna().all()
    assert own_model.grid(table).axes[0].get_title(loc="left") == own.name
    held, said, effect = own_model.compare(table, "Presto-L", own_model.DROPPED)
    assert held in (True, False, None) and own.name in said and math.isfinite(effect)


def test_the_discriminator_may_read_a_tapped_module_elsewhere(data):
    """One module of taps around dropped blocks serves Presto-S and Presto-LS."""
    own = digits.convolutions()
    denoiser = FeatureTap(own.denoiser, ["net.inner.enter", "net.inner.blocks.1.first"])
    head = {"feature_layer": (0, 1), "width": own.width}
    batch = Batch(data.train.x[:4], data.train.cond[:4])
    steps = PrestoS(denoiser, digits.no_label, **head)
    both = PrestoLS(denoiser, denoiser, digits.no_label, own.schedule, depth=own.depth, **head)
    for objective in (steps, both):
        for turn in (objective.turns[0], objective.turns[-1]):
            terms = turn.loss(batch, torch.Generator().manual_seed(0))
            assert all(term.isfinite() for term in terms.values())
        assert objective.fake_score.net.net.inner is not denoiser.net.net.inner
