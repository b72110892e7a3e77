"""Tables say what the results say, and over what each cell is a mean."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.cli.progress import plain_console
from moeload_bench.errors import NotFoundError, ResultError
from moeload_bench.results.brief import brief_tables
from moeload_bench.results.captions import answer_lines, failure_lines, table_caption
from moeload_bench.results.choice import verdicts
from moeload_bench.results.collection import Results
from moeload_bench.results.comparison import errors_of, reference_of, with_runs_of
from moeload_bench.results.grid import result_grid
from moeload_bench.results.record import Result, load_result
from moeload_bench.results.run_result import TaskResult
from moeload_bench.results.tables import signed, skill_text
from moeload_bench.scoring.catalogue import metric_names, ratio_metric
from moeload_bench.states.rule import StateRule
from moeload_bench.traces.trace import Trace
from tests.evaluation.test_harness import run

ROOT = Path(__file__).resolve().parents[2]


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
    assert "mean over runs of means over origins and layers" in table_caption(grid)


def test_skill_of_the_reference_is_zero_and_few_recipes_print_no_interval(results: Results) -> None:
    """One recipe: n/a instead of an interval."""
    grid = result_grid(results, "window_tv")
    assert grid is not None
    assert {skill_text(row) for row in grid.rows if row.forecaster == "sw_avg" and row.state != "crossing"} == {
        "+0.000 (n/a)"
    }


def rescored(result: Result, change: Callable[[TaskResult, int], dict[str, Any]], recipes: int = 1) -> Result:
    """The result on so many recipes, two runs each; ``change(task, recipe)`` are the new fields of a task."""
    run = result.runs[0]
    runs = tuple(
        run.model_copy(
            update={
                "trace": f"r{g}/test/seed{s}",
                "tasks": tuple(task.model_copy(update=change(task, g)) for task in run.tasks),
            }
        )
        for g in range(recipes)
        for s in range(2 if recipes > 1 else 1)
    )
    return result.model_copy(update={"runs": runs})


@pytest.mark.parametrize("name", ["regret", "imbalance", "drop_rate"])
def test_tables_of_plans_have_the_skill_of_imbalance_with_intervals(results: Results, name: str) -> None:
    """Regret may be 0 or less: the ratio is that of the imbalance of the same plans, and the caption says so."""
    metric, shape = f"{name}@half", "imbalance@half"
    rng = np.random.default_rng(0)

    def around(factor: float) -> Callable[[TaskResult, int], dict[str, Any]]:
        return lambda task, g: {
            "metrics": {**task.metrics, shape: tuple(factor * np.exp(0.01 * rng.standard_normal(3)))}
        }

    twice = [rescored(results[0], around(1.5), recipes=6), rescored(results[1], around(1.2), recipes=6)]
    grid = result_grid(twice, metric)
    assert grid is not None
    (row,) = (row for row in grid.rows if (row.forecaster, row.state) == ("uniform", "stable"))
    text = skill_text(row)
    assert text.startswith("-0.2")
    assert "a new recipe [-0.2" in text
    assert "these recipes, new seeds [-0.2" in text
    assert f"the ratio {'' if metric == shape else f'of {shape} '}to sw_avg" in table_caption(grid)


def test_counts_are_of_the_values_at_each_horizon(results: Results) -> None:
    """A cell counts the origins that have a value there: crossing windows, layers without load, failed quantiles."""

    def holes(task: TaskResult, g: int) -> dict[str, Any]:
        wql = {"wql": (None, 0.1, 0.1)} if task.origin == 250 else {}
        return {"crossing": (False, task.origin < 100, True), "metrics": {**task.metrics, **wql}}

    changed = [rescored(result, holes) for result in results]
    grid = result_grid(changed, "window_tv")
    assert grid is not None
    counts = {row.state: row.origins_K for row in grid.rows}
    assert counts == {"transient": (2, 2, 2), "stable": (2, 2, 2), "crossing": (0, 1, 4)}
    assert "transient 2 origins of 1 run" in table_caption(grid)
    assert "crossing 0/1/4 origins (by horizon) of 1 run" in table_caption(grid)
    assert "run(s)" not in table_caption(grid)
    given = result_grid([changed[0], results[1].model_copy(update={"runs": rescored(results[1], lambda t, g: {
        "crossing": (False, t.origin < 100, True)}).runs})], "wql")  # fmt: skip
    assert given is not None
    assert "stable 0/1/1 origins (by horizon) of 1 run" in table_caption(given)
    assert "No floor is known for wql" in table_caption(given)


def test_rows_carry_the_floors_of_their_own_state_only(results: Results) -> None:
    """A state without a row has no floors; a row whose state has none is named; without half batches that is said."""
    stable = [rescored(result, lambda task, g: {"state": "stable", "crossing": (True,) * 3}) for result in results]
    grid = result_grid(stable, "window_tv")
    assert grid is not None
    assert {state for state, _ in grid.floors} == {"stable"}
    assert "No floor is given for: crossing." in table_caption(grid)
    bare = [
        result.model_copy(
            update={"runs": (run.model_copy(update={"floors": {}, "floor_marks": {"floor_batch": "not given"}}),)}
        )
        for result in stable
        for run in result.runs
    ]
    without = result_grid(bare, "window_tv")
    assert without is not None
    assert "no half batches were recorded" in table_caption(without)
    mixed = [
        result.model_copy(update={"runs": (*result.runs, *other.runs)})
        for result, other in zip(stable, bare, strict=True)
    ]
    some = result_grid(mixed, "window_tv")
    assert some is not None
    assert some.marks["floor_batch"] == "exact"
    assert "no half batches were recorded" not in table_caption(some)


def test_where_there_is_no_skill_the_reason_is_given(results: Results) -> None:
    """No reference, a metric without ratios, or a reference from the package: each is said."""
    alone = result_grid(results[:1], "window_tv")
    assert alone is not None
    assert {skill_text(row) for row in alone.rows} == {"-"}
    assert "No skill: the reference sw_avg was not run, and the package has no result of it" in table_caption(alone)
    recall = result_grid(results, "hot_recall")
    assert recall is not None
    assert "No skill: hot_recall is no positive error" in table_caption(recall)


def test_the_best_fixed_window_is_named_where_there_are_several(results: Results) -> None:
    """Among the entries of sw_avg only, and said to be chosen in hindsight."""
    better = rescored(results[1], lambda task, g: {"metrics": {"window_tv": (1e-3,) * 3}}).model_copy(
        update={"forecaster": results[1].forecaster.model_copy(update={"name": "w9", "target": "sw_avg@window=9"})}
    )
    back = better.model_copy(update={"runs": (better.runs[0].model_copy(update={"trace": results[1].runs[0].trace}),)})
    grid = result_grid([*results, back], "window_tv")
    assert grid is not None
    assert "Best fixed window in hindsight (window_tv): w9, of 2 windows" in table_caption(grid)
    one = result_grid(results, "window_tv")
    assert one is not None
    assert "hindsight" not in table_caption(one)


def answers(results: Results, metric: str) -> dict[str, str]:
    """What is said of each state."""
    lines = answer_lines(results, list(verdicts(results, metric)), StateRule())
    return dict(line.split(": ", 1) for line in lines)


def test_rounding_names_no_best_forecaster(results: Results) -> None:
    """Two exact forecasts served best together, whatever their last bits."""
    exact = [
        rescored(result, lambda task, g, error=error: {"metrics": {"window_tv": (error,) * 3}})
        for result, error in zip(results, (0.0, 3e-16), strict=True)
    ]
    stable = answers(Results(exact), "window_tv")["stable"]
    assert ", is as good. " in stable
    assert "uniform" in stable
    assert "sw_avg" in stable


@pytest.mark.filterwarnings("error")
def test_the_best_of_nothing_is_nobody(results: Results) -> None:
    """Without any value nothing is named, without a warning; horizons without values decide nothing."""
    none = [rescored(r, lambda task, g: {"metrics": {"window_tv": (None,) * 3}}) for r in results]
    assert answers(Results(none), "window_tv") == dict.fromkeys(
        ("transient", "stable"), "nothing can be said: no forecaster was scored at all of its origins"
    )
    some = [
        rescored(r, lambda task, g: {"metrics": {"window_tv": (None, *task.metrics["window_tv"][1:])}}) for r in results
    ]
    words = "sw_avg has the least error (window_tv). The next one, uniform, "
    assert words in answers(Results(some), "hot_recall")["stable"]


def test_every_metric_of_results_can_be_asked_for(results: Results) -> None:
    """What `--metric` accepts covers what results hold, and each has a description."""
    assert {name for task in results[0].runs[0].tasks for name in task.metrics} <= set(metric_names())
    assert ratio_metric("regret@half") == "imbalance@half"
    assert ratio_metric("drop_rate@experts") is None
    assert ratio_metric("window_tv") == "window_tv"


def test_no_table_says_error_rate_without_saying_which(results: Results) -> None:
    """Each definition is spelled out in the caption."""
    for metric, words in (("error_rate", "per-step"), ("window_error_rate", "window-mean")):
        grid = result_grid(results, metric)
        assert grid is not None
        assert words in table_caption(grid)


@pytest.mark.parametrize(
    ("value", "two", "three"),
    [(-0.0003, "-0.0003", "-0.0003"), (0.004, "+0.004", "+0.004"), (0.0, "+0.00", "+0.000"), (-1e-9, "+0.00", "+0.000"),
     (-0.07, "-0.07", "-0.070")],
)  # fmt: skip
def test_an_end_of_an_interval_has_digits(value: float, two: str, three: str) -> None:
    """None reads -0.00: it has the decimals that tell it from naught, and naught has no side."""
    assert (signed(value, 2), signed(value)) == (two, three)


def test_a_metric_that_nobody_has_has_no_table(results: Results) -> None:
    """None instead of an empty table, for a metric that exists; what does not exist is refused by name."""
    assert result_grid(results, "wql") is None
    for unknown in ("no_such_metric", "regret@nowhere", "imbalance"):
        with pytest.raises(NotFoundError, match=f"unknown metric '{unknown}'; there is: .*window_tv"):
            result_grid(results, unknown)


def test_results_of_different_tasks_are_not_compared(results: Results) -> None:
    """Another suite hash is refused by name."""
    a, b = results
    other = b.model_copy(update={"suite": b.suite.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(ResultError, match="was scored on suite"):
        errors_of([a, other], "window_tv")


def test_the_best_forecaster_of_each_state_is_named(results: Results) -> None:
    """uniform cannot win on unequal loads."""
    assert "sw_avg has the least error (window_tv). The next one, uniform, " in answers(results, "window_tv")["stable"]


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
    # of the whole results, a difference would take minutes to show
    assert bundled.content_sha256 == committed.content_sha256


def test_the_reference_in_the_wheel_is_compared_on_the_runs_that_are_there() -> None:
    """Results of one size of batch, or of one recipe, without the reference's: it has the other runs too."""
    window = load_result(ROOT / "leaderboard" / "results" / "v3" / "sw_avg.w10.json")
    few = with_runs_of([window], {run.trace for run in window.runs[:2]})
    found = reference_of(few)
    assert found is not None
    assert [run.trace for run in found.runs] == [run.trace for run in few[0].runs]
    assert result_grid(few, "window_tv") is not None


