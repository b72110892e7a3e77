"""What forks tell: whether a forecaster knew the recorded future, and how much of it nobody could have known.

A forecast made at an origin of the recorded run is scored against J futures of the same past: the recorded one, which
comes first, and its forks. To a forecaster that knows the past alone they are exchangeable; to one that knows the
recorded future, that one is nearer than the others.

Axis letters: T origins of forks, R runs, J futures (0 the recorded one), K horizons, L MoE layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import SeasonError
from moeload_bench.traces.means import mean_over

EXACT = 20_000  # up to so many relabellings are all looked at
DRAWS = 19_999
LEAST = 1e-9


@dataclass(frozen=True, eq=False)
class ForkTask:
    """One origin of one run: the forecast's window means [K, L, E] and the true ones of every future [J, K, L, E]."""

    recipe: str
    run: int
    forecast_KLE: FloatArray
    future_JKLE: FloatArray

    def loss_JK(self) -> FloatArray:
        """`window_tv` against each future: half the L1 distance, mean over layers."""
        return share_distance(self.future_JKLE, self.forecast_KLE)

    def knowing(self, future: int, weight: float) -> ForkTask:
        """Return the same forecast by one that holds one future and moves by ``weight`` of the way towards it."""
        moved = self.forecast_KLE + weight * (self.future_JKLE[future] - self.forecast_KLE)
        return ForkTask(self.recipe, self.run, moved, self.future_JKLE)


@dataclass(frozen=True)
class ForkTest:
    """One-sided: ``nearer`` is the mean log ratio of the loss on the recorded future to that on its forks."""

    nearer: float
    p_value: float
    runs: int
    least_p: float


def share_distance(one: FloatArray, other: FloatArray) -> FloatArray:
    """Total variation of shares [..., L, E], mean over the layers that have load in both."""
    return np.asarray(mean_over(0.5 * np.abs(one - other).sum(axis=-1), axis=-1))


def permutation_test(tasks: Sequence[tuple[str, int, FloatArray]], seed: int = 0) -> ForkTest:
    """Return whether the recorded future is nearer to the forecasts than its forks are: (recipe, run, loss [J, K]) by
    origin.

    A run is a block: which of its futures is called the recorded one is drawn once for all of its origins. All
    relabellings are looked at up to `EXACT`, else `DRAWS` of them (Phipson and Smyth 2010: the observed one counts).
    Raises `SeasonError` without any task.
    """
    return _tested(_log_RJ(tasks), seed)


def _log_RJ(tasks: Sequence[tuple[str, int, FloatArray]]) -> FloatArray:
    """Mean log loss by run and future, over the run's origins and the horizons."""
    runs: dict[tuple[str, int], list[FloatArray]] = {}
    for recipe, run, loss_JK in tasks:
        runs.setdefault((recipe, run), []).append(np.log(np.maximum(loss_JK, LEAST)).mean(axis=1))
    if not runs:
        raise SeasonError("no forecast was made where a run forks: nothing can be tested")
    return np.stack([np.mean(found, axis=0) for found in runs.values()])


def _tested(log_RJ: FloatArray, seed: int) -> ForkTest:
    R, J = log_RJ.shape
    gap_RJ = (log_RJ - log_RJ.mean(axis=1, keepdims=True)) * J / (J - 1)  # of each from the mean of the others
    observed = float(gap_RJ[:, 0].mean())
    if J**R <= EXACT:
        every = np.indices((J,) * R).reshape(R, -1).T
        found = gap_RJ[np.arange(R), every].mean(axis=1)
        p_value = float(np.mean(found <= observed + 1e-12))
    else:
        drawn = np.random.RandomState(seed).randint(J, size=(DRAWS, R))
        found = gap_RJ[np.arange(R), drawn].mean(axis=1)
        p_value = float((1 + np.sum(found <= observed + 1e-12)) / (1 + DRAWS))
    return ForkTest(observed, p_value, R, max(float(J) ** -R, 0.0 if J**R <= EXACT else 1 / (1 + DRAWS)))


def detection_power(
    tasks: Sequence[ForkTask], weight: float, level: float, draws: int = 200, seed: int = 0
) -> dict[str, float]:
    """Return how often the test finds a memory of a weight: of all recorded futures ("all"), or of those of one recipe.

    In each draw one future of every run is taken as the recorded one, as they are exchangeable; the forecasts of the
    runs that are known move towards it.
    """
    random = np.random.RandomState(seed)
    recipes = list(dict.fromkeys(task.recipe for task in tasks))
    known: dict[str, set[str]] = {"all": set(recipes), **{recipe: {recipe} for recipe in recipes}}
    return {
        name: float(np.mean([_found(tasks, weight, which, random) <= level for _ in range(draws)]))
        for name, which in known.items()
    }


def _found(tasks: Sequence[ForkTask], weight: float, recipes: set[str], random: np.random.RandomState) -> float:
    J = len(tasks[0].future_JKLE)
    recorded: dict[tuple[str, int], int] = {}
    losses = []
    for task in tasks:
        j = recorded.setdefault((task.recipe, task.run), int(random.randint(J)))
        loss_JK = (task.knowing(j, weight) if task.recipe in recipes else task).loss_JK()
        losses.append((task.recipe, task.run, np.concatenate([loss_JK[j : j + 1], np.delete(loss_JK, j, axis=0)])))
    return _tested(_log_RJ(losses), int(random.randint(2**31))).p_value


def floor_fork(future_JKLE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`window_tv` that is left to a forecaster that knows the whole state of training [K], and its standard error [K].

    Two futures differ by sqrt(2) times what one differs from their common centre where differences are normal, so it is
    the mean distance of pairs over sqrt(2); batch noise of the window is in it. The error is the jackknife's over
    futures (Efron and Stein 1981), for this origin.
    """
    J = len(future_JKLE)
    pair_JJK = np.stack([share_distance(future_JKLE, future) for future in future_JKLE])
    total_K = pair_JJK.sum(axis=(0, 1))
    floor_K = total_K / (J * (J - 1)) / math.sqrt(2)
    if J < 3:
        return floor_K, np.full_like(floor_K, np.nan)
    without_JK = (total_K - 2 * pair_JJK.sum(axis=1)) / ((J - 1) * (J - 2)) / math.sqrt(2)
    error_K = np.sqrt((J - 1) / J * ((without_JK - without_JK.mean(axis=0)) ** 2).sum(axis=0))
    return floor_K, error_K


def mean_floor(floors: Sequence[tuple[str, FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Return the mean of floors (run, floor [K], error [K]) and its standard error: over runs where there are two."""
    by_run: Mapping[str, list[FloatArray]] = {run: [] for run, _, _ in floors}
    for run, floor_K, _ in floors:
        by_run[run].append(floor_K)
    mean_RK = np.stack([np.mean(found, axis=0) for found in by_run.values()])
    if len(mean_RK) > 1:
        return mean_RK.mean(axis=0), mean_RK.std(axis=0, ddof=1) / math.sqrt(len(mean_RK))
    error_TK = np.stack([error_K for _, _, error_K in floors])
    return mean_RK[0], np.sqrt((error_TK**2).sum(axis=0)) / len(error_TK)
