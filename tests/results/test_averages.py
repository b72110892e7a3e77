"""Summaries of a table, recomputed from its rows."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.errors import ResultError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.results.averages import floor_means
from moeload_bench.results.columns import run_costs
from moeload_bench.results.results import Results, joined, load_results, trace_groups
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.trace import Trace
from tests.support.tables import made_results

V3 = "leaderboard/results/v3"


@pytest.fixture(scope="module")
def v3() -> Results:
    return load_results([f"{V3}/{name}.parquet" for name in ("sw_avg", "sw_avg.w10", "guarded")])


def test_a_value_is_the_mean_over_runs_of_means_over_origins(v3: Results) -> None:
    """At one horizon, in one state, recomputed from the rows; with its numbers of runs and origins."""
    cells = v3.summarize(["stratum", "state", "horizon"]).set_index(["stratum", "state", "horizon", "forecaster"])
    rows = v3.table[(v3.table["stratum"] == "small") & (v3.table["state"] == "stable") & (v3.table["horizon"] == 100)]
    for name in v3.names:
        runs = rows[rows["forecaster"] == name].groupby("trace")["window_tv"].mean()
        cell = cells.loc["small", "stable", 100, name]
        assert cell["value"] == pytest.approx(runs.mean())
        assert (cell["runs"], cell["origins"]) == (len(runs), len(rows) // len(v3))


def test_the_excess_is_over_the_floor_of_the_same_runs(v3: Results) -> None:
    """sqrt(error^2 - floor^2) of the means; a floor is the mean over the runs that have one."""
    by = ["stratum", "state", "horizon"]
    cells, floors = (
        v3.summarize(by).set_index([*by, "forecaster"]),
        floor_means(v3.facts, trace_groups(v3), by, PRIMARY).set_index(by),
    )
    at = ("large", "transient", 10)
    value, floor = cells.loc[(*at, "guarded"), "value"], floors.loc[at, "floor_batch"]
    assert cells.loc[(*at, "guarded"), "excess"] == pytest.approx(np.sqrt(max(0.0, value**2 - floor**2)))
    facts = v3.facts.merge(v3.table[["trace", "stratum"]].drop_duplicates(), on="trace")
    mine = facts[(facts["stratum"] == "large") & (facts["state"] == "transient") & (facts["horizon"] == 10)]
    assert floor == pytest.approx(mine["floor_batch.window_tv"].mean())


def test_a_row_has_the_cost_of_its_runs(v3: Results) -> None:
    """CPU milliseconds per answered origin, the mean over runs."""
    found = v3.summarize(["stratum"]).set_index(["stratum", "forecaster"])
    large = v3.table.loc[v3.table["stratum"] == "large", "trace"].unique()
    costs = run_costs(v3.select(["guarded"], large).table)
    ms = 1000 * (costs["observe_cpu_s"] + costs["forecast_cpu_s"]) / costs["forecasts"]
    assert found.loc[("large", "guarded"), "ms"] == pytest.approx(ms.mean())


def test_the_best_stands_first_in_each_group(v3: Results) -> None:
    """By skill; by its own values, in its own direction, for a metric without."""
    for _, rows in v3.summarize(["state", "horizon"]).groupby(["state", "horizon"]):
        assert rows["skill"].dropna().is_monotonic_decreasing
    for _, rows in v3.summarize(["state"], "hot_recall").groupby("state"):
        assert rows["value"].is_monotonic_decreasing
        assert rows["skill"].isna().all()


def test_all_tasks_are_one_group_without_by(v3: Results) -> None:
    """Its column is the suite."""
    found = v3.summarize(())
    assert found["suite"].tolist() == ["v3"] * 3
    assert found.loc[found["forecaster"] == "sw_avg", "skill"].item() == 0.0


def test_the_package_has_the_reference_where_it_was_not_run(v3: Results) -> None:
    """Without its rows, skill is the same, on the runs that are there; a window of it is not the reference."""
    alone = v3.select(["sw_avg.w10"])
    assert alone.reference is not None
    assert alone.reference.names == ["sw_avg"]
    few = alone.select(traces=v3.traces[:3])
    assert few.reference is not None
    assert few.reference.traces == v3.traces[:3]
    columns = ["state", "forecaster", "skill", "low", "high"]
    both = v3.summarize(["state"])
    expected = both[both["forecaster"] == "sw_avg.w10"][columns].reset_index(drop=True)
    assert alone.summarize(["state"])[columns].round(12).equals(expected.round(12))


def test_results_of_two_suites_are_not_joined(v3: Results) -> None:
    """Another suite hash is refused by name, and so is a second entry of one name."""
    with pytest.raises(ResultError, match="was scored on suite"):
        joined([v3, made_results({"mine": [[1, 1]]})])
    with pytest.raises(ResultError, match="two results of sw_avg"):
        joined([v3, v3.select(["sw_avg"])])


def test_a_failed_task_is_in_failures_with_its_reason() -> None:
    """Once for all horizons; its penalty counts in the summary."""
    results = made_results({"sw_avg": [[0.1, 0.1]] * 2, "bad": [[1.0, 1.0], [0.1, 0.1]]})
    failed = (results.table["forecaster"] == "bad") & (results.table["origin"] == 0)
    results.table.loc[failed, "failure"] = "not finite"
    assert results.failures.to_dict("records") == [
        {"forecaster": "bad", "trace": "own/test/seed0", "state": "stable", "origin": 0, "failure": "not finite"}
    ]
    assert results.summarize().set_index("forecaster").loc["bad", "value"] == pytest.approx(0.55)


def test_uniform_plans_regret_most_on_an_unequal_run() -> None:
    """Every task has what plans cost at every horizon; who sees the hot expert, which moves once, plans better."""
    rng = np.random.default_rng(3)
    p = np.where(np.arange(700)[:, None] < 350, [[0.4] + [0.6 / 7] * 7], [[0.6 / 7] * 7 + [0.4]])
    trace = Trace.from_arrays(rng.multinomial(2000, p[:, None].repeat(2, axis=1)), 1000, 2)
    suite = suite_for_trace(trace, horizons=(1, 10, 100), per_state=6)
    results = evaluate(["uniform", "last_value", "sw_avg"], suite, traces=[trace], level="none")
    shapes = ("quarter", "half", "plain")
    names = [f"{metric}@{shape}" for metric in ("imbalance", "regret", "drop_rate") for shape in shapes]
    assert results.table[["window_tv", *names]].notna().all(axis=None)
    cells = results.summarize(["horizon"], "regret@quarter").set_index(["horizon", "forecaster"])["value"]
    assert cells[10, "uniform"] > 2 * max(cells[10, "last_value"], cells[10, "sw_avg"])
