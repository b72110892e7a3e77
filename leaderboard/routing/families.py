"""Made-up loads as people test with: lognormal, Zipf and Dirichlet, fitted to the imbalance of a recorded layer.

Axis letters: D draws, E experts, R expert-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from moeload_bench.arrays import FloatArray

DRAWS = 200
_STEPS = 40
"""Halvings of the interval that the parameter is looked for in."""


def lognormal(parameter: float, uniform_DE: FloatArray) -> FloatArray:
    """Return weights exp(sigma z), over the largest of each draw."""
    normal_DE = stats.norm.ppf(uniform_DE)
    return np.asarray(np.exp(parameter * (normal_DE - normal_DE.max(axis=1, keepdims=True))))


def zipf(parameter: float, uniform_DE: FloatArray) -> FloatArray:
    """Return weights rank^-s, the ranks in a random order."""
    rank_DE = uniform_DE.argsort(axis=1).argsort(axis=1) + 1.0
    return np.asarray(rank_DE**-parameter)


def dirichlet(parameter: float, uniform_DE: FloatArray) -> FloatArray:
    """Return gamma weights of shape 1 / parameter, which are those of a symmetric Dirichlet once they sum to 1."""
    return np.asarray(stats.gamma.ppf(uniform_DE, 1.0 / max(parameter, 1e-6)) + 1e-300)


FAMILIES: Mapping[str, Callable[[float, FloatArray], FloatArray]] = {
    "lognormal": lognormal,
    "Zipf": zipf,
    "Dirichlet": dirichlet,
}
"""Each family's weights at a parameter from 0 (even) upwards; a larger one is less even."""
_MOST = 512.0


def chances(weight_DE: FloatArray, top_k: int) -> FloatArray:
    """Return the part of tokens that choose each expert, in proportion to the weights, at most 1, top-k in all."""
    chance_DE = top_k * weight_DE / weight_DE.sum(axis=1, keepdims=True)
    for _ in range(top_k):
        full_DE = chance_DE >= 1.0
        if not full_DE.any():
            break
        rest_DE = np.where(full_DE, 0.0, weight_DE)
        left_D1 = top_k - full_DE.sum(axis=1, keepdims=True)
        total_D1 = rest_DE.sum(axis=1, keepdims=True)
        chance_DE = np.where(full_DE, 1.0, left_D1 * rest_DE / np.where(total_D1 > 0, total_D1, 1.0))
    return np.asarray(chance_DE)


def fitted(family: str, imbalance: float, experts: int, top_k: int, seed: int = 0) -> FloatArray:
    """Return chances [D, E] of a family whose busiest expert over the mean is the given one, on average over draws."""
    uniform_DE = np.random.default_rng(seed).uniform(size=(DRAWS, experts))
    low, high = 0.0, _MOST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        chance_DE = chances(FAMILIES[family](middle, uniform_DE), top_k)
        if chance_DE.max(axis=1).mean() * experts / top_k < imbalance:
            low = middle
        else:
            high = middle
    return chances(FAMILIES[family](low, uniform_DE), top_k)


def busiest_rank(load_DE: FloatArray, ranks: int) -> FloatArray:
    """Return the busiest rank over the mean one [D]; rank r holds the experts r E / R to (r + 1) E / R - 1."""
    load_DR = load_DE.reshape(len(load_DE), ranks, -1).sum(axis=2)
    return np.asarray(load_DR.max(axis=1) / load_DR.mean(axis=1))
