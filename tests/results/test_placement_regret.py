"""Regret in results, beside window_tv, and where the two disagree."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.pages.disagreement import disagreements, draw_regret
from moeload_bench.errors import ResultError
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.style import save_figure
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
    for result in results:
        for task in result.runs[0].tasks:
            assert len(task.metrics["window_tv"]) == 3
            for shape in ("quarter", "half", "plain"):
                for metric in ("imbalance", "regret", "drop_rate"):
                    assert len(task.metrics[f"{metric}@{shape}"]) == 3


def test_uniform_plans_regret_most_on_an_unequal_run(results):
    """A forecaster that sees the hot expert makes better plans than one that does not."""
    mean = {r.name: np.mean([t.metrics["regret@quarter"][1] for t in r.runs[0].tasks]) for r in results}
    assert mean["uniform"] > 2 * max(mean["last_value"], mean["sw_avg"])


def test_disagreements_are_what_they_say(results):
    """In every pair the one has the lower window_tv, the other the lower regret; without margins there are no fewer."""
    strict, loose = disagreements(list(results)), disagreements(list(results), margin=0.0, least_regret=0.0)
    assert len(loose) >= len(strict)
    for d in loose:
        assert d.by_error != d.by_regret
        assert d.error_ratio > 1
        assert d.regret_gap > 0
    with pytest.raises(ResultError):
        disagreements([])


def test_the_figure_is_written(results, tmp_path):
    """Regret against window_tv, one panel per state that has results, which says over how many origins."""
    titles = [ax.get_title() for ax in draw_regret(list(results)).axes]
    assert titles == ["transient: mean over 1 run, 6 origins", "stable: mean over 1 run, 6 origins"]
    assert save_figure(draw_regret(list(results)), tmp_path / "regret.svg").stat().st_size > 5_000
