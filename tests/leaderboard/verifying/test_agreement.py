"""What a fresh run is compared by: values, means by layer, means over tasks and over runs, facts of the trace."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence

import pytest

from leaderboard.committed import RESULTS
from leaderboard.verifying.agreement import EXACTLY, Tolerances, differences
from moeload_bench.results.columns import metric_columns
from moeload_bench.results.results import Results, load_results
from tests.support.altered import with_costs


def one_run(path: str) -> Results:
    """Return the first run of a committed result."""
    results = load_results(RESULTS / path, layers=True)
    return results.select(traces=results.traces[:1])


@pytest.fixture(scope="module")
def sw_avg() -> Results:
    return one_run("mini/sw_avg.parquet")


def scaled_tasks(results: Results, factors: Sequence[float]) -> Results:
    """Return the results with window_tv of each task times a factor."""
    origins = results.table["origin"]
    factor = dict(zip(origins.unique(), itertools.cycle(factors), strict=False))
    table = results.table.assign(window_tv=results.table["window_tv"] * origins.map(factor))
    return dataclasses.replace(results, table=table)


def lowered(results: Results, kind: str, less: float) -> Results:
    """Return the results with every value of a kind of metric lower by as much, in tasks and in means by layer."""
    assert results.layers is not None
    names = [name for name in metric_columns(results.table) if name.startswith(kind)]
    rows, layers = (frame.assign(**(frame[names] - less)) for frame in (results.table, results.layers))
    return dataclasses.replace(results, table=rows, layers=layers)


def test_facts_of_the_trace_among_the_costs_are_compared(sw_avg: Results) -> None:
    """They must be the trace's; measured costs are not compared."""
    (line,) = differences(sw_avg, with_costs(sw_avg, training_step_s=1e3), Tolerances())
    assert f"{sw_avg.traces[0]}: training_step_s: committed 1000, got " in line
    (line,) = differences(sw_avg, with_costs(sw_avg, experts=9), Tolerances())
    assert line.endswith("experts: committed 9, got 8")


def test_single_values_may_move_and_means_may_not(sw_avg: Results) -> None:
    """What another processor does: up and down by up to a few percent. What a cheat would want: all down by as much."""
    assert differences(scaled_tasks(sw_avg, (1.008, 0.992)), sw_avg, Tolerances()) == []
    lines = differences(sw_avg, scaled_tasks(sw_avg, (0.98,)), Tolerances())
    assert f"{sw_avg.traces[0]}: mean window_tv, state stable, horizon 1: committed" in "".join(lines)
    lines = differences(sw_avg, scaled_tasks(sw_avg, (0.9,)), Tolerances())
    assert "window_tv, state transient, origin 20, horizon 1: committed" in lines[0]


@pytest.mark.parametrize(
    ("kind", "less", "where"),
    [
        ("regret@", 0.019, "mean regret@.*, horizon"),
        ("regret@", 0.002, "mean over all horizons of regret@"),
        ("imbalance@", 0.019, "mean imbalance@.*, horizon"),
        ("drop_rate@", 0.0005, "mean over all horizons of drop_rate@"),
        ("error_rate_uniform", 0.004, "mean error_rate_uniform.*, horizon"),
        ("wql", 0.007, "mean wql.*, horizon"),
    ],
)
def test_better_plans_are_told_apart(kind: str, less: float, where: str) -> None:
    """An honest regret is about 0.01: a result that is lower everywhere, by what single plans may move, differs; so do
    quantiles that err less."""
    results = one_run("v3/sw_avg_conformal.parquet" if kind == "wql" else "mini/sw_avg.parquet")
    lines = differences(results, lowered(results, kind, less), Tolerances())
    assert lines
    assert all(": mean " in line for line in lines)
    assert any(re.search(where, line) for line in lines), lines


def test_a_drop_rate_of_almost_nothing_may_move_as_honest_ones_do(sw_avg: Results) -> None:
    """Where hardly any token is dropped, equal experts that change places move the mean by more than half its size."""
    assert differences(sw_avg, lowered(sw_avg, "drop_rate@", 1.5e-5), Tolerances()) == []
    assert differences(sw_avg, lowered(sw_avg, "drop_rate@", 1e-3), Tolerances()) != []


def test_means_by_layer_are_compared_where_both_have_them(sw_avg: Results) -> None:
    """A value and a metric that is missing."""
    assert sw_avg.layers is not None
    layers = sw_avg.layers.copy()
    layers.loc[layers.index[0], "hot_recall"] = 0.0
    (line,) = differences(sw_avg, dataclasses.replace(sw_avg, layers=layers), Tolerances())
    assert "hot_recall, state" in line
    assert "layer 0, horizon 1: committed 0, got" in line
    lines = differences(sw_avg, dataclasses.replace(sw_avg, layers=layers.drop(columns="tv")), Tolerances())
    assert any("tv, state stable, layer 0, horizon 1: committed nan, got" in line for line in lines)
    assert differences(sw_avg, dataclasses.replace(sw_avg, layers=None), Tolerances()) == []


def test_which_windows_cross_is_compared(sw_avg: Results) -> None:
    """A change of state is the trace's, whoever forecasts."""
    table = sw_avg.table.copy()
    table.loc[table.index[0], "crossing"] = not table["crossing"].iloc[0]
    lines = differences(sw_avg, dataclasses.replace(sw_avg, table=table), Tolerances())
    assert any("crosses, state transient, origin 20, horizon 1:" in line for line in lines)


def test_floors_are_compared(sw_avg: Results) -> None:
    """They are the trace's, too."""
    facts = sw_avg.facts.assign(**{"floor_batch.window_tv": sw_avg.facts["floor_batch.window_tv"] * 1.001})
    lines = differences(sw_avg, dataclasses.replace(sw_avg, facts=facts), EXACTLY)
    assert any("floor_batch.window_tv, state stable, horizon 1: committed" in line for line in lines)


def test_a_task_that_fails_in_the_fresh_run_is_named(sw_avg: Results) -> None:
    """With its reason."""
    failing = sw_avg.table.assign(failure=None)
    failing.loc[failing["origin"] == 20, "failure"] = "forecast raised ValueError: no"
    lines = differences(dataclasses.replace(sw_avg, table=failing), sw_avg, Tolerances())
    assert lines == [f"{sw_avg.traces[0]}: origin 20: it fails here: forecast raised ValueError: no"]
