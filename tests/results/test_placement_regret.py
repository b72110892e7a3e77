"""Regret in results, beside window_tv."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.harness.evaluate import evaluate
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three baselines on an unequal run whose hot expert moves once."""
    rng = np.random.default_rng(3)
    p = np.where(np.arange(700)[:, None] < 350, [[0.4] + [0.6 / 7] * 7], [[0.6 / 7] * 7 + [0.4]])
    load = rng.multinomial(2000, p[:, None].repeat(2, axis=1))
    trace = Trace.from_arrays(load, 1000, 2)
    path = tmp_path_factory.mktemp("regret") / "own.parquet"
    write_trace(trace, path)
    suite = suite_for_trace(trace, horizons=(1, 10, 100), per_state=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOELOAD_CACHE", str(path.parent / "cache"))
        return evaluate(["uniform", "last_value", "sw_avg"], suite, paths={suite.traces[0].id: path}, level="none")


def test_results_hold_regret_beside_window_tv(results):
    """Every task has window_tv and, per shape, imbalance, regret and drop rate at every horizon."""
    names = {
        f"{metric}@{shape}" for metric in ("imbalance", "regret", "drop_rate") for shape in ("quarter", "half", "plain")
    }
    assert names <= set(results.metrics)
    assert results.table[["window_tv", *names]].notna().all(axis=None)


def test_uniform_plans_regret_most_on_an_unequal_run(results):
    """A forecaster that sees the hot expert makes better plans than one that does not."""
    cells = results.summarize(["horizon"], "regret@quarter").set_index(["horizon", "forecaster"])["value"]
    assert cells[10, "uniform"] > 2 * max(cells[10, "last_value"], cells[10, "sw_avg"])
