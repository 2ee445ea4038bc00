"""Exported files give what the library gives, for other batches, lengths and prompts."""

import importlib.util

import jaxtyping
import pytest
import torch

from presto_models.autoencoder import Autoencoder, AutoencoderConfig
from presto_models.conditioning import Condition
from presto_models.export import export_decoder, export_denoiser, export_stereo
from presto_models.layer_schedule import LayerSchedule
from presto_models.stereo import MonoToStereo, MonoToStereoConfig

CHANNELS, BUDGET = 4, 2


@pytest.fixture(autouse=True)
def sizes_may_be_symbols():
    """What is traced has sizes that are no integers, as the checks of shapes would have them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def clips(batch: int, frames: int, tokens: int):
    source = torch.Generator().manual_seed(frames)
    mask = torch.arange(tokens) < torch.tensor([tokens, 1, 2])[:batch, None]
    text = torch.randn(batch, tokens, 8, generator=source)
    cond = Condition(text, mask, torch.tensor([120.0, 0.0, 90.0])[:batch])
    x = torch.randn(batch, CHANNELS, frames, generator=source)
    return x, torch.tensor([0.1, 1.0, 9.0])[:batch], cond


def stated(cond: Condition) -> dict[str, torch.Tensor]:
    return {name: leaf for name, leaf in cond._asdict().items() if leaf is not None}


@pytest.fixture
def run_onnx():
    onnxruntime = pytest.importorskip("onnxruntime")

    def run(path, **inputs):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = {name: value.numpy() for name, value in inputs.items()}
        [out] = session.run(None, feed)
        return torch.from_numpy(out)

    return run


def test_a_step_in_onnx_is_the_denoiser_at_that_budget(tiny_denoiser, tmp_path, run_onnx):
    D = tiny_denoiser(depth=3, frame_rate=5.0, schedule=LayerSchedule((1.0,), (3, 2)))
    path = export_denoiser(
        D, clips(2, 9, 3)[2], tmp_path / "step.onnx", channels=CHANNELS, budget=BUDGET
    )
    for size in ((2, 12, 3), (3, 31, 7), (1, 9, 1)):
        x, sigma, cond = clips(*size)
        D_x = run_onnx(path, x=x, sigma=sigma, **stated(cond))
        with torch.no_grad():
            torch.testing.assert_close(D_x, D(x, sigma, cond, budget=BUDGET), rtol=1e-3, atol=1e-3)
            assert not torch.allclose(D_x, D(x, sigma, cond, budget=3), rtol=1e-2, atol=1e-2)


def test_a_decoder_in_onnx_gives_the_codec_s_magnitudes(tmp_path, run_onnx):
    torch.manual_seed(0)
    codec = Autoencoder(AutoencoderConfig(width=8, depth=1, channels=CHANNELS))
    torch.nn.init.normal_(codec.decoder.leave.weight)
    path = export_decoder(codec.train(), tmp_path / "decoder.onnx")
    assert codec.training  # as it was
    for batch, frames in ((2, 5), (1, 17)):
        latent = torch.randn(batch, CHANNELS, frames)
        with torch.no_grad():
            expected = codec.spectrum(latent)
        assert expected.std() > 0
        magnitude = run_onnx(path, latent=latent)
        torch.testing.assert_close(magnitude, expected, rtol=1e-3, atol=1e-6)


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, run_onnx, monkeypatch):
    onnx_program = pytest.importorskip("torch.onnx._internal.exporter._onnx_program")
    monkeypatch.setattr(onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    codec = Autoencoder(AutoencoderConfig(width=8, depth=1, channels=CHANNELS))
    path = export_decoder(codec, tmp_path / "decoder.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {"decoder.onnx", "decoder.onnx.data"}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in list(tmp_path.glob("decoder.*")):
        file.rename(moved / file.name)
    assert run_onnx(moved / path.name, latent=torch.zeros(1, CHANNELS, 4)).isfinite().all()


def test_mono_to_stereo_in_onnx_gives_the_same_side(tmp_path, run_onnx):
    torch.manual_seed(0)
    stereo = MonoToStereo(MonoToStereoConfig(width=8, depth=1))
    torch.nn.init.normal_(stereo.network.leave.weight, std=0.3)
    path = export_stereo(stereo, tmp_path / "stereo.onnx")
    for batch, frames in ((2, 5), (1, 40)):
        mid = 0.2 * torch.randn(batch, frames, stereo.hop)
        with torch.no_grad():
            expected = stereo.side(mid.flatten(1)[:, None]).view_as(mid)
        assert expected.std() > 0.01
        torch.testing.assert_close(run_onnx(path, mid=mid), expected, rtol=1e-3, atol=1e-5)


def test_a_program_of_torch_export_is_the_denoiser(tiny_denoiser, tmp_path):
    D = tiny_denoiser(depth=2)
    path = export_denoiser(D, clips(2, 9, 3)[2], tmp_path / "step.pt2", channels=CHANNELS)
    program = torch.export.load(path).module()
    x, sigma, cond = clips(3, 31, 7)
    with torch.no_grad():
        D_x = program(x, sigma, stated(cond))
        torch.testing.assert_close(D_x, D(x, sigma, cond), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported_is_said(tiny_denoiser, tmp_path, monkeypatch):
    D, cond = tiny_denoiser(), clips(2, 9, 3)[2]
    with pytest.raises(ValueError, match=r"step\.h5: the name must end in \.onnx or \.pt2"):
        export_denoiser(D, cond, tmp_path / "step.h5")
    with pytest.raises(ValueError, match="2 prompts of 2 tokens, got 1 of 3"):
        export_denoiser(D, clips(1, 9, 3)[2], tmp_path / "step.onnx")
    scheduled = tiny_denoiser(schedule=LayerSchedule((1.0,), (3, 2)))
    with pytest.raises(ValueError, match="state the budget to export"):
        export_denoiser(scheduled, cond, tmp_path / "step.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "presto-models\[onnx\]"'):
        export_denoiser(D, cond, tmp_path / "step.onnx")
