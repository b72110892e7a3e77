"""JSON records of a public suite, for the page of a season."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.committed import in_suite_order, load_all, suites_with_results
from leaderboard.pages.inputs import largest_suite
from leaderboard.season_tools.scored import ScoredSeason
from moeload_bench.results.record import Result
from moeload_bench.suites.suite import load_suite


def public_results(season: ScoredSeason) -> Sequence[Result]:
    """Return what a season is compared with: its suite's results, on whose runs its entries were fitted too.

    Those of the largest suite where its own has none.
    """
    known = season.suite_name in suites_with_results()
    suite = load_suite(season.suite_name) if known else largest_suite()
    return in_suite_order(list(load_all(suite).values()), suite)
