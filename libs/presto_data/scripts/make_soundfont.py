"""Cut a General MIDI soundfont (sf3: Vorbis samples) down to the presets the genres play.

Source: `FluidR3Mono_GM.sf3` (MIT), Debian package `fluidr3mono-gm-soundfont`.

    python make_soundfont.py FluidR3Mono_GM.sf3 ../src/presto_data/soundfont/fluid_subset.sf3
"""

import struct
import sys
from pathlib import Path

from presto_data.genres import DRUM_KITS, PROGRAMS

INSTRUMENT, SAMPLE = 41, 53  # the generators that link preset -> instrument -> sample
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


def keep_headers(
    pdta: dict[str, bytes], kind: str, keep: list[int], link: int, relink: dict[int, int] | None
) -> tuple[dict[str, bytes], list[int]]:
    """Rebuild headers, bags, modulators and generators of `keep`; return them and what they link.

    `kind` is "p" (presets) or "i" (instruments), `link` the generator that names the next level,
    `relink` its new numbering (None: only collect the links).
    """
    head = "phdr" if kind == "p" else "inst"
    headers, bags = records(pdta, head), records(pdta, kind + "bag")
    mods, gens = records(pdta, kind + "mod"), records(pdta, kind + "gen")
    out: dict[str, list[bytes]] = {head: [], kind + "bag": [], kind + "mod": [], kind + "gen": []}
    links: list[int] = []

    def bag_mark() -> bytes:
        return struct.pack("<HH", len(out[kind + "gen"]), len(out[kind + "mod"]))

    def header(old: bytearray) -> None:
        struct.pack_into("<H", old, HEADER_BAG[head], len(out[kind + "bag"]))
        out[head].append(bytes(old))

    for h in keep:
        first, last = (
            struct.unpack_from("<H", headers[i], HEADER_BAG[head])[0] for i in (h, h + 1)
        )
        header(headers[h])
        for b in range(first, last):
            (g0, m0), (g1, m1) = (struct.unpack("<HH", bags[i]) for i in (b, b + 1))
            out[kind + "bag"].append(bag_mark())
            out[kind + "mod"] += map(bytes, mods[m0:m1])
            for gen in gens[g0:g1]:
                oper, amount = struct.unpack("<HH", gen)
                if oper == link:
                    links.append(amount)
                    amount = relink[amount] if relink else amount
                out[kind + "gen"].append(struct.pack("<HH", oper, amount))
    header(headers[-1])  # the terminal records the format asks for
    out[kind + "bag"].append(bag_mark())
    out[kind + "mod"].append(bytes(10))
    out[kind + "gen"].append(bytes(4))
    return {name: b"".join(rows) for name, rows in out.items()}, links


def cut(source: bytes, wanted: set[tuple[int, int]]) -> bytes:
    """Return a soundfont with the (bank, program) presets in `wanted` and all they need."""
    parts = chunks(source[12:])
    presets = [
        i
        for i, h in enumerate(records(parts, "phdr")[:-1])
        if struct.unpack_from("<HH", h, 20)[::-1] in wanted
    ]
    if len(presets) != len(wanted):
        raise ValueError(f"source has {len(presets)} of the {len(wanted)} presets asked for")
    _, links = keep_headers(parts, "p", presets, INSTRUMENT, None)
    instruments = {old: new for new, old in enumerate(sorted(set(links)))}
    _, links = keep_headers(parts, "i", list(instruments), SAMPLE, None)
    samples = {old: new for new, old in enumerate(sorted(set(links)))}

    pdta = keep_headers(parts, "p", presets, INSTRUMENT, instruments)[0]
    pdta |= keep_headers(parts, "i", list(instruments), SAMPLE, samples)[0]
    headers, audio = records(parts, "shdr"), b""
    pdta["shdr"] = b""
    for s in samples:
        start, end = struct.unpack_from("<II", headers[s], 20)  # bytes: samples are compressed
        struct.pack_into("<II", headers[s], 20, len(audio), len(audio) + end - start)
        struct.pack_into("<H", headers[s], 42, 0)  # mono: no linked partner
        audio += parts["smpl"][start:end]
        pdta["shdr"] += bytes(headers[s])
    pdta["shdr"] += bytes(headers[-1])

    order = ["phdr", "pbag", "pmod", "pgen", "inst", "ibag", "imod", "igen", "shdr"]
    body = b"sfbk" + chunk("LIST", parts["INFO"])
    body += chunk("LIST", b"sdta" + chunk("smpl", audio))
    body += chunk("LIST", b"pdta" + b"".join(chunk(name, pdta[name]) for name in order))
    return chunk("RIFF", body)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    wanted = {(0, program) for program in PROGRAMS.values()} | {(128, kit) for kit in DRUM_KITS}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(cut(source.read_bytes(), wanted))
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {len(wanted)} presets")
