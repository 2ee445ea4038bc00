"""What training hears of its clips beside the latents: tempo and beat, told or kept back."""

import pytest
import torch

from presto_data import LatentSet, Metadata
from presto_distill.streams import conditioned
from presto_models import TextEncoder
from presto_models.conditioning import TextEncoderConfig

TINY = TextEncoderConfig(buckets=64, width=8, depth=1, heads=2)
CLIPS = 6
TEMPO = torch.tensor([60.0, 72.0, 90.0, 120.0, 150.0, 0.0])  # the last one's is unknown
SECONDS = 0.25  # of a frame


def drawn(**options):
    """A batch of many crops, with the clip and the frame that each begins at.

    Entry (i, 0, t) is i and (i, 1, t) is t; clip i begins at second 10 i of its recording.
    """
    clip = torch.arange(float(CLIPS)).view(-1, 1).expand(CLIPS, 40)
    frame = torch.arange(40.0).expand(CLIPS, 40)
    data = LatentSet(
        torch.stack([clip, frame], 1),
        [f"clip {i}" for i in range(CLIPS)],
        [Metadata(tempo=tempo or None) for tempo in TEMPO.tolist()],
        timing=torch.tensor([[10.0 * i, 1000.0, SECONDS] for i in range(CLIPS)]).double(),
    )
    stream = conditioned(data, TextEncoder(TINY), batch=600, frames=8, seed=0, **options)
    batch = next(stream(0))
    return batch.cond, batch.x[:, 0, 0].long(), batch.x[:, 1, 0]


def test_the_beat_a_crop_begins_on_is_counted_from_its_recordings_start():
    cond, clip, frame = drawn()
    seconds = 10 * clip + SECONDS * frame
    torch.testing.assert_close(cond.beat, seconds * TEMPO[clip] / 60)
    assert frame.unique().tolist() == list(range(33))
    assert not cond.beat[clip == 5].any() and (cond.beat[clip < 5] > 0).sum() > 480


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_tempi_is_kept_back_and_no_other_is_changed(share):
    cond, clip, _ = drawn(tempo_dropout=share)
    known = TEMPO[clip] > 0
    kept_back = known & (cond.tempo == 0)
    assert torch.equal(cond.tempo, torch.where(kept_back, 0, TEMPO[clip]))
    found = kept_back.sum().item() / known.sum().item()
    assert found == pytest.approx(share, abs=0.06 if 0 < share < 1 else 0)
    torch.testing.assert_close(cond.beat, drawn()[0].beat)
