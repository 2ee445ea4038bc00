"""Whole songs: their form, their ending, their mix and the excerpts cut from them."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from presto_data import compose, render, synthetic, synthetic_corpus
from presto_data.composer import KEYS
from presto_data.genres import GENRES
from presto_data.songs import compose_whole
from presto_data.synthetic import PEAK, SAMPLE_RATE, TARGET_RMS, compress

EARLY = 0.15  # beats by which a hand may come before a bar


def song_of(genre, seed=0, **options):
    return compose_whole(genre, Random(f"song {seed}"), **options)


def begun(song, section, bars=None):
    """Per part, the notes that begin in a section's first `bars`, in beats from its start."""
    start, length = section.first_bar * song.beats, (bars or section.bars) * song.beats
    return [
        [
            n._replace(start=n.start - start)
            for n in part.notes
            if -EARLY <= n.start - start < length - EARLY
        ]
        for part in song.parts
    ]


def named(song, name):
    return [section for section in song.sections if section.name == name]


@pytest.mark.parametrize("genre", GENRES)
def test_a_song_has_a_form(genre):
    for seed in range(6):
        song = song_of(genre, seed)
        names = [section.name for section in song.sections]
        assert (names[0], names[-1]) == ("intro", "ending")
        assert {"verse", "chorus", "breakdown"} == set(names[1:-1])
        bar = 0
        for section in song.sections:
            assert section.first_bar == bar and section.bars >= 4
            bar += section.bars
        assert bar == song.bars and song.seconds == pytest.approx(song.bars * song.bar_seconds)
        assert max(n.start for part in song.parts for n in part.notes) < song.bars * song.beats

        # Fewer play at the beginning and in the breakdown than in the chorus.
        chorus = begun(song, named(song, "chorus")[0])
        assert sum(map(bool, begun(song, song.sections[0]))) < sum(map(bool, chorus))
        breakdown = begun(song, named(song, "breakdown")[0], bars=3)
        assert sum(map(bool, breakdown)) < len(song.parts)

        # The chorus returns note for note; its chords are touched harder than the verse's.
        for one, two in zip(chorus, begun(song, named(song, "chorus")[1]), strict=True):
            assert [n[2:] for n in one] == [n[2:] for n in two]
            assert np.allclose([n[:2] for n in one], [n[:2] for n in two])
        roles = [part.role for part in song.parts]
        verse = begun(song, named(song, "verse")[0])[roles.index("chords")]
        loud = [n.velocity for n in chorus[roles.index("chords")]]
        assert np.mean(loud) > 1.05 * np.mean([n.velocity for n in verse])


@pytest.mark.parametrize("genre", GENRES)
def test_the_ending_holds_the_tonic_and_rings_out(genre):
    for seed in range(6):
        song = song_of(genre, seed)
        tonic = KEYS.index(song.metadata.key)
        third = 3 if song.metadata.mode in ("minor", "dorian", "phrygian") else 4
        last = (song.sections[-1].first_bar + 3) * song.beats
        chord = set()
        for part in song.parts:
            end = [n for n in part.notes if n.start > last - EARLY]
            assert end, part.instrument
            assert all(abs(n.start - last) < EARLY for n in end)  # no ritardando, nothing after
            if part.role == "drums":
                continue
            classes = {n.pitch % 12 for n in end}
            assert part.role not in ("bass", "lead") or classes == {tonic}
            chord |= classes
        colours = {10, 11, 2, 9}  # of the seventh, ninth and sixth chords of some genres
        degrees = {(pitch - tonic) % 12 for pitch in chord}
        assert 0 in degrees and degrees - {0, third, 7} <= colours and 7 in degrees

        seconds_per_beat = 60 / song.metadata.tempo
        ends = max(n.start + n.length for part in song.parts for n in part.notes)
        assert 1.3 < song.seconds - ends * seconds_per_beat < 1.7


def test_songs_are_a_function_of_their_seed_and_long_enough():
    assert song_of("jazz") == song_of("jazz") != song_of("jazz", 1)
    short, long = song_of("reggae"), song_of("reggae", seconds=400)
    assert short.seconds < 400 <= long.seconds < 450
    assert [s.name for s in long.sections].count("chorus") > len(named(short, "chorus"))
    with pytest.raises(ValueError, match="unknown genre 'polka'"):
        compose_whole("polka", Random(0))


def test_default_songs_name_their_sections_too():
    song = compose("waltz", Random(0), seconds=6)
    assert "".join(section.name for section in song.sections).startswith("AABA")
    assert song.bars == sum(section.bars for section in song.sections)


