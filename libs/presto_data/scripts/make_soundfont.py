"""Cut a General MIDI soundfont (sf3: Vorbis samples) down to the presets the genres play.

Source: `FluidR3Mono_GM.sf3` (MIT), Debian package `fluidr3mono-gm-soundfont`.

    python make_soundfont.py FluidR3Mono_GM.sf3 ../src/presto_data/soundfont/fluid_subset.sf3
"""

import struct
import sys
from itertools import pairwise
from pathlib import Path

from presto_data.genres import DRUMS, INSTRUMENTS, KITS

INSTRUMENT, KEY_RANGE, COARSE_TUNE, SAMPLE, ROOT_KEY = 41, 43, 51, 53, 58  # generators
DRUM_BANK = 128
RECORD = {"phdr": 38, "inst": 22, "pbag": 4, "ibag": 4, "pmod": 10, "imod": 10, "pgen": 4,
          "igen": 4, "shdr": 46}  # fmt: skip
HEADER_BAG = {"phdr": 24, "inst": 20}  # where a header keeps the index of its first bag


def chunks(data: bytes) -> dict[str, bytes]:
    """Flatten a RIFF body into {chunk id or list type: body}, descending into lists."""
    found, at = {}, 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4].decode(), struct.unpack_from("<I", data, at + 4)[0]
        body = data[at + 8 : at + 8 + size]
        if name == "LIST":
            found |= {body[:4].decode(): body} | chunks(body[4:])
        else:
            found[name] = body
        at += 8 + size
        at += data[at : at + 1] == b"\0"  # odd chunks should be padded; not every writer does
    return found


def chunk(name: str, body: bytes) -> bytes:
    body += b"\0" * (len(body) % 2)  # counted: the synthesizer does not skip padding
    return name.encode() + struct.pack("<I", len(body)) + body


def records(pdta: dict[str, bytes], name: str) -> list[bytearray]:
    body, size = pdta[name], RECORD[name]
    return [bytearray(body[i : i + size]) for i in range(0, len(body), size)]


def plays(gens: list[bytearray], pitches: set[int]) -> bool:
    """Say whether a zone sounds for any of `pitches`."""
    ranges = [gen[2:] for gen in gens if struct.unpack_from("<H", gen)[0] == KEY_RANGE]
    return all(any(low <= pitch <= high for pitch in pitches) for low, high in ranges)


def keep_headers(
    pdta: dict[str, bytes],
    kind: str,
    keep: dict[int, set[int]],
    link: int,
    relink: dict[int, int] | None = None,
) -> tuple[dict[str, bytes], dict[int, set[int]]]:
    """Rebuild headers, bags, modulators and generators; return them and {linked: its pitches}.

    `kind` is "p" (presets) or "i" (instruments), `keep` maps their numbers to the pitches played
    on them, `link` is the generator that names the next level and `relink` its new numbering
    (None: only collect the links).
    """
    head = "phdr" if kind == "p" else "inst"
    headers, bags = records(pdta, head), records(pdta, kind + "bag")
    mods, gens = records(pdta, kind + "mod"), records(pdta, kind + "gen")
    out: dict[str, list[bytes]] = {head: [], kind + "bag": [], kind + "mod": [], kind + "gen": []}
    links: dict[int, set[int]] = {}

    def bag_mark() -> bytes:
        return struct.pack("<HH", len(out[kind + "gen"]), len(out[kind + "mod"]))

    def header(old: bytearray) -> None:
        struct.pack_into("<H", old, HEADER_BAG[head], len(out[kind + "bag"]))
        out[head].append(bytes(old))

    for h, pitches in keep.items():
        first, last = (
            struct.unpack_from("<H", headers[i], HEADER_BAG[head])[0] for i in (h, h + 1)
        )
        header(headers[h])
        for b in range(first, last):
            (g0, m0), (g1, m1) = (struct.unpack("<HH", bags[i]) for i in (b, b + 1))
            if not plays(gens[g0:g1], pitches):
                continue
            out[kind + "bag"].append(bag_mark())
            out[kind + "mod"] += map(bytes, mods[m0:m1])
            for gen in gens[g0:g1]:
                oper, amount = struct.unpack("<HH", gen)
                if oper == link:
                    links.setdefault(amount, set()).update(pitches)
                    amount = relink[amount] if relink else amount
                out[kind + "gen"].append(struct.pack("<HH", oper, amount))
    header(headers[-1])  # the terminal records the format asks for
    out[kind + "bag"].append(bag_mark())
    out[kind + "mod"].append(bytes(10))
    out[kind + "gen"].append(bytes(4))
    return {name: b"".join(rows) for name, rows in out.items()}, links


