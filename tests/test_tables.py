"""Tables say what the results say, and over what each cell is a mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.comparison import errors_of, reference_of
from moeload_bench.errors import ResultError
from moeload_bench.results import Results, load_result
from moeload_bench.tables import best_lines, result_grid
from moeload_bench.trace import Trace
from tests.test_harness import run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(trace: Trace, tmp_path: Path) -> Results:
    return run(trace, tmp_path, "uniform", "sw_avg")


def test_a_cell_is_the_mean_over_the_origins_of_its_state(results: Results) -> None:
    """Recomputed from the flat rows."""
    frame = results.to_pandas()
    grid = result_grid(results, "window_tv")
    assert grid is not None
    for row in grid.rows:
        if row.state == "crossing":
            continue
        mine = frame[(frame.forecaster == row.forecaster) & (frame.state == row.state)]
        expected = mine.groupby("horizon").window_tv.mean()
        np.testing.assert_allclose(row.value_K, expected.to_numpy(), rtol=1e-9)
    assert "mean over runs of means over origins and layers" in grid.caption


def test_skill_of_the_reference_is_zero_and_few_recipes_print_no_interval(results: Results) -> None:
    """One recipe: n/a instead of an interval."""
    grid = result_grid(results, "window_tv")
    assert grid is not None
    assert {row.skill for row in grid.rows if row.forecaster == "sw_avg" and row.state != "crossing"} == {
        "+0.000 (n/a)"
    }


def test_no_table_says_error_rate_without_saying_which(results: Results) -> None:
    """Each definition is spelled out in the caption."""
    for metric, words in (("error_rate", "per-step"), ("window_error_rate", "window-mean")):
        grid = result_grid(results, metric)
        assert grid is not None
        assert words in grid.caption


def test_an_unknown_metric_has_no_table(results: Results) -> None:
    """None instead of an empty table."""
    assert result_grid(results, "no_such_metric") is None


def test_results_of_different_tasks_are_not_compared(results: Results) -> None:
    """Another suite hash is refused by name."""
    a, b = results
    other = b.model_copy(update={"suite": b.suite.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(ResultError, match="was scored on suite"):
        errors_of([a, other], "window_tv")


def test_the_best_forecaster_of_each_state_is_named(results: Results) -> None:
    """uniform cannot win on unequal loads."""
    assert "stable: sw_avg served best" in "\n".join(best_lines(results, "window_tv"))


def test_a_result_survives_its_file(results: Results, tmp_path: Path) -> None:
    """Save and load is the identity; a truncated record is refused with its name."""
    path = results[0].save(tmp_path / "r.json")
    assert load_result(path) == results[0]
    path.write_text(path.read_text()[:100])
    with pytest.raises(ResultError, match=r"r\.json"):
        load_result(path)


@pytest.mark.parametrize("path", sorted((ROOT / "leaderboard" / "results").glob("*/sw_avg.json")), ids=str)
def test_the_reference_in_the_wheel_is_the_committed_result(path: Path) -> None:
    """Skill of a single forecaster on a suite is against these numbers; a verification changes the status alone."""
    committed = load_result(path)
    other = committed.forecaster.model_copy(update={"target": "other", "name": "other"})
    bundled = reference_of([committed.model_copy(update={"forecaster": other})])
    assert bundled is not None
    assert bundled.model_copy(update={"status": committed.status}) == committed


def test_generated_tables_agree_with_the_committed_results() -> None:
    """README and docs are made by `make tables`; nobody's numbers are typed by hand."""
    command = [sys.executable, "-m", "leaderboard.make_tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
