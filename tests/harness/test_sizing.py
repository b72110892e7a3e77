"""A large run is looked at in part: which layers, which forecasters, and what is said of the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.baseline_facts import ordered
from moeload_bench.cli.app import app
from moeload_bench.harness import sizing
from moeload_bench.harness.sizing import sized
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace

OWN_TRACE_BASELINES = ordered("own_run")
AVERAGES = ("uniform", "last_value", "sw_avg", "ema")


def wide_trace(steps: int = 600, layers: int = 6) -> Trace:
    """A settled run of many layers, recorded with a column per layer and one per expert."""
    rng = np.random.default_rng(5)
    load = rng.multinomial(2000, rng.dirichlet(np.ones(8), size=layers), size=(steps, layers))
    columns = {"load_half": load // 2, "lr": np.linspace(1, 0, steps)}
    return Trace.from_arrays(load, 2000, 1, recipe="wide", columns=columns)


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a small run is beyond: two layers of eight experts, and a second in all."""
    monkeypatch.setattr(sizing, "SMALL", 1000)
    monkeypatch.setattr(sizing, "MOST_SCORED", 2 * 40 * 100 * 8)
    monkeypatch.setattr(sizing, "BUDGET_S", 0.2)


def test_a_small_run_is_looked_at_as_a_whole() -> None:
    """No layer and no forecaster is left out below the limit, whatever they cost."""
    trace = wide_trace()
    assert sized(trace, OWN_TRACE_BASELINES, "w.parquet") == (trace, OWN_TRACE_BASELINES, None)


def test_the_dearest_forecasters_are_left_out_first_and_the_averages_last(
    tight: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller the budget, the fewer are left, in the order of their cost; one always is."""
    left = []
    for budget in (1000.0, 1.0, 0.2, 0.0):
        monkeypatch.setattr(sizing, "BUDGET_S", budget)
        fitting = sized(wide_trace(), OWN_TRACE_BASELINES, "w.parquet").names
        left.append(set(OWN_TRACE_BASELINES) - set(fitting))
    assert left[0] == set()
    assert left[1] == {"arima"}
    assert left[2] == {"arima", "lstm.online"}
    assert len(left[3]) == len(OWN_TRACE_BASELINES) - 1
    assert left[3] & set(AVERAGES) != set(AVERAGES)


def test_a_run_that_takes_the_whole_budget_to_read_still_gets_a_comparison(
    tight: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the budget is the forecasters': the cheap ones stay, `guarded` among them."""
    monkeypatch.setattr(sizing, "READING_NS", 1e9)
    fitting = sized(wide_trace(), OWN_TRACE_BASELINES, "w.parquet").names
    assert {*AVERAGES, "guarded"} <= set(fitting)
    assert "arima" not in fitting


def test_the_layers_looked_at_are_spread_evenly_with_all_their_columns(tight: None) -> None:
    """First and last are among them; every array is that of the named layers."""
    trace = wide_trace()
    part, _, note = sized(trace, AVERAGES, "w.parquet")
    assert [layer.index for layer in part.meta.layers] == [0, 5]
    np.testing.assert_array_equal(part.load_SLE, trace.load_SLE[:, [0, 5]])
    np.testing.assert_array_equal(part.columns["load_half"], trace.columns["load_half"][:, [0, 5]])
    np.testing.assert_array_equal(part.columns["lr"], trace.columns["lr"])
    assert note is not None
    assert "2 of 6 layers are looked at, evenly spread" in note


def test_run_says_what_it_leaves_out_and_which_command_runs_it(tight: None, tmp_path) -> None:
    """On standard error before it begins; named forecasters run on all layers."""
    path = write_trace(wide_trace(), tmp_path / "w.parquet")
    done = CliRunner().invoke(app, ["run", "--trace", str(path), "--level", "none"])
    assert done.exit_code == 0, done.output
    assert "2 of 6 layers" in done.stderr
    assert "left out: arima (about" in done.stderr
    assert f"moeload-bench run {' '.join(OWN_TRACE_BASELINES)} --trace {path}" in done.stderr
    assert "arima" not in done.stdout
    asked = CliRunner().invoke(app, ["run", "ema", "--trace", str(path), "--level", "none", "--json"])
    assert "left out" not in asked.stderr
    assert json.loads(asked.stdout)["left_out"] is None
