"""`presto eval`: a folder of audio measured against a reference folder, its statistics, prompts."""

import csv
import json
import math

import pytest
import soundfile
import torch

from presto_distill import cli
from presto_distill.evaluate import EvalConfig, evaluate_folder, read_prompts
from presto_distill.metrics import ReferenceStatistics
from presto_distill.metrics.embed import LogMelStatistics
from presto_distill.metrics.frechet import frechet_distance
from presto_distill.metrics.prdc import prdc

RATE = 44100


def noise(seed: int, seconds: float = 1.0) -> torch.Tensor:
    audio = torch.randn(1, int(RATE * seconds), generator=torch.Generator().manual_seed(seed))
    return 0.1 * audio / (1 + seed % 5)


def pulse(bpm: float, roots: tuple[int, ...], seconds: float = 4.0) -> torch.Tensor:
    """A major chord on every beat, through the roots in turn, each as long as the others."""
    time = torch.arange(int(seconds * RATE)) / RATE
    since = time % (60 / bpm)
    root = torch.tensor(roots)[(time / seconds * len(roots)).long()]
    notes = [440 * 2 ** ((root + step - 69) / 12) for step in (0, 4, 7)]
    sound = sum(torch.sin(2 * math.pi * hz * since) for hz in notes)
    return (0.2 * sound * torch.exp(-6 * since))[None]


def write(folder, clips: dict[str, torch.Tensor]):
    folder.mkdir(exist_ok=True)
    for name, audio in clips.items():
        soundfile.write(folder / name, audio.T.numpy(), RATE, subtype="FLOAT")
    return folder


def write_prompts(path, rows: list[dict]):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture
def folders(tmp_path):
    """Eight generated and nine reference clips of noise, one second each."""
    return (
        write(tmp_path / "made", {f"{i}.wav": noise(i) for i in range(8)}),
        write(tmp_path / "real", {f"{i}.wav": 0.5 * noise(100 + i) for i in range(9)}),
    )


def config(generated, reference=None, **options) -> EvalConfig:
    options = {"embedder": "log-mel", "seconds": 1.0, "bootstrap": 5, **options}
    return EvalConfig(generated, reference, **options)


def test_scores_are_those_of_the_embedded_files(folders):
    made, real = folders
    done = evaluate_folder(config(made, real, seed=3))
    embedder = LogMelStatistics()
    x = embedder.embed(torch.stack([noise(i) for i in range(8)]))
    y = embedder.embed(torch.stack([0.5 * noise(100 + i) for i in range(9)]))
    values = {name: score.value for name, (score, _) in done.scores.items()}
    assert values["frechet_distance"] == pytest.approx(frechet_distance(x, y), rel=1e-6)
    expected = prdc(x, y)
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert values.keys() == expected.keys() | {"frechet_distance", "frechet_infinity", "mmd"}
    assert done.facts["seed"] == 3 and done.facts["bootstrap"] == 5
    assert (done.facts["generated_clips"], done.facts["reference_clips"]) == (8, 9)
    assert "log-mel" in done.facts["embedder"] and "1 s" in done.facts["embedder"]


def test_clips_longer_than_an_hour_are_refused_before_memory_ends(tmp_path):
    with pytest.raises(ValueError, match=r"--seconds must be at most 3600, got 1e\+12"):
        config(tmp_path, tmp_path, seconds=1e12)


def test_equal_seeds_give_equal_reports(folders):
    first, again, other = (evaluate_folder(config(*folders, seed=s)) for s in (0, 0, 1))
    assert first.as_json() == again.as_json() != other.as_json()


def test_stored_statistics_give_the_distances_of_the_folder(folders, tmp_path):
    made, real = folders
    path = tmp_path / "real.safetensors"
    direct = evaluate_folder(config(made, real, save_reference=path))
    stored = evaluate_folder(config(made, path))
    assert stored.scores.keys() == {"frechet_distance", "frechet_infinity"}
    for name, (score, _) in stored.scores.items():
        assert score.value == pytest.approx(direct.scores[name][0].value, rel=1e-6)
    assert stored.facts["reference_digest"] == direct.facts["reference_digest"]
    with pytest.raises(ValueError, match=r"clips of 1 s', not of .* clips of 2 s"):
        evaluate_folder(config(made, path, seconds=2.0))


