"""What is wrong with a command's input is said in one line, with exit code 2, and nothing is
written."""

import json
import signal
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from presto_distill import cli
from presto_distill.fit import Stopped
from presto_models import PrestoDenoiser, PrestoDenoiserConfig
from presto_models.sizes import micro
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
        (["generate", "jazz --key D"], "unknown key 'D': write it as A minor"),
        (["generate", "jazz --mood dark"], "unknown prompt option '--mood dark'"),
        (["generate", "jazz", "--key", "H"], "unknown key 'H': write it as A minor"),
        (["generate", "jazz --key Am", "--key", "Bm"], "states key twice"),
        (["generate", "jazz", "--bpm", "3"], "tempo 3 bpm is outside 20..400"),
        (["generate", "jazz", "--seconds", "0"], "at most 32, got 0"),
        (["generate", "jazz", "--seconds", "-3"], "at most 32, got -3"),
        (["generate", "jazz", "--seconds", "600"], "at most 32, got 600"),
        (["generate", "jazz", "--seconds", "nan"], "at most 32, got nan"),
        (["generate", "jazz", "--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["generate", "jazz", "--rho", "0"], "rho must be within 0.1..1e6, got 0"),
        (["generate", "jazz", "--solver", "rk4"], "no solver 'rk4': choose one of euler"),
        (["generate", "jazz", "--solver", "heun"], "solver 'heun' is for diffusion models"),
        (["generate", "jazz", "--budget", "0"], "budget must be a whole number of at least 1"),
        (["generate", "jazz", "--budget", "999"], "blocks, got 999"),
        (["generate", "jazz", "--guidance-scale", "2"], "CFG++ scale is within 0..1, got 2"),
        (["generate", "jazz", "--negative-prompt", " "], "no words"),
        (["generate", "jazz", "--negative-prompt", "drums"], "few-step generator has in its"),
        (["generate", "jazz", "--width", "-1"], "width must be at least 0, got -1"),
        (
            ["generate", "jazz", "--width", "0.5", "--mono"],
            "for stereo: leave out --mono",
        ),
        (["generate", "jazz", "--seed", "-1"], "seed must be within 0..2^63 - 1, got -1"),
        (["generate", "jazz", "--device", "abacus"], "no device 'abacus' here"),
        (["generate", "jazz", "--device", "cuda:99"], "no device 'cuda:99' here"),
        (["generate", "jazz", "--strength", "0.5"], "go together"),
        (["generate", "jazz", "--init", "no.wav", "--strength", "0.5"], "no.wav: no such file"),
        (["generate", "jazz", "--batch", "jobs.jsonl"], "give one of them"),
        (["generate", "--batch", "jobs.jsonl"], "jobs.jsonl"),
        (["generate", "jazz", "--out", "x.mp3"], "must end in .wav or .flac"),
        (["generate", "jazz", "--out", "nowhere/x.wav"], "no folder nowhere"),
        (["generate", "jazz", "--model", "nothing"], "no folder nothing and no bundled model"),
        (["generate", "jazz", "--variant", "turbo"], "no variant 'turbo'"),
        (["demo", "--device", "abacus"], "no device 'abacus' here"),
        (["train-bundle", "--training-seed", "-1"], "training seed must not be negative, got -1"),
        (["train-bundle", "--device", "abacus"], "no device 'abacus' here"),
        (
            ["data", "encode", "--corpus", "synthetic:1", "--out", "x", "--device", "abacus"],
            "no device 'abacus' here",
        ),
        (["demo", "--port", "0"], "port must be within 1..65535, got 0"),
        (["demo", "--model", "nothing"], "no folder nothing and no bundled model"),
        (["reproduce", "--preset", "huge"], "smoke, quick, cpu, gpu, a100_paper"),
        (["reproduce", "no_such_notebook", "--preset", "smoke"], "no_such_notebook"),
        (["reproduce", "--preset", "smoke", "--audio", "nowhere"], "nowhere"),
        (["reproduce", "--preset", "smoke", "--seed", "-1"], "seed must not be negative, got -1"),
        (["reproduce", "--preset", "smoke", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["reproduce", "--list", "--preset", "huge"], "smoke, quick, cpu, gpu, a100_paper"),
        (["reproduce", "--stored", "x", "--seed", "0"], "x has its own --seed"),
        (["train-bundle", "--stages", "stereo", "finishing"], "unknown stage 'finishing'"),
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


def test_a_part_of_a_model_is_not_a_model(presto):
    done = presto("generate", "jazz", "--model", str(find_snapshot("presto-small") / "base"))
    assert done.code == 2 and "base is one part of a model: give the folder that" in done.err


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
    words = ["generate", "slow jazz trio", "--bpm", "90", "--seconds", "1.5", "--seed", "1"]
    done = presto(*words, "--steps", "2", "--out", "a.wav")
    assert done.code == 0, done.err
    audio, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 44_100 and len(audio) == round(1.5 * rate)
    assert 1e-3 < abs(audio).max() <= 1
    assert "real-time factor" in done.out

    presto(*words, "--steps", "2", "--out", "b.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_file_says_how_it_was_made(presto, tmp_path, kind):
    prompt = "Höre: 夜 " + "words and more of them, " * 30
    words = ["--seconds", "0.5", "--steps", "1", "--seed", "3", "--budget", "2", "-o", f"a.{kind}"]
    assert presto("generate", f"{prompt} --bpm 90", *words).code == 0
    tags = soundfile.SoundFile(tmp_path / f"a.{kind}").copy_metadata()
    assert tags["title"].startswith("Höre: 夜 words") and tags["title"].endswith("…")
    assert tags["software"].startswith(f"presto-models {version('presto-models')}")
    facts = json.loads(tags["comment"])
    expected = {"bpm": 90, "seed": 3, "seconds": 0.5, "steps": 1, "budget": 2, "rho": 7}
    assert expected.items() <= facts.items()
    assert {"variant", "model", "version"} <= facts.keys() and "solver" not in facts


def test_a_batch_is_lines_in_and_files_and_lines_out(presto, tmp_path):
    jobs = [
        {"prompt": "jazz --bpm 90"},
        {"prompt": "夜\u2028techno", "bpm": 120, "seconds": 0.5, "seed": 9, "out": "low/b.flac"},
    ]
    lines = [json.dumps(job, ensure_ascii=False) for job in jobs]
    (tmp_path / "jobs.jsonl").write_text("\n\n".join(lines), "utf-8")  # a blank line is skipped
    words = ["--seconds", "1", "--steps", "2", "--seed", "5", "--out", "made"]
    done = presto("generate", "--batch", "jobs.jsonl", *words)
    assert done.code == 0, done.err
    listed = [json.loads(line) for line in (tmp_path / "made" / "clips.jsonl").open("rb")]
    facts = [(one["out"], one["seed"], one["bpm"], one["seconds"]) for one in listed]
    assert facts == [("made/0001.wav", 5, 90, 1), ("made/low/b.flac", 9, 120, 0.5)]
    stages = {"text", "denoise", "decode", "stereo"}
    assert all(set(one["stage_seconds"]) == stages for one in listed)
    for one in listed:
        assert soundfile.info(tmp_path / one["out"]).duration == pytest.approx(one["seconds"])

    presto("generate", "jazz --bpm 90", "--seconds", "1", "--steps", "2", "--seed", "5")
    same = [soundfile.read(tmp_path / name)[0] for name in ("made/0001.wav", "out.wav")]
    assert (same[0] == same[1]).all()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "holds no prompts"),
        ("jazz", "line 1: no JSON"),
        ('["jazz"]', "line 1: needs an object with a prompt"),
        ('{"prompt": "jazz"}\n{"bpm": 90}', "line 2: needs an object with a prompt"),
        ('{"prompt": "jazz", "tempo": 90}', "line 1: unknown field 'tempo': use prompt, bpm"),
        ('{"prompt": "jazz", "bpm": "90"}', "line 1: bpm cannot be '90'"),
        ('{"prompt": "jazz", "seed": true}', "line 1: seed cannot be True"),
        ('{"prompt": "jazz", "bpm": 3}', "line 1: tempo 3 bpm is outside 20..400"),
        ('{"prompt": "jazz", "seconds": NaN}', "line 1: seconds must be above 0"),
        ('{"prompt": "jazz", "out": "a.mp3"}', "line 1: cannot write generated/a.mp3"),
        ('{"prompt": "a", "out": "a.wav"}\n' * 2, "line 2: generated/a.wav is written twice"),
        (
            '{"prompt": "a", "out": "a.wav"}\n{"prompt": "a", "out": "b/../a.wav"}',
            "line 2: generated/b/../a.wav is written twice",
        ),
    ],
)
def test_a_bad_line_of_a_batch_is_named_before_anything_is_made(lines, said, presto, tmp_path):
    (tmp_path / "jobs.jsonl").write_text(lines)
    done = presto("generate", "--batch", "jobs.jsonl")
    assert done.code == 2 and said in done.err, done.err
    assert len(done.err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.jsonl"]


def test_a_batch_does_not_write_over_its_own_lines(presto, tmp_path):
    (tmp_path / "clips.jsonl").write_text('{"prompt": "jazz"}')
    done = presto("generate", "--batch", "clips.jsonl", "--out", ".")
    assert done.code == 2 and "clips.jsonl would be overwritten" in done.err
    assert (tmp_path / "clips.jsonl").read_text() == '{"prompt": "jazz"}'


def test_a_batch_that_the_model_cannot_make_leaves_nothing(presto, tmp_path):
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "jazz"}')
    done = presto("generate", "--batch", "jobs.jsonl", "--budget", "999")
    assert done.code == 2 and "blocks, got 999" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.jsonl"]


def test_a_key_that_the_model_cannot_hear_leaves_nothing(presto, tmp_path):
    deaf, bundled = tmp_path / "deaf", find_snapshot("presto-small")
    PrestoDenoiser(PrestoDenoiserConfig(micro(), few_step=True)).save_pretrained(deaf / "steps")
    for part in ("codec", "text"):
        (deaf / part).symlink_to(bundled / part)
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "jazz"}\n{"prompt": "jazz --key A minor"}')
    for words in (("jazz --key A minor",), ("jazz", "--key", "Am"), ("--batch", "jobs.jsonl")):
        done = presto("generate", *words, "--model", "deaf")
        said = "'jazz --key A minor': deaf cannot be told a key, leave it out"
        assert done.code == 2 and done.err.count("\n") == 1 and said in done.err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["deaf", "jobs.jsonl"]


