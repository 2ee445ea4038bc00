"""Thirteen genres as data: what they play, how fast, in which modes and on which instruments.

Patterns divide one bar into as many equal steps as they have characters (16: sixteenths of 4/4,
12: swung or shuffled 4/4, or eighths-and-sixteenths of 3/4):

    .  silence      -  hold the previous note      x X o  hit: normal, accented, ghost
    1-8  a chord member: for bass by its function (root, third, fifth, seventh, octave),
         for chords the n-th voice from below         a  bass: step towards the next root

Chords are Roman numerals on the degrees of the mode: case gives major or minor, the suffix more.
"""

from dataclasses import dataclass

# General MIDI program (from 0) and the lowest and highest pitch we write for each instrument.
INSTRUMENTS: dict[str, tuple[int, int, int]] = {
    "piano": (0, 45, 88),
    "electric piano": (4, 45, 84),
    "clavinet": (7, 45, 76),
    "celesta": (8, 60, 96),
    "vibraphone": (11, 53, 88),
    "marimba": (12, 48, 84),
    "organ": (17, 45, 84),
    "accordion": (21, 53, 84),
    "harmonica": (22, 60, 84),
    "nylon guitar": (24, 45, 79),
    "acoustic guitar": (25, 45, 79),
    "jazz guitar": (26, 45, 79),
    "clean guitar": (27, 45, 81),
    "muted guitar": (28, 45, 72),
    "distorted guitar": (30, 40, 81),
    "upright bass": (32, 31, 50),
    "electric bass": (33, 30, 50),
    "synth bass": (38, 30, 52),
    "violin": (40, 57, 91),
    "pizzicato strings": (45, 43, 84),
    "strings": (48, 40, 88),
    "synth strings": (50, 43, 84),
    "choir": (53, 48, 79),
    "trumpet": (56, 56, 81),
    "muted trumpet": (59, 56, 81),
    "french horn": (60, 46, 72),
    "brass": (62, 46, 79),
    "saxophone": (65, 51, 79),
    "oboe": (68, 60, 86),
    "clarinet": (71, 53, 86),
    "flute": (73, 62, 93),
    "synth lead": (81, 52, 88),
    "synth pad": (89, 45, 81),
    "synth pluck": (90, 48, 88),
    "banjo": (105, 50, 81),
}
KITS = {"drums": 0, "drum machine": 25, "brushed drums": 40, "electronic drums": 24}

# Percussion keys of the General MIDI kits and where each sits between left (-1) and right (1).
DRUMS: dict[str, tuple[int, float]] = {
    "kick": (36, 0.0),
    "snare": (38, 0.0),
    "stick": (37, 0.0),
    "clap": (39, 0.0),
    "hat": (42, 0.35),
    "pedal": (44, 0.35),
    "open": (46, 0.35),
    "crash": (49, -0.45),
    "ride": (51, -0.45),
    "tambourine": (54, 0.35),
    "shaker": (82, -0.45),
    "tom1": (48, 0.35),
    "tom2": (45, 0.0),
    "tom3": (41, -0.45),
    "conga": (63, -0.45),
    "claves": (75, 0.35),
}

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
}


@dataclass(frozen=True)
class Genre:
    """How one genre is written. Tempo in bpm; `swing` delays every second step by that share of it;
    `drums` is their level in dB against the loudest part.

    `lead`, `chords`, `bass` and `pad` name the instruments that may play them; an empty string
    lets the part be left out. `rhythms` are one-bar melody rhythms.
    """

    tempo: tuple[int, int]
    progressions: dict[str, tuple[str, ...]]
    lead: tuple[str, ...]
    chords: tuple[str, ...]
    bass: tuple[str, ...]
    pad: tuple[str, ...]
    comping: tuple[str, ...]
    basslines: tuple[str, ...]
    rhythms: tuple[str, ...]
    kits: tuple[str, ...] = ()
    grooves: tuple[dict[str, str], ...] = ()
    beats: int = 4
    swing: float = 0.0
    drums: float = -1.0
    reverb: float = 0.15


