"""The pipeline from small random parts: what it hands to whom, and what it refuses."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from presto_models.autoencoder import Autoencoder, AutoencoderConfig
from presto_models.conditioning import KEYS, TextEncoder, TextEncoderConfig, null_condition
from presto_models.dit import PrestoDenoiser
from presto_models.edm import karras_sigmas
from presto_models.pipeline import Pipeline
from presto_models.samplers import SOLVERS, few_step_sigmas, heun, jumps, multistep, randn, sample
from presto_models.sampling import Sampling

RATE, HOP, DEPTH = 8000, 512, 4
CODEC = AutoencoderConfig(
    sample_rate=RATE,
    window_length=512,
    stft_hop=256,
    channels=4,
    linear_hz=500.0,
    width=16,
    depth=1,
    iterations=1,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Widener(nn.Module):
    """Stands in for a stereo part: the side is the mid one sample later."""

    def forward(self, mid, width: float = 1.0):
        side = width * mid.roll(1, dims=-1)
        return torch.cat([mid + side, mid - side], dim=1)


@pytest.fixture
def build(tiny_denoiser):
    """Builds a pipeline of random parts, or around the given ones."""
    torch.manual_seed(0)
    codec = Autoencoder(CODEC).eval()
    text = TextEncoder(TextEncoderConfig(buckets=64, width=8, depth=1, heads=2)).eval()

    def build(*, few_step: bool = False, denoiser=None, **parts) -> Pipeline:
        return Pipeline(denoiser or tiny_denoiser(), codec, text, few_step=few_step, **parts)

    return build


def close(a, b, atol: float = 1e-5):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=atol)


# ---------------------------------------------------------------------- sampling


@pytest.mark.parametrize("settings", [{"solver": "heun", "churn": 5.0}, {"solver": "dpmpp_2s"}, {}])
@pytest.mark.parametrize("few_step", [True, False])
def test_a_clip_is_the_same_in_every_batch(build, few_step, settings):
    if few_step and settings:
        pytest.skip("a few-step generator has its own sampler")
    pipeline, prompts = build(few_step=few_step), ["slow jazz trio", "techno --bpm 130", "harp"]
    batch = pipeline(prompts, seconds=0.5, seed=5, steps=3, **settings)
    for i, prompt in enumerate(prompts):
        single = pipeline(prompt, seconds=0.5, seed=5 + i, steps=3, **settings)
        close(batch.latents[i], single.latents[0])
        close(batch.audios[i], single.audios[0], atol=1e-3)  # phase amplifies rounding
        assert batch.metadata[i] == single.metadata[0]


def test_seeds_and_generators_of_each_clip(build):
    pipeline, how = build(few_step=True), {"seconds": 0.5, "steps": 2}
    by_seed = pipeline(["jazz", "jazz"], seed=[7, 3], **how)
    by_generator = pipeline(["jazz", "jazz"], generator=[rng(7), rng(3)], **how)
    assert torch.equal(by_seed.latents, by_generator.latents)
    assert [clip["seed"] for clip in by_seed.metadata] == [7, 3]
    assert [clip["seed"] for clip in by_generator.metadata] == [None, None]  # who knows how far on
    close(pipeline("jazz", generator=rng(3), **how).latents[0], by_seed.latents[1])
    with pytest.raises(ValueError, match="2 samples need as many seeds or generators, got 1"):
        pipeline(["jazz", "jazz"], generator=rng(3), **how)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_named_solver_samples_the_guided_denoiser(build, name):
    pipeline = build()
    how = {"seconds": 0.5, "steps": 3, "precision": "float32"}
    made = pipeline("jazz", seed=2, solver=name, guidance="cfg", rho=5.0, **how)
    cond = pipeline.condition(["jazz"])
    D, D_null = (
        lambda x, sigma, _, c=c: pipeline.denoiser(x, sigma, c)
        for c in (cond, null_condition(cond))
    )

    def guided(x, sigma, _):
        return D_null(x, sigma, _) + 4.5 * (D(x, sigma, _) - D_null(x, sigma, _))

    noise = randn((1, 4, 8), [rng(2)])
    with torch.no_grad():
        expected = sample(SOLVERS[name](guided, noise, karras_sigmas(3, rho=5.0)))
    close(made.latents, expected)


def test_a_few_step_generator_is_renoised(build):
    pipeline = build(few_step=True)
    made = pipeline("jazz", seconds=0.5, seed=2, precision="float32")
    source = rng(2)
    noise = randn((1, 4, 8), [source])
    with torch.no_grad():
        steps = multistep(
            pipeline.denoiser, noise, few_step_sigmas(4), pipeline.condition(["jazz"]), rng=[source]
        )
        close(made.latents, sample(steps))


def test_a_generator_that_knows_where_a_jump_ends_is_not_renoised(build, tiny_denoiser):
    pipeline = build(denoiser=tiny_denoiser(trajectory=True), few_step=True)
    cond, noise = pipeline.condition(["jazz"]), randn((1, 4, 8), [rng(2)])
    with torch.no_grad():
        steps = jumps(pipeline.denoiser, noise, few_step_sigmas(3), cond, rng=rng())
        how = {"seconds": 0.5, "seed": 2, "steps": 3, "precision": "float32"}
        close(pipeline("jazz", **how).latents, sample(steps))


def test_churn_and_interval_reach_the_solver(build):
    pipeline, how = build(), {"seconds": 0.5, "steps": 4}
    plain = pipeline("jazz", **how).latents
    assert not torch.equal(pipeline("jazz", churn=5.0, **how).latents, plain)
    none = pipeline("jazz", guidance_interval=(90.0, 100.0), **how).latents
    unguided = pipeline("jazz", guidance="cfg", guidance_scale=1.0, **how).latents
    assert torch.equal(none, unguided) and not torch.equal(none, plain)
    risen = pipeline("jazz", churn=10.0, **how).latents  # to 113 before the first step
    assert torch.equal(
        pipeline("jazz", churn=10.0, guidance_interval=(0.0, 80.0), **how).latents, risen
    )


def test_a_model_says_how_it_is_guided_and_the_caller_may_say_otherwise(build, tiny_denoiser):
    how, told = (
        {"seconds": 0.5, "steps": 4},
        {"guidance_interval": (0.0, 5.0), "guidance_scale": 0.3},
    )
    plain, careful = build(), build(denoiser=tiny_denoiser(**told))
    made, asked = careful("jazz", **how), plain("jazz", **told, **how)
    assert torch.equal(made.latents, asked.latents) and made.metadata == asked.metadata
    usual = {"guidance_interval": (0.0, 80.0), "guidance_scale": 0.8}
    assert torch.equal(careful("jazz", **usual, **how).latents, plain("jazz", **how).latents)
    # Its scale is of CFG++: plain guidance keeps its own.
    other, cfg = usual | {"guidance_scale": None}, {"guidance": "cfg"} | how
    made, asked = careful("jazz", **other, **cfg), plain("jazz", guidance_scale=4.5, **cfg)
    assert torch.equal(made.latents, asked.latents)


def test_settings_by_name_are_settings_in_sampling(build):
    pipeline = build()
    named = pipeline("jazz", seconds=0.5, steps=2, solver="euler", rho=5.0)
    packed = pipeline("jazz", seconds=0.5, sampling=Sampling(steps=2, solver="euler", rho=5.0))
    assert torch.equal(named.audios, packed.audios)
    with pytest.raises(TypeError, match="num_steps"):
        pipeline("jazz", num_steps=2)


def test_a_budget_is_the_number_of_blocks_that_run(build, tiny_denoiser):
    pipeline, runs = build(few_step=True), []
    for i, block in enumerate(pipeline.denoiser.inner.blocks):
        block.register_forward_hook(lambda *_, i=i: runs.append(i))
    pipeline("jazz", seconds=0.5, steps=2, budget=2)
    assert runs == [0, DEPTH - 1] * 2
    full = pipeline("jazz", seconds=0.5, steps=2)
    assert torch.equal(full.latents, pipeline("jazz", seconds=0.5, steps=2, budget=DEPTH).latents)
    with pytest.raises(ValueError, match=r"budget must be within 1\.\.4 blocks, got 5"):
        pipeline("jazz", budget=DEPTH + 1)


def test_a_negative_prompt_takes_the_place_of_the_null_condition(build):
    """Where both prompts are one, there is nowhere to lead; elsewhere the result moves."""
    pipeline = build()
    how = {"seconds": 0.5, "steps": 3, "seed": 1, "precision": "float32"}
    same = pipeline("jazz --bpm 90", negative_prompt="jazz --bpm 90", **how).latents
    noise, cond = randn((1, 4, 8), [rng(1)]), pipeline.condition(["jazz --bpm 90"])
    with torch.no_grad():
        close(same, sample(heun(pipeline.denoiser, noise, karras_sigmas(3), cond)))
    other = pipeline("jazz --bpm 90", negative_prompt="a lot of loud drums", **how)
    none = pipeline("jazz --bpm 90", **how)
    assert not torch.allclose(other.latents, none.latents)
    assert other.metadata[0]["negative_prompt"] == "a lot of loud drums"


class Prepared(nn.Module):
    """A denoiser that asks for its condition to be prepared once, and refuses any other."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.prepared = inner, []

    def prepare(self, cond):
        self.prepared.append(cond)
        return ("prepared", cond)

    def forward(self, x, sigma, cond):
        kind, cond = cond
        assert kind == "prepared"
        return self.inner(x, sigma, cond)


