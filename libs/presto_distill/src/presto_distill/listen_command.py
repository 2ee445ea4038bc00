"""What `presto listen build | results` do: a blind rating page, and what its ratings say."""

from pathlib import Path
from typing import Annotated

import tyro

from presto_distill.subcommands import one_of


def build(
    clips: tyro.conf.Positional[Path],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    reference: str | None = None,
    title: str = "Listening test",
    question: str | None = None,
    seed: int = 0,
) -> int:
    """Make a rating page, e.g. presto listen build clips --out test

    Args:
        clips: A folder with a folder of equally named clips per system, and prompts.csv if wanted.
        out: Receives page/ (for raters, opens without a server) and key.json (not for raters).
        reference: The system the others are compared with: heard openly, hidden, and low-passed.
        title: Of the page.
        question: What raters are asked.
        seed: Of names and order.
    """
    from presto_distill.lab.listening.build import TestConfig
    from presto_distill.lab.listening.build import build as make_page

    asked = {} if question is None else {"question": question}
    config = TestConfig(title=title, reference=reference, seed=seed, **asked)
    print(f"page: {make_page(clips, out, config)}")
    print(f"key, not for raters: {out / 'key.json'}")
    return 0


def results(
    key: tyro.conf.Positional[Path],
    ratings: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    seed: int = 0,
) -> int:
    """Screen raters, compare systems and draw their scores.

    Args:
        key: The key.json that was made with the page.
        ratings: The files that raters saved.
        out: Also draw violins to this .png or .svg file.
        seed: Of resampling.
    """
    from presto_distill.lab.listening import ratings as analysis

    kept, dropped = analysis.screen(analysis.load_ratings(key, ratings))
    for _, row in dropped.iterrows():
        print(f"screened out: {row['rater']} ({row['reason']})")
    if kept.table.empty:
        raise ValueError(f"all {len(dropped)} raters were screened out")
    print(analysis.summary(kept, seed=seed).round(1).to_string(index=False))
    pairs = analysis.compare(kept, seed=seed)
    print(pairs.round(4).to_string(index=False))
    if out:
        analysis.violins(kept, seed=seed).savefig(out, dpi=160)
    return 0


Command = one_of({"build": build, "results": results})


def listen(command: Command) -> int:
    """Build a blind listening test, and read its ratings: build | results.

    Args:
        command: What to do.
    """
    return command
