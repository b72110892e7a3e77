"""What the levels are worth against a forecaster that looks for the answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.harness.evaluate import evaluate
from moeload_bench.isolation.hosts import Level
from moeload_bench.results.results import Results
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256, write_trace
from tests.conftest import synthetic_trace
from tests.isolation.attacks.arena import HERE, require_sandbox
from tests.support.scores import metric_OK

CHEATER = f"{HERE / 'cheater.py'}:Cheater"


def run(tmp_path: Path, level: Level, *targets: str) -> Results:
    """Score on a trace that lies in a folder which the environment names."""
    trace = synthetic_trace(90)
    path = write_trace(trace, tmp_path / "traces" / "run.parquet", overwrite=True)
    entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), transient=(20,), stable=(60,))
    suite = Suite(name="arena", horizons=(1, 10), traces=(entry,))
    results = evaluate(list(targets), suite, paths={trace.id: path}, level=level)
    assert results.failures.empty
    return results


def test_the_level_process_does_not_stop_a_cheater(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It protects against accidents, not against strangers: the cheater's error is nought."""
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path / "traces"))
    results = run(tmp_path, "process", CHEATER)
    (cheater,) = results.names
    assert results.counts(cheater)["truths"] == 2
    assert metric_OK(results, cheater, "tv").max() < 1e-12


def test_in_the_sandbox_a_cheater_gains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees no parquet file at all and forecasts what it would have without looking: the same bits as `uniform`."""
    require_sandbox()
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path / "traces"))
    results = run(tmp_path, "sandbox", CHEATER, "uniform")
    assert results.counts(results.names[0])["truths"] == 0
    assert results.costs["forecasts_sha256"].nunique() == 1
