"""`Results`: the table of forecasters on one suite, with what describes them, and what it comes to."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from moeload_bench.errors import ResultError, counted, not_found
from moeload_bench.results import averages, skill
from moeload_bench.results.checks import entry_problems
from moeload_bench.results.columns import (
    FACT_KEYS,
    LAYER_KEYS,
    ROW_KEYS,
    RUN_KEYS,
    Row,
    failed_tasks,
    metric_columns,
    number_frame,
    run_costs,
    states_of,
)
from moeload_bench.results.comparison import comparison
from moeload_bench.results.entry import Entry, SuiteRecord, late_names
from moeload_bench.results.ranks import rank_table
from moeload_bench.results.storage import load, load_bundled, save, stacked
from moeload_bench.scoring.catalogue import PRIMARY, lower_is_better, ratio_metric
from moeload_bench.suites.suite import CROSSING

if TYPE_CHECKING:
    import pandas as pd

GROUPS = ("recipe", "stratum", "trace", "state", "crossing", "origin", "horizon")
"""What a summary can be grouped by."""
SUITE = "suite"
"""The group of all tasks."""
SKILL = ("skill", "low", "high", "seeds_low", "seeds_high", "recipes")
SUMMARY = ("value", "excess", *SKILL, "runs", "origins", "ms", "training")
LOAD = "imbalance@"
"""What the metrics of a busiest device begin with; the rest is the shape of the cluster."""


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """Forecasters on one suite: a table with a row per forecaster, trace, origin and horizon, and what it comes to.

    ``entries`` describes each forecaster's run, by name, in the order of tables. ``facts`` has the floors of traces,
    ``layers`` the same metrics by layer, None if they were not read: see `results.columns`.
    """

    entries: Mapping[str, Entry]
    table: pd.DataFrame
    facts: pd.DataFrame
    layers: pd.DataFrame | None = None
    _errors: dict[str, pd.DataFrame] = field(default_factory=dict, init=False)

    @property
    def suite(self) -> SuiteRecord:
        """Return which task list was run; raise `ResultError` for entries of two, or scored by two versions."""
        first = next(iter(self.entries.values()), None)
        if first is None:
            raise ResultError("no result is given, expected at least one")
        for entry in self.entries.values():
            if entry.suite.sha256 != first.suite.sha256:
                raise ResultError(f"{entry.name} was scored on suite {entry.suite.name} {entry.suite.sha256[:12]}, "
                                  f"{first.name} on {first.suite.name} {first.suite.sha256[:12]}")  # fmt: skip
            if entry.scoring_version != first.scoring_version:
                raise ResultError(f"{entry.name} was scored by version {entry.scoring_version} of the scoring, "
                                  f"{first.name} by {first.scoring_version}")  # fmt: skip
        return first.suite

    @property
    def names(self) -> list[str]:
        """Return the forecasters, in the order of tables."""
        return list(self.entries)

    @property
    def traces(self) -> list[str]:
        """Return the runs that were forecast."""
        return [str(trace) for trace in self.table["trace"].unique()]

    @property
    def failures(self) -> pd.DataFrame:
        """Return the failed tasks: forecaster, trace, state, origin, failure."""
        return failed_tasks(self.table)

    def select(self, forecasters: Iterable[str] | None = None, traces: Collection[str] | None = None) -> Results:
        """Return the results of some forecasters, on some traces. Raise `NotFoundError` for another forecaster."""
        names = self.names if forecasters is None else list(forecasters)
        for name in names:
            if name not in self.entries:
                raise not_found("forecaster", name, self.names)

        def part(frame: pd.DataFrame) -> pd.DataFrame:
            where = frame["forecaster"].isin(names) if "forecaster" in frame else frame["trace"].notna()
            return frame[where & frame["trace"].isin(traces)] if traces is not None else frame[where]

        layers = None if self.layers is None else part(self.layers)
        entries = {name: self.entries[name] for name in names}
        return Results(entries, part(self.table), part(self.facts), layers)

    @cached_property
    def reference(self) -> Results | None:
        """Return the results of the suite's reference on these traces: from these, else as the package has them."""
        target = self.suite.reference
        for entry in self.entries.values():
            if entry.target == target and not entry.kwargs:
                return self.select([entry.name])
        parts = load_bundled(self.suite.name)
        if parts is None or {*map(_scoring, parts[0].values())} != {*map(_scoring, self.entries.values())}:
            return None
        return Results(*parts).select(traces=self.traces)

    def errors(self, metric: str) -> pd.DataFrame:
        """Return a metric task by task: a row per task, a column per forecaster, and one for a reference elsewhere.

        Raise `NotFoundError` for a metric that the table does not have.
        """
        if metric not in self._errors:
            metrics = metric_columns(self.table)
            if metric not in metrics:
                raise not_found("metric", metric, metrics)
            tables = [self.table]
            if self.reference is not None and self.reference.names[0] not in self.entries:
                tables.append(self.reference.table)
            self._errors[metric] = skill.wide(stacked(tables), metric)[_with_reference(self)]
        return self._errors[metric]

    def summarize(self, by: Sequence[str] = ("state",), metric: str = PRIMARY) -> pd.DataFrame:
        """Return a row per group and forecaster, in each group the best first.

        Columns: those of ``by`` (of recipe, stratum, trace, state, crossing, origin, horizon; state `crossing` holds
        the windows that contain a change of state), `forecaster`, `value`, `excess` over floor_batch, `skill` against
        the suite's reference with [`low`, `high`] for a new recipe and [`seeds_low`, `seeds_high`] for new seeds of
        these, `recipes`, `runs`, `origins`, `ms` and `training` (CPU milliseconds per origin; part of the recorded
        training time). What does not exist is NaN. Raise `NotFoundError` for another group or metric.
        """
        levels = levels_of(by)
        columns = averages.value_columns(tasks_of(self, metric, levels), levels)
        columns |= _skill_columns(self, metric, levels, next(iter(columns.values())))
        rows = averages.long({name: frame[self.names] for name, frame in columns.items()}, levels)
        groups = trace_groups(self)
        rows = averages.with_excess(rows, averages.floor_means(self.facts, groups, levels, metric), levels)
        costs = averages.mean_costs(run_costs(self.table), groups, levels)
        rows = rows.merge(costs, how="left", on=[name for name in costs.columns if name in rows])
        rows = averages.ordered(rows, levels, lower_is_better(metric))
        return rows[[*levels, "forecaster", *SUMMARY]]

    def ranks(self, by: Sequence[str] = ("state",), metric: str = PRIMARY) -> pd.DataFrame:
        """Return the ranks that each forecaster can have on a new recipe: ``by``, forecaster, rank_low, rank_high.

        All sets of a group hold the true rank at once with 95 %. Without rows for a group of too few recipes, and for
        what was scored after a season had closed.
        """
        levels = levels_of(by)
        late = late_names(self.entries)
        on_time = [name for name in self.names if name not in late]
        return rank_table(tasks_of(self, ratio_of(metric), levels)[on_time], levels, self.suite.twins)

    def compare(self, a: str, b: str, by: Sequence[str] = (), metric: str = PRIMARY) -> pd.DataFrame:
        """Return what forecaster ``a`` saves of the error of ``b``, in every way: a row per group.

        Columns: ``by``; the ratio of errors, paired by recipe: `saving` (0.1: 10 % less error) with [`low`, `high`] for
        a new recipe and [`seeds_low`, `seeds_high`] for new seeds, `p` of no difference, `recipes`, `runs`, `median`,
        `clipped_mean`, `without_two` (without the two most influential runs), `saving@0` and `saving@0.005` (with other
        offsets than 0.001); `family_saving` with [`family_low`, `family_high`], each of `families` counted once; the
        share of the total error `total` with [`total_low`, `total_high`], jackknife over families; `median_task`;
        `h=1`, `h=10`, ... at each horizon; `busiest@half` with `_low` and `_high`, ...: of the busiest device's load in
        each shape. Raise `NotFoundError` for another forecaster, group or metric.
        """
        levels = levels_of(by)
        errors = tasks_of(self, ratio_of(metric), levels)
        for name in (a, b):
            if name not in errors:
                raise not_found("forecaster", name, [str(each) for each in errors])
        loads = {name.removeprefix(LOAD): tasks_of(self, name, levels)[[a, b]]
                 for name in metric_columns(self.table) if name.startswith(LOAD)}  # fmt: skip
        return comparison(errors[[a, b]], loads, levels, self.suite.twins, self.suite.families)

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a frame of one's own, with the suite, and the target of each row's forecaster."""
        targets = {name: entry.target for name, entry in self.entries.items()}
        return self.table.assign(suite=self.suite.name, target=self.table["forecaster"].map(targets))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all as one file (`NAME.parquet`), or one file per forecaster into a folder; return the path."""
        self.suite  # noqa: B018 (raises without entries)
        return save((self.entries, self.table, self.facts, self.layers), Path(path))

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        if not self.entries:
            return "Results: none"
        failed = len(self.failures)
        size = f"{counted(len(self), 'forecaster')} on {counted(len(self.traces), 'run')} of suite {self.suite.name}"
        return f"Results: {size}, {f'{failed} failed tasks' if failed else 'no task failed'}"

    def __repr__(self) -> str:
        if not self.entries:
            return str(self)
        against = "" if self.reference is None else f". Skill in {PRIMARY} against {self.reference.names[0]}:"
        return f"{self}{against}\n{_skills(self).to_string(float_format='{:+.3f}'.format)}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return f"<p>{escape(str(self))}</p>{_skills(self).to_html(float_format='{:+.3f}'.format)}"


