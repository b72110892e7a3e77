"""Ranks that forecasters can have on a recipe not seen."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.errors import NotFoundError
from moeload_bench.results.ranks import possible_ranks, separated_pairs
from tests.support.tables import made_results

TRACES = [f"r{i}/test/seed0" for i in range(12)]


def errors_of(level: dict[str, float], seed: int, recipes: int = 12) -> dict[str, list[list[float]]]:
    """Return errors around a level for each forecaster, one task per recipe."""
    rng = np.random.default_rng(seed)
    return {name: [[mean * np.exp(x)] for x in rng.normal(0, 0.1, recipes)] for name, mean in level.items()}


def test_possible_ranks_are_what_the_separated_pairs_leave():
    """A chain leaves one rank each; without any pair each can have every rank; what cannot be tested has none."""
    names = ["a", "b", "c"]
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert separated_pairs(pairs, [1.0] * 3, [1e-6] * 3) == set(pairs)
    assert separated_pairs(pairs, [-1.0] * 3, [1e-6] * 3) == {(b, a) for a, b in pairs}
    assert separated_pairs(pairs, [1.0] * 3, [np.nan, 0.1, 0.1]) is None
    assert possible_ranks(names, pairs) == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}
    assert possible_ranks(names, []) == dict.fromkeys(names, (1, 3))
    assert possible_ranks(names, [("a", "c")]) == {"a": (1, 2), "b": (1, 3), "c": (2, 3)}


def test_rank_sets_hold_all_true_ranks_at_once():
    """At 95 % or more, with two forecasters alike and two apart; with few recipes there are none."""
    true = {"a": (1, 1), "b": (2, 3), "c": (2, 3), "d": (4, 4)}
    held, sims = 0, 60
    for seed in range(sims):
        errors = errors_of({"a": 0.4, "b": 0.7, "c": 0.7, "d": 1.0}, seed)
        found = made_results(errors, TRACES, horizons=(1,)).ranks().set_index("forecaster")
        held += all(
            found.loc[name, "rank_low"] <= low and high <= found.loc[name, "rank_high"]
            for name, (low, high) in true.items()
        )
    assert held / sims >= 0.93
    few = made_results(errors_of({"a": 0.4, "b": 0.7}, 0, recipes=4), TRACES[:4], horizons=(1,))
    assert few.ranks().empty


def test_tests_are_corrected_as_one_family():
    """Each other forecaster is compared once; the corrected p is Holm's over those, and never below the plain one."""
    results = made_results(errors_of({"good": 0.6, "sw_avg": 1.0, "bad": 2.7}, 1), TRACES, horizons=(1,))
    found = results.tests("sw_avg").set_index("forecaster")
    assert list(found.index) == ["good", "bad"]
    assert (found["p_holm"] >= found["p"]).all()
    assert found.loc["good", "skill"] > 0.3
    assert found.loc["bad", "skill"] < -1.0
    with pytest.raises(NotFoundError, match="unknown forecaster 'other'; there is: "):
        results.tests("other")


def test_one_whose_errors_scatter_is_not_separated():
    """It is worse on average than one that is told from the leader, and no test tells it from anybody."""
    wild = [[0.1 * factor] for factor in (0.5, 15, 0.6, 12, 0.4, 19)]
    results = made_results(
        {"leader": [[0.1]] * 6, "worse": [[0.12 + 0.001 * i] for i in range(6)], "wild": wild},
        TRACES[:6],
        horizons=(1,),
    )
    found = results.tests("leader").set_index("forecaster")["p_holm"]
    assert found["worse"] < 0.05 < found["wild"]
