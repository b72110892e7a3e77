"""`python -m leaderboard shapes`: the page is what its tables give, the tables what the runs give."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from leaderboard.committed import TRACES, committed_results
from leaderboard.shapes.board import board_table, board_words, hours_left_out, run_errors
from leaderboard.shapes.measuring import WINDOW, layers_together, measure_layers, measure_run
from leaderboard.shapes.page import FIGURES, PAIR, QUANTITIES, Layers, read_layers, shapes_page
from moeload_bench.results.strata import run_groups
from moeload_bench.states.rule import label_states
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces, synthetic_load_SLE

REPORTS = Path(__file__).resolve().parents[2] / "docs" / "reports"


def planted(sign_of_run: dict[str, float]) -> Layers:
    """Return five layers of each run, of which every quantity rises (1) or falls (-1) with depth."""
    runs = pd.DataFrame({"run": list(sign_of_run), "pairs": 0.5, "chance": 0.1})
    layers = [
        pd.DataFrame({"run": run, "layer": range(5), **{name: sign * np.arange(5.0) for name in QUANTITIES}})
        for run, sign in sign_of_run.items()
    ]
    return Layers(runs, pd.concat(layers))


def test_the_committed_page_is_what_its_tables_give() -> None:
    """No number of docs/reports/shapes.md was typed, and its figures are there."""
    text = (REPORTS / "shapes.md").read_text()
    board = board_words(committed_results("shapes"), committed_results("v3"))
    made = shapes_page(read_layers(REPORTS / "shapes"), board)
    assert text == made, "run `python -m leaderboard shapes --out docs/reports`"
    figures = {f"](shapes/{name}.svg)": REPORTS / "shapes" / f"{name}.svg" for name in (*FIGURES, "board")}
    assert all(link in text and path.is_file() for link, path in figures.items())


def test_each_run_stands_by_itself() -> None:
    """An error is a mean over the origins of one run in one state, and `run` prints a table of each run."""
    results = committed_results("shapes").select(["adaptive", "online"])
    table, (run, *_) = results.table, results.traces
    rows = table[(table["trace"] == run) & (table["state"] == "transient")]
    expected = rows[rows["horizon"] == 100].groupby("forecaster")["window_tv"].mean()
    found = run_errors(results).loc[(run, "transient", 100), results.names]
    assert found.to_dict() == pytest.approx(expected.to_dict())
    records = json.loads(results.to_json())["by_state"]
    assert {record["trace"] for record in records} == set(results.traces)
    assert {title: part.traces for title, part in run_groups(results).items()} == {run: [run] for run in results.traces}


def test_a_cell_names_the_forecaster_that_errs_least() -> None:
    """With its error, and that of `adaptive`; a horizon that a run is not asked for is a dash."""
    cells = [("shape-a/test/seed1", "stable", 10), ("shape-b/test/seed1", "stable", 100)]
    index = pd.MultiIndex.from_tuples(cells, names=["trace", "state", "horizon"])
    errors = pd.DataFrame({"adaptive": [0.2, 0.1], "online": [0.1, 0.3]}, index)
    assert board_table(errors).splitlines()[2:] == [
        "| `shape-a/test/seed1` | stable | `online` 0.1 (0.2) | - |",
        "| `shape-b/test/seed1` | stable | - | `adaptive` 0.1 (0.1) |",
    ]


def test_what_was_left_out_costs_in_proportion_to_layers_and_experts() -> None:
    """Twice as many forecasts of three times as many experts take six times as long, whatever the layers are."""
    small = {"trace": "a", "layers": 2, "experts": 8, "observed_rows": 10, "forecasts": 5}
    costs = pd.DataFrame([{**small, "forecaster": "slow", "observe_cpu_s": 0.0, "forecast_cpu_s": 3600.0}])
    large = pd.DataFrame([{**small, "forecaster": "quick", "experts": 24, "forecasts": 10}])
    elsewhere: Any = SimpleNamespace(names=["quick", "slow"], costs=costs)
    here: Any = SimpleNamespace(names=["quick"], costs=large)
    assert hours_left_out(elsewhere, here) == pytest.approx({"slow": 6.0})


@needs_traces
def test_the_committed_tables_are_of_the_recorded_shapes() -> None:
    """Every test run of a recipe shape-* has its row, and the smallest one gives its rows again."""
    found = read_layers(REPORTS / "shapes")
    refs = {ref.id: ref for ref in list_traces(TRACES) if ref.id.startswith("shape-") and "/test/" in ref.id}
    assert list(found.runs["run"]) == list(refs)
    smallest = found.runs.sort_values("layers").iloc[0]["run"]
    trace = read_trace(refs[smallest].path)
    for frame, again in ((found.runs, pd.DataFrame([measure_run(trace)])), (found.layers, measure_layers(trace))):
        rows = frame[frame["run"] == smallest].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, again, rtol=1e-4, check_dtype=False)


def test_a_layer_that_never_settles_has_no_onset() -> None:
    """Onsets are those of the state rule, by layer; error and drift are there all the same."""
    load_SLE = synthetic_load_SLE(900, 3, 8)
    rows = measure_layers(Trace.from_arrays(load_SLE, recipe="own", top_k=2))
    onset_L = label_states(load_SLE).onset_L
    assert [-1 if step != step else step for step in rows["onset"].astype(float)] == list(onset_L)
    assert rows[["drift", "error"]].notna().all(axis=None)


def test_layers_that_change_together_are_told_from_those_that_do_not() -> None:
    """A common change of drift is far above what chance explains; changes of their own are not."""
    random = np.random.default_rng(3)
    common_S1, own_SL = random.random((60 * WINDOW, 1)), random.random((60 * WINDOW, 6))
    together, apart = layers_together(common_S1 + 0.2 * own_SL), layers_together(own_SL)
    assert together.pairs > 0.8 > together.chance
    assert abs(apart.pairs) < 0.15


@pytest.mark.parametrize(
    ("signs", "sign", "same"),
    [((1, 1, 1, 1, -1), 1, 2), ((-1, -1, -1, -1, -1), -1, 3), ((1, -1, 1, 1, 1), 0, 0), ((1, 0, 1, 1, 1), 0, 0)],
)
def test_shapes_are_counted_where_the_pair_agrees(signs: tuple[int, ...], sign: int, same: int) -> None:
    """If both seeds at both depths have one sign, the shapes that have it in all of their runs count, else none."""
    ids = [f"{recipe}/test/seed{seed}" for recipe in PAIR for seed in (1, 2)] + ["shape-other/test/seed1"]
    found = planted(dict(zip(ids, map(float, signs), strict=True)))
    for quantity in QUANTITIES:
        depth = found.depth(quantity)
        assert (depth.sign, depth.same, depth.shapes) == (sign, same, 3)
