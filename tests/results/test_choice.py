"""Which forecaster errs least in a state, and what a test tells from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.results.choice import verdicts
from moeload_bench.results.report import report_of
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.support.tables import made_results


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_trace(synthetic_trace(700), tmp_path / "own/test/seed0.parquet")


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
        (
            {"a": [0.12]},
            "The next one, a, has 20 % more error. No significance test: fewer than 3 parts with an origin.",
        ),
        (
            {"a": WAVERING, "b": [0.2] * 20},
            "The next one, a, has 20 % more error. A 95 % test over parts of this run tells it from b, does not tell "
            "it from a.",
        ),
    ],
)
def test_only_a_test_tells_others_from_the_best(others: dict[str, list[float]], words: str) -> None:
    """A large gap is no test, nor is one origin: each is named for what it is."""
    count = len(next(iter(others.values())))
    errors = {name: [[error, error] for error in found] for name, found in {"best": [0.1] * count, **others}.items()}
    (verdict,) = verdicts(made_results(errors), "window_tv")
    assert verdict.text == f"stable: best has the least error (window_tv). {words}"


def test_horizons_with_another_best_are_named() -> None:
    """One forecaster for the next step, another for the next ten."""
    (verdict,) = verdicts(made_results({"near": [[0.05, 0.3]] * 20, "far": [[0.1, 0.1]] * 20}), "window_tv")
    assert verdict.by_horizon == {"near": (1,), "far": (10,)}
    assert verdict.text.endswith("Least by horizon: near at h=1; far at h=10.")


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([0.12, 0.13, 0.12, 0.14, 0.12, 0.13], "A 95 % test over 6 recipes tells it from a."),
        ([0.05, 0.3, 0.05, 0.3, 0.05, 0.3], "A 95 % test over 6 recipes does not tell it from a."),
        ([0.2] * 4, "No significance test: 4 different recipes, 5 are needed."),
    ],
)
def test_on_a_suite_the_test_is_over_recipes(errors: list[float], words: str) -> None:
    """Runs of a suite are not cut into parts: the best is the first row of the table, the test that of the suite."""
    traces = [f"recipe{i}/test/seed0" for i in range(len(errors))]
    rows = {"sw_avg": [[0.1, 0.1]] * len(errors), "a": [[error, error] for error in errors]}
    results = made_results(rows, traces)
    (verdict,) = verdicts(results, "window_tv")
    assert verdict.text.endswith(words)
    assert verdict.best == report_of(results, "window_tv").rows_in("stable")[0].forecaster == "sw_avg"


def next_command(shown: str) -> str:
    """The command that an output ends with, on one line."""
    _, _, command = shown.rpartition("Next")
    return " ".join(command.partition(":\n")[2].replace("\\\n", " ").split())


def test_run_on_a_trace_ends_with_the_next_command(path: Path) -> None:
    """In the last lines, and in --json."""
    arguments = ["run", "uniform", "last_value", "--trace", str(path), "--level", "none"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    last = next_command(shown.stdout)
    assert last == f"moeload-bench plan {path}"
    record = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert {one["state"] for one in record["least_error"]} <= {"transient", "mixed", "stable"}
    assert record["next"] == last
    assert [entry["name"] for entry in record["entries"]] == ["uniform", "last_value"]


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
    written = "--write placement.json --format eplb"
    assert record["next"] == f"moeload-bench plan {path} --every 50,100 {' '.join(options)} {written}"
