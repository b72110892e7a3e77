"""Which forecaster errs least in a state, and what a test tells from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.results.choice import verdicts
from moeload_bench.results.collection import Results
from moeload_bench.results.grid import result_grid
from moeload_bench.results.record import Result
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_trace(synthetic_trace(700), tmp_path / "own/test/seed0.parquet")


def scored(name: str, errors: Sequence[float], results: Results) -> Result:
    """A stored result with these errors at its stable origins, in turn."""
    base = results[0]
    run = base.runs[0]
    stable = [task for task in run.tasks if task.state == "stable"][: len(errors)]
    tasks = tuple(
        task.model_copy(update={"metrics": {"window_tv": (error,) * len(task.metrics["window_tv"])}})
        for task, error in zip(stable, errors, strict=True)
    )
    return base.model_copy(
        update={
            "forecaster": base.forecaster.model_copy(update={"name": name}),
            "runs": (run.model_copy(update={"tasks": tasks}),),
        }
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Results:
    trace = synthetic_trace(700)
    suite = suite_for_trace(trace, horizons=(1, 10), per_state=20)
    path = write_trace(trace, tmp_path_factory.mktemp("stored") / "own/test/seed0.parquet")
    return evaluate(["uniform"], suite, paths={suite.traces[0].id: path}, level="none")


WAVERING = [0.06, 0.06, 0.24, 0.24] * 5
"""By parts of two origins now far below 0.1, now far above, and a fifth above in the mean of the logarithms."""


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (
            {"a": [0.12] * 20, "b": [0.5] * 20},
            "The next one, a, has 20 % more error. A 95 % test over parts of this run tells it from a and b.",
        ),
        (
            {"a": [0.467] * 20},
            "The next one, a, errs 4.7 times as much. A 95 % test over parts of this run tells it from a.",
        ),
        ({"a": [0.12]}, "The next one, a, has 20 % more error. Not tested: fewer than 3 parts with an origin."),
        (
            {"a": WAVERING, "b": [0.2] * 20},
            "The next one, a, has 20 % more error. A 95 % test over parts of this run tells it from b, does not tell "
            "it from a.",
        ),
    ],
)
def test_only_a_test_tells_others_from_the_best(others: dict[str, list[float]], words: str, stored: Results) -> None:
    """A large gap is no test, nor is one origin: each is named for what it is."""
    count = len(next(iter(others.values())))
    results = Results([scored("best", [0.1] * count, stored), *(scored(n, e, stored) for n, e in others.items())])
    (verdict,) = verdicts(results, "window_tv")
    assert verdict.text == f"stable: best has the least error (window_tv). {words}"


def test_horizons_with_another_best_are_named(stored: Results) -> None:
    """One forecaster for the next step, another for the next ten."""
    near, far = (scored(name, [0.1] * 20, stored) for name in ("near", "far"))
    tasks = tuple(task.model_copy(update={"metrics": {"window_tv": (0.05, 0.3)}}) for task in near.runs[0].tasks)
    near = near.model_copy(update={"runs": (near.runs[0].model_copy(update={"tasks": tasks}),)})
    (verdict,) = verdicts(Results([near, far]), "window_tv")
    assert verdict.by_horizon == {"near": (1,), "far": (10,)}
    assert verdict.text.endswith("Least by horizon: near at h=1; far at h=10.")


def of_recipes(result: Result, errors: Sequence[float]) -> Result:
    """The result on a run of each of so many recipes, with these errors."""
    run = result.runs[0]
    runs = [
        run.model_copy(
            update={
                "trace": f"recipe{i}/test/seed0",
                "tasks": tuple(
                    task.model_copy(update={"metrics": {"window_tv": (error,) * len(task.metrics["window_tv"])}})
                    for task in run.tasks
                ),
            }
        )
        for i, error in enumerate(errors)
    ]
    return result.model_copy(update={"runs": tuple(runs)})


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([0.12, 0.13, 0.12, 0.14, 0.12, 0.13], "A 95 % test over 6 recipes tells it from a."),
        ([0.05, 0.3, 0.05, 0.3, 0.05, 0.3], "A 95 % test over 6 recipes does not tell it from a."),
        ([0.2] * 4, "Not tested: 4 recipes (near twins count once), 5 are needed."),
    ],
)
def test_on_a_suite_the_test_is_over_recipes(errors: list[float], words: str, stored: Results) -> None:
    """Runs of a suite are not cut into parts: the best is the first row of the table, the test that of the suite."""
    best = of_recipes(scored("best", [0.1] * 20, stored), [0.1] * len(errors))
    results = Results([best, of_recipes(scored("a", [0.1] * 20, stored), errors)])
    (verdict,) = verdicts(results, "window_tv")
    assert verdict.text.endswith(words)
    grid = result_grid(results, "window_tv")
    assert grid is not None
    assert verdict.best == grid.of_state("stable")[0].forecaster == "best"


def next_command(shown: str) -> str:
    """The command that an output ends with, on one line."""
    _, _, command = shown.rpartition("Next")
    return " ".join(command.partition(":\n")[2].replace("\\\n", " ").split())


def test_run_on_a_trace_ends_with_what_to_take_and_the_next_command(path: Path) -> None:
    """In the last lines, and in --json."""
    arguments = ["run", "uniform", "last_value", "--trace", str(path), "--level", "none", "--step-ms", "90"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    last = next_command(shown.stdout)
    assert last == f"moeload-bench plan {path} --forecaster last_value --step-ms 90"
    record = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert {one["state"] for one in record["least_error"]} <= {"transient", "mixed", "stable"}
    assert record["decision"]["take"]["forecaster"] in ("ema", "sw_avg", "adaptive", "gated", "last_value")
    assert record["next"] == last
    assert len(record["results"]) == 2


def test_plan_ends_with_what_to_take_and_the_next_command(path: Path) -> None:
    """In the last lines, and in --json; what was stated is in the next command, what is assumed is not."""
    options = ["--devices", "2", "--slots", "6", "--expert-mb", "200"]
    arguments = ["plan", str(path), *options, "--every", "50,100", "--level", "none"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("Decision at step 700: ")
    record = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert record["decision"]["take"] in record["decision"]["candidates"]
    assert record["next"] == next_command(shown.stdout)
    assert record["next"] == f"moeload-bench report {path} --every 50,100 {' '.join(options)} --out report.html"
