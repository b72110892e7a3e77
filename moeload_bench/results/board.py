"""One metric of results as it is printed and drawn: by state, a row per forecaster and a value per horizon.

Axis letters: K suite horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moeload_bench.errors import not_found
from moeload_bench.results.results import Results, check_metric
from moeload_bench.scoring.catalogue import PRIMARY, ratio_metric
from moeload_bench.scoring.floors import FLOOR_NAMES

if TYPE_CHECKING:
    import pandas as pd

Values = tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A forecaster in a state. ``value_K``, ``excess_K`` and ``origins_K`` by horizon, the others over all horizons.

    [``low``, ``high``] is the interval of ``skill`` for a new recipe, ``seeds`` that for new seeds; NaN for none.
    ``fallback``: in which part of its forecasts it says that it fell back to a plain average, None if it is silent.
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
    fallback: float | None

    @property
    def falls_back(self) -> bool:
        """Return whether most of the row's numbers are those of a plain average."""
        return (self.fallback or 0.0) > 0.5


@dataclass(frozen=True)
class Board:
    """The rows of results by one metric, in each state the best first, and the floors below them."""

    results: Results
    metric: str

    @property
    def horizons(self) -> tuple[int, ...]:
        return self.results.horizons

    @property
    def states(self) -> list[str]:
        """Return the states that have tasks, in the order of training."""
        return self.results.states

    def mark(self, row: Row) -> str:
        """Return what stands after a forecaster's name: + if it was scored after its season had closed."""
        return "+" if row.forecaster in self.results.late else ""

    @property
    def ratio(self) -> str | None:
        """Return the metric of which skill is a ratio, None if there is no skill."""
        return ratio_metric(self.metric)

    @property
    def reference(self) -> str | None:
        """Return the forecaster that skill is against; None if there is no skill, or it was not run."""
        return None if self.ratio is None or self.results.reference is None else self.results.reference.names[0]

    def rows(self, state: str) -> list[Row]:
        """Return the rows of a state."""
        return [row for row in self._rows if row.state == state]

    def floor(self, state: str, floor: str) -> Values:
        """Return the mean over runs [K] of a floor in a state; empty where no run has it."""
        floors = self._floors
        if floor not in floors:
            return ()
        known = floors[floors["state"] == state].set_index("horizon")[floor]
        return tuple(known.reindex(self.horizons)) if known.notna().any() else ()

    @property
    def floor_names(self) -> list[str]:
        """Return the floors that some state has."""
        return [name for name in FLOOR_NAMES if any(self.floor(state, name) for state in self.states)]

    @cached_property
    def _rows(self) -> list[Row]:
        summary = self.results.summarize(["state"], self.metric)
        return [self._row(one) for one in summary.itertuples(index=False)]

    @cached_property
    def _cells(self) -> pd.DataFrame:
        cells = self.results.summarize(["state", "horizon"], self.metric)
        wide = cells.pivot(index=["state", "forecaster"], columns="horizon", values=["value", "excess", "origins"])
        return wide.reindex(columns=self.horizons, level="horizon")

    @cached_property
    def _floors(self) -> pd.DataFrame:
        return self.results.floors(["state", "horizon"], self.metric)

    @cached_property
    def _fallbacks(self) -> dict[str, float | None]:
        counts = {name: self.results.counts(name) for name in self.results.names}
        return {
            name: found["fallback"] / found["forecasts"] if found.get("forecasts") and "fallback" in found else None
            for name, found in counts.items()
        }

    def _row(self, one: Any) -> Row:
        cells = self._cells.loc[one.state, one.forecaster]
        excess = cells["excess"].reindex(self.horizons)
        return Row(
            one.forecaster,
            one.state,
            tuple(cells["value"].reindex(self.horizons)),
            tuple(excess) if excess.notna().any() else (),
            tuple(cells["origins"].reindex(self.horizons).fillna(0).astype(int)),
            one.skill,
            one.low,
            one.high,
            (one.seeds_low, one.seeds_high),
            int(one.recipes) if one.recipes == one.recipes else 0,
            int(one.runs),
            one.ms,
            one.training,
            self._fallbacks[one.forecaster],
        )


def board_of(results: Results, metric: str = PRIMARY) -> Board | None:
    """Return the board of a metric, None if no result has it.

    Raise `NotFoundError` for a metric that neither the results nor the catalogue know.
    """
    return Board(results, metric) if check_metric(metric, results) else None


def known_board(results: Results, metric: str = PRIMARY) -> Board:
    """Return the board of a metric that the results have; raise `NotFoundError` where they do not."""
    if not len(results) or metric not in results.metrics:
        raise not_found("metric", metric, results.metrics)
    return Board(results, metric)


def front_of(points: Sequence[tuple[float, float]], lower: bool) -> list[int]:
    """Return which of the (cost, value) points no other one beats in one without losing in the other."""
    signed = [(cost, value if lower else -value) for cost, value in points]
    return [
        i
        for i, (cost, value) in enumerate(signed)
        if not any(c <= cost and v <= value and (c, v) != (cost, value) for c, v in signed)
    ]
