"""What the ratings of a listening test say: who is screened out, how systems compare, how sure.

The unit is the rater: every rater counts once, by the mean over items. Intervals come from
resampling raters; tests are paired randomisation tests (Fisher 1935: the sign of each rater's
difference is a coin) with Holm's correction over all pairs of systems. With n raters no two-sided p
lies below 2 / 2^n: five can show nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas import DataFrame

from presto_distill.lab.listening.build import ANCHOR

COLUMNS = ("test", "rater", "item", "stimulus", "score", "plays", "seconds", "trial", "position")
# BS.1534-3: who rates the hidden reference below 90, or an anchor above 90, in more than 15 % of
# the items is not counted.
LIMIT, SHARE = 90, 0.15


@dataclass(frozen=True)
class Ratings:
    """One row per rater, item and system; `reference` names the hidden one, if there was one."""

    table: DataFrame
    reference: str | None


def load_ratings(key: Path, paths: Iterable[Path]) -> Ratings:
    """Read what raters sent back and look up whose clips they heard.

    Raises ValueError, in one line, for a file of another test, a stimulus that the key does not
    know, a score outside 0..100, plays or seconds that are no such numbers, and a rating that is
    there twice or missing.
    """
    try:
        facts = json.loads(Path(key).read_text(encoding="utf-8"))
    except ValueError:  # sound is not UTF-8, a table no JSON
        facts = None
    if not isinstance(facts, dict) or not {"test", "stimuli", "reference"} <= facts.keys():
        raise ValueError(f"{key} is no key of a listening test")
    tables = []
    for path in paths:
        # "NA" may be somebody's initials.
        words = {"test": str, "rater": str, "stimulus": str}
        try:
            table = pd.read_csv(path, dtype=words, keep_default_na=False)
        except pd.errors.EmptyDataError as error:
            raise ValueError(f"{path} is empty") from error
        except ValueError as error:
            raise ValueError(f"{path} is no table of ratings: {error}") from error
        if missing := [name for name in COLUMNS if name not in table]:
            raise ValueError(f"{path} has no column {', '.join(missing)}")
        if (other := set(table["test"]) - {facts["test"]}) or table.empty:
            raise ValueError(f"{path} is of test {', '.join(other) or 'none'}, not {facts['test']}")
        if unknown := set(table["stimulus"]) - facts["stimuli"].keys():
            raise ValueError(f"{path}: unknown stimulus {sorted(unknown)[0]}")
        scores = pd.to_numeric(table["score"], errors="coerce")
        if not scores.between(0, 100).all():
            raise ValueError(f"{path}: scores must be from 0 to 100")
        for name in ("plays", "seconds"):  # empty where nobody counted
            numbers = pd.to_numeric(table[name], errors="coerce")
            if not numbers[table[name] != ""].ge(0).all():
                raise ValueError(f"{path}: {name} must be numbers from 0 on, or empty")
            table[name] = numbers
        # An unfinished or doubled test would weigh systems unequally.
        counts = table["stimulus"].value_counts().reindex(list(facts["stimuli"]), fill_value=0)
        if (counts != 1).any():
            wrong = counts[counts != 1]
            raise ValueError(f"{path}: {wrong.index[0]} is rated {wrong.iloc[0]} times")
        tables.append(table)
    if not tables:
        raise ValueError("no ratings: give at least one file that a rater saved")
    table = pd.concat(tables, ignore_index=True)
    if (twice := table[table.duplicated(["rater", "stimulus"])]).size:
        raise ValueError(f"rater {twice['rater'].iloc[0]!r} is in two files")
    table["system"] = [facts["stimuli"][name]["system"] for name in table["stimulus"]]
    return Ratings(table, facts["reference"])


def screen(ratings: Ratings) -> tuple[Ratings, DataFrame]:
    """Leave out raters who did not do the task: (what is kept, columns rater and reason).

    Published (BS.1534-3): the hidden reference below 90 or the anchor above 90 in more than 15 %
    of items. Ours: all versions rated alike, or one never played, in more than 15 % of items; who
    rated in a notebook, where plays are not counted, is not asked the latter.
    """
    reasons = []
    for rater, rows in ratings.table.groupby("rater"):
        trials = rows.groupby("item")
        share = {
            "rated all versions alike": (trials["score"].nunique() == 1).mean(),
            "did not play every version": (trials["plays"].min() == 0).mean(),
        }
        if ratings.reference:
            hidden = rows.loc[rows["system"] == ratings.reference, "score"]
            anchor = rows.loc[rows["system"] == ANCHOR, "score"]
            share[f"rated the hidden reference below {LIMIT}"] = (hidden < LIMIT).mean()
            share[f"rated the anchor above {LIMIT}"] = (anchor > LIMIT).mean()
        found = [f"{why} in {s:.0%} of trials" for why, s in share.items() if s > SHARE]
        if found:
            reasons.append({"rater": rater, "reason": "; ".join(found)})
    dropped = DataFrame(reasons, columns=["rater", "reason"])
    kept = ratings.table[~ratings.table["rater"].isin(dropped["rater"])]
    return Ratings(kept, ratings.reference), dropped


def summary(ratings: Ratings, *, seed: int = 0, resamples: int = 2000) -> DataFrame:
    """Mean score per system with a 95 % bootstrap interval over raters, best first."""
    means = by_rater(ratings)
    random = np.random.default_rng(seed)
    drawn = means.to_numpy()[random.integers(len(means), size=(resamples, len(means)))].mean(1)
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    table = DataFrame({"mean": means.mean(), "low": low, "high": high, "raters": len(means)})
    return table.sort_values("mean", ascending=False).rename_axis("system").reset_index()


def compare(ratings: Ratings, *, level: float = 0.05, seed: int = 0) -> DataFrame:
    """All pairs of systems: mean difference a - b over raters, Holm-corrected p, and who is ahead.

    `better` is empty where the corrected p is not below `level`. Up to 13 raters all signs are
    tried, beyond that 9999 drawn by `seed`.
    """
    from scipy.stats import permutation_test

    means = by_rater(ratings)
    rows = []
    for a, b in combinations(means.columns, 2):
        difference = (means[a] - means[b]).to_numpy()
        p = 1.0  # of a single rater
        if len(difference) > 1:
            signs = {"permutation_type": "samples", "vectorized": True, "rng": seed}
            p = permutation_test((difference,), np.mean, **signs).pvalue
        rows.append({"a": a, "b": b, "difference": difference.mean(), "p": p})
    table = DataFrame(rows)
    table["p_holm"] = holm(table["p"].to_numpy())
    ahead = np.where(table["difference"] > 0, table["a"], table["b"])
    table["better"] = np.where(table["p_holm"] < level, ahead, "")
    return table


def no_worse(ratings: Ratings, a: str, b: str, *, level: float = 0.05) -> bool | None:
    """Whether raters like `a` at least as well as `b`: no test says otherwise.

    None where the raters are so few that none could have, were they all of one mind.
    """
    pairs = compare(ratings, level=level).set_index(["a", "b"])
    if len(pairs) * 2 / 2 ** len(by_rater(ratings)) >= level:
        return None
    return pairs["better"][(a, b) if (a, b) in pairs.index else (b, a)] != b


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down correction: p-values that may be compared with one level."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(stepped)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def by_rater(ratings: Ratings) -> DataFrame:
    """Mean score over items: a row per rater, a column per system."""
    return ratings.table.pivot_table(index="rater", columns="system", values="score")


def violins(ratings: Ratings, *, seed: int = 0) -> Figure:
    """How scores spread per system, best first: all ratings as violins, rater means as points, the
    mean of those with its interval as a bar."""
    import seaborn as sns

    from presto_distill.lab.plots import INK, canvas, colour_of

    order = summary(ratings, seed=seed)
    systems = list(order["system"])
    fig, ax = canvas(height=4.2, width=max(5.0, 1.5 * len(systems)))
    colours = {name: colour_of(name, i) for i, name in enumerate(systems)}
    shared = {"order": systems, "hue_order": systems, "palette": colours, "legend": False, "ax": ax}
    sns.violinplot(ratings.table, x="system", y="score", hue="system", inner=None, cut=0,
                   linewidth=0, alpha=0.35, density_norm="width", **shared)  # fmt: skip
    means = by_rater(ratings).melt(value_name="score")
    sns.stripplot(means, x="system", y="score", hue="system", size=3.5, jitter=0.12, **shared)
    for i, row in order.iterrows():
        ax.errorbar(i, row["mean"], [[row["mean"] - row["low"]], [row["high"] - row["mean"]]],
                    fmt="_", ms=26, color=INK, capsize=4, zorder=5)  # fmt: skip
        ax.annotate(f"{row['mean']:.0f}", (i, row["mean"]), (17, 0), color=INK, va="center",
                    textcoords="offset points", fontsize=10, weight="bold")  # fmt: skip
    raters = order["raters"].iloc[0]
    ax.set(ylim=(-2, 102), xlabel="", ylabel=f"score, {raters} raters (higher is better)")
    return fig


def simulated(
    systems: dict[str, float],
    *,
    raters: int,
    items: int,
    reference: str | None = None,
    careless: int = 0,
    spread: float = 12.0,
    seed: int = 0,
) -> Ratings:
    """Ratings by made-up raters: a system's true quality, plus a rater's leaning and item's and
    trial's noise of `spread`. The last `careless` of them rate without listening."""
    random = np.random.default_rng(seed)
    leaning, hardness = random.normal(0, 6, raters), random.normal(0, 6, items)
    rows = []
    for rater in range(raters):
        for item in range(items):
            for number, (system, quality) in enumerate(systems.items()):
                score = quality + leaning[rater] + hardness[item] + random.normal(0, spread)
                if system == reference:
                    score = random.uniform(92, 100)
                if rater >= raters - careless:
                    score = random.uniform(0, 100)
                rows.append((f"rater {rater}", f"item {item}", f"{item}-{system}",
                             float(np.clip(round(score), 0, 100)), 1, 5.0, item + 1, number + 1,
                             system))  # fmt: skip
    table = DataFrame(rows, columns=[*COLUMNS[1:], "system"])
    return Ratings(table, reference)
