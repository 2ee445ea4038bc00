"""A tiny Stable Audio pipeline of random weights and the denoiser made of it agree: one step, a
whole sample with guidance; its blocks can be dropped and tapped."""

import copy

import pytest
import torch

from presto_models.conditioning import Condition, condition, null_condition
from presto_models.guidance import guided
from presto_models.layer_schedule import kept_blocks
from presto_models.samplers import dpmpp_2m, sample
from presto_models.stable_audio import from_stable_audio
from presto_models.text_encoders import T5Text

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

WORDS = "slow fast warm piano techno bass drums"
PROMPTS = ["slow piano", "fast techno bass drums"]
FRAMES, CHANNELS, DEPTH, TOKENS, TOTAL = 12, 4, 3, 8, 0.5
SIGMA = torch.tensor([0.4, 30.0])


class EDM(diffusers.EDMDPMSolverMultistepScheduler):
    """diffusers' scheduler, which tells the network ln(sigma) / 4."""

    def __init__(self):
        super().__init__(sigma_data=1.0, prediction_type="v_prediction", sigma_max=50.0)


class Cosine(EDM):
    """The time of CosineDPMSolverMultistepScheduler, which itself needs torchsde."""

    def precondition_noise(self, sigma):
        return torch.as_tensor(sigma).atan() / torch.pi * 2


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", *WORDS.split()]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=TOKENS, **names
    )


@pytest.fixture(params=[EDM, Cosine], ids=lambda kind: kind.__name__)
def pipe(request):
    torch.manual_seed(0)
    t5 = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    transformer = diffusers.StableAudioDiTModel(
        sample_size=FRAMES,
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
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=8,
        decoder_input_channels=CHANNELS,
        sampling_rate=160,
    )
    made = diffusers.StableAudioPipeline(
        vae=vae,
        text_encoder=transformers.T5EncoderModel(transformers.T5Config(vocab_size=16, **t5)),
        projection_model=diffusers.StableAudioProjectionModel(16, 12, 0, 1),
        tokenizer=tokenizer(),
        transformer=transformer,
        scheduler=request.param(),
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def x():
    return torch.randn(2, CHANNELS, FRAMES, generator=torch.Generator().manual_seed(1))


def conditions(pipe, prompts=PROMPTS) -> Condition:
    encoder = T5Text(pipe.text_encoder, pipe.tokenizer)
    return condition(encoder, prompts, [None] * len(prompts), total=[TOTAL] * len(prompts))


@torch.no_grad()
def own_denoised(pipe, x, sigma, prompts=PROMPTS):
    """What the pipeline's scheduler makes of one call of the transformer, sample by sample."""
    rows = []
    for row, level, prompt in zip(x, sigma, prompts, strict=True):
        text = pipe.encode_prompt(prompt, "cpu", False)
        start, end = pipe.encode_duration(0.0, TOTAL, "cpu", False, 1)
        rotary = diffusers.models.embeddings.get_1d_rotary_pos_embed(
            4, FRAMES + 1, use_real=True, repeat_interleave_real=False
        )
        v = pipe.transformer(
            pipe.scheduler.precondition_inputs(row[None], level),
            pipe.scheduler.precondition_noise(level).view(1),
            encoder_hidden_states=torch.cat([text, start, end], dim=1),
            global_hidden_states=torch.cat([start, end], dim=2),
            rotary_embedding=rotary,
        ).sample
        rows.append(pipe.scheduler.precondition_outputs(row[None], v, level))
    return torch.cat(rows)


@torch.no_grad()
def test_one_step_is_the_pipelines_own(pipe, x):
    D, cond = from_stable_audio(pipe), conditions(pipe)
    assert cond.text.shape[1] < TOKENS  # the network pads, as it was trained
    D_x = D(x, SIGMA, cond)
    torch.testing.assert_close(D_x, own_denoised(pipe, x, SIGMA), rtol=1e-5, atol=1e-5)
    assert D.net.sigma_data == 1.0


@torch.no_grad()
def test_half_latents_are_half_of_it_at_twice_the_noise(pipe, x):
    D = from_stable_audio(pipe, scale=2.0)
    D_x = D(x / 2, SIGMA / 2, conditions(pipe))
    torch.testing.assert_close(2 * D_x, own_denoised(pipe, x, SIGMA), rtol=1e-5, atol=1e-5)
    assert D.net.sigma_data == 0.5


@torch.no_grad()
@pytest.mark.parametrize("negative", [None, "warm bass"])
def test_a_sample_with_guidance_is_the_pipelines_own(pipe, x, negative):
    scale, steps = 3.0, 5
    own = pipe(
        PROMPTS,
        audio_end_in_s=TOTAL,
        negative_prompt=None if negative is None else [negative] * 2,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=x,
        output_type="latent",
    ).audios
    null = null_condition
    if negative is not None:
        null = lambda cond: conditions(pipe, [negative] * 2)  # noqa: E731
    D = guided(from_stable_audio(pipe), scale, null)
    sigmas = pipe.scheduler.sigmas[:-1]
    noise = x * pipe.scheduler.init_noise_sigma / sigmas[0]
    ours = sample(dpmpp_2m(D, noise, sigmas, conditions(pipe)))
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_blocks_can_be_dropped_and_tapped(pipe, x):
    D, cond = from_stable_audio(pipe), conditions(pipe)
    full = D(x, SIGMA, cond)
    assert D.depth == DEPTH and torch.equal(D(x, SIGMA, cond, budget=DEPTH), full)
    dropped, hidden = D(x, SIGMA, cond, budget=2, tap=-1)
    assert hidden.shape == (2, 1 + FRAMES, 32)  # the timing stands first

    last = D.features(x, SIGMA, cond, tap=DEPTH - 1)
    assert torch.equal(last, D(x, SIGMA, cond, tap=-1)[1])
    assert not torch.allclose(dropped, full, atol=1e-3)
    mixed = D(x, SIGMA, cond, budget=torch.tensor([2, DEPTH]))

    blocks = pipe.transformer.transformer_blocks  # a pipeline that has the kept ones only
    pipe.transformer.transformer_blocks = torch.nn.ModuleList(
        blocks[i] for i in kept_blocks(2, DEPTH, "shifted")
    )
    expected = own_denoised(pipe, x, SIGMA)
    torch.testing.assert_close(dropped, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed, torch.stack([expected[0], full[1]]), rtol=1e-5, atol=1e-5)


def test_a_copy_learns_and_the_pipeline_does_not(pipe, x):
    """As a student and its teacher do."""
    teacher = from_stable_audio(pipe)
    student = copy.deepcopy(teacher)
    (student(x, SIGMA, conditions(pipe)) ** 2).mean().backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    moved = [name for name, weight in student.named_parameters() if weight.grad is not None]
    assert any("transformer_blocks.2" in name for name in moved)


def test_what_stable_audio_needs_is_asked_for(pipe, x):
    D, cond = from_stable_audio(pipe), conditions(pipe)
    with pytest.raises(ValueError, match="told how long the music lasts"):
        D(x, SIGMA, cond._replace(total=None))
    with pytest.raises(ValueError, match="20 prompt tokens; Stable Audio reads 8 at most"):
        D(x, SIGMA, cond._replace(text=torch.zeros(2, 20, 16), mask=torch.ones(2, 20).bool()))
    pipe.scheduler = diffusers.EDMEulerScheduler()
    with pytest.raises(ValueError, match="the scheduler reads epsilon of deviation"):
        from_stable_audio(pipe)
