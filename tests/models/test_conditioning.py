"""Prompts, tempo and the small text tower."""

import pytest
import torch

from presto_models.conditioning import (
    MAX_PROMPT,
    Condition,
    TextEncoder,
    TextEncoderConfig,
    condition,
    null_condition,
    parse_prompt,
    pool,
    split_words,
)

CAPTIONS = ["slow piano", "fast techno with a driving bass and bright synths in D# minor"]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return TextEncoder(TextEncoderConfig(buckets=256, width=16, depth=2, heads=2, max_tokens=20))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("driving techno --bpm 140", ("driving techno", 140.0)),
        ("driving techno --bpm=92.5  ", ("driving techno", 92.5)),
        ("  warm pads", ("warm pads", None)),
        ("lo-fi hip-hop -- calm", ("lo-fi hip-hop -- calm", None)),
    ],
)
def test_prompts_are_split_into_words_and_tempo(prompt, expected):
    assert parse_prompt(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "no words"),
        ("--bpm 120", "no words"),
        ("techno --bpm", "unknown prompt option"),
        ("techno --bpm fast", "unknown prompt option"),
        ("techno --bpm 120 bass", "unknown prompt option"),
        ("techno --tempo 120", "unknown prompt option '--tempo 120'"),
        ("techno --bpm 5", r"5 bpm is outside 20\.\.400"),
        ("techno --bpm 1000", r"1000 bpm is outside 20\.\.400"),
        ("x" * (MAX_PROMPT + 1), f"at most {MAX_PROMPT}"),
    ],
)
def test_impossible_prompts_are_refused_in_one_line(prompt, reason):
    with pytest.raises(ValueError, match=reason) as error:
        parse_prompt(prompt)
    assert "\n" not in str(error.value)


def test_words_keep_their_sharps():
    assert split_words("Techno, in F♯ minor (140 bpm); D#!") == [
        *("techno", "in", "f#", "minor", "140", "bpm", "d#")
    ]


def test_padding_does_not_change_a_caption(encoder):
    together, mask = encoder(CAPTIONS)
    alone, _ = encoder(CAPTIONS[:1])
    assert mask.sum(1).tolist() == [2, 12]
    torch.testing.assert_close(together[0, :2], alone[0], rtol=1e-4, atol=1e-5)
    assert not together[0, 2:].any()  # padding says nothing
    assert not torch.allclose(together[0, :2], together[1, :2])


def test_an_empty_caption_is_finite_silence(encoder):
    text, mask = encoder(["", "piano"])
    assert not mask[0].any()
    assert not text[0].any()
    assert text[1].isfinite().all()
    assert encoder([""])[0].shape == (1, 1, 16)
    text.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def test_word_order_and_only_the_first_words_count(encoder):
    words = [f"word{i}" for i in range(25)]
    long, cut = encoder([" ".join(words)]), encoder([" ".join(words[:20])])
    assert torch.equal(long[0], cut[0])
    assert not torch.allclose(encoder(["bass drum"])[0].sum(1), encoder(["drum bass"])[0].sum(1))


def test_pool_is_the_mean_over_the_tokens_that_are_there():
    text = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [6.0], [7.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(text, mask).tolist() == [[2.0], [0.0]]


def test_condition_encodes_and_null_condition_erases(encoder):
    cond = condition(encoder, CAPTIONS, [120, None])
    assert cond.tempo.tolist() == [120.0, 0.0]
    assert not cond.text.requires_grad  # the text tower is frozen
    null = null_condition(cond)
    assert isinstance(null, Condition)
    for full, empty in zip(cond, null, strict=True):
        assert full.shape == empty.shape
        assert full.dtype == empty.dtype
        assert not empty.any()
    assert cond.mask.any()  # the condition itself is left as it was
