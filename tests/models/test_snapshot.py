"""Snapshots: exact round trips, and one clear line for everything that can be wrong with one."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from presto_models.conditioning import TextEncoder, TextEncoderConfig
from presto_models.dit import DiTConfig, PrestoDenoiser, PrestoDenoiserConfig
from presto_models.layer_schedule import LayerSchedule, presto_schedule
from presto_models.snapshot import SnapshotError, find_snapshot, from_dict, write_atomic


@pytest.fixture
def model(tiny_denoiser):
    return tiny_denoiser(schedule=presto_schedule(4), drop="tail")


@pytest.fixture
def folder(model, tmp_path):
    return model.save_pretrained(tmp_path / "model")


def one_line(folder, kind=PrestoDenoiser) -> str:
    """The error for a broken snapshot; it must be a SnapshotError of one line."""
    with pytest.raises(SnapshotError) as error:
        kind.from_pretrained(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


def edit_header(folder, change):
    path = folder / "config.json"
    header = json.loads(path.read_text())
    change(header)
    path.write_text(json.dumps(header))


def test_round_trip_is_exact(model, folder, tiny_condition):
    loaded = PrestoDenoiser.from_pretrained(folder)
    assert loaded.config == model.config
    assert not loaded.training
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    x, sigma, cond = torch.ones(2, 4, 6), torch.tensor([0.1, 9.0]), tiny_condition(2)
    assert torch.equal(model(x, sigma, cond), loaded(x, sigma, cond))


def test_a_snapshot_is_two_files_of_json_and_safetensors(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    header = json.loads((folder / "config.json").read_text())
    assert header["class"] == "PrestoDenoiser"
    assert header["config"]["dit"]["depth"] == 4


def test_text_encoder_round_trip(tmp_path):
    encoder = TextEncoder(TextEncoderConfig(buckets=64, width=16, depth=1, heads=2))
    loaded = TextEncoder.from_pretrained(encoder.save_pretrained(tmp_path))
    for ours, theirs in zip(encoder(["slow piano"]), loaded(["slow piano"]), strict=True):
        assert torch.equal(ours, theirs)


def test_bfloat16_halves_the_file_and_loads_as_float32(model, folder, tmp_path):
    half = model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    stored = load_file(half / "model.safetensors")
    loaded = PrestoDenoiser.from_pretrained(half).state_dict()
    assert all(stored[name].dtype == torch.bfloat16 for name in loaded)
    for name, value in model.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.bfloat16().float())
    assert next(model.parameters()).dtype == torch.float32  # the model itself stays as it was
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, half)]
    assert sizes[1] < 0.65 * sizes[0]


def test_a_folder_beside_you_is_not_taken_for_the_bundled_model(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SnapshotError, match=r"is the name of a bundled model: save to \./presto-sm"
    ):
        model.save_pretrained("presto-small/base")
    model.save_pretrained("./presto-small/base")
    for name in ("./presto-small", Path("presto-small"), tmp_path / "presto-small"):
        own = PrestoDenoiser.from_pretrained(find_snapshot(name) / "base")
        assert own.digest == model.digest
    bundled = PrestoDenoiser.from_pretrained("presto-small/base")
    assert bundled.digest != model.digest


def test_a_missing_folder_names_what_is_bundled(tmp_path):
    assert "no folder" in one_line(tmp_path / "nowhere")
    with pytest.raises(SnapshotError, match="no bundled model of that name"):
        find_snapshot("no-such-model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_and_damaged_files(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:60])
    assert "cannot read the snapshot" in one_line(folder)
    (folder / name).unlink()
    assert name in one_line(folder)


def test_keys_must_be_the_networks_own(folder):
    edit_weights(folder, lambda state: state.update(surprise=torch.zeros(1)))
    assert "missing keys none, unexpected keys surprise" in one_line(folder)
    edit_weights(folder, lambda state: [state.pop(key) for key in list(state) if "blocks" in key])
    line = one_line(folder)
    assert "missing keys inner.blocks.0" in line
    assert "more" in line  # not all of them


def test_shapes_and_values_are_checked(folder):
    edit_weights(folder, lambda state: state.update({"inner.no_text": torch.zeros(3)}))
    assert "inner.no_text has shape (3,), the config needs (16,)" in one_line(folder)
    edit_weights(
        folder, lambda state: state.update({"inner.no_text": torch.full((16,), torch.nan)})
    )
    assert "inner.no_text is not finite" in one_line(folder)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_broken_model_is_not_published(model, tmp_path, bad):
    with torch.no_grad():
        model.inner.no_text[3] = bad
    with pytest.raises(SnapshotError, match=r"inner\.no_text is not finite; nothing was written"):
        model.save_pretrained(tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_another_class_is_refused(folder):
    assert "holds a PrestoDenoiser, not a TextEncoder" in one_line(folder, TextEncoder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda header: header["config"].update(colour=1), "has no colour"),
        (lambda header: header["config"]["dit"].update(layers=1), "DiTConfig has no layers"),
        (lambda header: header.pop("config"), "config"),
        (lambda header: header["config"]["dit"].update(heads=3), "multiple"),
    ],
)
def test_a_config_of_another_shape_is_refused(folder, change, reason):
    edit_header(folder, change)
    assert reason in one_line(folder)


def test_sigma_data_is_of_the_config(model, tmp_path):
    other = PrestoDenoiser(dataclasses.replace(model.config, sigma_data=2.0))
    other.save_pretrained(tmp_path / "other")
    assert PrestoDenoiser.from_pretrained(tmp_path / "other").sigma_data == other.sigma_data == 2.0


def test_nested_configs_survive_json():
    config = PrestoDenoiserConfig(DiTConfig(depth=6, drop="tail"), 0.7, presto_schedule(6))
    data = json.loads(json.dumps(dataclasses.asdict(config)))
    assert from_dict(PrestoDenoiserConfig, data) == config
    assert isinstance(from_dict(PrestoDenoiserConfig, data).schedule, LayerSchedule)
    data["schedule"] = None
    assert from_dict(PrestoDenoiserConfig, data).schedule is None


def test_a_failed_write_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "weights"
    write_atomic(path, lambda temporary: temporary.write_text("first"))

    def fail(temporary):
        temporary.write_text("half of the sec")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]  # and leaves no debris
    write_atomic(path, lambda temporary: temporary.write_text("second"))
    assert path.read_text() == "second"


def test_a_digest_names_config_and_weights(model, folder):
    loaded = PrestoDenoiser.from_pretrained(folder)
    assert model.digest == loaded.digest
    loaded.config = dataclasses.replace(loaded.config, guidance_scale=0.3)
    assert model.digest != loaded.digest
    half = loaded.to(torch.bfloat16)
    before = half.digest
    next(half.parameters()).data[0] += 1
    assert half.digest != before