@pytest.mark.parametrize("genre", GENRES)
def test_beginning_and_end_are_sound_stereo_music(genre):
    song = song_of(genre)
    for start_bar in (0, song.bars - 5 / song.bar_seconds):
        audio = render(song, seconds=5, start_bar=start_bar)
        assert audio.shape == (2, 5 * SAMPLE_RATE) and audio.isfinite().all()
        assert audio.abs().max() <= PEAK + 1e-4
        assert 0.25 * TARGET_RMS < audio.square().mean().sqrt() < TARGET_RMS + 1e-3
        left, right = audio
        assert 0.02 < (left - right).norm() / (left + right).norm() < 0.8  # mono-compatible
        assert 0.4 < left.norm() / right.norm() < 2.5
    tail = audio[:, -SAMPLE_RATE // 10 :].square().mean().sqrt()
    assert tail < audio.square().mean().sqrt() / 5  # it has rung out


def test_a_whole_song_renders_without_holes():
    song = song_of("waltz")
    audio = render(song)
    assert audio.shape == (2, round(song.seconds * SAMPLE_RATE))
    body = audio[:, : -2 * SAMPLE_RATE]
    seconds = body[:, : body.shape[1] // SAMPLE_RATE * SAMPLE_RATE].reshape(2, -1, SAMPLE_RATE)
    assert seconds.square().mean((0, 2)).sqrt().min() > 0.1 * TARGET_RMS


def test_an_excerpt_within_the_last_chord_is_not_silent():
    song = song_of("ambient")
    last = song.sections[-1].first_bar + 3
    audio = render(song, seconds=1, start_bar=last + 1.2)
    assert audio.square().mean().sqrt() > 0.9 * TARGET_RMS and audio[:, :441].abs().max() > 0.01


def test_excerpts_reach_from_the_first_to_the_last_second(monkeypatch):
    monkeypatch.setattr(synthetic, "render", lambda *_, **__: torch.zeros(2, 1))
    clips = list(synthetic_corpus(160, seed=3, seconds=20, whole_songs=True))
    assert all(0 <= clip.start <= clip.total - 20 + 1e-9 for clip in clips)
    assert min(clip.start for clip in clips) == 0
    assert any(clip.start == pytest.approx(clip.total - 20) for clip in clips)
    assert np.std([clip.start / (clip.total - 20) for clip in clips]) > 0.25  # uniform: 0.29


def test_whole_song_clips_know_their_facts_and_repeat():
    corpus = synthetic_corpus(12, seed=5, seconds=3, whole_songs=True)
    clip, again = corpus[4], synthetic_corpus(99, seed=5, seconds=3, whole_songs=True)[4]
    assert torch.equal(clip.audio, again.audio) and clip.caption == again.caption
    assert f"{clip.metadata.tempo:g} b" in clip.caption and clip.metadata.mode in clip.caption
    assert all(name in clip.caption for name in clip.metadata.instruments)
    default = synthetic_corpus(12, seed=5, seconds=3)
    assert clip.id != default[4].id and corpus.key != default.key
    assert "whole_songs" not in default.key  # caches made before the option stay good


def test_named_instruments_are_those_heard(monkeypatch):
    """Take one instrument out of the song: the clip changes if and only if it was named."""
    bands = []
    sound = synthetic.render
    monkeypatch.setattr(
        synthetic, "render", lambda song, **cut: bands.append((song, cut)) or sound(song, **cut)
    )
    for clip in synthetic_corpus(6, seed=8, seconds=4, whole_songs=True):
        song, cut = bands[-1]
        assert {part.instrument for part in song.parts} == set(clip.metadata.instruments)
        for name in clip.metadata.instruments:
            others = tuple(part for part in song.parts if part.instrument != name)
            without = sound(replace(song, parts=others), **cut).flatten()
            whole = clip.audio.flatten()
            rest = whole - without * (whole @ without / (without @ without).clamp_min(1e-9))
            assert rest.norm() > 0.01 * whole.norm(), (clip.id, name)  # louder than -40 dB


def square(seconds, hertz=1000.0):
    wave = np.where(np.arange(round(seconds * SAMPLE_RATE)) * hertz / SAMPLE_RATE % 1 < 0.5, 1, -1)
    return np.stack([wave, 0.5 * wave]).astype(np.float32)


def test_compression_closed_forms():
    """A steady tone stands 6 dB above the threshold: 4:1 takes 4.5 dB off; 20 dB less is free."""
    audio = np.concatenate([square(1), 0.1 * square(1)], 1)
    gain = 20 * np.log10(compress(audio, 4.0)[0] / audio[0])
    loud, quiet = gain[5_000:40_000], gain[55_000:85_000]
    assert np.allclose(loud, -4.5, atol=0.1) and np.allclose(quiet, 0, atol=0.01)
    low, high = (np.nonzero(gain[40_000:] > level)[0][0] for level in (-4.0, -1.0))
    assert 3 / ((high - low) / SAMPLE_RATE) == pytest.approx(120, rel=0.1)  # dB/s of release

    assert compress(audio, 1.0) is audio
    assert not compress(np.zeros((2, 5_000), np.float32), 4.0).any()
    assert compress(audio[:, :150], 4.0).shape == (2, 150)
    squeezed = compress(audio, 2.0)
    assert np.allclose(squeezed[1], 0.5 * squeezed[0], atol=1e-6)  # the image stays
    assert np.allclose(compress(7 * audio, 2.0), 7 * squeezed, atol=1e-4)  # at any level


def test_compression_lowers_the_crest_factor():
    def crest(song):
        audio = render(song, seconds=4, start_bar=named(song, "chorus")[0].first_bar)
        return 20 * (audio.abs().max() / audio.square().mean().sqrt()).log10().item()

    for genre in ("rock", "blues", "funk"):
        song = song_of(genre)
        drums = replace(song, parts=song.parts[-1:], ratio=1.0, reverb=0.0)
        bare = replace(drums, parts=(replace(drums.parts[0], ratio=1.0),))
        assert crest(drums) < crest(bare) - 1.5
        assert crest(song) < crest(replace(song, ratio=1.0)) - 1.0
