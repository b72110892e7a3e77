"""`compare_policies` and `plan` give one decision; what cannot be decided is refused before any work."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import MoeloadError, NotFoundError, PlacementError, TargetError, TraceError
from moeload_bench.ops.planning.planner import compare_policies
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace

COST = CostModel(step_ms=100, expert_mb=50, bandwidth_gb_s=25, expert_fraction=0.5)
SHAPE_8 = ClusterShape("x", 2, 10)


def skewed_trace(steps=1400, stride=1):
    """A settled, unequal run of two layers and eight experts."""
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(8), size=2)
    return Trace.from_arrays(
        rng.multinomial(2000, p, size=(steps, 2)), 1000, 2, step_S=np.arange(steps) * stride, stride=stride
    )


def plan_command(path, *more):
    base = ["plan", str(path), "--devices", "2", "--slots", "10", "--expert-mb", "50", "--bandwidth", "25"]
    return CliRunner().invoke(app, [*base, "--step-ms", "100", "--every", "50,200", "--level", "none", *more])


def test_it_is_the_decision_of_plan(tmp_path):
    """Each field of the record is equal, but for times; a settled, unequal run is worth a move."""
    path = write_trace(skewed_trace(), tmp_path / "own.parquet")
    done = plan_command(path, "--forecaster", "sw_avg", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)["decision"]
    decision = compare_policies(skewed_trace(), "sw_avg", SHAPE_8, COST, every=[50, 200], level="none")
    assert decision.moves
    assert [one.every for one in decision.candidates] == [50, 200]
    for found in (record := decision.record, printed):
        for one in (found["take"], *found["candidates"]):
            del one["cpu_ms"]
        del found["constants"]  # the command states four of them, the cost model all
    assert json.loads(json.dumps(record)) == printed


def test_intervals_that_do_not_fit_are_refused():
    """Neither zero or less, nor between two blocks of the state rule."""
    for every in ([0], [7, 600], [-10]):
        with pytest.raises(TraceError, match=r"expected a (positive )?multiple of"):
            compare_policies(skewed_trace(), "sw_avg", SHAPE_8, COST, every=every, level="none")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"seed": 0.5}, "seed is 0.5, expected a whole number from 0"),
        ({"seed": True}, "seed is True, expected a whole number from 0"),
        ({"level": "Sandbox"}, "Sandbox.*none, process, sandbox"),
    ],
)
def test_words_that_do_not_exist_are_refused_by_name(words, said):
    """A seed that is no whole number or an unknown level: before the forecaster sees anything."""
    with pytest.raises(MoeloadError, match=said):
        compare_policies(skewed_trace(), "sw_avg", SHAPE_8, COST, every=[100], **words)


def test_a_trace_without_any_load_is_refused():
    """Nothing can be planned or compared where no layer-step has load: the trace is named."""
    silent = Trace.from_arrays(np.zeros((60, 2, 8), dtype=np.int64), 0, 2, recipe="silent")
    with pytest.raises(PlacementError, match=r"silent/.*: no layer has load in any of 60 rows, expected"):
        compare_policies(silent, "sw_avg", SHAPE_8, COST, every=[20], level="none")


def test_an_unknown_forecaster_is_refused_by_name():
    """As everywhere."""
    with pytest.raises((TargetError, Exception), match="no_such"):
        compare_policies(skewed_trace(), "no_such", SHAPE_8, COST, every=[100], level="none")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--slots", "9"], "10 would"),
        (["--devices", "1"], "every plan costs the same"),
        (["--expert-mb", "-1"], "expert_mb is -1"),
        (["--bandwidth", "0"], "bandwidth_gb_s is 0"),
        (["--every", "ten"], "--every is 'ten'"),
        (["--nodes", "2", "--groups", "3"], "multiple of 2"),
        (["--groups", "0"], "groups is 0"),
        (["--slots", "2"], "8 experts need a slot each"),
        (["--devices", "3"], "do not divide over 3 devices"),
    ],
)
def test_the_command_refuses_what_makes_no_plan(tmp_path, more, says):
    """Impossible requests end before any work, with what would fit."""
    path = tmp_path / "own.parquet"
    write_trace(skewed_trace(), path)
    done = plan_command(path, *more)
    assert done.exit_code != 0
    assert says in str(done.exception)


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--slots", "6"], "--slots 6 needs --devices"), (["--nodes", "2"], "--nodes 2 needs --devices")],
)
def test_half_a_cluster_is_refused(tmp_path, options, says):
    """What is missing is named."""
    path = write_trace(skewed_trace(60), tmp_path / "own.parquet")
    with pytest.raises(PlacementError, match=says):
        CliRunner().invoke(app, ["plan", str(path), *options], catch_exceptions=False)


def test_forecasters_that_are_named_are_compared_in_that_order(tmp_path):
    """At commas and by the option again, arguments with commas whole; the next command names them all."""
    path = write_trace(skewed_trace(), tmp_path / "own.parquet")
    done = plan_command(path, "--forecaster", "sw_avg@window=20,uniform", "--forecaster", "ema", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    names = list(dict.fromkeys(one["forecaster"] for one in printed["decision"]["candidates"]))
    assert names == ["sw_avg@window=20", "uniform", "ema"]
    assert "--forecaster sw_avg@window=20,uniform,ema " in printed["next"]
    for words, name in (("sw_avg,no_such_forecaster", "no_such_forecaster"), ("", "")):
        unknown = plan_command(path, "--forecaster", words)
        assert isinstance(unknown.exception, NotFoundError)
        assert f"unknown forecaster '{name}'; there is: " in str(unknown.exception)