def test_a_recording_is_varied_or_continued(presto, tmp_path):
    """It is read at any rate and with any channels; a variation is as long as it."""
    tone = np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.stack([tone, tone], axis=1), 22050)
    words = ["generate", "jazz", "--steps", "2", "--init", "tone.wav"]
    assert presto(*words, "--strength", "0.02", "-o", "varied.wav").code == 0
    made = presto(*words, "--keep-seconds", "0.8", "--seconds", "2", "-o", "longer.wav")
    assert made.code == 0, made.err
    for name, seconds in (("varied.wav", 1.0), ("longer.wav", 2.0)):
        audio, rate = soundfile.read(tmp_path / name)
        assert audio.shape == (seconds * rate, 2)
        mid = audio.mean(1)
        spectrum = abs(np.fft.rfft(mid[rate // 10 : rate // 2]))  # of the part that is kept
        assert spectrum.argmax() / 0.4 == pytest.approx(440, abs=5)
    done = presto(*words, "--keep-seconds", "1.5", "--seconds", "2")
    assert done.code == 2 and "tone.wav of 1 s is shorter than the 1.5 s asked for" in done.err
    done = presto(*words, "--keep-seconds", "2", "--seconds", "2")
    assert done.code == 2 and "below the clip's 2 s, got 2" in done.err


def test_a_clip_is_stereo_unless_mono_is_asked_for(presto, tmp_path):
    words = ["generate", "jazz", "--seconds", "1", "--steps", "2", "--seed", "5"]
    for name, *more in (("wide",), ("flat", "--width", "0"), ("mono", "--mono")):
        assert presto(*words, *more, "-o", f"{name}.wav").code == 0
    audio = {path.stem: soundfile.read(path)[0] for path in tmp_path.glob("*.wav")}
    wide, flat, mono = audio["wide"], audio["flat"], audio["mono"]
    assert wide.shape == (44_100, 2) and mono.shape == (44_100,)
    assert (flat[:, 0] == flat[:, 1]).all() and (wide[:, 0] != wide[:, 1]).any()
    # The mid is the mono clip, as far as 16 bits and the common peak allow.
    assert np.corrcoef(wide.mean(1), mono)[0, 1] > 0.9999
