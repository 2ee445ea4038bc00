"""Prompts, metadata and the small text tower."""

import pytest
import torch

from presto_models.conditioning import (
    KEYS,
    MAX_PROMPT,
    Condition,
    Metadata,
    TextEncoder,
    TextEncoderConfig,
    check_key,
    condition,
    null_condition,
    parse_prompt,
    pool,
    split_words,
    tag_columns,
)

CAPTIONS = ["slow piano", "fast techno with a driving bass and bright synths in D# minor"]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return TextEncoder(TextEncoderConfig(buckets=256, width=16, depth=2, heads=2, max_tokens=20))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("driving techno --bpm 140", ("driving techno", 140.0, None)),
        ("driving techno --bpm=92.5  ", ("driving techno", 92.5, None)),
        ("  warm pads", ("warm pads", None, None)),
        ("lo-fi hip-hop -- calm", ("lo-fi hip-hop -- calm", None, None)),
        ("techno --key A minor --bpm 140", ("techno", 140.0, "A minor")),
        ("techno --bpm 140 --key=c# Major ", ("techno", 140.0, "Db major")),
    ],
)
def test_prompts_are_split_into_words_tempo_and_key(prompt, expected):
    assert parse_prompt(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "no words"),
        ("--bpm 120", "no words"),
        ("techno --bpm", "unknown prompt option"),
        ("techno --bpm fast", "unknown prompt option"),
        ("techno --bpm 120 bass", "unknown prompt option"),
        ("techno --tempo 120", "unknown prompt option '--tempo 120': known are '--bpm NUMBER'"),
        ("techno --key", "unknown prompt option '--key'"),
        ("techno --key H minor", "unknown key 'H minor': write it as A minor"),
        ("techno --key D", "unknown key 'D'"),
        ("techno --bpm 120 --bpm 130", "states bpm twice"),
        ("techno --key Am --bpm 120 --key C major", "states key twice"),
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
    with pytest.warns(UserWarning, match=r"truncated after 'word19' \(20 of 25 words\)"):
        long = encoder([" ".join(words)])
    cut = encoder([" ".join(words[:20])])
    assert torch.equal(long[0], cut[0])
    assert not torch.allclose(encoder(["bass drum"])[0].sum(1), encoder(["drum bass"])[0].sum(1))


def test_a_prompt_without_a_word_is_no_secret(encoder):
    with pytest.warns(UserWarning, match="prompt '🎸!' has no word that is read"):
        _, mask = encoder(["🎸!", "bass"])
    assert mask.sum(1).tolist() == [0, 1]


def test_pool_is_the_mean_over_the_tokens_that_are_there():
    text = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [6.0], [7.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(text, mask).tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize(
    ("key", "spelled"),
    [
        ("A minor", "A minor"),
        ("Am", "A minor"),
        ("bb MAJOR", "Bb major"),
        ("a♯ min", "Bb minor"),
        ("F sharp minor", "F# minor"),
        ("Gb maj", "F# major"),
        ("C flat major", "B major"),
        ("B# minor", "C minor"),
        ("b minor", "B minor"),
        ("F Sharp minor", "F# minor"),
    ],
)
def test_keys_have_one_spelling(key, spelled):
    assert check_key(key) == spelled


def test_there_are_24_keys_and_each_spells_itself():
    assert len(set(KEYS)) == 24
    assert tuple(map(check_key, KEYS)) == KEYS


def test_tags_are_columns_of_the_vocabulary():
    columns = tag_columns([["calm"], [], {"live", "calm"}], ["calm", "dark", "live"])
    assert columns.tolist() == [[True, False, False], [False] * 3, [True, False, True]]
    with pytest.raises(ValueError, match="unknown tag 'loud': choose from calm, dark"):
        tag_columns([["loud"]], ["calm", "dark"])


def test_what_is_not_stated_is_none(encoder):
    cond = condition(encoder, CAPTIONS, [120, None])
    assert cond.tempo.tolist() == [120.0, 0.0]
    assert cond[3:] == null_condition(cond)[3:] == (None,) * 5
    assert not cond.text.requires_grad  # the text tower is frozen


def test_condition_encodes_and_null_condition_erases_all_but_timing(encoder):
    tags = tag_columns([["calm"], ["dark"]], ["calm", "dark"])
    timing = {"start": [12.5, 0], "total": torch.tensor([180, 30])}
    stated = {"key": ["C#m", None], "tags": tags, "beat": torch.tensor([3.5, 0])}
    cond = condition(encoder, CAPTIONS, [120, None], **stated, **timing)
    assert [KEYS[i - 1] if i else None for i in cond.key.tolist()] == ["Db minor", None]
    assert cond.total.dtype == torch.float32
    null = null_condition(cond)
    assert isinstance(null, Condition)
    for full, empty in zip(cond, null, strict=True):
        assert full.shape == empty.shape
        assert full.dtype == empty.dtype
    gone = (null.text, null.mask, null.tempo, null.key, null.tags, null.beat)
    assert not any(leaf.any() for leaf in gone)
    assert (null.start.tolist(), null.total.tolist()) == ([12.5, 0.0], [180.0, 30.0])
    assert cond.mask.any()  # the condition itself is left as it was


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"tempo": [120, float("nan")]}, r"tempo must be finite .*, got \[120.0, nan\]"),
        ({"tempo": [-5, None]}, "tempo must be finite and at least 0"),
        ({"tempo": [120]}, "tempo has 1 values for 2 captions"),
        ({"key": ["Am"] * 3}, "key has 3 values for 2 captions"),
        ({"key": ["Am", "X"]}, "unknown key 'X'"),
        ({"total": [1.0, -2.0]}, r"at least 0, got \[1.0, -2.0\]"),
        ({"start": [0.0, 0.0], "total": [float("nan"), 9.0]}, "must be finite"),
        ({"start": [1.0, 2.0]}, "start needs total"),
    ],
)
def test_impossible_metadata_is_refused(encoder, stated, reason):
    with pytest.raises(ValueError, match=reason):
        condition(encoder, CAPTIONS, **{"tempo": [None, None], **stated})