def test_tempo_and_key_are_compared_with_what_was_asked(tmp_path):
    """Cadences I-IV-V-I on the beat, in two keys; some rows ask for what was not played."""
    clips, rows = {}, []
    for i, (bpm, tonic, asked_bpm, asked_key) in enumerate(
        [
            (120.0, 60, 120.0, "C major"),
            (120.0, 62, 120.0, "D major"),
            (100.0, 60, 100.0, "G major"),  # a fifth above
            (100.0, 62, 50.0, "B minor"),  # half the tempo; the relative
            (110.0, 60, 85.0, "F# major"),  # neither
            (110.0, 60, "", ""),
        ]
    ):
        clips[f"{i}.wav"] = pulse(bpm, (tonic, tonic + 5, tonic + 7, tonic))
        rows.append({"file": f"{i}.wav", "bpm": asked_bpm, "key": asked_key})
    prompts = write_prompts(tmp_path / "asked.csv", rows)
    done = evaluate_folder(config(write(tmp_path / "made", clips), prompts=prompts, seconds=4.0))
    values = {name: (score.value, count) for name, (score, count) in done.scores.items()}
    assert values == {
        "tempo_accuracy_1": (pytest.approx(3 / 5), 5),
        "tempo_accuracy_2": (pytest.approx(4 / 5), 5),
        "key_accuracy": (pytest.approx(2 / 5), 5),
        "key_score": (pytest.approx((1 + 1 + 0.5 + 0.3) / 5), 5),
    }


def test_prompts_and_pairs_need_an_embedder_of_words(folders, tmp_path):
    made, _ = folders
    rows = [{"file": f"{i}.wav", "prompt": f"{word} noise"} for i, word in enumerate("abcdefgh")]
    prompts = write_prompts(tmp_path / "asked.csv", rows)
    done = evaluate_folder(
        config(made, made, prompts=prompts, embedder="presto-small", paired=True)
    )
    score, count = done.scores["clap_score"]
    assert -1 <= score.low <= score.high <= 1 and -1 <= score.value <= 1 and count == 8
    assert done.facts["prompt_chance"] == pytest.approx(1 / 8)
    assert done.scores["tag_divergence"][0].value == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="log-mel knows no words"):
        evaluate_folder(config(made, made, paired=True))
    with pytest.raises(ValueError, match="nothing that log-mel can measure"):
        evaluate_folder(config(made, prompts=prompts))


def test_files_that_cannot_be_used_are_named_and_counted(folders, capsys):
    made, real = folders
    (made / "broken.wav").write_bytes(b"not audio")
    write(made, {"silent.wav": torch.zeros(1, RATE)})
    done = evaluate_folder(config(made, real))
    assert (done.facts["generated_clips"], done.facts["generated_left_out"]) == (8, 2)
    said = capsys.readouterr().err
    assert "broken.wav: unreadable" in said and "silent.wav: silent" in said


def test_prompts_are_read_with_what_is_missing_left_open(tmp_path):
    rows = [
        {"file": "a.wav", "prompt": "jazz", "bpm": "90.5", "key": "Bb minor"},
        {"file": "b/c.wav", "prompt": "", "bpm": "", "key": ""},
    ]
    asked = read_prompts(write_prompts(tmp_path / "asked.csv", rows))
    assert (asked["a.wav"].prompt, asked["a.wav"].bpm, asked["a.wav"].key) == (
        "jazz", 90.5, "Bb minor"
    )  # fmt: skip
    assert (asked["b/c.wav"].prompt, asked["b/c.wav"].bpm, asked["b/c.wav"].key) == ("", None, "")


