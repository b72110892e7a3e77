"""What the leaderboard shows for each choice of state, recipe and horizon: computed here, only shown by the pages.

Values are those of `results.grid`, conclusions those of `results.statistics`. Axis letters: K suite horizons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leaderboard.season_tools.scored import run_ratios, spread_of
from leaderboard.site.inputs import Board, with_runs_of
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.plots.results import cpu_ms
from moeload_bench.results import comparison
from moeload_bench.results.comparison import Errors, errors_of, skill
from moeload_bench.results.grid import Values, floor_values, present_mean, run_means
from moeload_bench.results.record import Result, RunResult
from moeload_bench.results.seeds import skill_interval
from moeload_bench.results.statistics import MIN_RECIPES, Interval, rank_groups, ranks, win_rates
from moeload_bench.scoring.catalogue import PRIMARY, lower_is_better, ratio_metric
from moeload_bench.scoring.floors import excess
from moeload_bench.suites.suite import CROSSING, STATES

ALL = "all"
REGRET = f"regret@{HEADLINE}"


@dataclass(frozen=True)
class Cell:
    """One forecaster in one view; None where the view has no such number.

    ``value`` is the metric, ``regret`` the headline regret on the same tasks; ``skill`` and what rests on it are of
    `ratio_metric`; ``front``: no other forecaster of the view has both a smaller cost in CPU time and a better value.
    """

    forecaster: str
    value: float | None
    excess: float | None
    skill: float | None
    new_recipe: Interval | None
    new_seeds: Interval | None
    win_rate: float | None
    group: int | None
    regret: float | None
    front: bool


@dataclass(frozen=True)
class View:
    """All forecasters for one choice; ``horizon`` None stands for all.

    A value is a mean over ``runs`` and ``origins``.
    """

    state: str
    recipe: str
    horizon: int | None
    floor: float | None
    cells: tuple[Cell, ...]
    runs: int
    origins: int


def metrics_of(board: Board) -> list[str]:
    """The metrics that an entry has: the primary one first, then errors and scores, then what plans cost."""
    found = {name for result in board.results for run in result.runs for task in run.tasks for name in task.metrics}
    return sorted(found, key=lambda name: (name != PRIMARY, "@" in name, name.startswith("drop"), name))


def states_of(board: Board) -> list[str]:
    """`all`, the states that have origins, and `crossing` where a window crosses a change of state."""
    tasks = [task for run in board.results[0].runs for task in run.tasks]
    found = [state for state in STATES if any(task.state == state for task in tasks)]
    return [ALL, *found, *([CROSSING] if any(any(task.crossing) for task in tasks) else [])]


def views_of(board: Board, metric: str) -> Iterator[View]:
    """Every view of a metric: states x (slices and recipes) x horizons."""
    states, ratio = states_of(board), ratio_metric(metric)
    known = errors_of(board.known, ratio) if board.known and ratio else None
    for recipe in (ALL, *board.choices):
        chosen = board.runs_in(recipe)
        results = with_runs_of(board.results, chosen)
        reference = with_runs_of([board.reference], chosen)[0] if board.reference and ratio else None
        compared = with_runs_of(board.compared, chosen)
        errors = errors_of(compared, metric)
        ratios = errors if ratio in (None, metric) else errors_of(compared, ratio)
        for state in states:
            here, of_ratio = _in_state(errors, state), _in_state(ratios, state)
            beside = None if known is None else _in_state(known, state)
            value_by_name = {result.name: value_k(result, metric, state) for result in results}
            regret_by_name = {result.name: value_k(result, REGRET, state) for result in results}
            for k, horizon in ((None, None), *enumerate(board.suite.horizons)):
                yield _view(
                    results, reference,
                    here if horizon is None else here.select(horizon=horizon),
                    of_ratio if horizon is None else of_ratio.select(horizon=horizon),
                    beside if horizon is None or beside is None else beside.select(horizon=horizon),
                    (metric, state, recipe), (k, horizon),
                    {name: value_at(value_K, k) for name, value_K in value_by_name.items()},
                    {name: value_at(value_K, k) for name, value_K in regret_by_name.items()},
                )  # fmt: skip


def value_k(result: Result, metric: str, state: str) -> Values:
    """[K] mean over runs of the run's mean over its origins in the state, as in the tables; `all`: over all origins."""
    of_run = _means_of_all if state == ALL else run_means
    means = [mean_K for run in result.runs if (mean_K := of_run(run, state, metric))]
    return tuple(present_mean([mean_K[k] for mean_K in means]) for k in range(len(result.suite.horizons)))


def value_at(value_K: Values, k: int | None) -> float | None:
    """The value at one horizon; the mean over horizons for None."""
    return present_mean(value_K) if k is None else value_K[k] if value_K else None


