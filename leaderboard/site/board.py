"""Entries on the same runs, with the summaries of their results that pages show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from leaderboard.boards import UNLISTED
from leaderboard.committed import Standing, model_type_of
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.publishing.submission import ModelType, Submission, Verification
from moeload_bench.results.averages import floor_means, grouped_tasks, long, value_columns
from moeload_bench.results.columns import metric_columns, states_of
from moeload_bench.results.entry import Entry
from moeload_bench.results.leaders import ranked
from moeload_bench.results.results import Results, trace_groups
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import CROSSING, STATES, Suite

if TYPE_CHECKING:
    import pandas as pd

REGRET = f"regret@{HEADLINE}"
CELL = ("stratum", "state")
"""Sizes of batches and states are never pooled."""


@dataclass(frozen=True)
class BoardEntry:
    """An entry with the record of its submission; ``wrong`` says why it is only claimed.

    ``verification``: what the maintainers' re-run found, None without one that is about this result.
    """

    entry: Entry
    record: Submission | None
    standing: Standing
    wrong: tuple[str, ...] = ()
    verification: Verification | None = None

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def model_type(self) -> ModelType:
        """Return whether it is statistical, learned, pretrained, or a yardstick."""
        return model_type_of(self.entry, self.record)

    @property
    def fitted_on(self) -> str:
        """Return the other data that it has learned from, in words; empty for none."""
        if self.record is None or not self.record.fitted_beyond_train:
            return ""
        return ", ".join(self.record.fitted_on) or "data that it does not name"


@dataclass(frozen=True, order=True)
class Cell:
    """Tasks that are summarized together: of one size of batches ("" for a suite without sizes) in one state."""

    stratum: str
    state: str

    @property
    def title(self) -> str:
        return f"{self.stratum} batches, {self.state}" if self.stratum else self.state

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a summary that are about these tasks."""
        return rows[(rows["stratum"] == self.stratum) & (rows["state"] == self.state)]


@dataclass(frozen=True, eq=False)
class Board:
    """Entries on the same runs. ``about``: which runs these are and how they were drawn; ``reach``: how far they reach.

    ``ask``: how each number is asked for. ``score``: the command that scores one's own forecaster on them.

    Summaries are those of `Results`, with "" for the stratum of a run that is in none, of the entries that are listed.
    """

    name: str
    title: str
    about: str
    ask: str
    reach: str
    score: str
    suite: Suite
    results: Results
    entries: tuple[BoardEntry, ...]

    def entry(self, name: str) -> BoardEntry:
        return next(entry for entry in self.entries if entry.name == name)

    @cached_property
    def recipes(self) -> list[str]:
        return sorted(self.results.table["recipe"].unique())

    @cached_property
    def states(self) -> list[str]:
        """Return the states that have tasks, without crossing."""
        return [state for state in states_of(self.results.table) if state != CROSSING]

    @cached_property
    def cells(self) -> list[Cell]:
        """Return the cells with tasks: small batches first, states in the order of training, crossing last."""
        cells = {Cell(stratum, state) for stratum, state in self.summary[list(CELL)].itertuples(index=False)}
        strata, states = ("small", "large", ""), (*STATES, CROSSING)
        return sorted(cells, key=lambda cell: (strata.index(cell.stratum), states.index(cell.state)))

    @property
    def state_cells(self) -> list[Cell]:
        """Return the cells of states; windows that cross a change of state are in one of these, too."""
        return [cell for cell in self.cells if cell.state != CROSSING]

    def _summary(self, by: Sequence[str]) -> pd.DataFrame:
        rows = self.results.summarize(by)
        return rows[~rows["forecaster"].isin(UNLISTED)].reset_index(drop=True)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Return the summary by cell."""
        return _without_gaps(self._summary(CELL))

    @cached_property
    def by_state(self) -> pd.DataFrame:
        """Return the summary by state, over all sizes of batches."""
        return self._summary(("state",))

    @cached_property
    def by_horizon(self) -> pd.DataFrame:
        """Return the summary by cell and horizon."""
        return _without_gaps(self._summary((*CELL, "horizon")))

    @cached_property
    def floors(self) -> pd.DataFrame:
        """Return the floors by cell and horizon."""
        return _without_gaps(floor_means(self.results.facts, trace_groups(self.results), (*CELL, "horizon"), PRIMARY))

    @cached_property
    def by_recipe(self) -> pd.DataFrame:
        """Return the summary by recipe and state."""
        return self._summary(("recipe", "state"))

    @cached_property
    def by_run(self) -> pd.DataFrame:
        """Return the summary by run, state and horizon."""
        return self._summary(("trace", "state", "horizon"))

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """Return possible ranks by cell, of the entries that have one."""
        return _without_gaps(ranked(self.results).ranks(CELL))

    @cached_property
    def metrics(self) -> list[str]:
        """Return the metrics: the primary one first, then errors and scores, then what plans cost."""
        return sorted(metric_columns(self.results.table), key=lambda name: (name != PRIMARY, "@" in name, name))

    @cached_property
    def values(self) -> dict[str, dict[Cell, dict[str, float]]]:
        """Return the values of each metric by cell and forecaster, without those that do not exist."""
        values: dict[str, dict[Cell, dict[str, float]]] = {metric: {} for metric in self.metrics}
        for metric, cells in values.items():
            means = value_columns(grouped_tasks(self.results.errors(metric), CELL), CELL)["value"][self.results.names]
            rows = _without_gaps(long({"value": means}, CELL)).dropna(subset="value")
            for stratum, state, name, value in rows[[*CELL, "forecaster", "value"]].itertuples(index=False):
                cells.setdefault(Cell(stratum, state), {})[name] = value
        return values

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Return the failed tasks."""
        return self.results.failures

    @cached_property
    def traces(self) -> frozenset[str]:
        """Return the ids of the runs."""
        return frozenset(self.results.traces)

    def horizons(self, cell: Cell) -> list[int]:
        """Return the horizons at which a cell has values."""
        rows = cell.of(self.by_horizon)
        return sorted(rows.loc[rows["value"].notna(), "horizon"].unique().tolist())


def _without_gaps(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(stratum=rows["stratum"].fillna(""))
