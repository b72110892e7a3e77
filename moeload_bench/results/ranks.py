"""Which ranks a forecaster can have on a recipe not seen: every pair is tested, with Holm's correction over all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.results.skill import centers, holm, log_ratio, p_values, run_means, votes

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
Pair = tuple[str, str]


def pair_ratios(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the log ratio of each pair's second forecaster to its first one, task by task; columns are pairs."""
    import pandas as pd

    pairs = list(itertools.combinations(errors.columns, 2))
    first, second = (errors[[pair[i] for pair in pairs]].to_numpy() for i in (0, 1))
    return pd.DataFrame(log_ratio(second, first), index=errors.index, columns=pd.Index(pairs, tupleize_cols=False))


def separated_pairs(pairs: Sequence[Pair], centers: Sequence[float], p: Sequence[float]) -> frozenset[Pair] | None:
    """Return the pairs that a test separates, the better one first; None where a pair cannot be tested.

    ``centers``: the mean log ratio of each pair's second forecaster to its first one. Holm over all pairs.
    """
    if np.isnan(p).any():
        return None
    tests = zip(pairs, centers, holm(p), strict=True)
    return frozenset(pair[::-1] if center < 0 else pair for pair, center, corrected in tests if corrected < LEVEL)


def possible_ranks(names: Sequence[str], separated: Collection[Pair]) -> dict[str, tuple[int, int]]:
    """Return the least and the greatest rank of each forecaster, from the pairs that are separated, better first.

    With Holm's correction over all pairs at a level of 0.05, with probability 0.95 at least every set holds the true
    rank, all of them at once (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91).
    """
    better, worse = Counter(first for first, _ in separated), Counter(second for _, second in separated)
    return {name: (1 + worse[name], len(names) - better[name]) for name in names}


def rank_table(errors: pd.DataFrame, by: Sequence[str], twins: Mapping[str, str]) -> pd.DataFrame:
    """Return columns ``by``, forecaster, rank_low, rank_high; no row for a group in which a pair cannot be tested."""
    import pandas as pd

    names = [str(name) for name in errors.columns]
    groups = votes(run_means(pair_ratios(errors), by), by, twins)
    center, p = centers(groups, by), p_values(groups, by)
    rows = []
    pairs = list(itertools.combinations(names, 2))
    for key, center_P, p_P in zip(center.index, center.to_numpy().tolist(), p.to_numpy().tolist(), strict=True):
        separated = separated_pairs(pairs, center_P, p_P)
        if separated is not None:
            group = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            ranks = possible_ranks(names, separated)
            rows += [
                group | {"forecaster": name, "rank_low": low, "rank_high": high} for name, (low, high) in ranks.items()
            ]
    return pd.DataFrame(rows, columns=[*by, "forecaster", "rank_low", "rank_high"])
