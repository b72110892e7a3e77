"""What the leaderboard shows for each choice of state, recipe and horizon: computed here, only shown by the pages.

Values are those of `results.grid`, conclusions those of `results.statistics`. Axis letters: K suite horizons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from leaderboard.ranking import win_rates
from leaderboard.season_tools.scored import run_ratios, spread_of
from leaderboard.seeds import skill_interval
from leaderboard.site.inputs import Board
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.comparison import Errors, errors_of
from moeload_bench.results.grid import ALL, Row, Standings, front_of, in_state, metrics_in, with_runs_of
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import MIN_RECIPES, Interval
from moeload_bench.scoring.catalogue import PRIMARY, lower_is_better
from moeload_bench.suites.suite import CROSSING, STATES

REGRET = f"regret@{HEADLINE}"


@dataclass(frozen=True)
class Cell(Row):
    """One forecaster in one view; None where the view has no such number.

    ``regret`` is the headline regret on the same tasks; ``rank`` rests on `ratio_metric` as skill does; ``front``: no
    other forecaster of the view has both a smaller cost in CPU time and a better value.
    """

    win_rate: float | None
    rank: int | None
    regret: float | None
    front: bool

    @property
    def excess(self) -> float | None:
        """At one horizon; that of all horizons together is not defined."""
        return self.excess_K[0] if len(self.excess_K) == 1 else None


@dataclass(frozen=True)
class View:
    """All forecasters for one choice; ``horizon`` None: over all. Values are means over ``runs`` and ``origins``."""

    state: str
    recipe: str
    horizon: int | None
    floor: float | None
    cells: tuple[Cell, ...]
    runs: int
    origins: int


def metrics_of(board: Board) -> list[str]:
    """Return the metrics that an entry has: the primary one first, then errors and scores, then what plans cost."""
    return sorted(
        metrics_in(board.results), key=lambda name: (name != PRIMARY, "@" in name, name.startswith("drop"), name)
    )


def states_of(board: Board) -> list[str]:
    """`all`, the states that have origins, and `crossing` where a window crosses a change of state."""
    tasks = [task for run in board.results[0].runs for task in run.tasks]
    found = [state for state in STATES if any(task.state == state for task in tasks)]
    return [ALL, *found, *([CROSSING] if any(any(task.crossing) for task in tasks) else [])]


def views_of(board: Board, metric: str) -> Iterator[View]:
    """Yield every view of a metric: states x (slices and recipes) x horizons."""
    whole = Standings(board.results, metric, board.reference)
    known = errors_of(board.known, whole.ratio) if board.known and whole.ratio else None
    for recipe in (ALL, *board.choices):
        runs = board.runs_in(recipe)
        scores, regrets = whole.on(runs), Standings(with_runs_of(board.results, runs), REGRET, None)
        for state in states_of(board):
            for horizon in (None, *board.suite.horizons):
                regret = {row.forecaster: row.value for row in regrets.rows(state, horizon)}
                yield _view(scores, regret, known, state, recipe, horizon)


def _view(
    scores: Standings, regret: Mapping[str, float | None], known: Errors | None, state: str, recipe: str,
    horizon: int | None,
) -> View:  # fmt: skip
    rows, rank, better = scores.rows(state, horizon), scores.ranks(state, horizon), lower_is_better(scores.metric)
    error = in_state(scores.errors, state, horizon).by_forecaster
    sign = 1 if better else -1
    wins = {} if better is None else win_rates({row.forecaster: sign * error[row.forecaster] for row in rows})
    cost = {row.forecaster: ms for row in rows if (ms := row.result.cpu_ms) is not None}
    front = front_of({row.forecaster: (cost[row.forecaster], row.value) for row in rows if row.forecaster in cost},
                     better is not False)  # fmt: skip
    cells = tuple(
        Cell(**vars(_with_seeds(row, scores, known, horizon)), win_rate=none_for_nan(wins.get(row.forecaster)),
             rank=rank.get(row.forecaster), regret=regret[row.forecaster], front=row.forecaster in front)
        for row in rows
    )  # fmt: skip
    floor_K = scores.floor(state, "floor_batch")
    floor = floor_K[scores.horizons.index(horizon)] if floor_K and horizon is not None else None
    return View(state, recipe, horizon, floor, cells, *_over(scores.results[0], state, horizon, scores.horizons))


def _with_seeds(row: Row, scores: Standings, known: Errors | None, horizon: int | None) -> Row:
    """Return the row with an interval for new seeds where a season has one run of each recipe: by the public runs'
    spread.
    """
    if row.new_seeds or known is None or scores.reference is None:
        return row
    here, beside = (in_state(errors, row.state, horizon) for errors in (scores.ratios, known))
    recipes = run_ratios(here, row.forecaster, scores.reference)
    if len(recipes) < MIN_RECIPES:
        return row
    found = skill_interval(recipes, spread_of((here, beside), row.forecaster, scores.reference))
    if not np.isfinite(found.low):
        return row
    count = sum(len(runs_R) for runs_R in recipes.values())
    seeds = Interval("these recipes, new seeds", found.skill, found.low, found.high, 0.95, len(recipes), count)
    return replace(row, intervals=(*row.intervals, seeds))


def none_for_nan(value: float | None) -> float | None:
    """NaN becomes None."""
    return None if value is None or np.isnan(value) else float(value)


def _over(result: Result, state: str, horizon: int | None, horizons: tuple[int, ...]) -> tuple[int, int]:
    """Return runs and origins that a value of the view is a mean over."""
    at = slice(None) if horizon is None else slice(horizons.index(horizon), horizons.index(horizon) + 1)
    by_run = [
        sum(any(task.crossing[at]) if state == CROSSING else state in (ALL, task.state) for task in run.tasks)
        for run in result.runs
    ]
    return sum(number > 0 for number in by_run), sum(by_run)
