"""The yardstick `oracle.window`: what it is made of, and that it is never among the ranked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from moeload_bench.baselines._measures import WINDOWS

from leaderboard.committed import ROOT
from leaderboard.pages.headline import headline
from leaderboard.studies import oracle_window
from moeload_bench.errors import ResultError
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.record import load_result
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import load_trace

RESULTS = ROOT / "leaderboard" / "results"


def test_a_window_of_one_step_is_last_value_and_the_last_column_is_uniform() -> None:
    """The errors are the metric's own: those of the committed results of the same constant forecasts."""
    run = load_result(RESULTS / "mini" / "last_value.json").runs[0]
    even = next(r for r in load_result(RESULTS / "mini" / "uniform.json").runs if r.trace == run.trace)
    suite = load_suite("mini")
    origins = [task.origin for task in run.tasks]
    error_OKW = oracle_window.window_errors(load_trace(run.trace), origins, suite.horizons)
    assert error_OKW.shape == (len(origins), len(suite.horizons), len(WINDOWS) + 1)
    for w, of in ((0, run), (-1, even)):
        told = {task.origin: task.metrics["window_tv"] for task in of.tasks}
        np.testing.assert_allclose(error_OKW[..., w], [told[o] for o in origins], rtol=1e-4)


def test_the_best_in_hindsight_loses_to_no_window() -> None:
    """In every state and at every horizon its mean logarithm is the least of all windows."""
    error_OKW = np.random.default_rng(0).uniform(0.01, 0.2, (12, 3, 5))
    state_O = ["transient"] * 5 + ["stable"] * 7
    best_OK = oracle_window.best_in_hindsight(error_OKW, state_O)
    for state in set(state_O):
        here = [s == state for s in state_O]
        mean_K = np.log(best_OK[here]).mean(axis=0)
        np.testing.assert_allclose(mean_K, np.log(error_OKW[here]).mean(axis=0).min(axis=-1))


def test_the_headline_shows_it_without_a_rank_and_changes_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An italic row below the entries; every other row is as it was without it."""
    results = [load_result(RESULTS / "v1" / f"{name}.json") for name in ("sw_avg", "last_value", "uniform")]
    shown = headline(results, "window_tv").splitlines()
    rows = [line for line in shown if line.startswith("| *oracle.window*")]
    assert len(rows) == 2
    assert all(line.endswith("|  |  |") for line in rows)
    monkeypatch.setattr(oracle_window, "OUT", Path("nowhere"))
    without = headline(results, "window_tv").splitlines()
    assert [line for line in shown if line not in rows][:-1] == without[:-1]


def test_other_tasks_are_refused() -> None:
    """A part of a suite, or another suite's file, is no yardstick of it."""
    errors = errors_of([load_result(RESULTS / "v1" / "sw_avg.json")], "window_tv")
    with pytest.raises(ResultError, match="needs the tasks of suite v1"):
        oracle_window.with_yardstick(errors.select(state="stable"), "v1")