# ---------------------------------------------------------------------- embedders


BUILT = {"key": True, "timing": True, "tags": 2}


@pytest.fixture
def metadata():
    torch.manual_seed(0)
    module = Metadata(8, **BUILT)
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    return module


def stated(n: int, **leaves) -> Condition:
    return Condition(torch.zeros(n, 1, 4), torch.zeros(n, 1).bool(), torch.zeros(n), **leaves)


def test_a_network_built_without_metadata_is_left_as_it_was():
    vector = torch.randn(2, 8)
    without = Metadata(8, key=False, timing=False, tags=0)
    assert not without.state_dict()
    assert without(vector, None) is vector and without(vector, stated(2)) is vector


def test_unstated_metadata_is_the_same_as_none(metadata):
    """Zeros, None leaves and no condition at all say the same."""
    vector, zeros = torch.randn(2, 8), torch.zeros(2)
    nothing = stated(2, key=zeros.long(), start=zeros, total=zeros, tags=zeros.bool().expand(2, 2))
    expected = metadata(vector, None)
    torch.testing.assert_close(
        expected - vector, (metadata.key.weight[0] + metadata.no_timing).expand(2, 8)
    )
    assert torch.equal(metadata(vector, stated(2)), expected)
    assert torch.equal(metadata(vector, nothing), expected)


def test_metadata_adds_its_embeddings_per_sample(metadata):
    zero, key = torch.zeros(3, 8), torch.tensor([3, 0, 24])
    tags = torch.tensor([[True, True], [False, False], [False, True]])
    total = torch.tensor([60.0, 0.0, 30.0])
    told = metadata(zero, stated(3, key=key, start=total / 2, total=total, tags=tags))
    timing = metadata.start(total / 1024) + metadata.total(total / 512)
    timing[1] = metadata.no_timing
    expected = metadata.key.weight[key] + timing + tags.float() @ metadata.tags.weight.T
    torch.testing.assert_close(told, expected)
    start_is_zero = metadata(zero, stated(3, total=total))
    also = metadata(zero, stated(3, start=torch.zeros(3), total=total))
    assert torch.equal(start_is_zero, also)


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("key", {"key": torch.tensor([1])}),
        ("timing", {"total": torch.ones(1)}),
        ("timing", {"start": torch.ones(1)}),
        ("tags", {"tags": torch.ones(1, 2).bool()}),
    ],
)
def test_what_a_network_was_not_built_with_is_refused(name, leaves):
    without = Metadata(8, **{**BUILT, name: type(BUILT[name])()})
    with pytest.raises(ValueError, match=f"{name} is stated to a network .*DiTConfig.{name}"):
        without(torch.zeros(1, 8), stated(1, **leaves))
    with pytest.raises(ValueError, match="3 tags for a network of 2"):
        Metadata(8, **BUILT)(torch.zeros(1, 8), stated(1, tags=torch.ones(1, 3).bool()))
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Metadata(8, key=False, timing=False, tags=-1)


def test_a_network_built_with_metadata_hears_it_and_can_be_saved(tiny_denoiser, tmp_path):
    D = tiny_denoiser(key=True, timing=True, tags=("calm", "dark"))
    D.save_pretrained(tmp_path)
    again = type(D).from_pretrained(tmp_path)
    assert again.config == D.config
    x, sigma = torch.randn(2, 4, 6), torch.tensor([0.5, 2.0])
    told = {"key": torch.tensor([1, 2]), "total": torch.tensor([9.0, 99.0])}
    told["tags"] = tag_columns([["calm"], ["dark"]], D.config.dit.tags)
    plain = stated(2)._replace(text=torch.randn(2, 1, 8))
    cond = plain._replace(**told)
    assert torch.equal(again(x, sigma, cond), D(x, sigma, cond))
    for name in told:
        without = D(x, sigma, cond._replace(**{name: None}))
        assert not torch.allclose(D(x, sigma, cond), without, atol=1e-3)
    mixed = D(x, sigma, cond, budget=torch.tensor([2, 4]))  # the condition is sorted by budget
    torch.testing.assert_close(mixed[1:], D(x, sigma, cond)[1:], rtol=1e-4, atol=1e-4)