@pytest.mark.parametrize(("few_step", "conditions"), [(True, 1), (False, 2)])
def test_conditions_are_prepared_once_for_all_steps(build, tiny_denoiser, few_step, conditions):
    preparing = Prepared(tiny_denoiser())
    made = build(denoiser=preparing, few_step=few_step)("jazz", seconds=0.5, steps=3)
    assert len(preparing.prepared) == conditions
    assert torch.equal(made.latents, build(few_step=few_step)("jazz", seconds=0.5, steps=3).latents)


def test_callback_and_progress_bar_see_every_step(build, capsys):
    seen = []
    build(few_step=True)("jazz", seconds=0.5, steps=3, callback=seen.append, progress=True)
    assert [step.index for step in seen] == [0, 1, 2]
    assert "/3 [" in capsys.readouterr().err
    build(few_step=True)("jazz", seconds=0.5, steps=3)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------------- from audio, to stereo


def test_each_prompt_continues_its_own_clip(build):
    pipeline, audio = build(few_step=True), 0.1 * torch.randn(2, 6000, generator=rng())
    made = pipeline(["jazz", "harp"], seconds=1.0, steps=2, init_audio=audio, keep_seconds=0.5)
    with torch.no_grad():
        assert torch.equal(made.latents[..., :7], pipeline.autoencoder.encode(audio)[..., :7])


