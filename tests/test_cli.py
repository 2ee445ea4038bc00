"""What is wrong with a command's input is said in one line, with exit code 2, and nothing is
written."""

import signal
from typing import NamedTuple

import pytest

from presto_distill import cli
from presto_distill.fit import Stopped
from presto_models.snapshot import find_snapshot


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def presto(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        monkeypatch.setattr("sys.argv", ["presto", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Done(stop.value.code, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", ""], "no words"),
        (["generate", "   --bpm 100"], "no words"),
        (["generate", "x" * 10_000], "10000 characters"),
        (["generate", "jazz --key D"], "unknown key 'D': choose from C major"),
        (["generate", "jazz --key Am"], "key is stated to a network built without"),
        (["generate", "jazz --mood dark"], "unknown prompt option '--mood dark'"),
        (["generate", "jazz", "--bpm", "3"], "tempo 3 bpm is outside 20..400"),
        (["generate", "jazz", "--seconds", "0"], "at most 32, got 0"),
        (["generate", "jazz", "--seconds", "-3"], "at most 32, got -3"),
        (["generate", "jazz", "--seconds", "600"], "at most 32, got 600"),
        (["generate", "jazz", "--seconds", "nan"], "at most 32, got nan"),
        (["generate", "jazz", "--steps", "0"], "steps must be at least 1, got 0"),
        (["generate", "jazz", "--out", "x.mp3"], "must end in .wav or .flac"),
        (["generate", "jazz", "--out", "nowhere/x.wav"], "no folder nowhere"),
        (["generate", "jazz", "--model", "nothing"], "no folder nothing and no bundled model"),
        (["generate", "jazz", "--variant", "turbo"], "no variant 'turbo'"),
        (["demo", "--port", "0"], "port must be within 1..65535, got 0"),
        (["demo", "--model", "nothing"], "no folder nothing and no bundled model"),
        (["reproduce", "--preset", "huge"], "smoke, quick, cpu, gpu, a100_paper"),
        (["reproduce", "no_such_notebook", "--preset", "smoke"], "no_such_notebook"),
        (["reproduce", "--preset", "smoke", "--audio", "nowhere"], "nowhere"),
        (["train-bundle", "--stages", "finishing"], "unknown stage 'finishing'"),
        (["distill", "stepps"], "unknown method 'stepps': choose one of steps, layers, both"),
        (["distill", "steps", "--preset", "huge"], "smoke, quick, cpu, gpu, a100_paper"),
        (["distill", "steps", "--resume"], "runs/steps-quick-0 holds no config.json"),
        (["distill", "layers", "--audio", "nowhere", "--data", "."], "nowhere"),
        (["distill", "steps", "--set", "nu=1"], "unknown setting 'nu': choose from"),
        (["distill", "both", "--set", "nu=1", "--set", "gan=wgan"], "least_squares, softplus"),
        (["train", "--set", "train.steps=many"], "train.steps must be a whole number, got 'many'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, said, presto, tmp_path):
    done = presto(*words)
    assert done.code == 2, done.err
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_where_it_was_saved_and_exits_by_its_signal(
    number, code, presto, monkeypatch
):
    def run(method, options):
        raise Stopped(f"{method}: saved at step 3", number)

    monkeypatch.setattr("presto_distill.distill.run", run)
    done = presto("distill", "steps")
    assert (done.code, done.err) == (code, "presto: steps: saved at step 3\n")


def test_train_is_base_training_and_settings_add_up(presto, monkeypatch):
    seen = []
    monkeypatch.setattr("presto_distill.distill.run", lambda *given: seen.append(given) or 0)
    done = presto("train", "--set", "a=1", "b=2", "--set", "c=3", "--seed", "4")
    ((method, options),) = seen
    assert done.code == 0 and method == "base" and options.seed == 4
    assert options.settings == (("a=1", "b=2"), ("c=3",))


def test_a_damaged_model_is_named(presto, tmp_path):
    model = tmp_path / "model"
    bundled = find_snapshot("presto-small")
    for part in ("codec", "text", "base"):
        (model / part).mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (model / part / file).write_bytes((bundled / part / file).read_bytes())
    weights = model / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    done = presto("generate", "jazz", "--model", str(model))
    assert done.code == 2
    assert "cannot read the snapshot in" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_generate_writes_what_was_asked(presto, tmp_path):
    import soundfile

    words = ["generate", "slow jazz trio", "--bpm", "90", "--seconds", "1.5", "--seed", "1"]
    done = presto(*words, "--steps", "2", "--out", "a.wav")
    assert done.code == 0, done.err
    audio, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 44_100 and len(audio) == round(1.5 * rate)
    assert 1e-3 < abs(audio).max() <= 1
    assert "real-time factor" in done.out

    presto(*words, "--steps", "2", "--out", "b.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
