"""What docs/guide/cluster.md says of the cost of a suite, from the committed results."""

from __future__ import annotations

from collections.abc import Mapping

from leaderboard.committed import suites_with_results
from leaderboard.pages.parts import Maker, aligned_table
from leaderboard.pages.results import results_of
from moeload_bench.results.record import Result
from moeload_bench.results.tables import three_digits


def core_minutes(result: Result) -> float:
    """Return the minutes of one core that a forecaster took: CPU time of its process, wall time where that is unknown,
    and its fit.
    """
    costs = [run.cost for run in result.runs]
    spent = sum(
        (cost.observe_wall_s if cost.observe_cpu_s is None else cost.observe_cpu_s)
        + (cost.forecast_wall_s if cost.forecast_cpu_s is None else cost.forecast_cpu_s)
        + cost.startup_wall_s
        for cost in costs
    )
    return (spent + (result.fit_wall_s or 0.0)) / 60


def costs_table() -> str:
    """One row per suite: what all its forecasters take together, and which take most."""
    rows = []
    for suite in suites_with_results():
        results = results_of(suite)
        minutes = {result.name: core_minutes(result) for result in results}
        dearest = sorted(minutes, key=lambda name: -minutes[name])[:3]
        most = ", ".join(f"{name} {three_digits(minutes[name])}" for name in dearest)
        rows.append((suite, str(len(results[0].runs)), str(len(results)), three_digits(sum(minutes.values())), most))
    return aligned_table(("suite", "runs", "forecasters", "core-minutes", "of which"), rows, 1, 4)


PARTS: Mapping[str, Maker] = {"cost": lambda _: costs_table()}