def test_a_window_of_the_reference_s_is_not_the_reference() -> None:
    """`sw_avg@window=10` has its target and other arguments: of both the one without arguments is it, in any order."""
    plain, window = (load_result(ROOT / "leaderboard" / "results" / "v3" / f"sw_avg{of}.json") for of in ("", ".w10"))
    assert reference_of([window, plain]) is plain
    alone = reference_of([window])
    assert alone is not None
    assert alone.name == "sw_avg"


@pytest.mark.slow
def test_generated_tables_agree_with_the_committed_results() -> None:
    """README and docs are made by `make tables`; nobody's numbers are typed by hand."""
    pages = ["README.md", "docs/reports/results.md", "docs/methods/format.md"]
    command = [sys.executable, "-m", "leaderboard", "pages", "--check", *pages]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_best_stands_first_where_there_is_no_skill(results: Results) -> None:
    """By the metric's own values, in its own direction, which the short table says."""
    grid = result_grid(list(reversed(results)), "hot_recall")
    assert grid is not None
    for state in grid.states:
        means = [np.mean([value for value in row.value_K if value is not None]) for row in grid.of_state(state)]
        assert means == sorted(means, reverse=True)
    console = plain_console()
    with console.capture() as shown:
        for table in brief_tables(results, "hot_recall", 80):
            console.print(table)
    assert "training steps ahead; more is better" in shown.get()


def test_failures_that_differ_in_numbers_alone_are_one_line(results: Results) -> None:
    """A reason that names its origin is one failure, told with the first one's."""
    failed = rescored(results[0], lambda task, g: {"failure": f"no idea at {task.origin}"})
    first, *more = failure_lines([failed])
    assert more == []
    assert re.search(r" origins from (\d+) on: no idea at \1$", first)
