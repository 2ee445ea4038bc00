"""Listening tests: nothing gives a system away, and the analysis finds what is there, no more."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import loudness

from presto_data import load_audio
from presto_distill.cli import main
from presto_distill.lab.listening import rater
from presto_distill.lab.listening.build import TestConfig, build, find_items, low_passed, prepared
from presto_distill.lab.listening.rater import Session
from presto_distill.lab.listening.ratings import (
    COLUMNS,
    Ratings,
    compare,
    holm,
    load_ratings,
    no_worse,
    screen,
    simulated,
    summary,
    violins,
)

RATE = 44_100
QUALITY = {"good": 70.0, "fair": 50.0, "poor": 30.0}


def clip(path, *, level=0.1, seconds=1.0, channels=1, seed=0):
    noise = np.random.default_rng(seed).standard_normal((round(seconds * RATE), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, (level * noise).clip(-1, 1), RATE)


@pytest.fixture
def clips(tmp_path):
    for i, (system, level) in enumerate({"base": 0.02, "presto": 0.2}.items()):
        for item in ("funk", "waltz 3"):
            clip(tmp_path / "clips" / system / f"{item}.wav", level=level, seconds=1 + i, seed=i)
    (tmp_path / "clips" / "prompts.csv").write_text(
        "file,prompt\nfunk.wav,</script> & slap bass\nwaltz 3,a waltz\n"
    )
    return tmp_path / "clips"


def page_facts(page):
    text = page.read_text()
    return json.loads(re.search(r'id="test"[^>]*>(.*?)</script>', text, re.S)[1])


def test_versions_are_equally_loud_equally_long_and_nameless(clips, tmp_path):
    page = build(clips, tmp_path / "out")
    key = json.loads((tmp_path / "out" / "key.json").read_text())
    files = sorted((page.parent / "audio").iterdir())
    assert files == sorted(files, key=lambda path: path.stat().st_mtime_ns)
    audio = {path.stem: load_audio(path) for path in files}
    assert audio.keys() == key["stimuli"].keys() and len(audio) == 4
    for sound in audio.values():
        assert sound.shape[1] == RATE
        assert loudness(sound, RATE).item() == pytest.approx(-23, abs=0.1)
    everything = page.read_text() + " ".join(p.name for p in page.parent.rglob("*"))
    assert "presto" not in everything.replace("presto-listen", "") and "base" not in everything
    trials = page_facts(page)["trials"]
    assert [trial["text"] for trial in trials] == ["</script> & slap bass", "a waltz"]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page.read_text())


def test_a_mono_version_is_as_loud_as_the_same_sound_in_stereo(clips):
    sound, rate = soundfile.read(clips / "base" / "funk.wav")
    soundfile.write(clips / "presto" / "funk.wav", np.stack([sound, sound], 1), rate)
    item = next(find_items(clips))
    levelled = prepared(item, TestConfig())
    assert torch.equal(levelled["base"], levelled["presto"])


def test_a_reference_is_hidden_heard_openly_and_has_an_anchor(clips, tmp_path):
    page = build(clips, tmp_path / "out", TestConfig(reference="base"))
    key = json.loads((tmp_path / "out" / "key.json").read_text())["stimuli"]
    trial = page_facts(page)["trials"][0]
    assert sorted(key[name]["system"] for name in trial["stimuli"]) == ["anchor", "base", "presto"]
    assert trial["reference"] not in key
    hidden = next(name for name in trial["stimuli"] if key[name]["system"] == "base")
    folder = page.parent / "audio"
    open_one, hidden = (load_audio(folder / f"{n}.flac") for n in (trial["reference"], hidden))
    assert torch.equal(open_one, hidden)


def test_the_anchor_has_nothing_above_its_band():
    power = torch.fft.rfft(low_passed(torch.randn(1, RATE))).abs().square()[0]
    assert power[3500:].sum() < 1e-6 * power.sum()
    assert power[:3400].min() > 0


def test_loud_peaks_lower_the_whole_test_instead_of_clipping(clips, tmp_path):
    click = np.zeros(RATE)
    click[::4410] = 0.9  # all peak, hardly any loudness
    for system in ("base", "presto"):
        soundfile.write(clips / system / "funk.wav", click, RATE)
    page = build(clips, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "key.json").read_text())
    audio = [load_audio(path) for path in (page.parent / "audio").iterdir()]
    assert facts["gain"] < 1 and max(a.abs().max() for a in audio) <= 0.991
    levels = [loudness(a / 4, RATE).item() for a in audio]  # its filters clip at 1
    assert max(levels) - min(levels) < 0.2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: (c / "presto" / "funk.wav").unlink(), "presto lacks funk"),
        (lambda c: clip(c / "presto" / "funk.wav", level=0), "funk of presto is silent"),
        (lambda c: clip(c / "presto" / "funk.wav", seconds=0.2), "0.20 s short"),
        (lambda c: (c / "presto").rename(c / "anchor"), "low-pass"),
        (lambda c: (c / "presto").rename(c.parent / "x"), r"1 systems.*SYSTEM/CLIP\.wav$"),
        (lambda c: clip(c / "base" / "funk.flac"), r"funk\.wav and funk\.flac: which is the clip"),
        (lambda c: (c / "prompts.csv").write_text("a,b\n1,2\n"), "file and prompt, not a, b"),
        (lambda c: (c / "prompts.csv").write_text("file,prompt\nfunk,f\n"), "no row for waltz 3"),
    ],
)
def test_clips_that_make_no_test_are_refused(clips, tmp_path, spoil, message):
    spoil(clips)
    with pytest.raises(ValueError, match=message):
        build(clips, tmp_path / "out")
    assert not (tmp_path / "out" / "page").exists()


def test_an_unknown_reference_is_refused(clips, tmp_path):
    with pytest.raises(ValueError, match=r"no system 'real'.*base, presto"):
        build(clips, tmp_path / "out", TestConfig(reference="real"))


# --- ratings -------------------------------------------------------------------------------------


def test_a_planted_order_is_found():
    found = simulated(QUALITY, raters=12, items=8, seed=1)
    assert list(summary(found)["system"]) == ["good", "fair", "poor"]
    pairs = compare(found).set_index(["a", "b"])["better"].to_dict()
    assert pairs == {("fair", "good"): "good", ("fair", "poor"): "fair", ("good", "poor"): "good"}


def test_where_there_is_no_order_none_is_found_more_often_than_promised():
    """40 tests of equal systems: with Holm's correction at 5 %, two false finds are expected, and
    more than six have a probability of 0.3 %."""
    equal = dict.fromkeys(QUALITY, 50.0)
    false = sum(
        compare(simulated(equal, raters=10, items=4, seed=seed))["better"].any()
        for seed in range(40)
    )
    assert false <= 6


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Percentile bootstrap over 15 raters is a little too sure: about 92 % instead of 95."""
    inside = 0
    for seed in range(40):
        table = summary(simulated({"one": 50.0, "two": 50.0}, raters=15, items=40, seed=seed))
        # The truth of a test is the mean over its own items, which all its raters share.
        truth = 50 + np.random.default_rng(seed).normal(0, 6, 15 + 40)[15:].mean()
        inside += (table["low"] <= truth).sum() - (table["high"] < truth).sum()
    assert inside >= 66  # of 80; 74 are expected


