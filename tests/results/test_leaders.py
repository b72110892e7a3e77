"""Nobody leads alone who was only picked on the table: all that are not shown worse than the best stand together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moeload_bench.results import entry as module
from moeload_bench.results.leaders import duplicates, leaders, ranked
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.strata import run_groups
from moeload_bench.suites.suite import families_of

RESULTS = Path(__file__).parents[2] / "leaderboard" / "seasons" / "2027-02" / "results"
NAMES = ("uniform", "sw_avg", "sw_avg_conformal", "lstm", "lstm.online", "adaptive", "online", "guarded")


@pytest.fixture(scope="module")
def part() -> Results:
    return run_groups(load_results([RESULTS / f"{name}.parquet" for name in NAMES]))["set b2"]


def test_an_entry_that_equals_another_or_only_adds_quantiles_has_no_rank(part: Results) -> None:
    """The shortest name stands for all, whatever the order of the files."""
    same = {"lstm.online": "lstm", "sw_avg_conformal": "sw_avg"}
    assert duplicates(part) == duplicates(part.select(reversed(part.names))) == same
    assert set(part.names) - set(ranked(part).names) == same.keys()


def test_what_came_after_a_season_closed_changes_nothing_of_who_leads(part: Results) -> None:
    """It stands beside, in no rank and in no correction."""
    late = part.entries["guarded"].model_copy(update={"after_close": True})
    beside = replace(part, entries={**part.entries, "guarded": late})
    without = part.select([name for name in part.names if name != "guarded"])
    assert leaders(beside, "transient") == leaders(without, "transient")


def test_those_that_lead_can_have_rank_1_and_the_next_cannot(part: Results) -> None:
    """Of `ranks`, with recipes as units; with families as units more of them can, since there are fewer."""
    found, entries = leaders(part, "transient", "recipe"), ranked(part)
    assert found is not None
    ranks = entries.ranks().query("state == 'transient'").set_index("forecaster")["rank_low"]
    assert {*found.best} == {*ranks.index[ranks == 1]}
    assert found.following == next(name for name in found.entries if ranks[name] > 1)
    by_family = leaders(part, "transient")
    assert by_family is not None
    assert {*found.best} <= {*by_family.best}
    assert (found.units, by_family.units) == (20, 9)


def test_an_entry_that_is_shown_better_than_all_leads_alone(part: Results) -> None:
    """A thousandth of every other error."""
    table = part.table.copy()
    own = table["forecaster"] == "guarded"
    table.loc[own, "window_tv"] = table.loc[own, "window_tv"] / 10
    found = leaders(replace(part, table=table), "transient")
    assert found is not None
    assert found.best == ("guarded",)


def test_fewer_than_five_families_rank_nobody(part: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a suite that names no families."""
    known = families_of(part.suite.name, part.suite.sha256)
    two = {recipe: "g" if name > "f" else "d" for recipe, name in known.items()}
    for families in (two, {}):
        monkeypatch.setattr(module, "families_of", lambda *_, families=families: families)
        assert leaders(part, "transient") is None
