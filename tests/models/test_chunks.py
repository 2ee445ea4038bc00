"""Pieces with enough overlap are the whole; with less they are not."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from presto_models.chunks import chunked


@pytest.mark.parametrize("length", [1, 16, 17, 40, 64, 100])
@pytest.mark.parametrize("chunk", [4, 16, 64])
def test_a_convolution_in_pieces_is_the_convolution(length, chunk):
    x, kernel = torch.randn(2, 3, length, dtype=torch.float64), torch.randn(5, 3, 7).double()
    whole = F.conv1d(x, kernel, padding=3)
    pieces = chunked(lambda x: F.conv1d(x, kernel, padding=3), x, chunk=chunk, overlap=3)
    torch.testing.assert_close(pieces, whole)


def test_one_sample_of_overlap_too_few_shows():
    x, kernel = torch.randn(1, 1, 100), torch.ones(1, 1, 7)
    whole = F.conv1d(x, kernel, padding=3)
    pieces = chunked(lambda x: F.conv1d(x, kernel, padding=3), x, chunk=20, overlap=2)
    wrong = (pieces - whole).abs()[0, 0] > 1e-6
    assert wrong.nonzero().flatten().tolist() == [19, 20, 39, 40, 59, 60, 79, 80]


@pytest.mark.parametrize("length", [64, 61, 30])
def test_output_may_be_slower_or_faster_than_input(length):
    x = torch.randn(1, 2, length)

    def slower(x):  # one output in four samples, the last of them padded
        return F.avg_pool1d(F.pad(x, (0, -x.shape[-1] % 4)), 4)

    torch.testing.assert_close(
        chunked(slower, x, chunk=8, overlap=4, ratio=Fraction(1, 4)), slower(x)
    )
    faster = chunked(lambda x: x.repeat_interleave(3, -1), x, chunk=8, overlap=1, ratio=3)
    torch.testing.assert_close(faster, x.repeat_interleave(3, -1))


def test_several_inputs_are_cut_alike_and_short_ones_not_at_all():
    calls = []

    def add(x, y):
        calls.append(x.shape[-1])
        return x + y

    x, y = torch.randn(2, 30), torch.randn(2, 30)
    torch.testing.assert_close(chunked(add, x, y, chunk=10, overlap=2), x + y)
    assert calls == [12, 14, 12]
    chunked(add, x, y, chunk=30, overlap=2)
    assert calls[3:] == [30]


@pytest.mark.parametrize(
    ("lengths", "options", "match"),
    [
        ((8, 9), {"chunk": 4, "overlap": 1}, r"differ in length: \[8, 9\]"),
        ((8,), {"chunk": 0, "overlap": 1}, "chunk 0"),
        ((8,), {"chunk": 4, "overlap": -1}, "overlap -1"),
        ((8,), {"chunk": 6, "overlap": 4, "ratio": Fraction(1, 4)}, "multiples of 4"),
    ],
)
def test_what_cannot_be_cut_is_refused(lengths, options, match):
    with pytest.raises(ValueError, match=match):
        chunked(lambda *x: x[0], *(torch.zeros(n) for n in lengths), **options)