def load_results(path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], layers: bool = False) -> Results:
    """Return the results in a file, in several, or in a folder; ``layers`` reads the means by layer of a folder, too.

    To put a result beside the table of its season, give both: `["leaderboard/seasons/2027-02/results",
    "mine.parquet"]`. Raise `ResultError` for a file that is not one of results, for two entries of one name or of two
    suites, and for JSON results of the schemas 1 and 2.
    """
    return joined([Results(*parts) for parts in load(path, layers)])


def joined(parts: Sequence[Results]) -> Results:
    """Return results as one; raise `ResultError` for two entries of one name, and for entries of two suites.

    An entry of a season that was run again after it had closed is left out: it stands as it was published.
    """
    published = {name: entry for part in parts for name, entry in part.entries.items() if not entry.after_close}
    parts = [_without_repeats(part, published) for part in parts]
    entries: dict[str, Entry] = {}
    for part in parts:
        for name, entry in part.entries.items():
            if name in entries:
                raise ResultError(f"two results of {name}, expected one of each forecaster")
            entries[name] = entry
    for problem in entry_problems([*entries]):
        raise ResultError(problem)
    layers = [part.layers for part in parts if part.layers is not None]
    table = stacked([part.table for part in parts])
    together = Results(
        entries,
        table[[*(name for name in table if name not in RUN_KEYS), *RUN_KEYS]],
        stacked([part.facts for part in parts]).drop_duplicates(list(FACT_KEYS), ignore_index=True),
        stacked(layers) if len(layers) == len(parts) else None,
    )
    together.suite  # noqa: B018 (raises for entries of two suites)
    return together


