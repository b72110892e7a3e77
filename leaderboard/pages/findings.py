"""What results say in numbers: who leads and who is next, what it saves of whose error, on which runs.

No sentence is made here; `leaderboard.pages.results_page` and the templates write these records.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from leaderboard.pages.inputs import LEARNS_NOTHING, RunSet, candidate, track_of
from moeload_bench.results.columns import run_costs
from moeload_bench.results.leaders import duplicates
from moeload_bench.results.results import Results
from moeload_bench.scoring.catalogue import PRIMARY

AVERAGES = ("uniform", "last_value", "sw_avg", "ema", "recent_sum", "since_plan", "average_tuned")
"""Baselines that are an average of past loads, with every argument; `uniform` stands for no forecast at all."""
OSCILLATES = 5.0
"""A run oscillates where the next step, less its noise, is so many times as far from the mean as the next 100 steps."""


@dataclass(frozen=True)
class Saving:
    """What one entry saves of another one's error, as fractions: a row of `Results.compare`."""

    saving: float
    low: float
    high: float
    median: float
    clipped_mean: float
    without_two: float
    recipes: int


def saving(results: Results, a: str, b: str, metric: str = PRIMARY, **group: Any) -> Saving | None:
    """Return what ``a`` saves of the error of ``b`` in a group, such as state="stable"; None without such tasks."""
    rows = _comparison(results, a, b, tuple(group), metric)
    for name, value in group.items():
        rows = rows[rows[name] == value]
    if rows.empty or math.isnan(rows["saving"].iloc[0]):
        return None
    return saving_of(rows.iloc[0])


@functools.cache
def _comparison(results: Results, a: str, b: str, by: tuple[str, ...], metric: str) -> Any:
    return results.compare(a, b, by, metric)


def saving_of(row: Any) -> Saving:
    """Return a row of `Results.compare` as a record."""
    numbers = {name: float(row[name]) for name in Saving.__dataclass_fields__ if name != "recipes"}
    return Saving(recipes=int(row["recipes"]), **numbers)


@functools.cache
def _summary(results: Results, by: tuple[str, ...]) -> Any:
    return results.summarize(by)


def skills(results: Results, **group: Any) -> dict[str, float]:
    """Return the skill of every entry that has one in a group, such as state="stable", the best first."""
    rows = _summary(results, tuple(group))
    for name, value in group.items():
        rows = rows[rows[name] == value]
    return dict(rows.loc[rows["skill"].notna(), ["forecaster", "skill"]].itertuples(index=False))


@dataclass(frozen=True)
class Standing:
    """Who has the most skill on some runs in a state, and who is next: of all entries, of those that learn nothing, of
    averages. To have the most skill is not to lead: `leaderboard.leading`.
    """

    leader: str
    following: str
    simple: str
    average: str
    by_track: Mapping[str, str]


@functools.cache
def standing(results: Results, **group: Any) -> Standing | None:
    """Return the standing in a group, such as state="stable"; None without runs in it.

    Every rival is the best one of these very runs; the simple one is not the newest season's candidate itself.
    """
    same = duplicates(results)
    order = [name for name in skills(results, **group) if name not in same]
    if len(order) < 2:
        return None
    tracks: dict[str, str] = {}
    for name in order:
        tracks.setdefault(track_of(results, name), name)
    averages = [name for name in order if results.entries[name].target.partition("@")[0] in AVERAGES]
    simple = next(name for name in order if name != candidate() and track_of(results, name) == LEARNS_NOTHING)
    return Standing(order[0], order[1], simple, averages[0], tracks)


def oscillating(results: Results) -> set[str]:
    """Return the recipes with a run whose loads swing from step to step around a mean that hardly moves.

    That is a run in which the reference's forecast of the next step errs OSCILLATES times as much as that of the next
    100 steps while loads move, after the noise of the batches is taken off: sqrt(error^2 - floor^2) at h = 1.
    """
    reference = results.reference
    if reference is None:
        return set()
    rows = reference.summarize(["recipe", "trace", "state", "horizon"])
    rows = rows[rows["state"] == "transient"]
    cells = rows.pivot(index=["recipe", "trace"], columns="horizon", values=["excess", "value"])
    swings = cells["excess", 1] > OSCILLATES * cells["value", 100]
    return set(cells.index.get_level_values("recipe")[swings])


def kinds_of_runs(runs: RunSet) -> dict[str, Collection[str]]:
    """Return the recipes of a set by what is peculiar to their runs."""
    swinging = oscillating(runs.results)
    swings = {"oscillating": swinging, "not oscillating": runs.recipes - swinging} if swinging else {}
    return {
        "all": runs.recipes,
        "balanced without a loss": runs.loss_free,
        "balanced in another way, or not": runs.recipes - runs.loss_free,
        **swings,
    }


@dataclass(frozen=True)
class Equal:
    """Two entries that gave the same forecasts, bit for bit, on so many runs of all."""

    first: str
    second: str
    runs: int
    of: int


def equal_forecasts(results: Results) -> list[Equal]:
    """Return every pair of entries with the same hash of forecasts on a run, the pair with the most runs first."""
    costs = run_costs(results.table)[["trace", "forecaster", "forecasts_sha256"]]
    pairs = costs.merge(costs, on=["trace", "forecasts_sha256"])
    place = {name: i for i, name in enumerate(results.names)}
    pairs = pairs[pairs["forecaster_x"].map(place) < pairs["forecaster_y"].map(place)]
    counts = pairs.groupby(["forecaster_x", "forecaster_y"], sort=False)["trace"].nunique().reset_index()
    of = len(results.traces)
    equal = [Equal(str(first), str(second), int(runs), of) for first, second, runs in counts.to_numpy()]
    return sorted(equal, key=lambda pair: -pair.runs)
