"""A word of a closed set that is mistyped is refused by name, before any work: never taken for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.errors import IsolationError, NotFoundError
from moeload_bench.evaluation.conformance import check_forecaster
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.evaluation.replanning import compare_policies
from moeload_bench.forecaster import trace_info
from moeload_bench.isolation.hosts import fit_target, level_available, open_host
from moeload_bench.isolation.targets import parse_target
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel, Simulation
from moeload_bench.results.statistics import Tasks, interval
from moeload_bench.suites.suite import suite_for_trace
from tests.conftest import need, synthetic_trace

TRACE = synthetic_trace(400)
SUITE = suite_for_trace(TRACE, horizons=(1, 10), per_state=2)
SHAPE, COST = ClusterShape("two", slots=4, devices=2), CostModel(100, 10, 10)


def open_at(level: Any) -> None:
    """The context is entered, as a caller would."""
    with open_host(parse_target("sw_avg"), trace_info(TRACE), seed=0, level=level):
        pass


@pytest.mark.parametrize("word", ["Sandbox", "sandbox ", "SANDBOX", "", None, "local"])
@pytest.mark.parametrize(
    "call",
    [
        lambda word: evaluate("sw_avg", SUITE, level=word),
        lambda word: check_forecaster("sw_avg", level=word),
        lambda word: fit_target(parse_target("sw_avg"), [], seed=0, level=word),
        lambda word: compare_policies(TRACE, "sw_avg", SHAPE, COST, level=word),
        level_available,
        open_at,
    ],
    ids=["evaluate", "check_forecaster", "fit_target", "compare_policies", "level_available", "open_host"],
)
def test_a_level_that_does_not_exist_runs_nothing(call: Callable[[Any], object], word: Any) -> None:
    """`Sandbox` is not `none`: a stranger's code would run outside the box."""
    with pytest.raises(IsolationError, match=r"unknown isolation level .*; there is: none, process, sandbox"):
        call(word)


def test_no_code_runs_at_a_mistyped_level(tmp_path: Path) -> None:
    """Not even the import of the module."""
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Mine: pass\n")
    for call in (lambda text: evaluate(text, SUITE, level="Sandbox"), lambda text: check_forecaster(text, level="box")):
        with pytest.raises(IsolationError):
            call(f"{tmp_path / 'mine.py'}:Mine")
    assert not (tmp_path / "ran").exists()


def test_other_words_are_refused_too() -> None:
    """A policy, a claim of statistics, a sliding statistic, what a recorder does with an error, a backend."""
    simulation = Simulation(TRACE.share_SLE(), np.zeros((400, 2), dtype=bool), SHAPE, COST, 1)
    with pytest.raises(NotFoundError, match="unknown policy 'Every'; there is: every, "):
        simulation.run("Every", 10)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="unknown claim 'new seeds'"):
        interval(np.zeros(2), Tasks.__new__(Tasks), "new seeds")  # type: ignore[arg-type]
    with pytest.raises(Exception, match="unknown backend 'Loky'; there is: loky, dask, ray"):
        evaluate("sw_avg", SUITE, paths={TRACE.id: "x.parquet"}, backend="Loky")


def test_words_of_figures_and_recorders_are_refused_too(tmp_path: Path) -> None:
    """They need more packages."""
    need("matplotlib", "pip install 'moeload-bench[plot]'")
    torch = need("torch", "pip install 'moeload-bench[torch]'")
    from moeload_bench.plots import draw_sliding, view_trace
    from moeload_bench.recording import record

    with pytest.raises(NotFoundError, match="unknown statistic 'mean'; there is: range, variance"):
        draw_sliding(view_trace(TRACE), "mean")  # type: ignore[arg-type]
    with (
        pytest.raises(NotFoundError, match="unknown on_error 'Raise'; there is: raise, warn"),
        record(torch.nn.Linear(1, 1), tmp_path, on_error="Raise"),  # type: ignore[arg-type]
    ):
        pass