def test_a_continuation_keeps_the_latents_it_was_given(build):
    pipeline, audio = build(few_step=True), 0.1 * torch.randn(1, 6000, generator=rng())
    made = pipeline(["jazz", "harp"], seconds=1.0, steps=2, init_audio=audio, keep_seconds=0.5)
    kept = round(0.5 * RATE) // HOP  # whole latent frames
    with torch.no_grad():
        known = pipeline.autoencoder.encode(audio)[..., :kept]
    assert made.latents.shape == (2, 4, 16) and kept == 7
    assert torch.equal(made.latents[..., :kept], known.expand(2, -1, -1))
    assert not torch.equal(made.latents[0, :, kept:], made.latents[1, :, kept:])
    assert list(made.stage_seconds) == ["text", "encode", "denoise", "decode"]


@pytest.mark.parametrize("few_step", [True, False])
def test_a_weak_variation_stays_near_its_clip(build, few_step):
    pipeline, audio = build(few_step=few_step), 0.1 * torch.randn(1, 4000, generator=rng())
    with torch.no_grad():
        clip = pipeline.autoencoder.encode(audio)

    def distance(strength):
        made = pipeline("jazz", seconds=0.5, steps=3, init_audio=audio, strength=strength)
        return (made.latents - clip).norm().item()

    assert distance(0.01) < 0.1 * clip.norm().item() < distance(0.9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strength": 0.5}, "go together"),
        ({"init_audio": torch.zeros(1, 4000)}, "go together"),
        ({"init_audio": torch.zeros(1, 4000), "strength": 2.0}, "strength must be .* got 2"),
        ({"init_audio": torch.zeros(1, 4000), "strength": 0.5}, "0.5 s is shorter than the 1 s"),
        ({"init_audio": torch.zeros(1, 4000), "keep_seconds": 0.6}, "shorter than the 0.6 s"),
        ({"init_audio": torch.zeros(1, 4000), "keep_seconds": 1.0}, "below the clip's 1 s, got 1"),
        ({"init_audio": torch.zeros(1, 4000), "keep_seconds": 0.01}, "cannot continue 0 frames"),
        ({"init_audio": torch.zeros(2, 8000), "strength": 0.5}, r"got torch.float32 \[2, 8000\]"),
    ],
)
def test_audio_that_cannot_be_started_from(build, given, said):
    with pytest.raises(ValueError, match=said):
        build(few_step=True)("jazz", seconds=1.0, **given)


