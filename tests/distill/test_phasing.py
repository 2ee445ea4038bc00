"""Training of the learned phase: its error is what it says, and it falls."""

import math

import pytest
import torch

from presto_distill.objective import Batch
from presto_distill.objectives.phasing import Phasing, square_error
from presto_distill.trainer import TrainConfig, Trainer
from presto_models import Autoencoder, AutoencoderConfig

CONFIG = AutoencoderConfig(channels=8, width=16, depth=1, phase="learned")


def test_the_error_of_knowing_nothing_is_one_and_loud_bins_count_more():
    rng = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(2, 5, 7, generator=rng)
    true, loud = torch.polar(torch.ones_like(angle), angle), torch.rand(2, 5, 7, generator=rng)
    for dim in (1, 2):
        assert square_error(true, true, loud, dim) == 0
        assert square_error(0 * true, true, loud, dim).item() == pytest.approx(1)
        assert square_error(-true, true, loud, dim).item() == pytest.approx(4)
    wrong, silent = true.clone(), loud.clone()
    wrong[:, 3, 4], silent[:, 3, 4] = 0, 0
    assert square_error(wrong, true, loud, 1) > 0 == square_error(wrong, true, silent, 1)


def test_a_tone_between_two_bins_is_learned_and_nothing_else_changes():
    """After 60 updates on tones of any pitch more than half of the error is gone."""
    torch.manual_seed(0)
    codec = Autoencoder(CONFIG)
    # A decoder that hands the magnitudes on: what is learned is phase, not what decoding loses.
    codec.encode_bands = lambda bands: (bands, None)
    codec.decode_bands = lambda bands: bands
    before = {name: value.clone() for name, value in codec.state_dict().items()}

    def stream(start):
        for number in range(start, 1000):
            rng = torch.Generator().manual_seed(number)
            hz = 200 + 1500 * torch.rand(2, 3, 1, generator=rng)
            n = torch.arange(16 * 1024) / 44_100
            yield Batch((2 * math.pi * hz * n).sin().sum(1, keepdim=True) * 0.2)

    trainer = Trainer(Phasing(codec), TrainConfig(steps=60, lr=1e-2, ema_decay=0.5))
    losses = [losses for _, losses, _, _ in trainer.run(stream)]
    for term in ("time", "frequency"):
        first, last = losses[0][term], sum(row[term] for row in losses[-5:]) / 5
        assert last < 0.5 * first, term
    changed = {name for name, value in codec.state_dict().items() if not value.equal(before[name])}
    assert changed and all(name.startswith("phase.") for name in changed)


def test_a_codec_without_a_phase_is_refused():
    with pytest.raises(ValueError, match="no learned phase"):
        Phasing(Autoencoder(AutoencoderConfig(channels=8, width=16, depth=1)))
