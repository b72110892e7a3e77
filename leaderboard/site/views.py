"""What the leaderboard shows for each choice of state, recipe and horizon: computed here, only shown by the pages.

Values are those of `results.grid`, conclusions those of `results.statistics`. All views of a choice of runs are
computed together. Axis letters: V views of a choice (state x horizon), C choices of runs, F forecasters, R runs,
K suite horizons.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from leaderboard.ranking import PossibleRanks, count_wins, mean_rates
from leaderboard.seeds import skill_interval
from leaderboard.site.inputs import Board
from moeload_bench.arrays import BoolArray, FloatArray
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.grid import ALL, Standings, Values, metrics_in
from moeload_bench.results.statistics import MIN_RECIPES, RunMeans, Runs, seed_spread
from moeload_bench.scoring.catalogue import PRIMARY, lower_is_better
from moeload_bench.scoring.floors import excess
from moeload_bench.suites.suite import CROSSING, STATES

REGRET = f"regret@{HEADLINE}"
Looked = tuple[str, int | None]
"""A state, or all; a horizon, or None for all."""


@dataclass(frozen=True, eq=False)
class Skills:
    """Skill of all forecasters in one choice, its intervals and ranks: the same for all metrics of one `ratio_metric`.

    NaN where there is no such number; no ranks of a choice of runs.
    """

    skill_F: FloatArray
    new_recipe_F2: FloatArray
    new_seeds_F2: FloatArray
    ranks: PossibleRanks


@dataclass(frozen=True, eq=False)
class View:
    """All forecasters, in the order of the board's entries, for one choice; ``horizon`` None: over all.

    Values are means over ``runs`` and ``origins``; NaN where the view has no such number. ``regret_F`` is the headline
    regret on the same tasks; ``front_F``: no other forecaster of the view has both a smaller cost in CPU time and a
    better value.
    """

    state: str
    recipe: str
    horizon: int | None
    floor: float | None
    runs: int
    origins: int
    value_F: FloatArray
    excess_F: FloatArray
    skills: Skills
    win_rate_F: FloatArray
    regret_F: FloatArray
    front_F: BoolArray


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


def looks_of(board: Board) -> list[Looked]:
    """Return the views of a choice of runs, in order."""
    return [(state, horizon) for state in states_of(board) for horizon in (None, *board.suite.horizons)]


def views_of(board: Board, metric: str) -> Iterator[View]:
    """Yield every view of a metric: states x (slices and recipes) x horizons."""
    whole, looks, better = scores_of(board, metric), looks_of(board), lower_is_better(metric)
    choices = (ALL, *board.choices)
    skills = _skills_of(board, whole.ratio)
    win_rate_CVF = _win_rates(whole, looks, choices, board, better)
    for c, recipe in enumerate(choices):
        scores, of = whole.on(board.runs_in(recipe)), _of_choice(board, recipe)
        floors = {state: scores.floor(state, "floor_batch") for state in states_of(board)}
        mean_VF, over_VF = _values(scores, looks, floors)
        front_VF = fronts_of(of.cost_F, mean_VF if better is not False else -mean_VF)
        for v, (state, horizon) in enumerate(looks):
            floor_K = floors[state]
            floor = floor_K[scores.horizons.index(horizon)] if floor_K and horizon is not None else None
            yield View(
                state, recipe, horizon, floor, int(of.runs_V[v]), int(of.origins_V[v]), mean_VF[v], over_VF[v],
                skills[c][v], win_rate_CVF[c, v], of.regret_VF[v], front_VF[v],
            )  # fmt: skip


@functools.lru_cache(maxsize=8)
def primary_views(board: Board) -> list[View]:
    """Return every view of the primary metric, which several pages show."""
    return list(views_of(board, PRIMARY))


class _OfChoice(NamedTuple):
    """What does not depend on the metric: CPU ms, headline regrets, runs and origins that a value is a mean over."""

    cost_F: FloatArray
    regret_VF: FloatArray
    runs_V: FloatArray
    origins_V: FloatArray


@functools.lru_cache(maxsize=256)
def _of_choice(board: Board, choice: str) -> _OfChoice:
    scores, looks = scores_of(board, REGRET).on(board.runs_in(choice)), looks_of(board)
    cost_F = np.array([np.nan if result.cpu_ms is None else result.cpu_ms for result in scores.results])
    regret_VF, _ = _values(scores, looks, {})
    origins_VR = _origins(board)[:, scores.at_R]
    return _OfChoice(cost_F, regret_VF, (origins_VR > 0).sum(axis=1), origins_VR.sum(axis=1))


@functools.lru_cache(maxsize=128)
def scores_of(board: Board, metric: str) -> Standings:
    """Return how the entries of a board stand by a metric, for all pages that show it."""
    return Standings(board.results, metric, board.reference, board.tasks)


@functools.lru_cache(maxsize=64)
def _skills_of(board: Board, ratio: str | None) -> list[list[Skills]]:
    """Return skill by choice of runs and look [C][V], as a ratio of errors in a metric; NaN throughout for None."""
    looks, shape = looks_of(board), (len(looks_of(board)), len(board.entries))
    whole = None if ratio is None or board.reference is None else scores_of(board, ratio)
    against = None if whole is None or whole.reference is None else _ratios(whole, whole.reference, looks)
    beside = [] if whole is None else _public_runs(board, whole, looks)
    found = []
    for choice in (ALL, *board.choices):
        runs = board.runs_in(choice)
        at_R = [r for r, run in enumerate(board.results[0].runs) if run.trace in runs]
        columns = _skills(None if against is None else against.on(at_R), beside, shape)
        # ranks of a slice would be a look too many
        ranks = [scores_of(board, ratio).ranks(*look) if ratio and choice == ALL else {} for look in looks]
        found.append(list(map(Skills, *columns, ranks)))
    return found


@functools.lru_cache(maxsize=8)
def _origins(board: Board) -> FloatArray:
    """Return the origins of each run that a value of a view is a mean over, [V, R]."""
    horizons, runs = board.suite.horizons, board.results[0].runs

    def count(state: str, horizon: int | None) -> list[int]:
        at = slice(None) if horizon is None else slice(horizons.index(horizon), horizons.index(horizon) + 1)
        return [
            sum(any(task.crossing[at]) if state == CROSSING else state in (ALL, task.state) for task in run.tasks)
            for run in runs
        ]

    return np.array([count(*look) for look in looks_of(board)])


def _values(scores: Standings, looks: Sequence[Looked], floors: Mapping[str, Values]) -> tuple[FloatArray, FloatArray]:
    """Return value and excess over the floor, [V, F]; the excess of all horizons together is not defined."""
    values, overs = [], []
    for state in dict.fromkeys(state for state, _ in looks):
        mean_FK, _, _ = scores.means(state)
        total_F, count_F = np.zeros(len(mean_FK)), (~np.isnan(mean_FK)).sum(axis=1)
        for mean_F in np.nan_to_num(mean_FK).T:  # one after the other, as `present_mean` adds
            total_F = total_F + mean_F
        whole_F = np.full(len(mean_FK), np.nan)
        np.divide(total_F, count_F, out=whole_F, where=count_F > 0)
        values += [whole_F, *mean_FK.T]
        floor_K = floors.get(state)
        over_FK = excess(mean_FK, np.array(floor_K, dtype=np.float64)) if floor_K else np.full(mean_FK.shape, np.nan)
        overs += [np.full(len(mean_FK), np.nan), *over_FK.T]
    return np.stack(values), np.stack(overs)


def _ratios(scores: Standings, base: str, looks: Sequence[Looked]) -> RunMeans:
    """Return the mean log ratios of runs to one of the forecasters, all views below each other, [V * F, R]."""
    means = [scores.run_means(base, *look) for look in looks]
    return RunMeans(np.concatenate([one.mean_FR for one in means]), means[0].recipe_R, means[0].group_R)


def _skills(
    means: RunMeans | None, beside: Sequence[Runs], shape: tuple[int, int]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return skill [V, F] and its intervals [V, F, 2] on the runs of the means.

    Where a recipe has one run here, the spread of the public runs ``beside`` it is taken with it.
    """
    V, F = shape
    if means is None:
        return np.full(shape, np.nan), np.full((V, F, 2), np.nan), np.full((V, F, 2), np.nan)
    seeds_X2 = means.ends("these recipes, new seeds")
    for x in np.flatnonzero(np.isnan(seeds_X2[:, 0])).tolist() if beside else ():
        runs = means.by_recipe(x)
        if len(runs) >= MIN_RECIPES:
            seeds_X2[x] = skill_interval(runs, seed_spread([runs, beside[x]]))[1:]
    skill_VF, new_recipe_VF2, new_seeds_VF2 = (
        found.reshape(V, -1, *found.shape[1:])[:, :F] for found in (means.skill_F, means.ends("a new recipe"), seeds_X2)
    )
    return skill_VF, new_recipe_VF2, new_seeds_VF2