def test_a_loud_stroke_leaves_the_rest_of_a_clip_as_it_is(build, monkeypatch):
    pipeline, sound = build(few_step=True), torch.full((1, RATE), 0.1)
    sound[:, RATE // 2] = 4.0
    monkeypatch.setattr(pipeline.autoencoder, "decode", lambda latent: sound)
    (audio,) = pipeline("drums", seconds=1, steps=1).audios[0]
    assert audio.max() == pytest.approx(1)
    assert torch.equal(audio[: RATE // 4], sound[0, : RATE // 4])


def test_stereo_is_made_of_the_mono_clip(build):
    pipeline, how = build(few_step=True, stereo=Widener()), {"seconds": 0.5, "steps": 2}
    mono = pipeline("jazz", **how)
    wide = pipeline("jazz", stereo=True, width=0.5, **how)
    assert mono.audios.shape == (1, 1, 4000) and wide.audios.shape == (1, 2, 4000)
    assert list(wide.stage_seconds) == ["text", "denoise", "decode", "stereo"]
    assert wide.audios.abs().max() <= 1 and wide.metadata[0]["width"] == 0.5
    mid, side = wide.audios.mean(1), (wide.audios[:, 0] - wide.audios[:, 1]) / 2
    close(side, 0.5 * mid.roll(1, dims=-1))
    gain = mid.norm() / mono.audios.norm()  # one for all channels, so that none exceeds 1
    close(mid, gain * mono.audios[:, 0])
    flat = pipeline("jazz", stereo=True, width=0.0, **how).audios
    assert torch.equal(flat[:, 0], flat[:, 1])
    with pytest.raises(ValueError, match="no stereo part"):
        build(few_step=True)("jazz", stereo=True)


# ---------------------------------------------------------------------- metadata, folders, faults


def test_a_clip_can_be_made_again_from_its_metadata(build):
    pipeline = build()
    made = pipeline(["jazz --bpm 90", "harp"], seconds=0.5, seed=4, sampling=Sampling(steps=2))
    known = made.metadata[1]
    settings = Sampling(**{name: known[name] for name in asdict(Sampling())})
    assert settings == Sampling(steps=2, solver="heun", guidance_scale=0.8)
    assert (made.metadata[0]["bpm"], known["bpm"], known["variant"]) == (90.0, None, "base")
    again = pipeline(known["prompt"], seconds=0.5, seed=known["seed"], sampling=settings)
    close(again.latents[0], made.latents[1])


def test_a_compiled_pipeline_makes_the_same_clips(build, monkeypatch):
    """The compiler is PyTorch's to test: here it is told what to compile and does nothing."""
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda part, **options: compiled.append(part))
    monkeypatch.setattr(torch, "compile", lambda fn, **options: fn)
    pipeline = build(stereo=Widener())
    made = {"seconds": 1.0, "stereo": True, "steps": 2}
    expected = pipeline("jazz", **made)
    found = pipeline.compile()("jazz", **made)
    assert torch.equal(found.audios, expected.audios) and found.metadata == expected.metadata
    assert {*pipeline.denoiser.denoiser.inner.blocks} < {*compiled}
    assert {pipeline.autoencoder.decoder, pipeline.stereo} < {*compiled}


@pytest.mark.parametrize("few_step", [True, False])
def test_a_saved_pipeline_loads_as_itself(build, tiny_denoiser, tmp_path, few_step):
    denoiser = tiny_denoiser()
    config = replace(denoiser.config, few_step=few_step)
    same = PrestoDenoiser(config).eval()
    same.load_state_dict(denoiser.state_dict())
    pipeline = build(denoiser=same, few_step=few_step, variant="layers")
    folder = pipeline.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["codec", "layers", "text"]
    loaded = Pipeline.from_pretrained(folder)
    assert (loaded.few_step, loaded.variant, loaded.stereo) == (few_step, "layers", None)
    how = {"seconds": 0.5, "steps": 2}
    assert torch.equal(loaded("jazz", **how).audios, pipeline("jazz", **how).audios)


def test_a_pipeline_that_would_load_as_another_is_not_saved(build, tmp_path):
    with pytest.raises(ValueError, match="few_step is True here and not in the denoiser's config"):
        build(few_step=True).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_pipeline_without_a_codec_says_so(tiny_denoiser, build):
    pipeline = Pipeline(tiny_denoiser(), None, build().text_encoder, few_step=False)
    with pytest.raises(ValueError, match="no codec to play by"):
        pipeline("jazz")


def test_float16_weights_are_not_multiplied_in_bfloat16(build, tiny_denoiser):
    pipeline = build(denoiser=tiny_denoiser().half())
    with pytest.raises(ValueError, match="float16 cannot be multiplied in bfloat16"):
        pipeline("jazz", seconds=0.5, precision="bfloat16")


def test_a_pipeline_is_saved_under_a_name_that_is_loaded(build):
    with pytest.raises(ValueError, match="unknown variant 'mine': choose from layers_steps, steps"):
        build(variant="mine")


def test_weights_in_half_precision_still_give_float32(build, tmp_path):
    folder = build().save_pretrained(tmp_path)
    pipeline = Pipeline.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in pipeline.denoiser.parameters()} == {torch.bfloat16}
    made = pipeline("jazz", seconds=0.5, steps=2, precision="float32")
    assert made.latents.dtype == made.audios.dtype == torch.float32


def test_a_part_that_is_no_snapshot_is_named_before_anything_is_written(build, tmp_path):
    with pytest.raises(ValueError, match="stereo is a Widener, which is no Snapshot"):
        build(stereo=Widener()).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_every_part_moves(build):
    pipeline = build(stereo=nn.Linear(2, 2)).to("meta")
    parts = pipeline.denoiser, pipeline.autoencoder, pipeline.text_encoder, pipeline.stereo
    assert all(p.device.type == "meta" for part in parts for p in part.parameters())
    assert pipeline.device.type == "meta"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"rho": 0.0}, r"rho must be within 0\.1\.\.1e6, got 0"),
        ({"rho": float("nan")}, r"rho must be within 0\.1\.\.1e6, got nan"),
        ({"solver": "rk4"}, "no solver 'rk4': choose one of euler, heun, dpmpp_2m, dpmpp_2s"),
        ({"budget": 0}, "budget must be a whole number of at least 1, got 0"),
        ({"guidance": "pag"}, r"no guidance 'pag': choose cfg\+\+ or cfg"),
        ({"guidance_scale": 1.5}, r"CFG\+\+ scale is within 0\.\.1, got 1\.5"),
        ({"guidance_scale": float("nan"), "guidance": "cfg"}, "must be finite, got nan"),
        ({"guidance_interval": (2.0, 1.0)}, "0 <= low < high, got 2 and 1"),
        ({"churn": -1.0}, "S_churn, S_noise >= 0"),
        ({"churn": 5.0, "solver": "euler"}, "churn is a part of heun, not of euler"),
    ],
)
def test_settings_out_of_range_are_refused_when_they_are_made(settings, said):
    with pytest.raises(ValueError, match=said):
        Sampling(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "heun"},
        {"guidance_scale": 0.0},
        {"guidance_interval": (0.0, 5.0)},
        {"churn": 1.0},
        {"guidance": "cfg"},
    ],
)
def test_a_few_step_generator_refuses_what_it_would_ignore(build, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=rf"{name} .* is for diffusion models"):
        build(few_step=True)("jazz", **settings)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"prompt": []}, "no prompts"),
        ({"prompt": "jazz", "seconds": 1e-5}, "1e-05 seconds are less than a sample"),
        ({"prompt": "jazz", "seconds": 40.0}, "at most 32, got 40"),
        ({"prompt": "jazz", "negative_prompt": "drums"}, "few-step generator has in its weights"),
    ],
)
def test_calls_that_cannot_be_answered(build, call, said):
    with pytest.raises(ValueError, match=said):
        build(few_step=True)(**call)


