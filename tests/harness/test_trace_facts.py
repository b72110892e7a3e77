"""What belongs to a trace is computed once, and is the same whether it was computed, kept or shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from moeload_bench.harness import pairs
from moeload_bench.harness import truth as truths
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.run_result import RunResult
from moeload_bench.harness.truth import Truth, open_truth
from moeload_bench.results.columns import FACT_KEYS, fact_frame, metric_columns
from moeload_bench.results.trace_facts import suite_facts
from moeload_bench.suites.suite import Suite, load_suite, suite_for_trace
from moeload_bench.traces.store import load_trace, write_trace
from tests.conftest import synthetic_trace
from tests.support.scores import same_scores


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


def test_what_was_kept_of_other_traces_or_origins_is_not_used(mine: tuple[Suite, dict[str, Path]]) -> None:
    """The key holds the trace's hash, the origins and the horizons."""
    suite, paths = mine
    evaluate("last_value", suite, paths=paths, level="none")
    (entry,) = suite.traces
    truth = Truth(load_trace(paths[entry.id]), suite.rule, suite.horizons)
    assert truths.load_references(suite, entry, truth)
    assert not truths.load_references(suite, entry.model_copy(update={"data_sha256": "0" * 64}), truth)
    assert not truths.load_references(suite, entry.model_copy(update={"stable": entry.stable[1:]}), truth)
    assert not truths.load_references(suite.model_copy(update={"horizons": (1,)}), entry, truth)


def test_plans_are_scored_for_the_shapes_asked_for_and_for_no_other(mine: tuple[Suite, dict[str, Path]]) -> None:
    """The scores that are there are those of the full record, and nothing of the smaller one is taken for it."""
    suite, paths = mine
    few, none, whole = (
        evaluate("last_value", suite, paths=paths, level="none", shapes=shapes).table
        for shapes in (("half",), (), None)
    )
    assert not any("@" in name for name in none)
    assert {name.partition("@")[2] for name in metric_columns(few)} == {"", "half"}
    assert "drop_rate@experts" in whole
    assert all(whole[some.columns].equals(some) for some in (few, none))


def test_fresh_work_can_be_asked_of_some_forecasters(
    mine: tuple[Suite, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' finished work is used: `uniform`, the row of every table, says nothing new of a trace."""
    suite, paths = mine
    evaluate(["uniform", "last_value"], suite, paths=paths, level="none")
    replayed = []
    score = pairs.replay_and_score

    def spied(pair: pairs.Pair, **options: Any) -> RunResult:
        replayed.append(pair.target.label)
        return score(pair, **options)

    monkeypatch.setattr(pairs, "replay_and_score", spied)
    evaluate(["uniform", "last_value"], suite, paths=paths, level="none")
    assert replayed == []
    evaluate(["uniform", "last_value"], suite, paths=paths, level="none", fresh=frozenset(["last_value"]))
    assert replayed == ["last_value"]
