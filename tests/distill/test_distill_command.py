"""A run is never lost: killed at any moment it goes on to the same end, and what is wrong with
its input, its disk or its losses is said in one line."""

import importlib.util
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from presto_data.encode import claimed
from presto_distill import checkpoint, distill, presets
from presto_distill.cli import RunOptions
from presto_distill.distributed import World
from presto_distill.fit import Stopped, fit
from presto_distill.logs import Table
from presto_distill.methods import chosen_schedule
from presto_distill.objective import Batch
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.settings import with_pairs
from presto_distill.trainer import Diverged, TrainConfig, Trainer
from presto_models import DiTConfig, PrestoDenoiser, PrestoDenoiserConfig, TextEncoder
from presto_models.edm import LogNormal
from presto_models.samplers import few_step_sigmas, multistep, sample
from presto_models.sizes import micro
from presto_models.snapshot import find_snapshot

STEPS, KILLS = 5, 10
SMALL = DiTConfig(channels=4, width=16, depth=2, heads=2, text_width=0)


def small_trainer(steps: int = STEPS, world: World = World(), **changes) -> Trainer:
    """Presto-S of networks of two thin blocks; the same every time."""
    torch.manual_seed(0)
    cfg = PrestoSConfig(critic_updates=2, guidance_scale=1.0)
    teacher = PrestoDenoiser(PrestoDenoiserConfig(SMALL))
    objective = PrestoS(teacher, lambda cond: None, cfg, feature_layer=0, width=16)
    cfg = TrainConfig(steps, **{"lr": 1e-3, "precision": "float32", **changes})
    return Trainer(objective, cfg, parallel=world)


def numbered(start: int):
    for k in itertools.count(start):
        yield Batch(torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(k)))


def small_run(folder: Path, stream=numbered, **options) -> Trainer:
    """Train with a checkpoint after every step, and a probe that looks at the weights."""
    trainer = small_trainer()

    def probe():
        weight = trainer.objective.generator.inner.input.weight
        return [{"measure": "weight", "value": weight.sum().item()}]

    options = {"every": 0, "probe": probe, "probe_every": 2, **options}
    fit(trainer, stream, folder / "checkpoint.pt", label="small", **options)
    return trainer


