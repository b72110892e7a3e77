"""What the leaderboard shows for each choice of state, recipe and horizon: computed here, only shown by the pages.

Values are those of `results.grid`, conclusions those of `results.statistics`. Axis letters: K suite horizons.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from leaderboard.ranking import Wins
from leaderboard.seeds import skill_interval
from leaderboard.site.inputs import Board
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.grid import ALL, Row, Standings, front_of, metrics_in
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import MIN_RECIPES, Interval, seed_spread
from moeload_bench.scoring.catalogue import PRIMARY, lower_is_better
from moeload_bench.suites.suite import CROSSING, STATES

REGRET = f"regret@{HEADLINE}"


@dataclass(frozen=True)
class Cell(Row):
    """One forecaster in one view; None where the view has no such number.

    ``regret`` is the headline regret on the same tasks; ``ranks`` rest on `ratio_metric` as skill does; ``front``: no
    other forecaster of the view has both a smaller cost in CPU time and a better value.
    """

    win_rate: float | None
    ranks: tuple[int, int] | None
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


@functools.lru_cache(maxsize=8)
def states_of(board: Board) -> list[str]:
    """`all`, the states that have origins, and `crossing` where a window crosses a change of state."""
    tasks = [task for run in board.results[0].runs for task in run.tasks]
    found = [state for state in STATES if any(task.state == state for task in tasks)]
    return [ALL, *found, *([CROSSING] if any(any(task.crossing) for task in tasks) else [])]


def views_of(board: Board, metric: str) -> Iterator[View]:
    """Yield every view of a metric: states x (slices and recipes) x horizons."""
    whole = Standings(board.results, metric, board.reference)
    known = Standings(board.known, whole.ratio, None) if board.known and whole.ratio else None
    for recipe in (ALL, *board.choices):
        scores = whole.on(board.runs_in(recipe))
        for state in states_of(board):
            for horizon in (None, *board.suite.horizons):
                yield _view(board, scores, known, state, recipe, horizon)


def _view(
    board: Board, scores: Standings, known: Standings | None, state: str, recipe: str, horizon: int | None
) -> View:
    rows, better = scores.rows(state, horizon), lower_is_better(scores.metric)
    ranks = scores.ranks(state, horizon) if recipe == ALL else {}  # of a slice they would be a look too many
    wins = [] if better is None else wins_of(scores, state, horizon, better).on(scores.at_R).tolist()
    of_choice, values = _of_choice(board, recipe), [row.value for row in rows]
    regret, (runs, origins) = of_choice.regrets[state, horizon], of_choice.sizes[state, horizon]
    points = {row.forecaster: (of_choice.cost[row.forecaster], value)
              for row, value in zip(rows, values, strict=True) if row.forecaster in of_choice.cost}  # fmt: skip
    front = front_of(points, better is not False)
    seeds = _new_seeds(rows, scores, known, horizon)
    cells = tuple(
        Cell(**vars(row) | {"intervals": (*row.intervals, *seeds.get(row.forecaster, ()))},
             win_rate=none_for_nan(win), ranks=ranks.get(row.forecaster), regret=regret[row.forecaster],
             front=row.forecaster in front)
        for row, win in itertools.zip_longest(rows, wins)
    )  # fmt: skip
    floor_K = scores.floor(state, "floor_batch")
    floor = floor_K[scores.horizons.index(horizon)] if floor_K and horizon is not None else None
    return View(state, recipe, horizon, floor, cells, runs, origins)


class _OfChoice(NamedTuple):
    """What does not depend on the metric: CPU ms by forecaster; by state and horizon the headline regrets, and runs and
    origins that a value is a mean over.
    """

    cost: Mapping[str, float]
    regrets: Mapping[tuple[str, int | None], Mapping[str, float | None]]
    sizes: Mapping[tuple[str, int | None], tuple[int, int]]


@functools.lru_cache(maxsize=256)
def _of_choice(board: Board, choice: str) -> _OfChoice:
    scores = _regrets(board).on(board.runs_in(choice))
    views = [(state, horizon) for state in states_of(board) for horizon in (None, *board.suite.horizons)]
    return _OfChoice(
        {result.name: ms for result in scores.results if (ms := result.cpu_ms) is not None},
        {view: {row.forecaster: row.value for row in scores.rows(*view)} for view in views},
        {view: _over(scores.results[0], *view, scores.horizons) for view in views},
    )


@functools.lru_cache(maxsize=8)
def _regrets(board: Board) -> Standings:
    return Standings(board.results, REGRET, None)


def wins_of(scores: Standings, state: str, horizon: int | None, lower: bool) -> Wins:
    """Return how often each result beats each other one in a state, on all runs; over all horizons a sum of each."""

    def make() -> Wins:
        if horizon is None:
            return functools.reduce(operator.add, (wins_of(scores, state, h, lower) for h in scores.horizons))
        at = scores.places(state, horizon)
        error_FT = np.stack([scores.errors.by_forecaster[one.name][at] for one in scores.results])
        number_T, recipe_R = scores.errors.tasks.by_run
        return Wins.of(error_FT if lower else -error_FT, number_T[at], len(recipe_R))

    found: Wins = scores.keep(("wins", state, horizon), make)
    return found


def _new_seeds(
    rows: Sequence[Row], scores: Standings, known: Standings | None, horizon: int | None
) -> dict[str, tuple[Interval]]:
    """Return by forecaster an interval for new seeds where a season has one run of each recipe: by the public runs'
    spread.
    """
    if known is None or scores.reference is None or all(row.new_seeds for row in rows):
        return {}
    state, names = rows[0].state, [result.name for result in known.results]
    here, found = scores.run_means(scores.reference, state, horizon), {}
    beside = known.run_means(scores.reference, state, horizon) if scores.reference in names else None
    for i, row in enumerate(rows):
        recipes = here.by_recipe(i)
        if row.new_seeds or len(recipes) < MIN_RECIPES:
            continue
        public = [beside.by_recipe(names.index(row.forecaster))] if beside and row.forecaster in names else []
        one = skill_interval(recipes, seed_spread([recipes, *public]))
        if np.isfinite(one.low):
            count = sum(len(runs_R) for runs_R in recipes.values())
            seeds = Interval("these recipes, new seeds", one.skill, one.low, one.high, 0.95, len(recipes), count)
            found[row.forecaster] = (seeds,)
    return found


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