def test_one_rater_shows_nothing_and_five_cannot_either():
    for raters in (1, 5):
        assert not compare(simulated(QUALITY, raters=raters, items=8))["better"].any()
    least = compare(simulated({"a": 90.0, "b": 20.0}, raters=5, items=8))["p"]
    assert least.tolist() == [2 / 2**5]


def test_no_worse_is_said_only_where_enough_raters_could_have_said_otherwise():
    few, many = (simulated(QUALITY, raters=raters, items=8) for raters in (6, 7))
    assert no_worse(few, "good", "poor") is None  # three pairs: 3 * 2 / 2^6 = 0.09
    assert no_worse(many, "good", "poor") and not no_worse(many, "poor", "good")


def test_holms_correction():
    assert np.allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    assert np.allclose(holm(np.array([0.9, 0.6])), [1.0, 1.0])


def test_careless_raters_are_screened_out_and_named():
    found = simulated(QUALITY | {"real": 95, "anchor": 15}, raters=8, items=20, reference="real",
                      careless=2, seed=3)  # fmt: skip
    kept, dropped = screen(found)
    assert list(dropped["rater"]) == ["rater 6", "rater 7"]
    assert dropped["reason"].str.contains("hidden reference below 90").all()
    assert kept.table["rater"].nunique() == 6


