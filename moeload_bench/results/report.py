"""One metric of results as it is shown: by state, a row per forecaster and a value per horizon, and the floors.

The words around it are in `results.captions`, its tables in `results.brief` and `results.wide`, its figures in
`results.figures`. Axis letters: K suite horizons.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moeload_bench.errors import not_found
from moeload_bench.results.averages import floor_means
from moeload_bench.results.columns import metric_columns, states_of, total_counts
from moeload_bench.results.entry import late_names
from moeload_bench.results.results import Results, trace_groups
from moeload_bench.scoring.catalogue import PRIMARY, metric_names, ratio_metric
from moeload_bench.scoring.floors import FLOOR_NAMES

if TYPE_CHECKING:
    import pandas as pd

Values = tuple[float, ...]


@dataclass(frozen=True)
class ReportRow:
    """A forecaster in a state. ``value_K``, ``excess_K`` and ``origins_K`` by horizon, the others over all horizons.

    [``low``, ``high``] is the interval of ``skill`` for a new recipe, ``seeds`` that for new seeds; NaN for none.
    ``late``: it was scored after its season had closed. ``fallback``: in which part of its forecasts it says that it
    fell back to a plain average, None if it is silent.
    """

    forecaster: str
    state: str
    value_K: Values
    excess_K: Values
    origins_K: tuple[int, ...]
    skill: float
    low: float
    high: float
    seeds: tuple[float, float]
    recipes: int
    runs: int
    ms: float
    training: float
    late: bool
    fallback: float | None

    @property
    def mark(self) -> str:
        """Return what stands after the forecaster's name."""
        return "+" if self.late else ""

    @property
    def falls_back(self) -> bool:
        """Return whether most of the row's numbers are those of a plain average."""
        return (self.fallback or 0.0) > 0.5


@dataclass(frozen=True)
class Report:
    """The rows of results by one metric, in each state the best first, and by state and name the floors [K]."""

    results: Results
    metric: str
    rows: tuple[ReportRow, ...]
    floors: Mapping[tuple[str, str], Values]

    @property
    def horizons(self) -> tuple[int, ...]:
        return self.results.suite.horizons

    @property
    def states(self) -> list[str]:
        """Return the states that have tasks, in the order of training."""
        return states_of(self.results.table)

    @property
    def ratio(self) -> str | None:
        """Return the metric of which skill is a ratio, None if there is no skill."""
        return ratio_metric(self.metric)

    @property
    def reference(self) -> str | None:
        """Return the forecaster that skill is against; None if there is no skill, or it was not run."""
        return None if self.ratio is None or self.results.reference is None else self.results.reference.names[0]

    @property
    def floor_names(self) -> list[str]:
        """Return the floors that some state has."""
        return [name for name in FLOOR_NAMES if any(floor == name for _, floor in self.floors)]

    def rows_in(self, state: str) -> list[ReportRow]:
        """Return the rows of a state."""
        return [row for row in self.rows if row.state == state]


def report_of(results: Results, metric: str = PRIMARY) -> Report:
    """Return what is shown of results by a metric; raise `NotFoundError` where they do not have it."""
    metrics = metric_columns(results.table)
    if not len(results) or metric not in metrics:
        raise not_found("metric", metric, metrics)
    horizons = list(results.suite.horizons)
    by_horizon = results.summarize(["state", "horizon"], metric)
    cells = by_horizon.pivot(index=["state", "forecaster"], columns="horizon", values=["value", "excess", "origins"])
    cells = cells.reindex(columns=horizons, level="horizon")
    fallbacks = {name: _fallback(total_counts(results.table, name)) for name in results.names}
    late = late_names(results.entries)
    summary: Iterator[Any] = results.summarize(["state"], metric).itertuples(index=False)
    rows = (
        _row(row, cells.loc[row.state, row.forecaster], horizons, row.forecaster in late, fallbacks[row.forecaster])
        for row in summary
    )
    return Report(results, metric, tuple(rows), _floors(results, metric))


def has_metric(results: Results, metric: str) -> bool:
    """Return whether results have a metric; raise `NotFoundError` if the catalogue does not know it either."""
    if metric in metric_columns(results.table):
        return True
    if metric not in metric_names():
        raise not_found("metric", metric, metric_names())
    return False


def summary_json(results: Results, metric: str = PRIMARY) -> str:
    """Return what is printed for scripts: entries, a metric's summary by state and by horizon, failed tasks."""

    def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
        return list(json.loads(frame.to_json(orient="records", double_precision=9)))

    suite = results.suite.package_suite
    stratified = ["stratum"] if results.table["stratum"].notna().any() else []
    levels = [*(["trace"] if suite is not None and (suite.apart or suite.tables) else stratified), "state"]
    levels = levels if metric in metric_columns(results.table) else []
    summary = {
        "entries": [entry.model_dump(mode="json") for entry in results.entries.values()],
        "metric": metric,
        "by_state": records(results.summarize(levels, metric)) if levels else [],
        "by_horizon": records(results.summarize([*levels, "horizon"], metric)) if levels else [],
        "failures": records(results.failures),
    }
    return json.dumps(summary, indent=1) + "\n"


def front_of(points: Sequence[tuple[float, float]], lower: bool) -> list[int]:
    """Return which of the (cost, value) points no other one beats in one without losing in the other."""
    signed = [(cost, value if lower else -value) for cost, value in points]
    return [
        i
        for i, (cost, value) in enumerate(signed)
        if not any(c <= cost and v <= value and (c, v) != (cost, value) for c, v in signed)
    ]


def _floors(results: Results, metric: str) -> dict[tuple[str, str], Values]:
    means = floor_means(results.facts, trace_groups(results), ["state", "horizon"], metric)
    floors = [name for name in FLOOR_NAMES if name in means]
    by_state = {str(state): rows.set_index("horizon").reindex(results.suite.horizons)
                for state, rows in means.groupby("state", sort=False)}  # fmt: skip
    return {(state, floor): tuple(rows[floor])
            for state, rows in by_state.items() for floor in floors if rows[floor].notna().any()}  # fmt: skip


def _fallback(counts: Mapping[str, int]) -> float | None:
    return counts["fallback"] / counts["forecasts"] if counts.get("forecasts") and "fallback" in counts else None


def _row(row: Any, cells: pd.Series, horizons: list[int], late: bool, fallback: float | None) -> ReportRow:
    """Return the row of a summary's row, and of its ``cells`` by horizon."""
    excess = cells["excess"].reindex(horizons)
    return ReportRow(
        row.forecaster,
        row.state,
        tuple(cells["value"].reindex(horizons)),
        tuple(excess) if excess.notna().any() else (),
        tuple(cells["origins"].reindex(horizons).fillna(0).astype(int)),
        row.skill,
        row.low,
        row.high,
        (row.seeds_low, row.seeds_high),
        int(row.recipes) if row.recipes == row.recipes else 0,
        int(row.runs),
        row.ms,
        row.training,
        late,
        fallback,
    )
