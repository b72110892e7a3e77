"""How sharp a suite is beside the one before: widths of intervals, and pairs told apart."""

from __future__ import annotations

import re

import numpy as np
import pytest

from leaderboard.pages.narrowing import narrowing
from leaderboard.pages.results import results_of
from leaderboard.ranking import pairs_apart
from moeload_bench.errors import ResultError
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Tasks

NAMES = ("sw_avg", "ema", "gated", "uniform")


def some(recipes: int | None = None, names: tuple[str, ...] = NAMES) -> list[Result]:
    """Committed results of v1, of so many recipes only."""
    results = [result for result in results_of("v1") if result.name in names]
    kept = sorted({run.recipe for run in results[0].runs})[:recipes]
    return [r.model_copy(update={"runs": tuple(x for x in r.runs if x.recipe in kept)}) for r in results]


def test_a_suite_beside_itself_is_as_sharp() -> None:
    """Every ratio is one, and no pair is told apart on one side only."""
    text = narrowing(some(), some())
    assert "the median ratio of widths is 1.00" in text
    assert "Only in" not in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 2 * (len(NAMES) - 1), "the reference is no row, each state has the others"
    assert all(row.endswith("| 1.00 |") for row in rows)


def test_fewer_recipes_are_less_sharp_and_what_is_told_apart_is_named() -> None:
    """Widths grow, and pairs that twelve recipes tell apart are listed under the suite that has them."""
    text = narrowing(some(6), some())
    median = float(re.findall(r"median ratio of widths is ([\d.]+)", text)[0])
    assert median < 1
    assert (
        "rest on 12 recipes (2 of them near twins of others, which it counts singly) in v1, on 6 recipes in v1." in text
    )
    only = next(line for line in text.splitlines() if line.startswith("Only in v1: "))
    assert "`gated` before `ema`, `sw_avg`, `uniform`" in only


@pytest.mark.slow
def test_near_twins_that_a_suite_groups_are_one_recipe() -> None:
    """v2 does, and says no more of them; v1, whose results are older than groups, counts each."""
    v2 = [result for result in results_of("v2") if result.name in NAMES]
    assert "rest on 18 recipes in v2, on 12 recipes (2 of them near twins" in narrowing(some(), v2)


def test_only_what_both_suites_have_is_compared() -> None:
    """A forecaster of one suite alone is left out; without the reference there is nothing to say."""
    text = narrowing(some(names=("sw_avg", "ema")), some())
    assert "`ema`" in text
    assert "`gated`" not in text
    with pytest.raises(ResultError, match="the reference is not among the results"):
        narrowing(some(names=("ema",)), some())
    with pytest.raises(ResultError, match="too few recipes"):
        narrowing(some(3), some())


def test_pairs_are_told_apart_with_the_better_one_first() -> None:
    """By a t test over recipe means, corrected by Holm: a half is told from one, what wavers about it is not."""
    rng = np.random.default_rng(0)
    runs = [f"r{i}" for i in range(8)]
    one = np.exp(rng.normal(0.0, 0.05, 8))
    errors = {"one": one, "half": one / 2, "like": one * np.exp(np.tile([-0.1, 0.1], 4))}
    assert pairs_apart(errors, Tasks(runs, runs)) == {("half", "one"), ("half", "like")}
