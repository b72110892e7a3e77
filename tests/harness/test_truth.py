"""What the harness knows of a run: crossings, floors, labels, references; each is computed once for all forecasters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from moeload_bench.forecaster import Forecast, ForecastRequest
from moeload_bench.harness import pairs
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.truth import Truth, open_truth
from moeload_bench.results.columns import FACT_KEYS, Row, fact_frame, metric_columns
from moeload_bench.results.results import Results
from moeload_bench.results.trace_facts import suite_facts
from moeload_bench.states.rule import StateRule
from moeload_bench.suites.suite import Suite, SuiteTrace, load_suite, suite_for_trace
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.store import data_sha256, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE, synthetic_trace
from tests.support.forecasters import LastSeen
from tests.support.scores import same_scores, scored_table

LEVELS = (0.1, 0.9)


def run_of(trace: Trace, folder: Path, forecaster: object, *, origins: dict[str, tuple[int, ...]],
           horizons: tuple[int, ...] = (1, 10), quantiles: tuple[float, ...] = ()) -> Results:  # fmt: skip
    path = write_trace(trace, folder / "t.parquet", overwrite=True)
    entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), **origins)
    suite = Suite(name="small", horizons=horizons, quantiles=quantiles, traces=(entry,))
    return evaluate([forecaster], suite, paths={trace.id: path}, level="none")


def restarting(steps: int = 600, at: int = 500, stage: bool = False) -> Trace:
    """Steady loads whose learning rate falls and starts again, or whose data stage changes, at a row."""
    load = synthetic_load_SLE(1)[:, :, :].repeat(steps, axis=0)
    planned = {"lr": np.where(np.arange(steps) < at, 1e-4, 1e-3)}
    if stage:
        planned = {"stage": (np.arange(steps) >= at).astype(np.int64)}
    return Trace.from_arrays(load, 512, 2, columns=planned)


@pytest.mark.parametrize("stage", [False, True], ids=["lr", "stage"])
def test_a_window_with_a_planned_switch_crosses(stage: bool) -> None:
    """A restart of the learning rate counts as a change of data does, whether or not any label changes."""
    truth = Truth(restarting(stage=stage), StateRule(), (1, 50))
    assert truth.labels is not None
    assert not truth.labels.transient_SL[400:].any()
    assert truth.crosses(400) == (False, False)
    assert truth.crosses(450) == (False, False)
    assert truth.crosses(451) == (False, True)
    assert truth.crosses(500) == (True, True)
    assert truth.crosses(501) == (False, False)


def test_every_row_of_a_table_has_floors(tmp_path: Path) -> None:
    """Mixed and crossing rows too, from their own windows; a state without origins has none."""
    found = run_of(restarting(at=500), tmp_path, "uniform", origins={"mixed": (200,), "stable": (450, 495)})
    assert found.table["crossing"].tolist() == [False, False, False, False, False, True]
    assert set(found.facts["state"]) == {"mixed", "stable", "crossing"}
    crossing = found.facts[found.facts["state"] == "crossing"]
    assert crossing["floor_level.window_tv"].isna().tolist() == [True, False]


def test_floors_of_mixed_rows_are_means_over_their_windows() -> None:
    """The noise around these origins, not that of other rows: loads without noise have a floor of 0."""
    load = synthetic_load_SLE(800, tokens=4096)
    load[300:] = load[300]
    truth = Truth(Trace.from_arrays(load, 4096, 2), StateRule(), (10,))
    for origin, is_zero in ((50, False), (600, True)):
        floor = truth.floors([(origin, "mixed")]).by_state()["mixed"]["floor_level"]["window_tv"][0]
        assert (floor == pytest.approx(0, abs=1e-12)) == is_zero


def test_a_stride_without_labels_is_scored_on_given_origins(tmp_path: Path) -> None:
    """Rows 1,000 steps apart: states are the suite's, nothing crosses, floors are those of the origins."""
    trace = Trace.from_arrays(synthetic_load_SLE(60), 512, 2, step_S=range(0, 60_000, 1000))
    origins = {"transient": (20_000, 25_000), "stable": (40_000,)}
    found = run_of(trace, tmp_path, "last_value", origins=origins, horizons=(1000, 10_000))
    assert found.table["state"].tolist() == ["transient"] * 4 + ["stable"] * 2
    assert not found.table["crossing"].any()
    assert found.failures.empty
    assert set(found.facts["state"]) == {"transient", "stable"}