def outcome(folder: Path) -> dict[str, object]:
    """Everything a run leaves but for the seconds it took; floats to the last bit."""
    tables = {}
    for name in ("checkpoint", "health"):
        rows = Table(folder / f"{name}.csv", step=STEPS).read()
        tables[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(state)
    weights = {str(path): leaf.tolist() for path, leaf in leaves if isinstance(leaf, torch.Tensor)}
    return {**tables, "weights": weights, "files": sorted(path.name for path in folder.iterdir())}


# --- kill -9 -------------------------------------------------------------------------------------


def fork(body) -> int:
    """Start `body` in a copy of this process."""
    if child := os.fork():
        return child
    try:
        body()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_a_fork(body) -> int:
    return status(fork(body))


def watched(folder: Path, kill_at: int | None, *, only_saves: bool) -> None:
    """A small run that counts the calls of functions and kills itself at number `kill_at`.

    With `only_saves`, calls outside of checkpoint.save do not count. Leaves the count behind.
    """
    calls, saving = 0, False

    def note(frame, event, function):
        nonlocal calls, saving
        if frame.f_code is checkpoint.save.__code__ and event in ("call", "return"):
            saving = event == "call"
        if "call" in event and (saving or not only_saves):
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(note)
    small_run(folder)
    sys.setprofile(None)
    (folder.parent / f"calls-{only_saves}").write_text(str(calls))


def kill_and_resume(out: Path) -> None:
    """Ten runs killed at random calls, three of them within a save; each resumes to its end."""
    small_run(out / "first")  # imports what its forks would import, ten times over
    moments, kinds = random.Random(0), [False] * (KILLS - 3) + [True] * 3
    for only_saves in (False, True):
        whole = out / f"whole-{only_saves}"
        assert in_a_fork(lambda at=whole, s=only_saves: watched(at, None, only_saves=s)) == 0
    expected = outcome(whole)
    for number, only_saves in enumerate(kinds):
        moment = moments.randint(1, int((out / f"calls-{only_saves}").read_text()))
        folder = out / str(number)
        dead = in_a_fork(lambda at=folder, m=moment, s=only_saves: watched(at, m, only_saves=s))
        assert dead == -signal.SIGKILL, dead
        left = sorted(path.name for path in folder.glob(".*")) if folder.exists() else []
        assert in_a_fork(lambda at=folder: small_run(at)) == 0
        kill = {"save": only_saves, "left": left, "same": outcome(folder) == expected}
        print(json.dumps(kill), flush=True)  # lest the next fork inherit it and print it again


def test_a_run_killed_at_ten_random_moments_ends_as_if_it_had_not_been(tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == KILLS and all(kill["same"] for kill in kills), kills
    assert any(kill["left"] for kill in kills if kill["save"])  # half a checkpoint was written


# --- how else a run may end ----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_stops(kind, code, tmp_path):
    def signalled(start):
        for k, batch in enumerate(numbered(start), start):
            if k == 4:  # in the second of the three turns of step 2
                os.kill(os.getpid(), kind)
            yield batch

    before = signal.getsignal(kind)
    with pytest.raises(Stopped, match=f"{kind.name}: saved at step 2 in") as stop:
        small_run(tmp_path / "run", signalled)
    assert stop.value.code == code and signal.getsignal(kind) is before
    assert small_trainer_at(tmp_path / "run").step == 2
    small_run(tmp_path / "run")
    small_run(tmp_path / "whole")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def small_trainer_at(folder: Path) -> Trainer:
    trainer = small_trainer()
    checkpoint.load(trainer, folder / "checkpoint.pt")
    return trainer


def test_processes_stop_together_and_only_the_first_writes(tmp_path):
    """Of two processes the second is told to stop; both save after the same step."""

    def process(rank: int) -> None:
        group = torch.distributed
        store = group.FileStore(str(tmp_path / "store"), 2)
        group.init_process_group("gloo", store=store, rank=rank, world_size=2)
        world = World(rank, 2, "ddp")
        trainer = small_trainer(world=world, micro_batches=2)
        path = tmp_path / str(rank) / "checkpoint.pt"

        def stream(start):
            for k, batch in enumerate(numbered(start), start):
                if (rank, k) == (1, 8):  # a round of two is one turn, three are a step
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        with pytest.raises(Stopped, match=f"SIGTERM: saved at step 2 in {path}"):
            fit(trainer, stream, path, label="small", every=1e9)
        assert path.exists() == path.with_suffix(".csv").exists() == world.leads

    children = [fork(lambda rank=rank: process(rank)) for rank in (0, 1)]
    assert [status(child) for child in children] == [0, 0]


def broken_at(number: int):
    def stream(start):
        for k, batch in enumerate(numbered(start), start):
            yield Batch(batch.x * math.nan) if k == number else batch

    return stream


def test_divergence_names_term_step_and_last_good_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Diverged) as error:
        small_run(tmp_path, broken_at(7))
    assert str(error.value) == f"dsm is nan at step 3; last good checkpoint: {path}, of step 2"
    assert small_trainer_at(tmp_path).step == 2
    with pytest.raises(Diverged, match=r"dsm is nan at step 1; .*: none was saved yet$"):
        fit(small_trainer(), broken_at(0), tmp_path / "b" / "c.pt", label="b")


def test_a_full_disk_is_named_and_costs_nothing_that_was_saved(tmp_path):
    """A disk with room for the log but not for a second checkpoint, by a limit on file sizes."""
    path = tmp_path / "checkpoint.pt"
    small_run(tmp_path)
    data = path.read_bytes()

    def body():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match=r"cannot save .*checkpoint\.pt .an earlier one is kept"):
            fit(small_trainer(STEPS + 2), numbered, path, label="full", every=0)

    assert in_a_fork(body) == 0
    assert path.read_bytes() == data
    assert not list(tmp_path.glob(".*"))


