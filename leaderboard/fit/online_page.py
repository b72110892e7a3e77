"""The page of the study of `online` (online_page.md.j2), with its figure and tables."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from leaderboard.committed import REPORTS
from leaderboard.pages.openings import Dot, Span, draw_dots
from leaderboard.pages.parts import aligned_table
from leaderboard.season.scored import ScoredSeason, scored_seasons
from leaderboard.templates import render_text
from moeload_bench.results.savings import OFFSET
from moeload_bench.results.skill import interval_of
from moeload_bench.results.tables import signed
from moeload_bench.scoring.catalogue import PRIMARY

NAMES = {
    "inside": "online, inside",
    "outside": "online, outside",
    "guarded": "guarded",
    "online_guarded": "online.guarded",
}
"""Labels; what stands before a comma is the forecaster, whose colour a dot has."""
SETS = {"train": "`train`", "b": "set b"}
AIMS = {"inside": {"transient": 10.0, "stable": 1.5}, "outside": {"transient": 5.0, "stable": 1.5}}
"""Gains over `adaptive` in %, in small batches, that were aimed at before the study."""
WORSE, MOST_WORSE, MOST_TIMES = 0.05, 0.05, 1.5
"""Aimed at, too: how much worse than the best average all logs of a kind may be, the part of single cells that may be
clearly worse, and on oscillating logs at h = 1 the error over that of the best entry."""
OSCILLATING = ("2027-01b-s06", "2027-01b-l02")
"""Recipes of set b whose loads swing from step to step (docs/reports/results.md, *Kinds of runs*)."""


class Study(NamedTuple):
    """The tables of the study: gains, cells over all logs, cells of single logs, and votes for each variant."""

    gains: pd.DataFrame
    pooled: pd.DataFrame
    worse: pd.DataFrame
    votes: pd.DataFrame


def study_files(study: Study) -> dict[Path, bytes]:
    """Return the content of every file; figure and page are made from the tables as they will be read."""
    texts = [frame.to_csv(index=False, float_format="%.6g") for frame in study]
    found = Study(*(pd.read_csv(io.StringIO(text)) for text in texts))
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "gains.svg"
        draw_dots(dict(panels(found)), picture)
        figure = picture.read_bytes()
    files = {_csv(name): text.encode() for name, text in zip(Study._fields, texts, strict=True)}
    return files | {REPORTS / "online" / "gains.svg": figure, REPORTS / "online.md": study_page(found).encode()}


def read_study() -> Study:
    """Return the committed tables."""
    return Study(*(pd.read_csv(_csv(name)) for name in Study._fields))


def _csv(name: str) -> Path:
    return REPORTS / "online" / f"{name}.csv"


def study_page(study: Study) -> str:
    """Return the page."""
    total, each = (study.gains[(study.gains["horizon"] == 0) == whole] for whole in (True, False))
    outside = each[each["forecaster"] == "outside"]
    horizons = sorted(each["horizon"].unique())
    seasons = {one.name: one for one in scored_seasons()}
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        offset=OFFSET,
        aims=AIMS,
        short=list(_short(total)),
        small=total[total["kind"] == "small batch"].set_index(["forecaster", "set", "state"]),
        clusters=total[total["set"] == "train"]["clusters"].max(),
        gain=gain,
        total_table=aligned_table(("logs", *NAMES.values()), _by(total, "forecaster", list(NAMES)), 1),
        horizon_table=aligned_table(("logs", *(f"h = {h:,}" for h in horizons)), _by(outside, "horizon", horizons), 1),
        most=100 * WORSE,
        pooled=study.pooled.assign(percent=100 * study.pooled["more"]),
        misses=[_cell(row) for _, row in study.pooled[study.pooled["more"] > WORSE].iterrows()],
        worse=study.worse,
        part=100 * study.worse["worse"].mean(),
        span=[100 * end for end in interval_of(study.worse.groupby("trace")["worse"].mean())],
        most_part=100 * MOST_WORSE,
        at_one=study.pooled.query("kind == 'oscillating' and horizon == 1").iloc[0],
        old_errors=oscillating_errors(seasons["2027-01"], OSCILLATING),
        new_errors=oscillating_errors(seasons["2027-02"], seasons["2027-02"].recipes["o"]),
        most_times=MOST_TIMES,
        bad=dict(_bad(study.worse)),
        votes=study.votes,
    )


def panels(study: Study) -> Iterator[tuple[str, list[Dot]]]:
    """Yield a panel of the figure for each kind of log and state; oscillating logs are of another scale."""
    rows = study.gains[(study.gains["horizon"] == 0) & (study.gains["kind"] != "oscillating")]
    for where, by_name in kinds(rows, "forecaster"):
        yield where.replace("`", ""), [_dot(label, by_name[name]) for name, label in NAMES.items()]


def kinds(rows: pd.DataFrame, index: str) -> Iterator[tuple[str, dict[Any, pd.Series]]]:
    """Yield each kind of log and state in words, and its rows by one of their columns."""
    for _, found in rows.groupby(["set", "kind", "state"], sort=False):
        runs, kind, state = found.iloc[0][["set", "kind", "state"]]
        yield f"{SETS[runs]}, {kind}, {state}", {row[index]: row for _, row in found.iterrows()}


def gain(row: pd.Series) -> str:
    """Return a gain in % with its interval, if there is one."""
    saving, low, high = (signed(100 * row[column], 1) for column in ("saving", "low", "high"))
    return saving if np.isnan(row["low"]) else f"{saving} [{low}, {high}]"


def oscillating_errors(season: ScoredSeason, recipes: Collection[str]) -> pd.Series:
    """Return the error of each entry of a season at h = 1 on oscillating runs, a geometric mean; the least first."""
    table = season.results.table
    tasks = table[table["recipe"].isin(recipes) & (table["state"] == "transient") & (table["horizon"] == 1)]
    errors = tasks[PRIMARY].add(OFFSET).apply(np.log).groupby(tasks["forecaster"]).mean().apply(np.exp).sub(OFFSET)
    return errors.sort_values()


def _short(total: pd.DataFrame) -> Iterator[str]:
    """Yield each gain in small batches that is less than was aimed at; set b is never inside."""
    small = total[(total["kind"] == "small batch") & total["forecaster"].isin(list(AIMS))]
    small = small[(small["set"] == "train") | (small["forecaster"] == "outside")]
    for _, row in small.iterrows():
        if 100 * row["saving"] < AIMS[row["forecaster"]][row["state"]]:
            yield f"{SETS[row['set']]}, {row['forecaster']}, {row['state']}: {gain(row)}"


def _cell(row: pd.Series) -> str:
    """Return where `online` errs more than the best average, and by how much, with the interval."""
    ends = [signed(100 * row[end], 0) for end in ("low", "high")]
    span = "too few logs for an interval" if np.isnan(row["low"]) else f"95 % interval over logs {' to '.join(ends)}"
    return (
        f"{row['kind']} logs, {row['state']}, h = {row['horizon']:,}: {signed(100 * row['more'], 0)} % ({span}), "
        f"{row['error']:.4f} against {row['least']:.4f} of `{row['average']}`"
    )


def _dot(label: str, row: pd.Series) -> Dot:
    span = None if np.isnan(row["low"]) else Span(row["low"], row["high"])
    return Dot(label, label.partition(",")[0], row["saving"], span)


def _by(rows: pd.DataFrame, column: str, values: Sequence[Any]) -> Iterator[list[str]]:
    """Yield a row per kind of log and state: a gain for each value of the column."""
    for where, found in kinds(rows, column):
        yield [where, *(gain(found[value]) if value in found else "-" for value in values)]


def _bad(cells: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield each log with cells that are clearly worse: state, horizon and by how many %."""
    found = cells[cells["worse"]]
    each = found["state"] + " " + found["horizon"].map(str) + " (+" + (100 * found["more"]).map("{:.0f}".format) + ")"
    for log, texts in each.groupby(found["trace"]):
        yield str(log), ", ".join(texts)
