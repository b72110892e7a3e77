"""A metric is added in one place, and everything that knows metrics knows it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from leaderboard.pages.tables import catalogue_table, tolerances
from leaderboard.site import words as site_words
from leaderboard.verifying.agreement import Tolerances, differences
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.rescore import rescore
from moeload_bench.results.report import report_of
from moeload_bench.results.results import Results
from moeload_bench.results.wide import metric_table
from moeload_bench.scoring.catalogue import (
    METRICS,
    Failed,
    Metric,
    Tolerance,
    forecast_metrics,
    has_skill,
    metric_names,
)
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.harness.test_replay import small_suite
from tests.harness.test_rescore import PathWithQuantiles
from tests.support.scores import metric_OK

HELLINGER = Metric(
    name="hellinger",
    formula=lambda w: np.sqrt(0.5 * ((np.sqrt(w.forecast_LE) - np.sqrt(w.share_LE)) ** 2).sum(axis=1)),
    unit="distance", lower_is_better=True, span=(0, 0.9), in_every_layer=True, failed=Failed(0.875),
    tolerance=Tolerance((0.0, 0.003), (0.0, 0.001), of_value=None),
    plain="Hellinger's distance", description="distance of the roots",
)  # fmt: skip
EXCESS = Metric(
    name="excess_load", per="plan",
    formula=lambda w: w.worst_KL * w.devices / w.rows_KL - 1, needs=("worst_KL",),
    unit="mean device loads", lower_is_better=True, span=(0, -1), per_device=True, in_every_layer=True,
    tolerance=Tolerance((0.0, 0.004), (0.0, 0.001), of_value=None),
    plain="load above the mean", description="imbalance less one",
)  # fmt: skip
NAMES = ("hellinger", "excess_load@half")


class Scored:
    """Two forecasters on a small suite, one of which fails once, with the two metrics in the catalogue."""

    def __init__(self, folder: Path) -> None:
        trace = synthetic_trace(400)
        self.folder, self.suite = folder / "kept", small_suite(trace, quantiles=(0.1, 0.9))
        self.paths = {trace.id: write_trace(trace, folder / "t.parquet")}
        targets = ["last_value", PathWithQuantiles]
        self.results = evaluate(targets, self.suite, paths=self.paths, level="none", keep=self.folder, fresh=True)
        self.results.save(self.folder)


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scored:
    for metric in (HELLINGER, EXCESS):
        monkeypatch.setitem(METRICS, metric.name, metric)
    return Scored(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_new_metric_is_scored_and_rescored(scored: Scored, name: str) -> None:
    """Each task and layer has it; kept forecasts give the same values; a failed task has what the record says."""
    again, results = rescore(scored.folder, scored.suite, name, paths=scored.paths), scored.results
    assert results.layers is not None
    assert results.layers[name].notna().all()
    for forecaster in results.names:
        pair = (metric_OK(found, forecaster, name) for found in (results, again))
        np.testing.assert_allclose(*pair, rtol=1e-7)
    failed = results.table[results.table["failure"].notna()]
    assert name != "hellinger" or set(failed[name]) == {0.875}


@pytest.mark.parametrize("name", NAMES)
def test_a_new_metric_has_its_own_tolerance(scored: Scored, name: str) -> None:
    """A re-run may differ by what the record says, for single values and for means, and by no more."""
    committed = scored.results.select(["last_value"])

    def fresh(more: float) -> Results:
        values = committed.table[name].copy()
        values.iloc[0] += more
        return dataclasses.replace(committed, table=committed.table.assign(**{name: values}))

    assert differences(fresh(0.0015), committed, Tolerances()) == []
    (line,) = differences(fresh(0.0025), committed, Tolerances())
    assert f"mean {name}, state transient, horizon 1: committed" in line
    (line,) = differences(fresh(0.0045), committed, Tolerances())
    assert f"{name}, state transient, origin 50, horizon 1: committed" in line


@pytest.mark.parametrize("metric", [HELLINGER, EXCESS], ids=lambda metric: metric.name)
def test_a_new_metric_is_shown(scored: Scored, metric: Metric) -> None:
    """In tables, captions and error messages of the command line, in the docs, on the site."""
    name = next(name for name in NAMES if name.startswith(metric.name))
    assert name in metric_names()
    assert f"{metric.description}" in metric_table(report_of(scored.results, name)).caption
    described = f"{metric.plain} | {metric.description} | {metric.unit}"
    assert f"| `{metric.label}` | {described} | less | 0 to " in catalogue_table()
    assert f"| `{metric.label}` | {metric.tolerance.value[1]:g} | 0.001 |  |" in tolerances()
    assert site_words.named(name) == f"{metric.plain} ({name})"


def test_every_metric_is_wholly_described() -> None:
    """Ranges are not empty, words and tolerances are given; a metric of quantiles says what a failed task scores."""
    for metric in METRICS.values():
        least, most = metric.range(2)
        assert least < most
        assert metric.unit
        assert metric.plain
        assert metric.tolerance.mean <= metric.tolerance.value
    for metric in forecast_metrics():
        assert not metric.needs_quantiles or metric.failed.of


def test_errors_of_forecasts_have_skill_and_nothing_else_has() -> None:
    """Skill is a ratio: what plans cost may be nothing, and a score is larger when better."""
    names = ("window_tv", "tv", "hot_recall", "regret@half", "imbalance@half", "drop_rate@experts", "no_metric")
    assert [name for name in names if has_skill(name)] == ["window_tv", "tv"]