def test_raters_who_leave_all_sliders_alike_or_do_not_listen_are_named():
    table = simulated(QUALITY, raters=3, items=4).table
    table.loc[table["rater"] == "rater 0", "score"] = 50
    table.loc[(table["rater"] == "rater 1") & (table["system"] == "fair"), "plays"] = 0
    _, dropped = screen(Ratings(table, None))
    reasons = dict(zip(dropped["rater"], dropped["reason"], strict=True))
    assert reasons == {
        "rater 0": "rated all versions alike in 100% of trials",
        "rater 1": "did not play every version in 100% of trials",
    }


def test_the_figure_shows_every_system_best_first():
    figure = violins(simulated(QUALITY, raters=8, items=4))
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["good", "fair", "poor"]
    assert ax.get_ylabel() == "score, 8 raters (higher is better)"


@pytest.fixture
def sent_back(clips, tmp_path):
    """A key, and the file that a rater of it would save."""
    build(clips, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "key.json").read_text())
    rows = [
        [facts["test"], "ann", of["item"], name, 60 if of["system"] == "base" else 70, 2, 3.0, 1, 1]
        for name, of in facts["stimuli"].items()
    ]
    lines = [",".join(COLUMNS), *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "ann.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "out" / "key.json", tmp_path / "ann.csv"


def test_ratings_are_unblinded_by_the_key(sent_back):
    key, path = sent_back
    found = load_ratings(key, [path])
    assert found.table.groupby("system")["score"].mean().to_dict() == {"base": 60, "presto": 70}


def test_initials_that_look_like_missing_numbers_are_a_name(sent_back):
    key, path = sent_back
    path.write_text(path.read_text().replace(",ann,", ",NA,"))
    assert set(load_ratings(key, [path]).table["rater"]) == {"NA"}


def test_a_file_that_is_no_key_or_empty_is_named(sent_back, tmp_path):
    key, path = sent_back
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"other\.json is no key of a listening test"):
        load_ratings(tmp_path / "other.json", [path])
    path.write_bytes(b"RIFF\xff\xfe\x80\x81")
    with pytest.raises(ValueError, match=r"ann\.csv is no table of ratings"):
        load_ratings(key, [path])
    with pytest.raises(ValueError, match=r"ann\.csv is no key of a listening test"):
        load_ratings(path, [path])
    path.write_text("")
    with pytest.raises(ValueError, match=r"ann\.csv is empty"):
        load_ratings(key, [path])