def test_what_a_condition_is_told_comes_from_prompt_and_arguments(build):
    told = build().condition(["jazz --bpm 90 --key A minor", "techno"])
    assert told.tempo.tolist() == [90, 0] and told.key.tolist() == [1 + KEYS.index("A minor"), 0]
    assert build().condition(["jazz --bpm 90", "techno"], bpm=120).tempo.tolist() == [120, 120]
    assert build().condition(["jazz"]).key is None


def test_parts_made_for_other_latents_are_refused(build, tiny_denoiser):
    for option, said in (({"channels": 8}, "channels: 8 and 4"), ({"frame_rate": 9.0}, "rate: 9")):
        with pytest.raises(ValueError, match=f"denoiser and codec differ in .*{said}"):
            build(denoiser=tiny_denoiser(**option))


def test_a_wrapped_denoiser_is_guided_where_its_inner_one_is(build, tiny_denoiser):
    inner = tiny_denoiser(guidance_interval=(0.0, 2.0), guidance_scale=0.3)
    how = {"seconds": 0.5, "steps": 3}
    bare = build(denoiser=inner)("jazz", **how)
    wrapped = build(denoiser=torch.optim.swa_utils.AveragedModel(inner))("jazz", **how)
    assert torch.equal(bare.latents, wrapped.latents)
    assert bare.metadata == wrapped.metadata and bare.metadata[0]["guidance_scale"] == 0.3


def test_a_network_of_float64_plays_the_same(build, tiny_denoiser):
    how = {"seconds": 0.5, "steps": 2, "precision": "float32"}
    single = build(denoiser=tiny_denoiser(), few_step=True)("jazz", **how)
    double = build(denoiser=tiny_denoiser().double(), few_step=True)("jazz", **how)
    close(double.latents.float(), single.latents)


def test_a_budget_needs_blocks_to_choose_from(build, tiny_denoiser):
    with pytest.raises(ValueError, match="a budget needs a denoiser with a depth"):
        build(denoiser=Prepared(tiny_denoiser()))("jazz", budget=2)
