"""What a season claims, against a second implementation, and what its page and README say of it."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from leaderboard.boards import UNLISTED
from leaderboard.season.claims import (
    Estimate,
    against_others,
    cell_gains,
    claim_lines,
    estimate,
    headline,
    ordered_outcomes,
    recipe_means,
    results_in_order,
    without_families,
)
from leaderboard.season.folder import SEASONS, SeasonFolder
from leaderboard.season.page import season_page
from leaderboard.season.records import OrderedTest
from leaderboard.season.scored import ScoredSeason, facts_sentence, load_table, scored_seasons, season_facts
from leaderboard.suites.plan import families
from moeload_bench.results.savings import OFFSET
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from tests.support.seasons import NAME, Repository, use_small_world


@pytest.fixture(scope="module")
def closed() -> ScoredSeason:
    return next(one for one in scored_seasons() if one.name == "2027-02")


def planned(
    candidate: str, reference: str, state: Literal["transient", "stable"] = "stable", worse: float = 0
) -> OrderedTest:
    return OrderedTest(candidate=candidate, reference=reference, state=state, worse_at_most=worse)


PLAN = (
    planned("guarded", "average_tuned", "transient"),
    planned("guarded", "average_tuned"),
    planned("adaptive", "guarded", worse=40),
    planned("sw_avg", "guarded"),
    planned("guarded", "uniform"),
)
"""The fourth fails, so that the fifth, which would pass, is not tested."""


@pytest.fixture(scope="module")
def ordered(closed: ScoredSeason) -> ScoredSeason:
    """The closed season as if its terms had ordered these tests."""
    folder = SeasonFolder(closed.folder.path)
    vars(folder)["season"] = closed.season.model_copy(update={"tests": PLAN, "offset": OFFSET})
    return ScoredSeason(folder, closed.table)


@pytest.fixture
def made(scored: Repository, monkeypatch: pytest.MonkeyPatch) -> ScoredSeason:
    use_small_world(monkeypatch)
    return ScoredSeason(scored.folder, load_table(scored.folder))


def ratios_by_hand(scored: ScoredSeason, other: str, state: str, offset: float = 0.0) -> dict[str, float]:
    """Mean log ratio by recipe, from rows alone."""
    rows = scored.results.table.query("state == @state")
    keys = ["recipe", "trace", "origin", "horizon"]
    both: list[Any] = [
        rows[rows["forecaster"] == name].set_index(keys)[PRIMARY] for name in (scored.season.candidate, other)
    ]
    found: dict[str, list[float]] = {}
    for key, mine in both[0].items():
        theirs = both[1][key]
        if mine == mine and theirs == theirs:
            found.setdefault(key[0], []).append(math.log(min(max((mine + offset) / (theirs + offset), 1 / 20), 20)))
    return {recipe: float(np.mean(values)) for recipe, values in found.items()}


@pytest.mark.parametrize(("other", "state"), [("average_tuned", "transient"), ("ema", "stable")])
def test_a_recipe_counts_once_with_the_mean_log_ratio_of_its_tasks(
    closed: ScoredSeason, other: str, state: str
) -> None:
    means = recipe_means(closed.results.errors(PRIMARY), closed.season.candidate, state)[other].dropna()
    assert means.to_dict() == pytest.approx(ratios_by_hand(closed, other, state), rel=1e-9)


def test_a_cell_is_a_t_test_of_its_recipes(closed: ScoredSeason) -> None:
    """The classical one-sample test, one-sided; its interval is the two-sided one."""
    one = closed.season.sets[0]
    part = next(part for part in closed.parts if part.of == one)
    found = ratios_by_hand(closed, closed.season.reference, "transient", closed.season.offset)
    values = np.array([found[recipe] for recipe in part.recipes if recipe in found])
    test = next(test for test in cell_gains(closed, one) if test.what == f"{part.stratum} batches, transient")
    assert test.estimate is not None
    assert test.estimate.p_worse(0) == pytest.approx(stats.ttest_1samp(values, 0, alternative="less").pvalue, rel=1e-6)
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert test.estimate.interval == pytest.approx((1 - math.exp(ends.high), 1 - math.exp(ends.low)), rel=1e-6)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_the_first_test_that_fails_stops_the_rest(p_values: list[float]) -> None:
    found = results_in_order(p_values)
    passed = next((at for at, p in enumerate(p_values) if p >= 0.05), len(p_values))
    assert found == [*["passed"] * passed, *["failed"], *["not tested"] * len(p_values)][: len(p_values)]


def test_ordered_tests_are_those_of_the_savings(ordered: ScoredSeason) -> None:
    """Of planted terms: order and margins are respected; gain, interval and p are those of the comparison of README."""
    outcomes = ordered_outcomes(ordered)
    assert [one.result for one in outcomes] == ["passed", "passed", "passed", "failed", "not tested"]
    results = ordered.on(ordered.recipes["b2"])
    for one in outcomes:
        rows = results.compare(one.test.candidate, one.test.reference, ["state"]).set_index("state")
        row = rows.loc[one.test.state]
        assert one.estimate is not None
        assert (one.estimate.gain, *one.estimate.interval) == pytest.approx((row.saving, row.low, row.high))
        if not one.test.worse_at_most:
            assert min(one.p, 1 - one.p) == pytest.approx(row.p / 2, rel=1e-6, abs=1e-15)
        assert (one.p < 0.05) == (one.estimate.low > -one.test.worse_at_most / 100)
    assert outcomes[-1].p < 0.05


def test_a_page_of_ordered_tests_has_no_other_test(ordered: ScoredSeason) -> None:
    page = season_page(ordered)
    *lines, last = claim_lines(ordered)
    assert [line in page for line in lines] == [True] * len(PLAN)
    assert lines[2].startswith("adaptive errs at most 40 % more than guarded, stable: passed; gain -")
    assert "against `adaptive`: before loads settle, it saved " in last
    assert "Holm p" not in page
    assert "| set s, transient | gain" not in page
    assert "| `shape-olmoe-w64` | small |" in page
    tests = against_others(ordered, ordered.season.tested[0], "stable")
    known = [test for test in tests if test.estimate is not None]
    for test in known:
        assert test.estimate is not None
        assert test.interval == pytest.approx(test.estimate.interval_at(1 - 0.05 / len(known)))


def test_a_mean_needs_two_values() -> None:
    """One alone has no spread."""
    found = estimate(pd.Series([-0.2, -0.1]))
    assert found is not None
    assert (found.mean, found.error) == pytest.approx((-0.15, math.sqrt(0.005 / 2)))
    assert (found.freedom, found.units) == (1, 2)
    assert estimate(pd.Series([-0.2])) is None
    assert (Estimate(-0.1, 0.0, 9, 10).p_worse(0), Estimate(0.1, 0.0, 9, 10).p_worse(0)) == (0.0, 1.0)


@pytest.fixture(scope="module")
def by_family(closed: ScoredSeason) -> ScoredSeason:
    """The closed season as if families had been the unit of its terms."""
    folder = SeasonFolder(closed.folder.path)
    drawn = closed.recipes["b2"].values()
    terms = {"unit": "family", "families": tuple(families(drawn)), "tests": PLAN}
    vars(folder)["season"] = closed.season.model_copy(update=terms)
    return ScoredSeason(folder, closed.table)


def test_a_family_counts_once_where_it_is_the_unit(closed: ScoredSeason, by_family: ScoredSeason) -> None:
    """With the mean of its recipes; one without the state counts with the bound of the test."""
    drawn = families(closed.recipes["b2"].values())
    errors = closed.results.errors(PRIMARY)
    for one in ordered_outcomes(by_family):
        test = one.test
        means = recipe_means(errors, test.candidate, test.state, closed.season.offset)[test.reference].dropna()
        values = [
            float(np.mean([means[name] for name in names if name in means] or [math.log1p(test.worse_at_most / 100)]))
            for names in drawn.values()
        ]
        assert one.estimate is not None
        assert (one.estimate.mean, one.estimate.units) == (pytest.approx(np.mean(values)), 9)
        p = stats.ttest_1samp(values, math.log1p(test.worse_at_most / 100), alternative="less").pvalue
        assert one.p == pytest.approx(p, rel=1e-6)
    states = [{*recipe_means(errors, "online", state)["adaptive"].dropna().index} for state in LABELS]
    assert any(not {*names} & found for names in drawn.values() for found in states)
    left = dict(without_families(by_family))["dots1"]
    assert [one.estimate.units for one in left if one.estimate] == [8] * len(PLAN)
    page = season_page(by_family)
    assert "95 % interval for a new family 1.5 to" in headline(by_family)
    assert "every family counts alike" in page
    assert "| set | cell | families | gain, % |" in page


def test_every_number_of_the_page_is_that_of_the_claims(closed: ScoredSeason) -> None:
    page = season_page(closed)
    first = page.splitlines()[2]
    assert first.startswith("**The maintainers could have chosen what was drawn**")
    assert headline(closed) in page
    shown = 0
    for one, state in product(closed.season.described, LABELS):
        for test in against_others(closed, one, state):
            if test.estimate is None or test.interval is None:
                continue
            low, high = (f"{100 * end:+.1f}" for end in test.interval)
            line = f"| `{test.what}` | {100 * test.estimate.gain:+.1f} | [{low}, {high}] |"
            assert (line in page) == (test.what not in UNLISTED), line
            shown += line in page
    assert shown > 40
    assert facts_sentence(season_facts(closed.folder)) in page


def test_readme_and_page_say_who_took_part() -> None:
    facts = season_facts(SeasonFolder(SEASONS / "2027-02"))
    assert (facts.entries, facts.foreign) == (23, ())
    assert facts_sentence(facts) == (
        "In season 2027-02 all 23 entries are the maintainers' own or their adapters; its runs were drawn by the "
        "maintainers, who could have chosen what was drawn; they were scored by the maintainers."
    )


def test_a_made_season_has_a_page(made: ScoredSeason) -> None:
    """With a public value, a run that was lost, and a set that is too small to test."""
    page = season_page(made)
    assert "could have chosen" not in page
    assert "- `small`: step 3: the loss is nan: training diverged; unscored, fewer than" in page
    assert f"| `{NAME}a-s01` | small | " in page
    assert "optimizer" in page
    assert "shown" not in made.results.names
    assert "lacking" in page
    assert "drawn with round 7 of a beacon" in page