@pytest.fixture
def presto(folders, tmp_path, monkeypatch, capsys):
    """Run `presto eval` where the folders made and real are, among tables of prompts."""
    monkeypatch.chdir(tmp_path)
    for name, row in {
        "tempo": {"file": "0.wav", "bpm": "fast"},
        "zero": {"file": "0.wav", "bpm": "0"},
        "dorian": {"file": "0.wav", "key": "C dorian"},
        "columns": {"name": "0.wav", "prompt": "x"},
        "short": {"file": "0.wav", "prompt": "x"},
    }.items():
        write_prompts(tmp_path / f"{name}.csv", [row])
    rows = [{"file": f"{i}.wav", "bpm": "120"} for i in range(8)]
    write_prompts(tmp_path / "bpm.csv", rows)
    write_prompts(tmp_path / "twice.csv", [rows[0], rows[1], rows[0]])
    write(tmp_path / "few", {f"{i}.wav": noise(i) for i in range(3)})
    (tmp_path / "empty").mkdir()

    def run(*words: str):
        monkeypatch.setattr("sys.argv", ["presto", "eval", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("made", "nothing to compare with"),
        ("made --reference nowhere", "nowhere: no such folder"),
        ("empty --reference real", "empty: no usable audio"),
        ("few --reference real", "few: 3 clips of 1 s, at least 6 are needed"),
        ("made --reference few", "few: 3 clips of 1 s, at least 6 are needed"),
        ("made --reference short.csv", "short.csv: no reference statistics"),
        ("made --reference real --embedder vggish", "unknown embedder 'vggish'"),
        ("made --reference real --paired", "log-mel knows no words"),
        ("made --reference short.csv --paired", "--paired needs --reference to be a folder"),
        ("made --prompts bpm.csv --save-reference x", "--save-reference needs --reference to be"),
        ("made --reference real --out nowhere/x.json", "no folder nowhere"),
        ("made --prompts nowhere.csv", "cannot read nowhere.csv"),
        ("made --prompts columns.csv", "needs rows with the column file"),
        ("made --prompts tempo.csv", "tempo.csv, row 2: could not convert"),
        ("made --prompts zero.csv", "zero.csv, row 2: 0.0 is no tempo"),
        ("made --prompts dorian.csv", "dorian.csv, row 2: unknown key 'C dorian'"),
        ("made --prompts twice.csv", "twice.csv, row 4: a second row for 0.wav"),
        ("made --prompts short.csv", "no row for the file 1.wav"),
        ("made --prompts bpm.csv", "tempo needs clips of at least 4 s, got --seconds 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, said, presto):
    given = words.split()
    options = [] if "--embedder" in given else ["--embedder", "log-mel"]
    code, _, error = presto(*given, *options, "--seconds", "1")
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1, error


def test_paired_folders_of_other_counts_or_lengths_are_refused(presto, folders, tmp_path):
    pair = ["made", "--reference", "real", "--paired", "--seconds", "1"]
    code, _, error = presto(*pair)
    assert code == 2 and "paired folders differ: 8 clips generated, 9 given" in error
    (tmp_path / "real" / "8.wav").unlink()
    (tmp_path / "real" / "7.wav").unlink()
    write(tmp_path / "real", {"6.wav": noise(6, seconds=2.0)})
    code, _, error = presto(*pair)
    assert code == 2 and "paired clips differ: 7.wav at 0 s, 6.wav at 1 s" in error
    write(tmp_path / "real", {"6.wav": 0 * noise(6), "7.wav": noise(7)})
    code, _, error = presto(*pair)
    assert code == 2 and "paired folders must be whole, but 6.wav cannot be used" in error


def test_the_command_prints_a_table_and_writes_it_as_json(presto, tmp_path):
    words = ["made", "--reference", "real", "--embedder", "log-mel", "--seconds", "1"]
    code, out, error = presto(*words, "--save-reference", "r.safetensors", "--out", "scores.json")
    assert code == 0, error
    written = json.loads((tmp_path / "scores.json").read_text())
    for name, score in written["scores"].items():
        assert score["low"] <= score["high"] and score["clips"] == 8
        assert f"{score['value']:.4g}" in out and name in out
    assert all(f in out for f in ("log-mel statistics", "seed: 0", "95 %", "reference clips: 9"))
    embedder = written["embedder"]
    stored = ReferenceStatistics.load(tmp_path / "r.safetensors", embedder=embedder)
    assert (stored.count, stored.digest) == (9, written["reference_digest"])