def test_another_test_has_other_names_and_leaves_no_clips_of_the_first(clips, tmp_path):
    def built() -> tuple[str, set[str]]:
        build(clips, tmp_path / "out")
        audio = {path.stem for path in (tmp_path / "out" / "page" / "audio").iterdir()}
        return json.loads((tmp_path / "out" / "key.json").read_text())["test"], audio

    first, same = built(), built()
    (clips / "base").rename(clips / "basis")
    other = built()
    assert first == same and first[0] != other[0]
    assert len(first[1]) == len(other[1]) and not first[1] & other[1]
    keys = {path.name for path in (tmp_path / "out").glob("*.json")}
    assert keys == {"key.json", f"key-{first[0]}.json"}, "raters of the first may still answer"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"^\w+,ann", "other,ann", "of test other"),
        (r",70,", ",170,", "0 to 100"),
        (r",70,", ",good,", "0 to 100"),
        (r",[0-9a-f]{12},60", ",abc,60", "unknown stimulus abc"),
        (r"\n[^\n]*,60,[^\n]*", "", "rated 0 times"),
        (r"score", "points", "no column score"),
        (r",2,3.0,", ",often,3.0,", "plays must be numbers from 0 on"),
        (r",2,3.0,", ",-1,3.0,", "plays must be numbers from 0 on"),
    ],
)
def test_files_that_cannot_be_right_are_refused(sent_back, old, new, message):
    key, path = sent_back
    path.write_text(re.sub(old, new, path.read_text(), count=1, flags=re.M))
    with pytest.raises(ValueError, match=message):
        load_ratings(key, [path])


def test_a_session_in_a_notebook_ends_in_the_same_file(sent_back):
    key, _ = sent_back
    session = Session(key.parent, "bob/1")
    with pytest.raises(ValueError, match="4 clips are not rated yet"):
        session.save()
    session.scores = {name: 40 for name in session.facts["stimuli"]}
    path = session.save()
    assert path.name.endswith("-bob%2F1.csv")  # "bob 1" has another file
    ratings = load_ratings(key, [path])
    assert ratings.table["score"].tolist() == [40] * 4 and ratings.table["plays"].isna().all()
    (reason,) = screen(ratings)[1]["reason"]
    assert reason.startswith("rated all versions alike"), "plays are not known"
    assert Session(key.parent, "bob/1").trials == session.trials
    assert {trial["text"] for trial in session.trials} == {"</script> & slap bass", "a waltz"}


def test_a_trial_in_a_notebook_waits_until_every_slider_was_moved(sent_back, monkeypatch):
    shown = []
    monkeypatch.setattr(rater, "interactive", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown.append)
    key, _ = sent_back
    rater.rate(key.parent, "eve")
    for last in (False, True):
        *rows, button, status = shown[0].children[2:]
        for number, row in enumerate(rows):
            assert button.disabled
            row.children[1].value = 40 + number
        assert not button.disabled
        button.click()
        assert status.value.startswith("saved") == last
    (path,) = key.parent.glob("ratings-*-eve.csv")
    assert sorted(load_ratings(key, [path]).table["score"]) == [40, 40, 41, 41]


def test_a_rater_counts_once(sent_back):
    key, path = sent_back
    with pytest.raises(ValueError, match="'ann' is in two files"):
        load_ratings(key, [path, path])


def test_the_command_builds_a_page_and_reads_its_ratings(clips, tmp_path, capsys, monkeypatch):
    def presto(*words) -> int:
        monkeypatch.setattr("sys.argv", ["presto", "listen", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    assert presto("build", clips, "--out", tmp_path / "test") == 0
    assert (tmp_path / "test" / "page" / "index.html").is_file()
    for name, base in (("ann", 30), ("bob", 40)):
        session = Session(tmp_path / "test", name)
        stimuli = session.facts["stimuli"].items()
        session.scores = {key: base + 40 * (of["system"] == "presto") for key, of in stimuli}
        session.save()
    key, files = tmp_path / "test" / "key.json", sorted((tmp_path / "test").glob("ratings-*.csv"))
    assert presto("results", key, *files, "--out", tmp_path / "v.png") == 0
    said = capsys.readouterr().out
    assert re.search(r"presto +75\.0", said) and re.search(r"base +35\.0", said)
    assert (tmp_path / "v.png").stat().st_size > 10_000
    assert presto("results", key, tmp_path / "none.csv") == 2