def test_a_log_that_cannot_grow_is_named(tmp_path):
    with Table(tmp_path / "records.csv", step=0) as table:
        table.append(1, {"loss": 0.5})

        def body():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
            with pytest.raises(OSError, match=r"cannot write .*records\.csv: File too large"):
                table.append(2, {"loss": 0.123456789})

        assert in_a_fork(body) == 0
    again = Table(tmp_path / "records.csv", step=1)  # half a row is cut off
    assert again.read() == [{"step": 1, "loss": 0.5}]


def test_a_log_without_the_steps_before_the_checkpoint_is_an_error(tmp_path):
    small_run(tmp_path)
    log = tmp_path / "checkpoint.csv"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match=r"checkpoint\.csv holds 2 of the 5 steps"):
        small_run(tmp_path)


def test_a_table_reads_back_what_was_written_and_takes_new_columns(tmp_path):
    rows = [{"loss": 0.1 + 0.2, "name": "a, b"}, {"loss": 1e-300}, {"loss": 2.0, "late": 7}]
    path = tmp_path / "deep" / "table.csv"
    with Table(path, step=0) as table:
        for step, row in enumerate(rows, 1):
            table.append(step, row)
        assert table.read() == [{"step": k, **row} for k, row in enumerate(rows, 1)]
    text = path.read_text()
    with Table(path, step=2) as table:
        table.append(3, rows[2])
    assert path.read_text() == text
    with Table(path, step=0) as table:
        assert table.read() == []


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder with a tiny random base and the bundled codec and embedder."""
    folder = tmp_path_factory.mktemp("model")
    bundled = find_snapshot("presto-small")
    for name in ("codec", "embedder"):
        (folder / name).symlink_to(bundled / name)
    TextEncoder().save_pretrained(folder / "text")
    torch.manual_seed(0)
    for name, channels in (("base", 64), ("narrow", 32)):
        size = DiTConfig(channels=channels, width=16, depth=4, heads=2, text_attention=False)
        PrestoDenoiser(PrestoDenoiserConfig(size)).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def command(model, data, monkeypatch):
    """Run the command on a dozen clips, encoded once."""
    small = replace(presets.smoke(), clips=12, held_out=8, clip_seconds=2.0, trajectories=8)
    monkeypatch.setitem(presets.PRESETS, "smoke", lambda: small)

    def run(method: str, out: Path | None = None, *pairs: str, **options) -> int:
        options = {"preset": "smoke", "model": str(model), "data": data, "out": out, **options}
        return distill.run(method, RunOptions(settings=(pairs,), **options))

    return run


def test_a_run_leaves_a_student_its_records_and_its_health(command, tmp_path):
    out = tmp_path / "run"
    assert command("steps", out, "critic_updates=1", "train.steps=2", tensorboard=True) == 0
    names = {path.name for path in out.iterdir()}
    kept = {"config.json", "checkpoint.pt", "records.csv", "health.csv", "health.png"}
    assert names == {*kept, "student", "tensorboard", "lock"}
    assert PrestoDenoiser.from_pretrained(out / "student").config.few_step
    records = Table(out / "records.csv", step=2).read()
    assert [row["step"] for row in records] == [1, 2] and {"dsm", "dm"} <= records[0].keys()
    health = Table(out / "health.csv", step=2).read()
    assert {row["step"] for row in health} == {0, 1, 2}
    config = json.loads((out / "config.json").read_text())
    assert config["objective"]["critic_updates"] == 1 and config["train"]["steps"] == 2
    assert config["student"]["few_step"] and config["student"]["dit"]["depth"] == 4
    assert (config["tempo_dropout"], config["key_dropout"]) == (0.15, 0.5)


@pytest.mark.parametrize("method", ["dmd-gan", "consistency", "soundctm", "ditto-ctm", "ase"])
def test_a_baselines_student_is_the_denoiser_that_was_trained(method, command, data, tmp_path):
    out = tmp_path / method
    assert command(method, out, "train.steps=1") == 0
    student = PrestoDenoiser.from_pretrained(out / "student")
    assert student.config.few_step == (method != "ase")
    state = torch.load(out / "checkpoint.pt", weights_only=True)["averages"]
    trained = state["student" if "student" in state else "generator"]
    assert len(trained) == len(student.state_dict())
    for name, value in student.state_dict().items():
        assert torch.equal(value, trained.get(name, trained.get(f"denoiser.{name}")))
    noise, rng = torch.randn(2, 64, 8), torch.Generator().manual_seed(0)
    with torch.no_grad():
        clean = sample(multistep(student, noise, few_step_sigmas(2), rng=rng))
    assert clean.isfinite().all() and clean.shape == noise.shape


def test_a_consistency_student_that_starts_from_another_has_its_boundary_once(command, tmp_path):
    assert command("consistency", tmp_path / "first", "train.steps=1") == 0
    start = str(tmp_path / "first" / "student")
    again = tmp_path / "again"
    assert command("consistency", again, "train.steps=1", "train.lr=0", start=start) == 0
    before, after = (PrestoDenoiser.from_pretrained(at) for at in (start, again / "student"))
    assert after.config == before.config and after.config.boundary
    same = zip(before.parameters(), after.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_the_default_schedule_follows_the_noise_that_is_trained_on():
    settings = distill.METHODS["layers"].settings(presets.quick(), None)
    settings = with_pairs(settings, ["p_train.P_mean=0.4"])
    student = PrestoDenoiser(PrestoDenoiserConfig(micro()))
    schedule = chosen_schedule(student, settings, settings.objective.p_train)
    inner = torch.arange(1, 5, dtype=torch.float64) / 5
    assert schedule.edges == tuple(LogNormal(P_mean=0.4).quantile(inner).tolist())


def test_a_missing_tensorboard_names_its_extra_before_anything_is_written(
    command, tmp_path, monkeypatch
):
    find = importlib.util.find_spec
    missing = lambda name, *rest: None if name == "tensorboard" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", missing)
    with pytest.raises(ValueError, match=r"pip install 'presto-distill\[tensorboard\]'"):
        command("steps", tmp_path / "out", tensorboard=True)
    assert not list(tmp_path.iterdir())


def test_tensorboard_holds_what_the_tables_hold(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small_run(tmp_path, events=tmp_path / "events")
    seen = EventAccumulator(str(tmp_path / "events")).Reload()
    for name, tag in (("checkpoint", "train/dsm"), ("health", "health/weight")):
        rows = Table(tmp_path / f"{name}.csv", step=STEPS).read()
        expected = [(row["step"], row.get("dsm", row.get("value"))) for row in rows]
        found = [(event.step, event.value) for event in seen.Scalars(tag)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


def test_students_start_from_students_and_both_keeps_the_blocks(command, tmp_path):
    one, budgets = "train.steps=1", "blocks.budgets=4,2"
    command("layers", tmp_path / "layers", one, budgets)
    command("warm-start", tmp_path / "warm", one, start=str(tmp_path / "layers" / "student"))
    command("both", tmp_path / "both", one, start=str(tmp_path / "warm" / "student"))
    student = PrestoDenoiser.from_pretrained(tmp_path / "both" / "student")
    assert student.config.schedule.budgets == (4, 2) and student.config.few_step
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    assert config["objective"]["nu"] == 0.0 and "start" in config["models"]
    command("steps", tmp_path / "steps", one)
    command("both", tmp_path / "later", one, start=str(tmp_path / "steps" / "student"))
    config = json.loads((tmp_path / "later" / "config.json").read_text())
    assert config["objective"]["nu"] == 0.1, "dropped blocks are new to it"


def test_a_stopped_run_resumes_to_the_same_student_and_no_other_config_does(
    command, model, tmp_path
):
    pairs = ("critic_updates=1", "train.steps=3")
    command("steps", tmp_path / "whole", *pairs, every=0.0)
    look, looks = distill.probe, itertools.count()

    def second_look_stops(objective, *rest):
        if next(looks) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return look(objective, *rest)

    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="at step 1 in"):
        patch.setattr(distill, "probe", second_look_stops)
        command("steps", out, *pairs)
    assert not (out / "student").exists()

    with pytest.raises(ValueError, match=f"{out} already holds a run: add --resume"):
        command("steps", out, *pairs)
    with pytest.raises(ValueError, match=r"objective.critic_updates 1 -> 2, train.lr.generator 0"):
        command("steps", out, "critic_updates=2", "train.lr=generator:1,critic:0.0003", resume=True)
    with pytest.raises(ValueError, match=r"to 2 steps: it is a run of 3"):
        command("steps", out, "critic_updates=1", "train.steps=2", resume=True)
    other = tmp_path / "other"
    shutil.copytree(model, other)
    facts = json.loads((config := other / "base" / "config.json").read_text())
    facts["config"]["guidance_scale"] = 3.0
    config.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"another config: models.base \w+ -> \w+"):
        command("steps", out, *pairs, resume=True, model=str(other))
    with (
        claimed(out / "lock"),
        pytest.raises(ValueError, match=f"another process is training in {out}"),
    ):
        command("steps", out, *pairs, resume=True)
    with pytest.raises(ValueError, match=r"nothing to resume: .*nowhere holds no config.json"):
        command("steps", tmp_path / "nowhere", resume=True)

    assert command("steps", out, *pairs, resume=True) == 0
    for name in ("student/model.safetensors", "health.csv", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("method", distill.METHODS)
def test_a_dry_run_says_what_it_takes_and_writes_nothing(method, command, capsys, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert command(method, nowhere, "train.batch=2", dry_run=True, data=nowhere) == 0
    said = capsys.readouterr().out
    config, end = json.JSONDecoder().raw_decode(said)
    assert config["method"] == method and config["train"]["batch"] == 2
    assert "parameters" in said[end:] and "one step:" in said[end:]
    assert not list(tmp_path.iterdir())


def test_a_preset_for_a_gpu_needs_one_but_for_its_networks(
    command, data, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    large = replace(presets.PRESETS["smoke"](), name="gpu")
    monkeypatch.setitem(presets.PRESETS, "gpu", lambda: large)
    for dry in (False, True):
        with pytest.raises(ValueError, match="preset gpu needs a GPU"):
            command("steps", tmp_path / "out", preset="gpu", data=tmp_path / "x", dry_run=dry)
        said = capsys.readouterr().out
        assert ("parameters" in said) == dry and "one step" not in said
    assert not list(tmp_path.iterdir())


def test_a_run_is_no_start_but_its_student_is(command, tmp_path):
    out = tmp_path / "layers"
    command("layers", out, "train.steps=1")
    with pytest.raises(ValueError, match=f"{out} holds no snapshot itself: give {out}/student"):
        command("both", tmp_path / "both", start=str(out))


def test_a_dry_run_counts_five_copies_of_a_player_and_one_of_a_frozen_network():
    from presto_distill.dry_run import networks

    objective = small_trainer().objective
    table = networks(objective)
    rows = {line.split("  ")[0]: line.split() for line in table.splitlines()}
    count = sum(weight.numel() for weight in objective.generator.parameters())
    assert rows["generator"][-2] == f"{5 * 4 * count / 1e6:.1f}"
    assert rows["teacher (frozen)"][-2] == f"{4 * count / 1e6:.1f}"


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("critic_updates", "--set takes NAME=VALUE, got 'critic_updates'"),
        ("critic_update=3", "unknown setting 'critic_update': choose from p_gen.rho, .*nu_1"),
        ("train.step=3", "unknown setting 'train.step': .*train.steps"),
        ("blocks.budgets=4,2", "unknown setting 'blocks.budgets': .*blocks.tap"),
        ("critic_updates=three", "critic_updates must be a whole number, got 'three'"),
        ("critic_updates=0", "critic_updates must be at least 1, got 0"),
        ("nu_1=nan", "nu_1 must be a number, got 'nan'"),
        ("pooled=yes", "pooled must be true or false, got 'yes'"),
        ("gan=wgan", "gan must be one of least_squares, softplus, hinge, got 'wgan'"),
        ("train.betas=0.9", "train.betas must be a numbers with commas between, got '0.9'"),
        ("train.lr=fast", "train.lr must be a number or player:value,..., got 'fast'"),
        ("train.steps=0", "train.steps must be at least 1, got 0"),
        ("p_gen=uniform", "p_gen is set by its parts: choose from p_gen.rho, p_gen.sigma_min"),
        ("p_dmd.sigma_min=90", r"need 0 < sigma_min < sigma_max, got 90.0 and 80.0"),
        ("blocks.tap=9", "blocks.tap 9 does not exist: choose from 0..3"),
    ],
)
def test_a_setting_that_is_wrong_says_what_is_right(pair, said, command, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        command("steps", tmp_path / "out", pair)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_settings_reach_fields_of_every_type():
    settings = distill.METHODS["steps"].settings(presets.quick(), None)
    pairs = {
        "critic_updates=3": ("objective", "critic_updates", 3),
        "nu_1=1e-2": ("objective", "nu_1", 0.01),
        "pooled=true": ("objective", "pooled", True),
        "gan=softplus": ("objective", "gan", "softplus"),
        "train.betas=0,0.9": ("train", "betas", (0.0, 0.9)),
        "train.lr=1e-4": ("train", "lr", 1e-4),
        "train.lr=generator:1e-6,critic:1e-4": ("train", "lr", {"generator": 1e-6, "critic": 1e-4}),
        "train.grad_clip=inf": ("train", "grad_clip", math.inf),
        "blocks.tap=1,2": ("blocks", "tap", (1, 2)),
    }
    for pair, (part, name, value) in pairs.items():
        changed = with_pairs(settings, [pair])
        assert changed == replace(
            settings, **{part: replace(getattr(settings, part), **{name: value})}
        )
    assert with_pairs(settings, ["p_gen.rho=9"]).objective.p_gen.rho == 9.0
    both = with_pairs(settings, ["train.micro_batches=8", "train.batch=16"])  # 8 and 12 do not fit
    assert (both.train.micro_batches, both.train.batch) == (8, 16)
    assert with_pairs(settings, []) == settings


@pytest.mark.parametrize(
    ("method", "pairs", "options", "said"),
    [
        (
            "stepps",
            [],
            {},
            "unknown method 'stepps': choose one of steps, layers, both",
        ),
        ("steps", [], {"health": 0}, "health must be at least 1 step, got 0"),
        ("steps", [], {"every": math.nan}, "every must be at least 0 seconds, got nan"),
        ("steps", [], {"every": -1.0}, "every must be at least 0 seconds, got -1"),
        *(
            (method, ["guidance_scale=-1"], {}, "guidance_scale must not be negative, got -1")
            for method in ("steps", "both", "consistency", "soundctm", "warm-start")
        ),
        ("both", [], {"start": "presto-small"}, "holds no snapshot itself: give .*small/steps or"),
        ("steps", [], {"preset": "huge"}, "unknown preset 'huge'"),
        ("steps", [], {"start": "nowhere"}, "no folder nowhere and no bundled model"),
        (
            "layers",
            ["blocks.budgets=4,9"],
            {},
            "budgets must be within 1..4 blocks, got 9",
        ),
        ("both", ["blocks.budgets=0,4"], {}, "budgets must be within 1..4 blocks, got 0"),
    ],
)
def test_bad_input_is_said_before_anything_is_written(
    method, pairs, options, said, command, tmp_path
):
    with pytest.raises(ValueError, match=said) as error:
        command(method, tmp_path / "out", *pairs, **options)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_latents_that_the_network_does_not_take_are_refused_with_both_shapes(
    command, model, tmp_path
):
    said = r"latents of shape \(1, 64, 32\) do not fit a network that takes \(b, 32, t\)"
    with pytest.raises(ValueError, match=said):
        command("steps", tmp_path / "out", start=str(model / "narrow"))
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill_and_resume(Path(sys.argv[1]))