def per_forecast_ms(result: Result) -> float:
    """Milliseconds per answered origin, observing included; mean over runs."""
    return 1e3 * float(np.mean([run.cost.per_forecast_s for run in result.runs]))


def of_training(result: Result) -> float | None:
    """Per cent of the recorded training time; mean over runs."""
    found = present_mean([run.cost.of_training for run in result.runs])
    return None if found is None else 100 * found


def best_window(board: Board) -> tuple[str, int] | None:
    """`comparison.best_window` of a suite's entries, by the primary metric."""
    return comparison.best_window(board.results, PRIMARY)


def _view(
    results: Sequence[Result],
    reference: Result | None,
    errors: Errors,
    ratios: Errors,
    known: Errors | None,
    about: tuple[str, str, str],
    horizon: tuple[int | None, int | None],
    value: Mapping[str, float | None],
    regret: Mapping[str, float | None],
) -> View:
    metric, state, recipe = about
    k, steps = horizon
    floor = None if k is None else value_at(floor_values(results[0], state, "floor_batch", metric), k)
    names = [result.name for result in results]
    listed = {name: errors.by_forecaster[name] for name in names}
    better = lower_is_better(metric)
    wins = {} if better is None else win_rates(listed if better else {name: -error for name, error in listed.items()})
    groups = _groups(ratios, names, reference) if ratio_metric(metric) else {}
    cost = {r.name: ms for r in results if (ms := cpu_ms(r)) is not None}
    front = front_of({name: (ms, value[name]) for name, ms in cost.items()}, better is not False)
    cells = []
    for name in names:
        found, intervals = skill(ratios, name, reference.name) if reference else (float("nan"), [])
        by_claim = {interval.claim: interval for interval in intervals}
        over = None if floor is None or value[name] is None else float(excess(np.array(value[name]), np.array(floor)))
        seeds = by_claim.get("these recipes, new seeds") or _seeds(ratios, known, name, reference)
        cells.append(Cell(
            name, value[name], over, none_for_nan(found), by_claim.get("a new recipe"),
            seeds, none_for_nan(wins.get(name)), groups.get(name), regret[name], name in front,
        ))  # fmt: skip
    runs, origins = _over(results[0], state, k)
    return View(state, recipe, steps, floor, tuple(cells), runs, origins)


def _seeds(here: Errors, known: Errors | None, name: str, reference: Result | None) -> Interval | None:
    """For new seeds where a season has one run of each recipe: with the spread of the public runs."""
    if known is None or reference is None or len(recipes := run_ratios(here, name, reference.name)) < MIN_RECIPES:
        return None
    found = skill_interval(recipes, spread_of((here, known), name, reference.name))
    count = sum(len(runs_R) for runs_R in recipes.values())
    ends = (found.skill, found.low, found.high)
    return Interval("these recipes, new seeds", *ends, 0.95, len(recipes), count) if np.isfinite(found.low) else None


def none_for_nan(value: float | None) -> float | None:
    """NaN becomes None."""
    return None if value is None or np.isnan(value) else float(value)


def front_of(points: Mapping[str, tuple[float, float | None]], lower: bool) -> set[str]:
    """Names of the (cost, value) that no other beats in one without losing in the other."""
    have = {name: (cost, value if lower else -value) for name, (cost, value) in points.items() if value is not None}
    return {
        name
        for name, (cost, value) in have.items()
        if not any((c <= cost and v <= value and (c, v) != (cost, value)) for c, v in have.values())
    }


def _groups(errors: Errors, names: Sequence[str], reference: Result | None) -> dict[str, int]:
    """Rank group of each forecaster, from 1; empty with too few recipes."""
    base_T = errors.by_forecaster[reference.name] if reference else None
    return ranks(rank_groups({name: errors.by_forecaster[name] for name in names}, errors.tasks, base_T=base_T))


def _in_state(errors: Errors, state: str) -> Errors:
    if state == ALL:
        return errors
    return errors.select(crossing=True) if state == CROSSING else errors.select(state=state)


def _means_of_all(run: RunResult, state: str, metric: str) -> list[float | None]:
    """[K] mean over all origins of the run; the state is not looked at."""
    rows = [task.metrics[metric] for task in run.tasks if metric in task.metrics]
    return [present_mean(values) for values in zip(*rows, strict=True)]


def _over(result: Result, state: str, k: int | None) -> tuple[int, int]:
    """Runs and origins that a value of the view is a mean over."""
    by_run = [sum(_counts(task.state, task.crossing, state, k) for task in run.tasks) for run in result.runs]
    return sum(number > 0 for number in by_run), sum(by_run)


def _counts(task_state: str, crossing: tuple[bool, ...], state: str, k: int | None) -> bool:
    if state == CROSSING:
        return any(crossing) if k is None else crossing[k]
    return state in (ALL, task_state)
