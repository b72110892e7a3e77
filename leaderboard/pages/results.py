"""The committed results that pages are made from, read once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from leaderboard.committed import in_suite_order, load_all, suites_with_results
from leaderboard.season_tools.scored import ScoredSeason
from moeload_bench.results.grid import metrics_in
from moeload_bench.results.record import Result
from moeload_bench.results.strata import by_stratum
from moeload_bench.scoring.catalogue import forecast_metrics
from moeload_bench.suites.suite import Suite, load_suite


@functools.cache
def results_of(suite: str) -> tuple[Result, ...]:
    """Return the committed results of a suite, read once."""
    tasks = load_suite(suite)
    return tuple(in_suite_order(list(load_all(tasks).values()), tasks))


def results_by_size(suite: str) -> Mapping[str, Sequence[Result]]:
    """Return the committed results of a suite on each size of batch by its words; all under "" where it has one."""
    return by_stratum(results_of(suite), load_suite(suite))


def largest_suite() -> Suite:
    """Return the suite with the most test runs, of those with committed results."""
    return max(map(load_suite, suites_with_results()), key=lambda suite: len(suite.traces))


def public_results(season: ScoredSeason) -> Sequence[Result]:
    """Return what a season is compared with: its suite's results, on whose runs its entries were fitted too.

    Those of the largest suite where its own has none.
    """
    known = season.suite_name in suites_with_results()
    return results_of(season.suite_name if known else largest_suite().name)


def metric_names(results: Sequence[Result]) -> list[str]:
    """Return every metric of the results: those of forecasts in their order, then those of plans."""
    there = metrics_in(results)
    listed = [spec.name for spec in forecast_metrics() if spec.name in there]
    return [*listed, *sorted(there - set(listed))]
