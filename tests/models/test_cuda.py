"""What only a GPU can show: the same results as on a CPU, and recorded passes that stay true."""

from itertools import product

import pytest
import torch

from presto_models import (
    Autoencoder,
    Compiled,
    Condition,
    DiTConfig,
    LayerSchedule,
    MonoToStereo,
    Pipeline,
    PrestoDenoiser,
    PrestoDenoiserConfig,
)
from presto_models.attention import attention
from presto_models.compiled import Recorded
from presto_models.phase import frame_spectra

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DIT = DiTConfig(channels=4, width=64, depth=4, heads=2, text_width=8, frame_rate=5.0)


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """It cannot look through the checks of shapes that tests run with; recording can."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: None)
    monkeypatch.setattr(torch, "compile", lambda fn, **options: fn)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def denoiser(rng):
    schedule = LayerSchedule((0.1, 1, 10), (4, 3, 2, 1))
    D = PrestoDenoiser(PrestoDenoiserConfig(DIT, schedule=schedule))
    for weight in D.parameters():
        weight.data = torch.randn(weight.shape, generator=rng) * 0.1
    return D.requires_grad_(False)


@pytest.fixture
def inputs(rng):
    text, tempo = torch.randn(2, 3, 8, generator=rng), torch.tensor([90.0, 0.0])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    return torch.randn(2, 4, 40, generator=rng), Condition(text, mask, tempo)


def on_gpu(cond: Condition) -> Condition:
    return Condition(*(None if leaf is None else leaf.cuda() for leaf in cond))


def test_a_denoiser_gives_what_it_gives_on_a_cpu(denoiser, inputs):
    x, cond = inputs
    sigma = torch.tensor([30.0, 0.03])  # two budgets in a batch
    expected = denoiser(x, sigma, cond)
    found = denoiser.cuda()(x.cuda(), sigma.cuda(), on_gpu(cond))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_recorded_passes_give_what_the_denoiser_gives(denoiser, inputs):
    x, cond = inputs[0].cuda(), on_gpu(inputs[1])
    other = cond._replace(text=-cond.text, tempo=cond.tempo + 10)
    denoiser.cuda()
    with torch.inference_mode():
        fast = Compiled(denoiser)
        for level, asked in product((30.0, 0.3, 0.03, 30.0), (cond, other)):
            sigma = torch.full((2,), level, device="cuda")
            found = fast(x * level, sigma, fast.prepare(asked))
            expected = denoiser(x * level, sigma, asked)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        for length in range(41, 81):  # more than tables are kept for
            denoiser(x.new_zeros(2, 4, length), sigma, cond)
        torch.testing.assert_close(fast(x * level, sigma, fast.prepare(other)), found)
    assert len(fast.run.graphs) == 3  # one per budget


def test_gradients_are_those_of_a_cpu(denoiser, inputs):
    x, cond = inputs
    sigma = torch.tensor([3.0, 0.3])
    denoiser.requires_grad_(True)

    def gradient(device: str) -> torch.Tensor:
        denoiser.to(device).zero_grad()
        where = cond if device == "cpu" else on_gpu(cond)
        denoiser(x.to(device), sigma.to(device), where).square().mean().backward()
        grads = (weight.grad for weight in denoiser.parameters())
        return torch.cat([grad.flatten().cpu() for grad in grads if grad is not None])

    expected, found = gradient("cpu"), gradient("cuda")
    torch.testing.assert_close(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bfloat16_is_near_that_in_float32(rng, masked):
    q, k, v = torch.randn(3, 2, 4, 65, 64, generator=rng).cuda()
    mask = torch.arange(65, device="cuda").expand(2, -1) < 40 if masked else None
    exact = attention(q, k, v, mask)
    half = attention(*(part.bfloat16() for part in (q, k, v)), mask)
    assert (half.float() - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()


def test_the_codec_and_stereo_give_what_they_give_on_a_cpu(rng):
    codec = Autoencoder.from_pretrained("presto-small/codec")
    stereo = MonoToStereo.from_pretrained("presto-small/stereo")
    latent = torch.randn(2, codec.channels, 43, generator=rng) / 2
    with torch.inference_mode():
        heard = codec.decode(latent)
        sides = stereo.side(heard[:, None])
        codec.cuda(), stereo.cuda()
        codec.compile(), stereo.compile()
        for _ in range(2):  # recorded, then replayed
            assert_sounds_alike(codec.decode(latent.cuda()), heard)
            found = stereo.side(heard[:, None].cuda()).cpu()
            torch.testing.assert_close(found, sides, atol=1e-4, rtol=1e-3)
        again = codec.decode(-latent.cuda())
        assert (again - codec.decode(latent.cuda())).abs().max() > 0.01
    assert isinstance(codec.decode, Recorded) and len(codec.decode.graphs) == 1


def assert_sounds_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Phases of weak bins may differ: rounding decides which peak they follow."""
    found, expected = (
        frame_spectra(x.cpu(), torch.hann_window(1024), 512).abs() for x in (found, expected)
    )
    assert (found - expected).square().mean() < 1e-2 * expected.square().mean()


def test_a_pipeline_makes_nearly_the_same_latents_on_a_gpu():
    pipeline = Pipeline.from_pretrained("presto-small")
    made = {"seconds": 3.0, "seed": 3, "stereo": True, "precision": "float32"}
    prompts = ["slow jazz trio --bpm 90", "techno"]
    expected = pipeline(prompts, **made)
    pipeline.to("cuda")
    for found in (pipeline(prompts, **made), pipeline.compile()(prompts, **made)):
        torch.testing.assert_close(found.latents.cpu(), expected.latents, atol=0.02, rtol=0)
        assert_sounds_alike(found.audios.flatten(0, 1), expected.audios.flatten(0, 1))
