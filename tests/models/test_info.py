"""`describe` counts what a model holds and what its steps cost."""

import json
from dataclasses import replace

import pytest

from presto_models.info import describe, step_flops
from presto_models.layer_schedule import LayerSchedule
from presto_models.sizes import large, micro
from presto_models.snapshot import SnapshotError, find_snapshot, read_header


def test_flops_of_a_step_are_those_of_its_blocks():
    """Per token and block 4 width^2 + 3 width hidden weights once each (2 operations), and
    attention's 2 products of frames x width; the rest does not grow with the budget."""
    dit, frames = replace(large(), text_attention=False), 689
    width, hidden = dit.width, 2752  # 8/3 of 1024 is 2730.7, and 43 times 64 is the next multiple
    block = 2 * frames * (4 * width**2 + 3 * width * hidden) + 4 * frames**2 * width
    first, fifth = (step_flops(dit, budget, frames=frames) for budget in (1, 5))
    assert fifth - first == 4 * block
    prompted = step_flops(large(), 2, frames=frames, tokens=8) - step_flops(
        large(), 1, frames=frames, tokens=8
    )
    cross = 2 * 2 * frames * width**2 + 2 * 9 * 2 * width**2 + 4 * frames * 9 * width
    assert prompted == block + cross


def test_the_bundled_model_is_described_part_by_part():
    text, size = describe("presto-small"), replace(micro(), frame_rate=44_100 / 2048)
    assert "base: PrestoDenoiser, 3,379,776 parameters, licence Apache-2.0" in text
    assert f"16 blocks, {step_flops(size, 16) / 1e9:.2f} GFLOP a step" in text
    for scale in (0.8, 0.6):  # base and layers
        assert f"  guided by CFG++ {scale} for sigma 0 to 20 unless told otherwise" in text
    card = json.loads((find_snapshot("presto-small") / "base" / "card.json").read_text())
    warm = json.loads((find_snapshot("presto-small") / "steps" / "card.json").read_text())
    warm = warm["starts_from"]
    took = f"steps {warm['train']['steps']}, minutes {warm['wall_clock_seconds'] / 60:.0f}"
    assert f"  starts from: {took}, losses regression" in text
    took = f"  minutes: {card['wall_clock_seconds'] / 60:.0f}\n  hardware: {card['hardware']}\n"
    assert f"  steps: {card['train']['steps']}\n{took}" in text


def test_budgets_are_listed_by_noise_level(tiny_denoiser, tmp_path):
    D = tiny_denoiser(schedule=LayerSchedule((0.5, 2.0), (4, 3, 1)))
    lines = describe(D.save_pretrained(tmp_path / "mine")).splitlines()
    size = sum(p.numel() for p in D.parameters())
    assert f"mine: PrestoDenoiser, {size:,} parameters, licence not stated" in lines
    bins = [
        line.split(" blocks")[0].strip()
        for line in lines
        if " blocks, " in line and "sigma" in line
    ]
    assert bins == ["sigma 0 to 0.5: 4", "sigma 0.5 to 2: 3", "sigma 2 to inf: 1"]


def test_a_folder_without_snapshots_and_a_newer_snapshot_say_so(tiny_denoiser, tmp_path):
    with pytest.raises(SnapshotError, match="holds no snapshot"):
        describe(tmp_path)
    config = tiny_denoiser().save_pretrained(tmp_path / "new") / "config.json"
    written = read_header(config.parent)["presto_models"]
    config.write_text(config.read_text().replace(f'"{written}"', '"99.0.1"'))
    with pytest.raises(SnapshotError, match=r"by presto-models 99\.0\.1, this is .*--upgrade"):
        describe(tmp_path / "new")
    with pytest.raises(SnapshotError, match=r"99\.0\.1"):
        type(tiny_denoiser()).from_pretrained(tmp_path / "new")


@pytest.mark.parametrize("header", ['{"model_type": "t5"}', "[1]"])
def test_a_config_of_something_else_is_no_snapshot(tiny_denoiser, tmp_path, header):
    folder = tiny_denoiser().save_pretrained(tmp_path / "mine")
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(SnapshotError, match=r"cannot read the snapshot in .*mine: "):
        describe(folder)
    (folder / "config.json").write_text(header)
    for read in (describe, type(tiny_denoiser()).from_pretrained):
        with pytest.raises(SnapshotError, match=r"holds no snapshot: config\.json names no class"):
            read(folder)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", '{"class": "PrestoDenoiser", "config": {"dit": 5}}', "unusable config"),
        ("card.json", "x", "card.json is no card"),
        ("card.json", "[1]", "card.json is no card"),
    ],
)
def test_what_cannot_be_described_is_named(tiny_denoiser, tmp_path, name, text, said):
    folder = tiny_denoiser().save_pretrained(tmp_path / "mine")
    (folder / name).write_text(text)
    with pytest.raises(SnapshotError, match=f"mine.*{said}"):
        describe(folder)


def test_a_folder_of_the_bundled_name_lends_nobody_its_licence(
    tiny_denoiser, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presto-small").mkdir()
    tiny_denoiser().save_pretrained("mine")
    assert "licence not stated" in describe("mine")
