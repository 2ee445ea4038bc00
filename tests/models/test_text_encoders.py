"""Frozen text encoders equal the models they wrap; long prompts are truncated aloud; a cache
changes nothing."""

import pytest
import torch
from torch import nn

from presto_models.conditioning import PromptEncoder, TextEncoder, TextEncoderConfig, condition
from presto_models.text_encoders import Cached, ClapText, SentenceText, T5Text

transformers = pytest.importorskip("transformers")

WORDS = "slow fast warm piano techno bass drums with and a"
CAPTIONS = ["slow piano", "fast techno with warm bass and drums", "a"]
LONG = " ".join(WORDS.split() * 2)  # 20 words
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
BERT = {**SIZE, "num_attention_heads": 2, "vocab_size": 32, "max_position_embeddings": 40}


@pytest.fixture(scope="module")
def tokenizer():
    """Whole words, each caption ended by </s> as T5's are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", *WORDS.split()]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=32, **names
    )


def t5() -> nn.Module:
    size = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=32, **size))


def clap() -> nn.Module:
    audio = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 1]}
    audio |= {"spec_size": 32, "hidden_size": 16, "num_mel_bins": 8, "window_size": 2}
    text = {**BERT, "pad_token_id": 0, "projection_dim": 12}
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    return transformers.ClapModel(config)


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**BERT))


MODELS = {T5Text: t5, ClapText: clap, SentenceText: bert}
KINDS = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)


@pytest.fixture
def encoder(kind, tokenizer):
    torch.manual_seed(0)
    return kind(MODELS[kind](), tokenizer, max_tokens=10)


def expected(encoder: nn.Module, caption: str):
    """What transformers itself makes of one caption, without padding."""
    given = encoder.tokenizer([caption], return_tensors="pt")
    if isinstance(encoder, ClapText):
        return encoder.model.get_text_features(**given).pooler_output
    states = encoder.model(input_ids=given.input_ids).last_hidden_state[0]
    return states if isinstance(encoder, T5Text) else states.mean(0, keepdim=True)


@KINDS
def test_tokens_are_the_models_own_whatever_the_padding(encoder):
    assert isinstance(encoder, PromptEncoder)
    text, mask = encoder(CAPTIONS)
    assert text.dtype == torch.float32 and text.shape[-1] == encoder.config.width
    for caption, row, present in zip(CAPTIONS, text, mask, strict=True):
        own = expected(encoder, caption)
        torch.testing.assert_close(row[present], own, rtol=1e-4, atol=1e-5)
        assert not row[~present].any()
    counted = [len(caption.split()) + 1 for caption in CAPTIONS]
    assert mask.sum(1).tolist() == (counted if isinstance(encoder, T5Text) else [1, 1, 1])


@KINDS
def test_encoders_are_frozen_and_stay_so(encoder):
    parent = nn.Sequential(encoder).train()
    assert not any(module.training for module in parent[0].modules())
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert not encoder(CAPTIONS)[0].requires_grad


@KINDS
def test_long_captions_are_truncated_with_a_warning_that_says_where(encoder):
    """Ten tokens are nine words and the end."""
    with pytest.warns(UserWarning, match=r"truncated after 'and' \(9 of 20 words\)") as warned:
        together, _ = encoder(["slow piano", LONG])
    assert len(warned) == 1
    short = encoder([" ".join(LONG.split()[:9])])[0]
    torch.testing.assert_close(together[1:], short, rtol=1e-4, atol=1e-5)


def test_the_tokenizers_own_limit_counts_too(tokenizer):
    assert T5Text(t5(), tokenizer).config.max_tokens == 32
    with pytest.raises(ValueError, match="max_tokens must be at least 3, got 2"):
        T5Text(t5(), tokenizer, max_tokens=2)


@KINDS
def test_a_folder_gives_the_same_encoder(encoder, kind, tmp_path):
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path, max_tokens=10)
    assert again.config == encoder.config
    torch.testing.assert_close(again(CAPTIONS), encoder(CAPTIONS), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/no/such", "a/b/c"])
def test_a_missing_folder_is_said_to_be_missing(name):
    with pytest.raises(ValueError, match=f"no folder '{name}' to load a text encoder from"):
        T5Text.from_pretrained(name)


def test_a_missing_extra_names_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'presto-models\[transformers\]'"):
        ClapText.from_pretrained(tmp_path)


# ---------------------------------------------------------------------- cache


class Counting(nn.Module):
    """An encoder that knows how often it was asked."""

    def __init__(self):
        super().__init__()
        self.encoder = TextEncoder(TextEncoderConfig(buckets=64, width=8, depth=1, heads=2))
        self.config, self.asked = self.encoder.config, []

    def forward(self, captions):
        self.asked += captions
        return self.encoder(captions)


@pytest.fixture
def counting():
    torch.manual_seed(0)
    return Counting()


def test_a_cache_gives_what_the_encoder_gives_and_asks_once(counting):
    cached = Cached(counting)
    for batch in (CAPTIONS, CAPTIONS[1:], CAPTIONS[:1] * 3):
        torch.testing.assert_close(cached(batch), counting.encoder(batch), rtol=1e-4, atol=1e-5)
    assert counting.asked == CAPTIONS
    assert cached.config is counting.config


def test_a_cached_caption_does_not_depend_on_its_past(counting):
    first = Cached(counting)(CAPTIONS)
    cached = Cached(counting)
    for caption in reversed(CAPTIONS):
        cached([caption])
    assert torch.equal(cached(CAPTIONS)[0], first[0])


def test_an_empty_caption_has_a_place_but_no_tokens(counting):
    text, mask = Cached(counting)([""])
    assert text.shape == (1, 1, 8) and not text.any() and not mask.any()


def test_the_longest_unused_caption_is_forgotten_first(counting):
    cached = Cached(counting, size=2)
    for caption in ("slow", "fast", "slow", "warm", "slow", "fast"):
        cached([caption])
    assert counting.asked == ["slow", "fast", "warm", "fast"]
    with pytest.raises(ValueError, match="size must be at least 1 caption, got 0"):
        Cached(counting, size=0)


def test_another_precision_is_not_served_from_memory(counting):
    cached = Cached(counting)
    cached(CAPTIONS)
    assert cached.double()(CAPTIONS)[0].dtype == torch.float64


def test_what_inference_remembers_serves_training(counting):
    cached = Cached(counting)
    with torch.inference_mode():
        cached(CAPTIONS)
    cond = condition(cached, CAPTIONS, [None] * 3)
    weight = torch.ones(8, requires_grad=True)
    (cond.text * weight).sum().backward()
    assert weight.grad.any()
