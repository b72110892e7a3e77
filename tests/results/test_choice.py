"""What to take: the cheapest of those that a run cannot tell from the best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import PARTS, CostModel, PolicyRun, Simulation
from moeload_bench.results.choice import ForecasterChoice, choose_forecasters, choose_policy
from moeload_bench.results.collection import Results
from moeload_bench.results.record import Result
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace

BASE = PolicyRun("every", 10, 59, 260, 52_000.0, 95, 0.5, 5.5, 5.0, 10.0, 100.0, 1.1, None, None)


def run(saved: float, moved_gb: float, noise: float = 0.0, seed: int = 0, **fields: object) -> PolicyRun:
    """A policy that saves so much in every part of the trace, give or take."""
    parts_N = saved + noise * np.random.default_rng(seed).standard_normal(PARTS)
    parts = tuple((parts_N - parts_N.mean() + saved).tolist())
    return replace(BASE, saved_percent=saved, moved_mb=1000 * moved_gb, saved_parts=parts, **fields)


def test_a_policy_that_moves_less_for_next_to_nothing_is_taken() -> None:
    """0.03 points of the step time are not worth 39 GB: the sentence says both numbers."""
    every = run(5.01, 52.0, policy="every", every=20)
    if_pays = run(4.98, 12.8, policy="if_pays", every=50, replans=5)
    choice = choose_policy([every, if_pays, run(0.0, 0.0, policy="static")])
    assert (choice.best, choice.cheapest, choice.alike) == (every, if_pays, (every, if_pays))
    assert choice.text == (
        "Take if_pays, k = 50: 5 re-plans, 12.8 GB moved, where the best, every, k = 20, makes 59 and moves 52.0 GB "
        "for 0.03 points more; this run cannot tell the two apart."
    )


def test_noise_between_parts_decides_what_is_told_apart() -> None:
    """The same gap is a difference when every part shows it, and none when parts disagree."""
    best = run(5.0, 50.0)
    assert choose_policy([best, run(4.85, 1.0)]).cheapest is best
    vague = run(4.85, 1.0, noise=1.0, seed=1)
    assert choose_policy([best, vague]).cheapest is vague


def test_a_twentieth_of_the_saving_is_never_given_up() -> None:
    """However much the parts disagree."""
    best = run(5.0, 50.0)
    assert choose_policy([best, run(4.5, 1.0, noise=10.0, seed=1)]).cheapest is best


def test_where_nothing_is_saved_the_static_layout_is_taken() -> None:
    """It moves nothing; the oracle is no choice."""
    static = run(0.0, 0.0, policy="static", replans=0)
    choice = choose_policy([static, run(0.05, 3.0), run(9.0, 1.0, policy="oracle")])
    assert choice.cheapest is static
    assert "Take the static layout: " in choice.text


def test_parts_of_a_simulated_policy_add_up_to_what_it_saves() -> None:
    """The mean over equal parts is the saving of the whole trace, migration included."""
    trace = synthetic_trace(400)
    transient = np.zeros((400, 2), dtype=np.bool_)
    simulation = Simulation(trace.share_SLE(), transient, ClusterShape("mine", 2, 6), CostModel(100, 200, 25))
    rows, _ = simulation.decisions("every", 50)
    made = simulation.run("every", 50, simulation.true_means(rows, 50))
    assert made.replans > 0
    assert len(made.saved_parts) == PARTS
    assert np.mean(made.saved_parts) == pytest.approx(made.saved_percent)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_trace(synthetic_trace(700), tmp_path / "own/test/seed0.parquet")


def test_of_forecasters_that_serve_alike_the_cheapest_is_taken(path: Path) -> None:
    """The same average under two windows that hold the same rows; `uniform` is told apart from both."""
    from moeload_bench.traces.store import read_trace

    suite = suite_for_trace(read_trace(path), horizons=(1, 10), per_state=20)
    results = evaluate(
        ["uniform", "sw_avg@window=100", "sw_avg@window=101"], suite, paths={suite.traces[0].id: path}, level="none"
    )
    choices = {choice.state: choice for choice in choose_forecasters(results, "window_tv")}
    stable = choices["stable"]
    assert set(stable.alike) == {"sw_avg@window=100", "sw_avg@window=101"}
    cost = {result.name: result.runs[0].cost.per_forecast_s for result in results}
    assert stable.cheapest == min(stable.alike, key=lambda name: cost[name])
    assert "cannot be told from it. Take " in stable.text
    assert stable.apart == ("uniform",)


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
            "The next one, a, has 20 % more error. A 95 % test tells it from a and b.",
        ),
        ({"a": [0.467] * 20}, "The next one, a, errs 4.7 times as much. A 95 % test tells it from a."),
        ({"a": [0.12]}, "The next one, a, has 20 % more error. There are too few origins to test a."),
        ({"a": [0.103]}, "The next one, a, has 3.0 % more error. There are too few origins to test a."),
        (
            {"a": WAVERING},
            "The next one, a, has 20 % more error; the spread within these runs is too wide for a 95 % test.",
        ),
        (
            {"a": WAVERING, "b": [0.2] * 20},
            "The next one, a, has 20 % more error; the spread within these runs is too wide for a 95 % test. "
            "A 95 % test tells it from b.",
        ),
    ],
)
def test_only_a_test_tells_others_from_the_best(others: dict[str, list[float]], words: str, stored: Results) -> None:
    """A large gap is no test, nor is one origin: each is named for what it is."""
    count = len(next(iter(others.values())))
    results = Results([scored("best", [0.1] * count, stored), *(scored(n, e, stored) for n, e in others.items())])
    (choice,) = choose_forecasters(results, "window_tv")
    assert choice.text == f"stable: take best (window_tv). {words}"
    assert {*choice.apart, *choice.worse, *choice.untested} == set(others)


@pytest.mark.parametrize(("ms", "words"), [(152.3, "152 ms"), (1500.0, "1,500 ms"), (7.13, "7.1 ms")])
def test_a_cost_is_read_without_an_exponent(ms: float, words: str) -> None:
    """Two digits below 10 ms, whole milliseconds above."""
    choice = ForecasterChoice("stable", "window_tv", "one", ("one", "two"), "one", ms, ms, {"two": 0.0})
    assert f"it costs least, {words} a forecast" in choice.text


def next_command(shown: str) -> str:
    """The command that an output ends with, on one line."""
    _, _, command = shown.rpartition("Next")
    return " ".join(command.partition(":\n")[2].replace("\\\n", " ").split())


def test_run_on_a_trace_ends_with_what_to_take_and_the_next_command(path: Path) -> None:
    """In the last lines, and in --json."""
    arguments = ["run", "uniform", "last_value", "--trace", str(path), "--level", "none"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    last = next_command(shown.stdout)
    assert last.startswith(f"moeload-bench plan {path} --forecaster ")
    assert "--devices 2 --slots 6" in last
    record = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert {one["state"] for one in record["choice"]} <= {"transient", "mixed", "stable"}
    assert record["next"] == last
    assert len(record["results"]) == 2


def test_plan_ends_with_what_to_take_and_the_next_command(path: Path) -> None:
    """In the last lines, and in --json."""
    options = ["--devices", "2", "--slots", "6", "--expert-mb", "200", "--bandwidth", "25", "--step-ms", "100"]
    arguments = ["plan", str(path), *options, "--every", "50,100", "--level", "none"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("Take ")
    assert next_command(shown.stdout).startswith(f"moeload-bench report {path} --forecaster ")
    record = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert record["take"]["policy"] in {one["policy"] for one in record["not_told_apart"]}
    assert "saved_parts" not in record["take"]
    assert record["next"] == next_command(shown.stdout)
