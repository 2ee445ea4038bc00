"""What can be heard and seen, embedded in the page."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path

from presto_distill.lab.report.pieces import as_base64, grid, section
from presto_distill.lab.results import DPI

AUDIO_BYTES = 8_000_000  # embedded at most; further clips stay files beside the page


def audio(out: Path, clips: list[dict], note: str = "") -> str:
    """Players in a grid per notebook: one row per prompt, one column per model."""
    if not clips:
        return ""
    left, parts = AUDIO_BYTES, []
    for notebook in dict.fromkeys(clip["notebook"] for clip in clips):
        mine = [clip for clip in clips if clip["notebook"] == notebook]
        columns = list(dict.fromkeys(clip["column"] for clip in mine))
        cells = []
        for row in dict.fromkeys(clip["row"] for clip in mine):
            line = [escape(row)]
            for column in columns:
                found = [c for c in mine if (c["row"], c["column"]) == (row, column)]
                player, size = _player(found[-1]["path"], left, out) if found else ("", 0)
                left -= size
                line.append(player)
            cells.append(line)
        parts.append(f"<div class='wide'>{grid(['prompt', *columns], cells)}</div>")
    return section("Listen", note + "".join(parts))


def figures(figures: list[dict], note: str = "") -> str:
    """All figures with their captions, by notebook."""
    parts = []
    for notebook in dict.fromkeys(figure["notebook"] for figure in figures):
        parts.append(f"<h3>{escape(notebook)}</h3>")
        for figure in figures:
            picture = figure["path"].with_suffix(".png")
            if figure["notebook"] == notebook and picture.exists():
                body = picture.read_bytes()
                # Pixels at 100 to the inch: type of one size in all figures.
                width = int.from_bytes(body[16:20], "big") * 100 // DPI
                parts.append(
                    f"<figure><img width='{width}' "
                    f"alt='{escape(figure['caption'], quote=True)}' "
                    f"src='data:image/png;base64,{as_base64(body)}'>"
                    f"<figcaption>{escape(figure['caption'])}</figcaption></figure>"
                )
    return section("Figures", note + "".join(parts)) if parts else ""


def _player(path: Path, left: int, out: Path) -> tuple[str, int]:
    """An embedded ogg player and its bytes, or the file's place once `left` is used up."""
    import soundfile

    audio = path.with_suffix(".flac")
    samples, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, samples.shape[1], "VORBIS", format="OGG") as ogg:
        for start in range(0, len(samples), rate):  # long single writes overflow libsndfile's stack
            ogg.write(samples[start : start + rate])
    text = as_base64(file.getvalue())
    if len(text) > left:
        return f"<code>{escape(str(audio.relative_to(out)))}</code>", 0
    return f"<audio controls preload='none' src='data:audio/ogg;base64,{text}'></audio>", len(text)
