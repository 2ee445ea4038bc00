"""The listening test inside a notebook: the same clips and the same file of ratings as the page."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random
from urllib.parse import quote

from presto_distill.lab.listening.ratings import COLUMNS
from presto_distill.lab.widgets import interactive
from presto_models.snapshot import write_atomic


class Session:
    """One rater's way through a test: order, ratings so far, and the file they end in."""

    def __init__(self, out: Path, rater: str):
        self.facts = json.loads((out / "key.json").read_text(encoding="utf-8"))
        self.audio, self.rater = out / "page" / "audio", rater
        random = Random(f"{self.facts['test']}/{rater}")
        self.trials = [
            {**trial, "stimuli": random.sample(trial["stimuli"], len(trial["stimuli"]))}
            for trial in self.facts["trials"]
        ]
        random.shuffle(self.trials)
        self.scores: dict[str, int] = {}

    def save(self) -> Path:
        """Write the ratings beside the key, for `load_ratings`; raises ValueError if unfinished."""
        if missing := self.facts["stimuli"].keys() - self.scores.keys():
            raise ValueError(f"{len(missing)} clips are not rated yet")
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(COLUMNS)
        test = self.facts["test"]
        for number, trial in enumerate(self.trials, 1):
            for position, name in enumerate(trial["stimuli"], 1):
                # Nobody counts plays and seconds here.
                row = [test, self.rater, trial["item"], name, self.scores[name], "", ""]
                table.writerow([*row, number, position])
        path = self.audio.parents[1] / f"ratings-{test}-{quote(self.rater, safe='')}.csv"
        write_atomic(path, lambda to: to.write_text(text.getvalue(), encoding="utf-8"))
        return path


def rate(out: Path, rater: str = "me") -> None:
    """Show the test in `out` (of `build`) trial by trial, players and sliders side by side.

    The next trial waits until every slider was moved. Does nothing, silently, where nobody can.
    """
    if not interactive():
        return
    import ipywidgets as w
    from IPython.display import display

    session, box, status = Session(out, rater), w.VBox(), w.Label()

    def heard(name: str) -> w.Audio:
        return w.Audio.from_file(session.audio / f"{name}.flac", autoplay=False)

    def show(number: int) -> None:
        trial = session.trials[number]
        sliders = {name: w.IntSlider(value=50, min=0, max=100) for name in trial["stimuli"]}
        rows = [w.HBox([heard(name), slider]) for name, slider in sliders.items()]
        if "reference" in trial:
            rows.insert(0, w.HBox([heard(trial["reference"]), w.Label("the reference")]))
        last = number + 1 == len(session.trials)
        button = w.Button(description="Save" if last else "Next", disabled=True)
        unrated = set(sliders)

        def rated(name: str) -> None:
            unrated.discard(name)
            button.disabled = bool(unrated)

        for name, slider in sliders.items():
            slider.observe(lambda _, name=name: rated(name), "value")

        def go(_) -> None:
            session.scores |= {name: slider.value for name, slider in sliders.items()}
            if last:
                status.value = f"saved: {session.save()}"
            else:
                show(number + 1)

        button.on_click(go)
        title = w.Label(f"Trial {number + 1} of {len(session.trials)}: {trial['text']}")
        box.children = [title, w.Label(session.facts["question"]), *rows, button, status]

    show(0)
    display(box)
