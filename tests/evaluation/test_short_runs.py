"""A run too short for a suite's largest horizon is asked for fewer, scored as ever there, and has no value beyond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.evaluation.stored import rescore
from moeload_bench.results.grid import result_grid
from moeload_bench.results.record import Result, load_result
from moeload_bench.suites.suite import Suite, SuiteTrace, load_suite, suite_for_trace
from moeload_bench.traces.meta import stratum_of
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace

HORIZONS = (1, 10, 100)
SHORT = 10


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return [synthetic_trace(700, seed=seed, recipe=f"own-{seed}") for seed in range(2)]


def suite_of(traces: list[Trace], horizon: int | None) -> Suite:
    """Both runs; the second is asked for ``horizon`` at most."""
    long, short = (suite_for_trace(one, horizons=HORIZONS, per_state=3).traces[0] for one in traces)
    return Suite(name="own", horizons=HORIZONS, traces=(long, short.model_copy(update={"horizon": horizon})))


@pytest.fixture(scope="module")
def scored(traces: list[Trace], tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("kept")
    suite = suite_of(traces, SHORT)
    sources = {trace.id: trace for trace in traces}
    return evaluate(["sw_avg"], suite, traces=list(sources.values()), level="none", keep=folder)[0], folder


def test_what_is_asked_is_scored_as_in_a_suite_of_fewer_horizons(
    traces: list[Trace], scored: tuple[Result, Path]
) -> None:
    """Metrics, floors, crossings and means by layer are those of a suite that ends there; nulls stand beyond."""
    _, run = scored[0].runs
    alone = suite_of(traces, None).model_copy(update={"horizons": HORIZONS[:2], "name": "fewer"})
    expected = evaluate(["sw_avg"], alone, traces=traces, level="none")[0].runs[1]
    for got, wanted in zip(run.tasks, expected.tasks, strict=True):
        assert got.crossing == (*wanted.crossing, False)
        assert got.metrics == {name: (*value_K, None) for name, value_K in wanted.metrics.items()}
    for state, metrics in expected.per_layer.items():
        for name, rows_KL in metrics.items():
            assert run.per_layer[state][name] == (*rows_KL, (None,) * run.layers)
    for state, floors in expected.floors.items():
        for floor, metrics in floors.items():
            assert run.floors[state][floor] == {name: (*value_K, None) for name, value_K in metrics.items()}


def test_what_is_kept_of_a_run_is_not_taken_for_a_suite_of_fewer_horizons(traces: list[Trace]) -> None:
    """The same trace, origins and horizons asked for in two suites, of which one has a horizon more."""
    longer, fewer = suite_of(traces, SHORT), suite_of(traces, None).model_copy(update={"horizons": HORIZONS[:2]})
    for suite in (longer, fewer):
        run = evaluate(["last_value"], suite, traces=traces, level="none", shapes=())[0].runs[1]
        assert {len(task.crossing) for task in run.tasks} == {len(suite.horizons)}
        floors = [value_K for floors in run.floors.values() for floor in floors.values() for value_K in floor.values()]
        assert {len(value_K) for value_K in floors} == {len(suite.horizons)}


def test_a_short_run_is_out_of_the_later_columns_alone(scored: tuple[Result, Path]) -> None:
    """The mean at the last horizon is the long run's own, those before are over both runs."""
    grid = result_grid([scored[0]], "window_tv")
    assert grid is not None
    for row in grid.rows:
        by_run = [
            np.array([t.metrics["window_tv"] for t in run.tasks if t.state == row.state], dtype=np.float64)
            for run in scored[0].runs
        ]
        if all(map(len, by_run)):
            means_RK = np.stack([values_OK.mean(axis=0) for values_OK in by_run])
            assert row.value_K == pytest.approx(np.nanmean(means_RK, axis=0))


def test_a_record_survives_its_file_and_is_made_again_from_kept_forecasts(
    traces: list[Trace], scored: tuple[Result, Path], tmp_path: Path
) -> None:
    """Written, read, and rescored: the same nulls, the same numbers."""
    result, folder = scored
    assert load_result(result.save(tmp_path / "sw_avg.json")) == result
    result.save(folder / "sw_avg.json")
    paths = {}
    for trace in traces:
        paths[trace.id] = tmp_path / f"{trace.meta.recipe}.parquet"
        write_trace(trace, paths[trace.id])
    again = rescore(folder, suite_of(traces, SHORT), "window_tv", paths=paths)[0]
    for got, wanted in zip(again.runs, result.runs, strict=True):
        for task, other in zip(got.tasks, wanted.tasks, strict=True):
            for one, two in zip(task.metrics["window_tv"], other.metrics["window_tv"], strict=True):
                assert one == (None if two is None else pytest.approx(two))


def test_a_suite_names_horizons_of_its_own_and_keeps_the_hash_of_those_without(traces: list[Trace]) -> None:
    """A run's horizon is one of the suite's; the field and the stratum are part of the hash only where they are set."""
    plain, short = suite_of(traces, None), suite_of(traces, SHORT)
    assert "horizon" not in plain.model_dump(mode="json")["traces"][0]
    assert plain.sha256() != short.sha256()
    with pytest.raises(ValueError, match="horizon is 50, expected one of"):
        Suite.model_validate(suite_of(traces, 50).model_dump())
    assert load_suite("mini").strata() == {}


@pytest.mark.parametrize(("tokens", "expected"), [(64, "small"), (1024, "small"), (1500, None), (4096, "large")])
def test_a_stratum_is_by_tokens_per_expert(tokens: float, expected: str | None) -> None:
    """Up to 1,024 small, from 2,048 on large, none between."""
    assert stratum_of(tokens) == expected
    entry = SuiteTrace(id="a/test/seed0", data_sha256="0" * 64, expert_tokens=tokens)
    named = {} if expected is None else {expected: ["a/test/seed0"]}
    assert Suite(name="own", horizons=(1,), traces=(entry,)).strata() == named
