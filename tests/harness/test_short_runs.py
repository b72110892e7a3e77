"""A run too short for a suite's largest horizon is asked for fewer, scored as ever there, and has no value beyond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.rescore import rescore
from moeload_bench.results.results import Results, load_results
from moeload_bench.suites.suite import Suite, SuiteTrace, load_suite, suite_for_trace
from moeload_bench.traces.meta import stratum_of
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace
from tests.support.scores import metric_OK, scored_table

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
def scored(traces: list[Trace], tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("kept")
    suite = suite_of(traces, SHORT)
    sources = {trace.id: trace for trace in traces}
    return evaluate(["sw_avg"], suite, traces=list(sources.values()), level="none", keep=folder), folder


def test_what_is_asked_is_scored_as_in_a_suite_of_fewer_horizons(
    traces: list[Trace], scored: tuple[Results, Path]
) -> None:
    """Metrics, floors, crossings and means by layer are those of a suite that ends there; beyond there is no value."""
    alone = suite_of(traces, None).model_copy(update={"horizons": HORIZONS[:2], "name": "fewer"})
    expected = evaluate(["sw_avg"], alone, traces=traces, level="none")
    parts = [(scored_table(results), results.layers, results.facts) for results in (scored[0], expected)]
    for frames in zip(*parts, strict=True):
        got, wanted = (_of_run(frame, traces[1].id) for frame in frames)
        within = got[got["horizon"] <= SHORT].reset_index(drop=True)
        pd.testing.assert_frame_equal(within, wanted)
        beyond = got[got["horizon"] > SHORT]
        assert beyond.select_dtypes("float64").isna().all(axis=None)
        assert "crossing" not in beyond or not beyond["crossing"].any()


def _of_run(frame: pd.DataFrame, trace: str) -> pd.DataFrame:
    return frame[frame["trace"] == trace].reset_index(drop=True)


def test_what_is_kept_of_a_run_is_not_taken_for_a_suite_of_fewer_horizons(traces: list[Trace]) -> None:
    """The same trace, origins and horizons asked for in two suites, of which one has a horizon more."""
    longer, fewer = suite_of(traces, SHORT), suite_of(traces, None).model_copy(update={"horizons": HORIZONS[:2]})
    for suite in (longer, fewer):
        results = evaluate(["last_value"], suite, traces=traces, level="none", shapes=())
        for frame in (results.table, results.facts):
            assert set(_of_run(frame, traces[1].id)["horizon"]) == set(suite.horizons)


def test_a_short_run_is_out_of_the_later_columns_alone(scored: tuple[Results, Path]) -> None:
    """The mean at the last horizon is the long run's own, those before are over both runs."""
    results = scored[0]
    groups = ["state", "horizon"]
    of_runs = results.table.groupby([*groups, "trace"])["window_tv"].mean()
    expected = of_runs.groupby(groups).mean()
    rows = results.summarize(groups).set_index(groups)
    for group in expected.index:
        assert rows.loc[group, "value"] == pytest.approx(expected[group])
    long = of_runs.xs(HORIZONS[-1], level="horizon").xs(results.traces[0], level="trace")
    assert rows["value"].xs(HORIZONS[-1], level="horizon")[long.index].tolist() == pytest.approx(long.tolist())


def test_a_record_survives_its_file_and_is_made_again_from_kept_forecasts(
    traces: list[Trace], scored: tuple[Results, Path], tmp_path: Path
) -> None:
    """Written, read, and rescored: the same numbers, and none where there was none."""
    results, folder = scored
    read = load_results(results.save(tmp_path / "sw_avg.parquet"))
    columns = read.table.columns.drop(["stratum", "failure"])
    pd.testing.assert_frame_equal(read.table[columns], results.table[columns], check_dtype=False, rtol=1e-6)
    assert results.table.drop(columns=read.table.columns).isna().all(axis=None)
    results.save(folder)
    paths = {}
    for trace in traces:
        paths[trace.id] = tmp_path / f"{trace.meta.recipe}.parquet"
        write_trace(trace, paths[trace.id])
    again = rescore(folder, suite_of(traces, SHORT), "window_tv", paths=paths)
    np.testing.assert_allclose(metric_OK(again, "sw_avg"), metric_OK(results, "sw_avg"))


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