def tune(pdta: dict[str, bytes]) -> None:
    """Move the root key and coarse tuning of every zone into the header of the sample it plays.

    symusic 0.5 ignores a zone's root key and clamps its coarse tuning, which puts most instruments
    off key (github.com/Yikai-Liao/symusic/issues/55). A header may be needed more than once.
    """
    old, gens, bags = (records(pdta, name) for name in ("shdr", "igen", "ibag"))
    headers: dict[tuple[int, int], int] = {}  # (old sample, root key) -> new sample
    starts = {struct.unpack_from("<H", row, HEADER_BAG["inst"])[0] for row in records(pdta, "inst")}
    tuned, moved = [], []
    for i, (bag, after) in enumerate(pairwise(bags)):
        (first, mod), (last, _) = struct.unpack("<HH", bag), struct.unpack("<HH", after)
        zone = dict(struct.unpack("<Hh", gen) for gen in gens[first:last])
        own = {oper: zone.pop(oper) for oper in (ROOT_KEY, COARSE_TUNE) if oper in zone}
        shared = {} if i in starts else shared
        if SAMPLE in zone:
            own = shared | own
            root = own.get(ROOT_KEY, old[zone[SAMPLE]][40]) - own.get(COARSE_TUNE, 0)
            zone[SAMPLE] = headers.setdefault((zone.pop(SAMPLE), root), len(headers))
        else:  # an instrument's global zone
            shared = own
        moved.append(struct.pack("<HH", len(tuned), mod))
        tuned += [struct.pack("<Hh", *gen) for gen in zone.items()]
    moved.append(struct.pack("<H", len(tuned)) + bytes(bags[-1][2:]))
    pdta["ibag"], pdta["igen"] = b"".join(moved), b"".join(tuned) + bytes(4)
    pdta["shdr"] = b"".join(
        bytes(old[sample][:40] + bytes([root]) + old[sample][41:]) for sample, root in headers
    ) + bytes(old[-1])


def cut(source: bytes, wanted: dict[tuple[int, int], set[int]]) -> bytes:
    """Return a soundfont of the presets {(bank, program): pitches} and all they need."""
    parts = chunks(source[12:])
    found = [struct.unpack_from("<HH", h, 20)[::-1] for h in records(parts, "phdr")[:-1]]
    if missing := wanted.keys() - set(found):
        raise ValueError(f"the source has no presets (bank, program) {sorted(missing)}")
    presets = {i: wanted[preset] for i, preset in enumerate(found) if preset in wanted}
    instruments = dict(sorted(keep_headers(parts, "p", presets, INSTRUMENT)[1].items()))
    samples = sorted(keep_headers(parts, "i", instruments, SAMPLE)[1])

    new_instrument = {old: new for new, old in enumerate(instruments)}
    new_sample = {old: new for new, old in enumerate(samples)}
    pdta = keep_headers(parts, "p", presets, INSTRUMENT, new_instrument)[0]
    pdta |= keep_headers(parts, "i", instruments, SAMPLE, new_sample)[0]
    headers, audio = records(parts, "shdr"), b""
    pdta["shdr"] = b""
    for s in samples:
        start, end = struct.unpack_from("<II", headers[s], 20)  # bytes: samples are compressed
        struct.pack_into("<II", headers[s], 20, len(audio), len(audio) + end - start)
        struct.pack_into("<H", headers[s], 42, 0)  # mono: no linked partner
        audio += parts["smpl"][start:end]
        pdta["shdr"] += bytes(headers[s])
    pdta["shdr"] += bytes(headers[-1])
    tune(pdta)

    order = ["phdr", "pbag", "pmod", "pgen", "inst", "ibag", "imod", "igen", "shdr"]
    body = b"sfbk" + chunk("LIST", parts["INFO"])
    body += chunk("LIST", b"sdta" + chunk("smpl", audio))
    body += chunk("LIST", b"pdta" + b"".join(chunk(name, pdta[name]) for name in order))
    return chunk("RIFF", body)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    wanted = {(0, program): set(range(128)) for program, _, _ in INSTRUMENTS.values()}
    wanted |= {(DRUM_BANK, kit): {key for key, _ in DRUMS.values()} for kit in KITS.values()}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(cut(source.read_bytes(), wanted))
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {len(wanted)} presets")