def _public_runs(board: Board, whole: Standings, looks: Sequence[Looked]) -> list[Runs]:
    """Return by view and forecaster its public runs beside a season, {} for an entry that has none; else []."""
    if not board.known or whole.reference is None or whole.ratio is None:
        return []
    rows, names = list(whole.ratios.by_forecaster), [result.name for result in board.known]
    if whole.reference not in names:
        return [{}] * (len(looks) * len(rows))
    means = _ratios(Standings(board.known, whole.ratio, None), whole.reference, looks)
    at = [names.index(name) if name in names else None for name in rows]
    return [{} if f is None else means.by_recipe(v * len(names) + f) for v in range(len(looks)) for f in at]


def _win_rates(
    scores: Standings, looks: Sequence[Looked], choices: Sequence[str], board: Board, lower: bool | None
) -> FloatArray:
    """Return the mean win rates of every choice of runs, [C, V, F]; over all horizons they are of the sum of each."""
    C, V, F = len(choices), len(looks), len(scores.results)
    if lower is None:
        return np.full((C, V, F), np.nan)
    chosen = [board.runs_in(choice) for choice in choices]
    in_RC = np.array([[run.trace in runs for runs in chosen] for run in scores.results[0].runs], dtype=np.float64)
    number_T, recipe_R = scores.errors.tasks.by_run
    states = list(dict.fromkeys(state for state, _ in looks))
    won: list[FloatArray] = []
    tasks: list[FloatArray] = []
    for horizon in scores.horizons:
        at = scores.places(ALL, horizon)
        error_FT = np.stack([scores.errors.by_forecaster[one.name][at] for one in scores.results])
        of_run_TR = number_T[at][:, None] == np.arange(len(recipe_R))
        in_state = [np.isin(at, scores.places(state, horizon))[:, None] for state in states]
        counts = count_wins(error_FT if lower else -error_FT, np.hstack([of_run_TR & one_T1 for one_T1 in in_state]))
        for found, of_FFX in zip((won, tasks), counts, strict=True):
            found.append((of_FFX.reshape(F, F, len(states), -1) @ in_RC).transpose(3, 2, 0, 1))  # [C, state, F, F]
    won_, tasks_ = (
        np.stack([sum(found), *found], axis=2).reshape(C * V, F, F)
        for found in (won, tasks)  # all, then each horizon
    )
    return mean_rates(won_, tasks_).reshape(C, V, F)


def fronts_of(cost_F: FloatArray, error_VF: FloatArray) -> BoolArray:
    """Return which forecasters no other beats in cost or error without losing in the other, [V, F]."""
    known_VF = ~np.isnan(error_VF) & ~np.isnan(cost_F)
    cheaper_FF, as_cheap_FF = cost_F[:, None] < cost_F, cost_F[:, None] <= cost_F
    better_VFF = error_VF[:, :, None] < error_VF[:, None]
    as_good_VFF = error_VF[:, :, None] <= error_VF[:, None]
    beats_VFF = (as_cheap_FF & as_good_VFF) & (cheaper_FF | better_VFF) & known_VF[:, :, None]
    return np.asarray(known_VF & ~beats_VFF.any(axis=1))