GENRES: dict[str, Genre] = {
    "rock": Genre(
        tempo=(104, 160),
        progressions={
            "major": ("I V vi IV", "I IV V IV", "vi IV I V"),
            "minor": ("i VI III VII", "i VII VI VII", "i iv VI VII"),
            "mixolydian": ("I VII IV I", "I IV VII IV"),
        },
        lead=("distorted guitar", "clean guitar", "organ", "distorted guitar"),
        chords=("distorted guitar", "distorted guitar", "clean guitar", "acoustic guitar"),
        bass=("electric bass",),
        pad=("", "organ", ""),
        comping=("X-x-x-x-x-x-x-x-", "X-----x---x---x-", "X--x--x-X--x--x-", "X-------x-------"),
        basslines=("1-1-1-1-1-1-1-1-", "1---1-1-5---1-a-", "1--1--1-1--1--a-"),
        rhythms=(
            "x---x---x-x---x-",
            "x-x-x---x-------",
            "..x-x-x-x---x---",
            "x-----x-x-x-x---",
            "x-x-x-x-x-x-x---",
        ),
        kits=("drums",),
        grooves=(
            {"kick": "X.......x.x.....", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."},
            {"kick": "X.....x.x.....x.", "snare": "....X..o....X..o", "hat": "X.x.X.x.X.x.X.x."},
            {"kick": "X..x..x.x..x....", "snare": "....X.......X...", "ride": "X...x...X...x..."},
        ),
        reverb=0.12,
    ),
    "jazz": Genre(
        tempo=(84, 192),
        progressions={
            "major": ("ii7 V7 Imaj7 vi7", "Imaj7 vi7 ii7 V7", "Imaj7 IVmaj7 iii7 vi7 ii7 V7 I6 V7"),
            "minor": ("i7 iv7 V7 i7", "iio7 V7 i6 i6", "i7 VImaj7 iio7 V7"),
            "dorian": ("i7 i7 ii7 i7", "i7 IV7 i7 IV7"),
        },
        lead=("saxophone", "trumpet", "muted trumpet", "vibraphone", "piano", "jazz guitar"),
        chords=("piano", "piano", "jazz guitar", "vibraphone"),
        bass=("upright bass",),
        pad=("",),
        comping=("x-...x......", "...x-....x--", "x--..x-.....", "..x...x--..x"),
        basslines=("1--3--5--a--", "1--5--3--a--", "1--1-35--a--", "1--7--5--a--"),
        rhythms=(
            "x-xx-xx-....",
            "...x-xx-xx--",
            "x--x-x...x-x",
            "..xx-xx-xx-x",
            "x-x..xx-----",
            "x-xx-xx-xx-x",
        ),
        kits=("drums", "brushed drums", "brushed drums"),
        grooves=(
            {
                "ride": "X..x.xX..x.x",
                "pedal": "...x.....x..",
                "kick": "o.....o.....",
                "snare": ".....o......",
            },
            {
                "ride": "X..x.xX..x.x",
                "pedal": "...x.....x..",
                "snare": "..o.......o.",
                "kick": "o..........o",
            },
        ),
        drums=-8.0,
        reverb=0.2,
    ),
    "funk": Genre(
        tempo=(92, 118),
        progressions={
            "dorian": ("i7 i7 IV7 IV7", "i7 IV7 i7 IV7", "i9 i9 i9 IV9"),
            "mixolydian": ("I7 I7 I7 IV", "I9 v7 I9 IV", "I7 VII IV I7"),
            "minor": ("i7 i7 iv7 VII", "i7 VI VII i7"),
        },
        lead=("saxophone", "clavinet", "brass", "organ"),
        chords=("clean guitar", "clavinet", "electric piano", "muted guitar"),
        bass=("electric bass", "synth bass", "electric bass"),
        pad=("", "brass", "organ"),
        comping=("..x.x..xo.x.x..x", "x.ox..x...ox..x.", "....xox.....x.xx", "x..x..x.o..x..x."),
        basslines=("1..1..8.1.57..a.", "1-.1.78..1.5.7a.", "1...8..1.5.1.8a.", "1.1...78..5.1.a."),
        rhythms=(
            "x..xx...x.......",
            "..x.x..x..x.....",
            "x.xx..x-----....",
            "....x.x.xx.x....",
            "x..x..x..x..x-..",
        ),
        kits=("drums",),
        grooves=(
            {"kick": "X.....x...x..x..", "snare": "....X..o.o..X..o", "hat": "x.xxx.x.xxx.x.x."},
            {
                "kick": "X..x......x.....",
                "snare": "....X.oo.o..X.o.",
                "hat": "xoxoxoxoxoxoxox.",
                "open": "...............x",
            },
            {
                "kick": "X.x....x..x..x..",
                "snare": "....X.......X..o",
                "tambourine": "..x...x...x...x.",
                "hat": "xxx.xxx.xxx.xxx.",
            },
        ),
        swing=0.12,
        reverb=0.08,
    ),
    "house": Genre(
        tempo=(118, 132),
        progressions={
            "minor": ("i7 VI VII v7", "i7 i7 iv7 iv7", "i VI III VII"),
            "dorian": ("i7 IV7 i7 IV7", "i9 ii7 i9 III"),
        },
        lead=("synth pluck", "piano", "synth lead", "vibraphone"),
        chords=("synth pluck", "piano", "electric piano", "organ"),
        bass=("synth bass",),
        pad=("synth pad", "synth strings", ""),
        comping=("x..x..x...x..x..", "..x...x...x...x.", "..x-..xx..x-..x.", "x--x--x-----x---"),
        basslines=("..1-..1-..1-..1-", "..1...1..81...5.", "1..1..1...1..5..", "..11..11..11..88"),
        rhythms=(
            "x..x..x..x..x...",
            "..x..x..x.......",
            "x.x.x..x..x.....",
            "x...x..x........",
        ),
        kits=("drum machine", "electronic drums"),
        grooves=(
            {
                "kick": "X...X...X...X...",
                "clap": "....X.......X...",
                "open": "..x...x...x...x.",
                "hat": "xo.xxo.xxo.xxo.x",
            },
            {
                "kick": "X...X...X...X...",
                "clap": "....X.......X..o",
                "hat": "..x...x...x...x.",
                "shaker": "xoxoxoxoxoxoxoxo",
            },
        ),
        reverb=0.15,
    ),
    "techno": Genre(
        tempo=(128, 146),
        progressions={"minor": ("i i i i", "i i VI i"), "phrygian": ("i i II i", "i i i II")},
        lead=("synth lead", "synth pluck", "synth lead"),
        chords=("synth pluck", "synth strings", "synth lead"),
        bass=("synth bass",),
        pad=("", "synth pad", "choir"),
        comping=("x..x..x..x..x.x.", "1234321232123432", "x-....x-....x-..", "1.3.2.4.1.3.2.4."),
        basslines=("..1.1.1...1.1.1.", ".111.111.111.111", "1.11.11.1.11.118", "..11..11..11..81"),
        rhythms=("x...............", "x..x..x.........", "..x.....x..x....", "x.x..x..x.x..x.."),
        kits=("drum machine", "electronic drums"),
        grooves=(
            {"kick": "X...X...X...X...", "hat": "..X...X...X...X.", "clap": "....x.......x..."},
            {
                "kick": "X...X...X...X...",
                "open": "..x...x...x...x.",
                "hat": "xxoxxxoxxxoxxxox",
                "tom2": "...o..o....o....",
            },
            {
                "kick": "X...X...X...X..o",
                "ride": "..x...x...x...x.",
                "hat": "oxoxoxoxoxoxoxox",
                "clap": "............x...",
            },
        ),
        reverb=0.18,
    ),
    "hip-hop": Genre(
        tempo=(72, 98),
        progressions={
            "minor": ("i7 VImaj7 i7 VII", "i i VI v", "i7 iv7 i7 v7"),
            "dorian": ("i9 IV7 i9 IV7", "i7 ii7 i7 VII"),
        },
        lead=("electric piano", "flute", "muted trumpet", "vibraphone", "synth lead"),
        chords=("electric piano", "piano", "jazz guitar"),
        bass=("synth bass", "electric bass", "upright bass"),
        pad=("", "strings", "synth pad"),
        comping=("x-------x---....", "x-----x---------", "x--x------x-----", "1-2-3-4-3-2-3-4-"),
        basslines=("1-----1.....5-a-", "1--.....1-1---a-", "1-------..5-8-1-"),
        rhythms=("x-x---x-----....", "....x-x-x---....", "x---..x-x-x-----", "..x-x---x-x-...."),
        kits=("drum machine", "drums"),
        grooves=(
            {"kick": "X.....x..xx.....", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."},
            {"kick": "X..x......x..x..", "snare": "....X..o....X...", "hat": "x.xxx.x.x.xxx.xx"},
            {
                "kick": "X......x..x.....",
                "clap": "....X.......X...",
                "hat": "xxx.xxx.x.x.xxxx",
                "open": "..............x.",
            },
        ),
        swing=0.22,
        reverb=0.12,
    ),
    "ambient": Genre(
        tempo=(56, 84),
        progressions={
            "major": ("Imaj7 IVmaj7", "Imaj7 vi7 IVmaj7 Isus", "I Isus IV Isus"),
            "lydian": ("Imaj7 II", "Imaj7 Imaj7 II vi7"),
            "minor": ("i7 VImaj7", "i7 iv7 VImaj7 VII", "i VI III VII"),
        },
        lead=("celesta", "flute", "vibraphone", "piano", "choir"),
        chords=("electric piano", "piano", "synth strings", "vibraphone", "nylon guitar"),
        bass=("", "synth bass", "upright bass"),
        pad=("synth pad", "strings", "choir", "synth pad"),
        comping=("1---2---3---4---", "1-----3-----5---", "x---------------", "1-3-5-4-3-5-4-2-"),
        basslines=("1---------------", "1-------5-------"),
        rhythms=(
            "x---------------",
            "x-------x-------",
            "....x---x-------",
            "..x---x-------..",
            "................",
        ),
        reverb=0.45,
    ),
    "classical": Genre(
        tempo=(66, 132),
        progressions={
            "major": ("I IV V I", "I vi ii V", "I V vi iii IV I ii V7", "I ii V7 I"),
            "minor": ("i iv V i", "i VI iv V7", "i VII III VI iv i V7 i", "i V7 i V7"),
        },
        lead=("violin", "oboe", "flute", "clarinet", "piano", "french horn"),
        chords=("strings", "pizzicato strings", "piano", "piano", "clarinet"),
        bass=("upright bass", "pizzicato strings", "pizzicato strings"),
        pad=("", "french horn", "strings"),
        comping=(
            "x...x...x...x...",
            "1-3-2-3-1-3-2-3-",
            "x-------x-------",
            "..x...x...x...x.",
            "1234323412343234",
        ),
        basslines=("1---....5---....", "1-------5-----a-", "1-3-5-3-1-5-3-a-", "1---5---3---a---"),
        rhythms=(
            "x---x---x---x---",
            "x-----x-x---x---",
            "x-x-x-x-x-------",
            "x---x-x-x---x-x-",
            "x-xxx-x-x---x---",
            "x-------x---x---",
        ),
        kits=(),
        reverb=0.32,
    ),
    "folk": Genre(
        tempo=(84, 132),
        progressions={
            "major": ("I IV I V", "I V vi IV", "I I IV V", "I vi IV V"),
            "mixolydian": ("I VII I IV", "I I VII I"),
            "minor": ("i VII i v", "i III VII i"),
        },
        lead=("harmonica", "violin", "banjo", "flute", "accordion", "acoustic guitar"),
        chords=("acoustic guitar", "acoustic guitar", "banjo", "nylon guitar"),
        bass=("upright bass", "upright bass", ""),
        pad=("", "", "accordion"),
        comping=("x---o-x-x---o-x-", "1-3-2-4-1-3-2-4-", "1-342-341-342-34", "..x-x-x-..x-x-x-"),
        basslines=("1-------5-------", "1---....5---..a-", "1---5---1---a---"),
        rhythms=(
            "x-x-x-x-x---x---",
            "x---x-x-x-------",
            "x-x-x---x-x-x---",
            "x-----x-x-x-x---",
            "x-xxx-x-x-x-x-x-",
        ),
        kits=("", "brushed drums", "drums"),
        grooves=(
            {
                "kick": "x.......x.......",
                "tambourine": "....x.......x...",
                "shaker": "x.o.x.o.x.o.x.o.",
            },
            {"kick": "x.......x.......", "snare": "..o.x.o...o.x.o."},
        ),
        reverb=0.15,
    ),
    "bossa nova": Genre(
        tempo=(112, 148),
        progressions={
            "major": ("Imaj7 II7 ii7 V7", "Imaj7 vi7 ii7 V7", "Imaj7 Imaj7 ii7 V7"),
            "minor": ("i7 iv7 V7 i7", "i6 iio7 V7 i6", "i7 VII VImaj7 V7"),
        },
        lead=("flute", "saxophone", "vibraphone", "marimba", "jazz guitar", "piano"),
        chords=("nylon guitar", "nylon guitar", "electric piano"),
        bass=("upright bass",),
        pad=("", "", "strings"),
        comping=("x--x--x---x--x--", "x-.x-.x-.xx-.x-.", "..x-..x-.x-..x-."),
        basslines=("1-----5-5-----a-", "1-----1-5-----5-"),
        rhythms=(
            "x--x--x---......",
            "..x-x-x--x------",
            "x-----x--x--x---",
            "x-x--x--x-------",
            "..x--x--x-x-x-..",
        ),
        kits=("drums", "brushed drums"),
        grooves=(
            {"kick": "x..xx..xx..xx..x", "stick": "x..x..x...x..x..", "hat": "xoxoxoxoxoxoxoxo"},
            {
                "kick": "x..xx..xx..xx..x",
                "claves": "x..x..x...x.x...",
                "conga": "..x...xx..x...xx",
                "shaker": "xoxoxoxoxoxoxoxo",
            },
        ),
        reverb=0.18,
    ),
    "reggae": Genre(
        tempo=(66, 88),
        progressions={
            "major": ("I IV I IV", "I V vi IV", "I ii I ii"),
            "minor": ("i iv i iv", "i VII i VII", "i VI VII i"),
        },
        lead=("organ", "saxophone", "trumpet", "harmonica", "clean guitar"),
        chords=("muted guitar", "clean guitar", "piano"),
        bass=("electric bass",),
        pad=("organ", "", "brass"),
        comping=("....x-......x-..", "....x-x.....x-x.", "....x.......x..o"),
        basslines=("1--1..3-5-..5-a-", "....1-1-3-5-..1-", "1-..5-..8-7-5-.."),
        rhythms=("x-x-x---........", "..x-x-x---......", "x--x--x-----....", "....x-x-x-x-x---"),
        kits=("drums",),
        grooves=(
            {"kick": "........X.......", "stick": "........x.......", "hat": "x.x.x.x.x.x.x.xo"},
            {"kick": "X.......X.......", "stick": "....x.......x..o", "hat": "x.xox.x.x.xox.x."},
            {"kick": "X...X...X...X...", "snare": "........X......o", "hat": "x.x.x.x.x.x.x.x."},
        ),
        swing=0.18,
        reverb=0.2,
    ),
    "blues": Genre(
        tempo=(66, 126),
        progressions={
            "mixolydian": ("I7 I7 IV7 I7", "I7 IV7 I7 v7", "I7 I7 IV7 IV7 I7 I7 V7 IV7"),
            "minor": ("i7 i7 iv7 i7", "i7 iv7 i7 V7"),
        },
        lead=("clean guitar", "harmonica", "saxophone", "piano", "organ", "distorted guitar"),
        chords=("piano", "organ", "clean guitar", "electric piano"),
        bass=("electric bass", "upright bass"),
        pad=("",),
        comping=("x-xx-xx-xx-x", "...x--...x--", "x-....x-x...", "x--x--x--x--"),
        basslines=("1--3--5--7--", "1-15-57-75-a", "1-13-35-57-a"),
        rhythms=("x-xx--......", "..xx-xx-----", "x-x..xx-xx--", "...x-xx-....", "xxxx-xx-----"),
        kits=("drums",),
        grooves=(
            {"kick": "X.....X..x..", "snare": "...X.....X..", "hat": "x.xx.xx.xx.x"},
            {"kick": "X....xX.....", "snare": "...X..o..X.o", "ride": "X.xx.xX.xx.x"},
        ),
        reverb=0.15,
    ),
    "waltz": Genre(
        tempo=(96, 176),
        progressions={
            "major": ("I I V7 V7 V7 V7 I I", "I vi ii V7", "I IV V7 I", "I iii IV V7"),
            "minor": ("i i iv V7", "i V7 V7 i", "i VI iv V7"),
        },
        lead=("violin", "clarinet", "flute", "accordion", "piano", "celesta"),
        chords=("piano", "accordion", "strings", "pizzicato strings"),
        bass=("upright bass", "pizzicato strings"),
        pad=("", "strings"),
        comping=("....x-..x-..", "....x---x---", "1-3-5-4-3-2-"),
        basslines=("1-------....", "1---........", "1---5---a---"),
        rhythms=("x---x---x---", "x-------x---", "x-x-x---x---", "x---x-x-x-x-", "x-----x-x---"),
        beats=3,
        reverb=0.28,
    ),
}


def genre_named(name: str) -> Genre:
    """Return a genre, or raise ValueError with the names there are."""
    if name not in GENRES:
        raise ValueError(f"unknown genre {name!r}; one of {', '.join(GENRES)}")
    return GENRES[name]