def _without_repeats(part: Results, published: Mapping[str, Entry]) -> Results:
    """Return a part without the entries that came after a season closed and are published ones, run again."""
    repeats = {
        name
        for name, entry in part.entries.items()
        if entry.after_close
        and name in published
        and (entry.target, entry.kwargs) == (published[name].target, published[name].kwargs)
    }
    return part.select([name for name in part.names if name not in repeats]) if repeats else part


def results_of(entries: Sequence[Entry], rows: Sequence[Sequence[Row]]) -> Results:
    """Return the table of what forecasters scored: of each entry the rows of all of its runs."""

    def rows_with(column: str) -> list[Row]:
        named = zip(entries, rows, strict=True)
        return [{"forecaster": entry.name, **row} for entry, own in named for row in own if column in row]

    facts = [row for own in rows for row in own if "origin" not in row and "layer" not in row]
    return Results(
        {entry.name: entry for entry in entries},
        number_frame(rows_with("origin"), ROW_KEYS, RUN_KEYS),
        number_frame(facts, FACT_KEYS).drop_duplicates(list(FACT_KEYS), ignore_index=True),
        number_frame(rows_with("layer"), LAYER_KEYS),
    )


def levels_of(by: str | Sequence[str]) -> tuple[str, ...]:
    """Return the groups that a summary is by, SUITE for none; raise `NotFoundError` for a name that is none."""
    names = (by,) if isinstance(by, str) else tuple(by)
    for name in names:
        if name not in (*GROUPS, SUITE):
            raise not_found("group", name, GROUPS)
    return names or (SUITE,)


def ratio_of(metric: str) -> str:
    """Return the metric whose ratio is the skill; raise `ResultError` where there is none."""
    ratio = ratio_metric(metric)
    if ratio is None:
        raise ResultError(f"{metric} is no positive error of which a ratio could be taken, so there is no skill")
    return ratio


def tasks_of(results: Results, metric: str, levels: Sequence[str]) -> pd.DataFrame:
    """Return a metric task by task, to group by these levels: see `Results.errors`."""
    import pandas as pd

    tasks = averages.grouped_tasks(results.errors(metric), levels)
    if SUITE not in levels:
        return tasks
    return tasks.set_index(pd.Index([results.suite.name] * len(tasks), name=SUITE), append=True)


def trace_groups(results: Results) -> pd.DataFrame:
    """Return a row per trace, with the groups that it belongs to as a whole."""
    traces = results.table[["trace", "recipe", "stratum"]].drop_duplicates("trace")
    return traces.assign(**{SUITE: results.suite.name})


def _with_reference(results: Results) -> list[str]:
    """Return the forecasters, and the reference where it was scored elsewhere."""
    elsewhere = [] if results.reference is None else results.reference.names
    return list(dict.fromkeys([*results.names, *elsewhere]))


def _skill_columns(results: Results, metric: str, levels: Sequence[str], like: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the columns of skill; NaN for a metric without, or if the reference was not run."""
    ratio = ratio_metric(metric)
    if ratio is None or results.reference is None or ratio not in metric_columns(results.table):
        return {name: like * math.nan for name in SKILL}
    ratios = skill.ratios_to(tasks_of(results, ratio, levels), results.reference.names[0])
    return averages.skill_columns(ratios, levels, results.suite.twins)


def _skills(results: Results) -> pd.DataFrame:
    """Return the skill by state, a row per forecaster, in the order of the last state."""
    has_skill = PRIMARY in metric_columns(results.table)
    rows = results.summarize(["state"]) if has_skill else results.table.iloc[:0].assign(skill=[])
    rows = rows[rows["state"] != CROSSING]
    order = rows.loc[rows["state"] == rows["state"].iloc[-1], "forecaster"] if len(rows) else results.names
    skills = rows.pivot(index="forecaster", columns="state", values="skill")
    states = [state for state in states_of(results.table) if state != CROSSING]
    return skills.reindex(index=order, columns=states)


def _scoring(entry: Entry) -> tuple[str, int]:
    """Return what two entries must share to be compared."""
    return entry.suite.sha256, entry.scoring_version
