"""Which forecasters can be told apart, the ranks that each could have, and how often each one wins."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.results.grid import NOTHING, row_means
from moeload_bench.results.statistics import EXACT, RunMeans, Tasks, log_ratio, possible_ranks, told_apart

PossibleRanks = Mapping[str, tuple[int, int]]
"""By forecaster the least and the greatest rank that it could have."""


def rank_text(ranks: tuple[int, int]) -> str:
    """Return `1 to 14`."""
    return "{} to {}".format(*ranks)


def rank_cell(sets: PossibleRanks | None, name: str) -> str:
    """Return a forecaster's ranks; `-` where there are too few runs or recipes to tell."""
    return rank_text(sets[name]) if sets else NOTHING


def count_wins(error_FT: FloatArray, of_TX: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return on how many tasks of each group the first has the smaller error, a tie (to within EXACT) counting half,
    and on how many both have one, each [F, F, X]. ``of_TX`` is 1 where a task is in a group.
    """
    F, known_FT = len(error_FT), np.isfinite(error_FT)
    of_TX = of_TX.astype(np.float32)  # halves are exact up to 2**23, in half the time
    won_FFX, tasks_FFX = (np.zeros((F, F, of_TX.shape[1])) for _ in range(2))
    for f in range(F):  # one against itself and those behind it: the others' wins are what is left of the tasks
        both_GT = known_FT[f] & known_FT[f:]
        with np.errstate(invalid="ignore"):
            gap_GT = error_FT[f] - error_FT[f:]
            won_GT = np.where(both_GT, (gap_GT < -EXACT) + np.float32(0.5) * (np.abs(gap_GT) <= EXACT), np.float32(0))
        tasks_FFX[f, f:] = tasks_FFX[f:, f] = both_GT.astype(np.float32) @ of_TX
        won_FFX[f, f:] = won_GT @ of_TX
        won_FFX[f:, f] = tasks_FFX[f, f:] - won_FFX[f, f:]
    return won_FFX, tasks_FFX


def mean_rates(won_XFF: FloatArray, tasks_XFF: FloatArray) -> FloatArray:
    """Return each one's mean win rate against every other one, [X, F]; NaN for a single one."""
    X, F = won_XFF.shape[:2]
    if F == 1:
        return np.full((X, 1), np.nan)
    rate_XFF = np.full(won_XFF.shape, np.nan)
    np.divide(won_XFF, tasks_XFF, out=rate_XFF, where=tasks_XFF > 0)
    return row_means(rate_XFF[:, ~np.eye(F, dtype=np.bool_)].reshape(X, F, F - 1))


def rank_sets(
    errors: Mapping[str, FloatArray], tasks: Tasks, test: Callable[[str, str], float | None] | None = None
) -> dict[str, tuple[int, int]] | None:
    """Each forecaster's least and greatest rank (`possible_ranks`); None where a pair cannot be tested.

    ``test`` gives the p of two forecasters; without it `RunMeans.p_F`, so that the ranks are those on new recipes.
    """
    apart = pairs_apart(errors, tasks, test)
    return None if apart is None else possible_ranks(list(errors), apart)


def pairs_apart(
    errors: Mapping[str, FloatArray], tasks: Tasks, test: Callable[[str, str], float | None] | None = None
) -> frozenset[tuple[str, str]] | None:
    """Return the pairs that can be told apart, the better one first (`told_apart`); None where a pair has no p."""
    error_FT, (first_P, second_P) = np.stack(list(errors.values())), np.triu_indices(len(errors), 1)
    means = RunMeans.of(log_ratio(error_FT[second_P], error_FT[first_P]), tasks)
    tested = None if test is None else np.array([test(*pair) for pair in itertools.combinations(errors, 2)], np.float64)
    return told_apart(list(errors), means.skill_F, means.p_F if tested is None else tested)
