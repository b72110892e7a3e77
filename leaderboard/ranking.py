"""Which forecasters can be told apart, the ranks that each could have, and how often each one wins."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.results.grid import NOTHING
from moeload_bench.results.statistics import EXACT, Tasks, holm, log_ratio, p_value, skill

PossibleRanks = Mapping[str, tuple[int, int]]
"""By forecaster the least and the greatest rank that it could have."""


def rank_text(sets: PossibleRanks | None, name: str) -> str:
    """Return `1 to 14`; `-` where there are too few runs or recipes to tell."""
    return "{} to {}".format(*sets[name]) if sets else NOTHING


def win_rate(error_T: FloatArray, other_T: FloatArray) -> float:
    """Fraction of tasks with the smaller error, a tie (to within EXACT) counting half; NaN without any common task."""
    known = np.isfinite(error_T) & np.isfinite(other_T)
    if not known.any():
        return float("nan")
    gap = np.asarray(error_T)[known] - np.asarray(other_T)[known]
    return float(np.mean((gap < -EXACT) + 0.5 * (np.abs(gap) <= EXACT)))


def win_rates(errors: Mapping[str, FloatArray]) -> dict[str, float]:
    """Each forecaster's mean win rate against every other one; NaN for a single forecaster."""
    out = {}
    for name, error_T in errors.items():
        rates = [win_rate(error_T, other_T) for other, other_T in errors.items() if other != name]
        known = [rate for rate in rates if np.isfinite(rate)]
        out[name] = float(np.mean(known)) if known else float("nan")
    return out


def rank_sets(
    errors: Mapping[str, FloatArray],
    tasks: Tasks,
    alpha: float = 0.05,
    test: Callable[[str, str], float | None] | None = None,
) -> dict[str, tuple[int, int]] | None:
    """Each forecaster's least and greatest rank; None where a pair cannot be tested.

    All pairs are tested, Holm over them: with probability 1 - alpha at least every set holds the true rank, all of them
    at once (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91). ``test`` gives the p of two
    forecasters; without it `p_value`, so that the ranks are those on new recipes.
    """
    apart = pairs_apart(errors, tasks, alpha, test)
    if apart is None:
        return None
    better, worse = dict.fromkeys(errors, 0), dict.fromkeys(errors, 0)
    for first, second in apart:
        better[second] += 1
        worse[first] += 1
    return {name: (1 + better[name], len(errors) - worse[name]) for name in errors}


def pairs_apart(
    errors: Mapping[str, FloatArray],
    tasks: Tasks,
    alpha: float = 0.05,
    test: Callable[[str, str], float | None] | None = None,
) -> frozenset[tuple[str, str]] | None:
    """Return the pairs that can be told apart, the better one first: all are tested (see `rank_sets`), Holm over them.

    None where a pair cannot be tested.
    """
    pairs = list(itertools.combinations(errors, 2))
    ratios = {pair: log_ratio(errors[pair[0]], errors[pair[1]]) for pair in pairs}
    found = (test(*pair) if test else p_value(ratio_T, tasks) for pair, ratio_T in ratios.items())
    p_values = [p for p in found if p is not None]
    if len(p_values) < len(pairs):
        return None
    return frozenset(
        pair if skill(ratios[pair], tasks) > 0 else pair[::-1]
        for pair, p in zip(pairs, holm(p_values), strict=True)
        if p < alpha
    )
