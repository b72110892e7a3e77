"""The replay loop: no off-by-one, no look ahead, failures by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.errors import HashMismatchError, MoeloadError
from moeload_bench.forecaster import ForecastRequest, StepBlock
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.replay import follow
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import class_target, parse_target
from moeload_bench.results.columns import metric_columns
from moeload_bench.results.results import Results
from moeload_bench.suites.suite import Suite, SuiteTrace, suite_for_trace
from moeload_bench.traces.store import data_sha256, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace
from tests.support import forecasters
from tests.support.scores import failures, metric_OK, same_scores

HERE = Path(__file__).parents[1] / "support" / "forecasters.py"
HORIZONS = (1, 10, 100)


def small_suite(trace: Trace, **changes: object) -> Suite:
    """Four origins on one trace, two in each state."""
    entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), transient=(50, 100), stable=(200, 250))
    return Suite(name="small", horizons=HORIZONS, traces=(entry,), **changes)


def run(trace: Trace, tmp_path: Path, *targets: object, level: str = "none", **options: object) -> Results:
    """Evaluate on the small suite, the trace in a file as in real use."""
    path = write_trace(trace, tmp_path / "t.parquet", overwrite=True)
    return evaluate(list(targets), small_suite(trace), paths={trace.id: path}, level=level, **options)


def ramp_trace(steps: int = 400) -> Trace:
    """Counts that follow the ramp exactly: 1e5 tokens make a slope of 1e-5 one token per step."""
    share = forecasters.ramp_share_SLE(steps)
    return Trace.from_arrays((share * 1e5).round().astype(np.int64), 100_000, 1)


def test_exact_on_a_ramp_scores_zero_and_last_value_what_arithmetic_says(tmp_path: Path) -> None:
    """Observed up to o - 1, the forecast at o covers o .. o + h - 1: last_value is off by slope * (h + 1) / 2."""
    found = run(ramp_trace(), tmp_path, forecasters.ExactOnRamp, "last_value")
    exact, last = found.names
    for metric in ("window_tv", "tv"):
        assert metric_OK(found, exact, metric).max() < 1e-9
    expected_K = [forecasters.SLOPE * (h + 1) / 2 for h in HORIZONS]
    np.testing.assert_allclose(metric_OK(found, last), [expected_K] * 4, rtol=1e-6)


class Spy:
    """Keeps what it was shown, and what it was asked."""

    def __init__(self, info: object, seed: int) -> None:
        self.seen: list[int] = []
        self.asked: list[ForecastRequest] = []
        Spy.last = self

    def observe(self, block: StepBlock) -> None:
        self.seen.extend(block.step_S.tolist())

    def forecast(self, request: ForecastRequest) -> object:
        self.asked.append(request)
        return forecasters.Forecast.constant(np.full((2, 4), 0.25), request.horizon)


def test_before_an_origin_exactly_the_steps_before_it_are_shown(trace: Trace) -> None:
    """Each step once, in order, none at or after the origin."""
    with follow(class_target(Spy), trace, seed=0, level="none") as feed:
        for answer in feed.answers([50, 100, 300], HORIZONS):
            assert answer.failure is None
            assert Spy.last.seen == list(range(answer.origin))
    assert [request.origin for request in Spy.last.asked] == [50, 100, 300]


def test_a_feed_never_goes_back(trace: Trace) -> None:
    """A forecaster that was shown step 99 is not asked as if it knew 50 steps only."""
    with follow(class_target(Spy), trace, seed=0, level="none") as feed:
        feed.at(100, HORIZONS)
        with pytest.raises(MoeloadError, match=r"asked at step 50 after later steps.*expected"):
            feed.at(50, HORIZONS)
        feed.at(100, HORIZONS)


def test_beyond_the_end_of_a_trace_all_of_it_is_shown_and_nothing_is_planned(trace: Trace) -> None:
    """The trace says nothing of the learning rate of steps that it has not."""
    with follow(class_target(Spy), trace, seed=0, level="none") as feed:
        feed.at(trace.steps, HORIZONS)
    assert Spy.last.seen == list(range(trace.steps))
    (asked,) = Spy.last.asked
    assert (asked.origin, asked.lr_H) == (trace.steps, None)


def test_the_plan_is_the_recipe_s_and_nothing_measured(trace: Trace) -> None:
    """The request holds planned learning rate for the horizon; no loss, no load."""
    with follow(class_target(Spy), trace, seed=0, level="none") as feed:
        feed.at(50, HORIZONS)
    (asked,) = Spy.last.asked
    assert asked.lr_H is not None
    assert asked.lr_H.shape == (100,)
    names = {field.name for field in dataclasses.fields(asked)}
    assert names == {"origin", "horizon", "horizons", "quantiles", "lr_H", "stage_H"}


def test_permuting_experts_leaves_every_score_unchanged(tmp_path: Path) -> None:
    """Scores treat experts alike."""
    trace = synthetic_trace()
    order = [2, 0, 3, 1]
    columns = {**trace.columns, "load_half": trace.columns["load_half"][:, :, order]}
    permuted = Trace(trace.meta, trace.step_S, trace.tokens_SL, trace.load_SLE[:, :, order].copy(), columns)
    one, other = run(trace, tmp_path, "sw_avg"), run(permuted, tmp_path, "sw_avg")
    for metric in metric_columns(one.table):
        pair = (metric_OK(results, "sw_avg", metric) for results in (one, other))
        np.testing.assert_allclose(*pair, rtol=1e-8, err_msg=metric)


def test_a_dead_expert_costs_what_was_planned_for_it(tmp_path: Path) -> None:
    """All tokens on one expert: the uniform plan gives the three dead ones 3/4 of them, and window_tv is 3/4."""
    load = np.zeros((400, 2, 4), dtype=np.int64)
    load[:, :, 1] = 1000
    results = run(Trace.from_arrays(load, 1000, 1), tmp_path, "uniform")
    np.testing.assert_allclose(metric_OK(results, "uniform"), 0.75)


FAILURES = {
    "RaisesOnce": "ValueError: not at 200",
    "NotANumber": "not finite",
    "WrongShape": "shape",
    "Negative": "negative shares",
    "NotNormalised": "sum to 1",
    "RaisesInObserve": "no observing today",
}


@pytest.mark.parametrize("level", ["none", "process"])
def test_a_broken_forecaster_fails_its_tasks_by_name_and_the_others_are_scored(
    level: str, trace: Trace, tmp_path: Path
) -> None:
    """Failed tasks carry the reason and the stated scores; the forecaster beside them is scored as always."""
    results = run(trace, tmp_path, *(f"{HERE}:{name}" for name in FAILURES), "sw_avg", level=level)
    *all_broken, honest = results.names
    assert failures(results, honest) == {}
    for name, broken in zip(FAILURES, all_broken, strict=True):
        failed = failures(results, broken)
        assert failed.keys() == ({200} if name == "RaisesOnce" else {50, 100, 200, 250}), name
        assert all(FAILURES[name] in reason for reason in failed.values())
    failed_rows = results.table[results.table["failure"].notna()]
    assert set(failed_rows["window_tv"]) == {1.0}


@pytest.mark.parametrize("level", ["none", "process"])
def test_a_plain_array_is_a_forecast(level: Level, trace: Trace) -> None:
    """[L, E] for the whole horizon, [H, L, E] for each step, at every level; an answer does not change later."""
    answers = []
    for name in ("LastSeen", "PlainArray", "PlainPath"):
        with follow(parse_target(f"{HERE}:{name}"), trace, seed=0, level=level) as feed:
            answers.append([feed.at(origin, HORIZONS) for origin in (50, 100)])
    for shown, plain, path in zip(*answers, strict=True):
        np.testing.assert_array_equal(plain.share_BLE, shown.share_BLE)
        assert (len(plain.edges_B), len(path.edges_B)) == (1, HORIZONS[-1])
        np.testing.assert_allclose(path.window_means(HORIZONS), shown.window_means(HORIZONS))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_trace_is_scored_as_its_file_is(jobs: int, tmp_path: Path) -> None:
    """`evaluate` takes the trace itself, in this process and in others; nothing is written for it."""
    trace = synthetic_trace(1200)
    path = write_trace(trace, tmp_path / "t.parquet")
    named = evaluate(["sw_avg", "last_value"], suite_for_trace(trace), paths={trace.id: path}, level="none")
    given = evaluate(["sw_avg", "last_value"], trace, level="none", jobs=jobs, fresh=True)
    assert named.suite == given.suite
    assert same_scores(named, given)


def test_a_trace_that_is_not_the_suite_s_is_refused(trace: Trace, tmp_path: Path) -> None:
    """Scoring refuses content that the suite was not frozen with."""
    path = write_trace(synthetic_trace(seed=9), tmp_path / "other.parquet")
    for given in ({"paths": {trace.id: path}}, {"traces": [synthetic_trace(seed=9)]}):
        with pytest.raises(HashMismatchError, match="another trace"):
            evaluate("uniform", small_suite(trace), level="none", **given)


def test_targets_with_arguments_reach_the_forecaster(trace: Trace, tmp_path: Path) -> None:
    """`sw_avg@window=1` is last_value."""
    results = run(trace, tmp_path, "sw_avg@window=1", "last_value")
    assert parse_target("sw_avg@window=1").kwargs == {"window": 1}
    window, last = (metric_OK(results, name) for name in results.names)
    np.testing.assert_allclose(window, last, rtol=1e-9)