class Quantiled(LastSeen):
    """Gives quantiles, and fails at one origin."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        if request.origin == 100:
            raise ValueError("not at 100")
        share = np.broadcast_to(self.share_LE, (len(LEVELS), len(request.horizons), *self.share_LE.shape))
        return Forecast(self.share_LE[None], np.array([request.horizon]), np.ascontiguousarray(share))


class Pointed(LastSeen):
    """Gives none, and fails at one origin."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        if request.origin == 100:
            raise ValueError("not at 100")
        return super().forecast(request)


class Broken(LastSeen):
    """Fails at every origin."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        raise ValueError("never")


@pytest.mark.parametrize(("forecaster", "has"), [(Quantiled, True), (Pointed, False), (Broken, False)])
def test_failed_tasks_score_quantiles_only_where_the_forecaster_gives_them(
    forecaster: type, has: bool, tmp_path: Path
) -> None:
    """A point forecaster that fails once has no `wql` of its failures alone; all tasks have the same metrics."""
    found = run_of(synthetic_trace(400), tmp_path, forecaster, origins={"transient": (50, 100)}, quantiles=LEVELS)
    assert len(found.failures) == (2 if forecaster is Broken else 1)
    for frame in (found.table, found.layers):
        assert frame is not None
        assert ("wql" in frame, "coverage" in frame) == (has, has)
        assert not has or frame["wql"].notna().all()


# ---------------------------------------------------------------- computed once, cached or shipped


@pytest.fixture
def mine(tmp_path: Path) -> tuple[Suite, dict[str, Path]]:
    """A suite over one short trace."""
    trace = synthetic_trace(700)
    suite = suite_for_trace(trace, horizons=(1, 10), per_state=3)
    return suite, {trace.id: write_trace(trace, tmp_path / "mine.parquet")}


def test_what_comes_with_the_package_is_what_the_traces_give() -> None:
    """The floors and crossings of suite mini, computed here."""
    suite = load_suite("mini")
    shipped = suite_facts(suite.name, suite.sha256())
    found = {
        entry.id: Truth(load_trace(entry.id), suite.rule, suite.horizons).facts(entry.origins(), len(suite.horizons))
        for entry in suite.traces
    }
    assert {name: one.crossing for name, one in found.items()} == {name: one.crossing for name, one in shipped.items()}
    by_key = [fact_frame(one, suite.horizons).set_index(list(FACT_KEYS)).sort_index() for one in (found, shipped)]
    pd.testing.assert_frame_equal(*by_key, rtol=1e-6, atol=1e-9)


def test_a_second_forecaster_is_scored_with_what_the_first_left(
    mine: tuple[Suite, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by another process, also with fresh work asked for: the same record, and nothing computed again."""
    suite, paths = mine
    first = evaluate("last_value", suite, paths=paths, level="none", fresh=True)
    open_truth.cache_clear()
    monkeypatch.setattr(Truth, "facts", None)
    monkeypatch.setattr("moeload_bench.harness.truth.reference_plans", None)
    again = evaluate("last_value", suite, paths=paths, level="none", fresh=True)
    assert same_scores(again, first)
    assert again.facts.equals(first.facts)


def test_plans_are_scored_for_the_shapes_asked_for_and_for_no_other(mine: tuple[Suite, dict[str, Path]]) -> None:
    """The scores that are there are those of the full record, and nothing of the smaller one is taken for it."""
    suite, paths = mine
    few, none, every_row = (
        scored_table(evaluate("last_value", suite, paths=paths, level="none", shapes=shapes))
        for shapes in (("half",), (), None)
    )
    assert not any("@" in name for name in none)
    assert {name.partition("@")[2] for name in metric_columns(few)} == {"", "half"}
    assert "drop_rate@experts" in every_row
    assert all(every_row[some.columns].equals(some) for some in (few, none))


def test_fresh_work_can_be_asked_of_some_forecasters(
    mine: tuple[Suite, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' finished work is used: `uniform`, the row of every table, says nothing new of a trace."""
    suite, paths = mine
    evaluate(["uniform", "last_value"], suite, paths=paths, level="none")
    replayed = []
    score = pairs.replay_and_score

    def spied(pair: pairs.Pair, **options: Any) -> list[Row]:
        replayed.append(pair.target.label)
        return score(pair, **options)

    monkeypatch.setattr(pairs, "replay_and_score", spied)
    evaluate(["uniform", "last_value"], suite, paths=paths, level="none")
    assert replayed == []
    evaluate(["uniform", "last_value"], suite, paths=paths, level="none", fresh=frozenset(["last_value"]))
    assert replayed == ["last_value"]
