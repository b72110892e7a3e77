"""The command `inspect`: the same facts on a screen, as JSON and while a run is followed; two runs side by side."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.ops.facts import inspector as facts
from moeload_bench.ops.facts import terminal
from moeload_bench.ops.facts.against import compare, even_placement
from moeload_bench.ops.facts.balance import sizes_of
from moeload_bench.ops.facts.inspector import Inspector, inspect_trace
from moeload_bench.ops.facts.terminal import shown_sizes
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import TraceWriter, rows_of
from moeload_bench.traces.lookup import find_trace
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces, synthetic_trace
from tests.golden.adapter import TRACES
from tests.ops.facts.test_facts import run_of
from tests.support.synthetic import draw, fixed, settling_trace


def printed(*words: str) -> str:
    done = CliRunner().invoke(app, ["inspect", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def recorded(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(*words, "--json"))
    return found


def check_equal_records(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that screen, JSON and `--follow` of a run read equal records."""
    seen = []
    monkeypatch.setattr(
        "moeload_bench.ops.commands.inspect.overview", lambda found, *_, **__: seen.append(found.record) or ""
    )
    printed(str(path))
    one, two = recorded(str(path)), recorded(str(path), "--follow")
    assert one == two
    assert json.loads(json.dumps(seen[0])).items() <= one.items()


@needs_traces
@pytest.mark.slow
@pytest.mark.parametrize("name", TRACES)
def test_screen_json_and_following_say_the_same_of_a_recorded_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ten recorded ones of the golden twelve."""
    check_equal_records(find_trace(name), monkeypatch)


def test_screen_json_and_following_say_the_same_of_made_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run without half batches, and one as wide as a large model: the other two of the twelve."""
    load_SLE, _ = draw(fixed(240, 2, 8), 160)
    for name, trace in {"log": Trace.from_arrays(load_SLE, top_k=1), "wide": settling_trace(58, 256, 250)}.items():
        check_equal_records(write_trace(trace, tmp_path / f"{name}.parquet"), monkeypatch)


def test_a_recording_in_progress_is_inspected_shard_by_shard(tmp_path: Path) -> None:
    """What is on disk says what a trace of these rows says, but that the run is not complete."""
    trace = run_of(500)
    parts = Parts(tmp_path / "seed0.parquet")
    parts.start(resume=False)
    writer = TraceWriter(parts, lambda: trace.meta, shard_steps=150)
    for row in rows_of(trace):
        writer.add(row)
    inspector = Inspector(trace.meta)
    inspector.add(trace, stop=450)
    found = recorded(str(parts.folder))
    assert found["rows"] == 450
    assert json.loads(json.dumps(inspector.inspection().record)).items() <= found.items()


@pytest.mark.parametrize("layers", [1, 4, 58])
@pytest.mark.parametrize("experts", [2, 64, 240])
def test_the_screen_has_80_columns_and_24_lines(layers: int, experts: int) -> None:
    """Whatever the model's size: layers and sizes that do not fit are folded or left to --details."""
    load_SLE, half_SLE = draw(fixed(420, layers, experts), 4 * experts)
    columns = {"load_half": half_SLE, "dropped": load_SLE // 9}
    found = inspect_trace(Trace.from_arrays(load_SLE, top_k=1, columns=columns))
    console = Console(width=80, height=24, record=True, file=io.StringIO())
    console.print(terminal.overview(found, "moeload-bench inspect RUN --details"))
    lines = console.export_text().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_layers_that_behave_alike_share_a_line_and_the_worst_has_its_own() -> None:
    """Neighbours within ten percent are one line; of more kinds than lines, the most alike are joined."""
    excess_CL = np.array([[1.0, 1.05, 2.0, 3.0, 1.0, 1.02]])
    assert terminal.folded(excess_CL, 6, worst=3) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 6)]
    assert terminal.folded(excess_CL, 3, worst=3) == [slice(0, 3), slice(3, 4), slice(4, 6)]
    assert len(terminal.folded(np.ones((2, 6)), 6, worst=0)) == 2


def test_a_run_without_any_load_is_refused(tmp_path: Path) -> None:
    """All counts are zero where the router was not found: there is nothing to say of it."""
    zero = Trace.from_arrays(np.zeros((300, 1, 4), dtype=np.int64), tokens=0, top_k=1)
    path = write_trace(zero, tmp_path / "zero.parquet")
    done = CliRunner().invoke(app, ["inspect", str(path)])
    assert isinstance(done.exception, TraceError)
    assert "every count is zero" in str(done.exception)


def test_two_parts_of_a_run_are_compared(tmp_path: Path) -> None:
    """Steps before and after a switch: loads move, and a placement made before does not hold after it."""
    path = write_trace(run_of(800), tmp_path / "run.parquet")
    found = recorded(str(path), "--steps", "400-800", "--against", "0-400")
    assert (found["first"]["step"], found["second"]["first_step"]) == (400, 400)
    assert found["drift"][0] > 0.1
    assert len(found["placed"]) == len(found["second"]["ranks"]["size"])
    assert "moved to other experts" in printed(str(path), "--steps", "400-800", "--against", "0-400").replace("\n", " ")


@pytest.mark.parametrize("option", [["--html", "page.html"], ["--details"], ["--ranks", "4"], ["--token-bytes", "0"]])
def test_a_comparison_refuses_the_options_of_a_single_run(option: list[str], tmp_path: Path) -> None:
    """An option that would change nothing is an error, and no page is written."""
    path = str(write_trace(run_of(300), tmp_path / "run.parquet"))
    done = CliRunner().invoke(app, ["inspect", path, "--against", path, *option])
    assert str(done.exception) == f"--against compares two runs: got {option[0]} too, expected --steps or --json alone"


def test_one_look_at_a_run_refuses_the_seconds_between_looks(tmp_path: Path) -> None:
    """Nothing is looked at twice without --follow."""
    path = str(write_trace(run_of(300), tmp_path / "run.parquet"))
    done = CliRunner().invoke(app, ["inspect", path, "--refresh", "5"])
    assert str(done.exception) == "one look at a run: got --refresh too, expected --follow with it"


def test_runs_of_other_shapes_are_not_compared_and_one_row_has_no_noise(tmp_path: Path) -> None:
    """What a single row's noise is nothing can say."""
    full_run = run_of(300)
    path = write_trace(full_run, tmp_path / "run.parquet")
    other = write_trace(Trace.from_arrays(full_run.load_SLE[:, :, :3], top_k=1), tmp_path / "other.parquet")
    row = write_trace(Trace.from_arrays(full_run.load_SLE[:1], top_k=1), tmp_path / "row.parquet")
    done = CliRunner().invoke(app, ["inspect", str(path), "--against", str(other)])
    assert isinstance(done.exception, TraceError)
    assert "cannot compare" in str(done.exception)
    assert "noise alone unknown" in printed(str(path), "--against", str(row)).replace("\n", " ")


def test_a_placement_holds_where_loads_stay() -> None:
    """The placement by the first half's loads is as even on the second half as that by its own."""
    load_SLE, _ = draw(fixed(800, 2, 16), 6400)
    trace = Trace.from_arrays(load_SLE, top_k=1)
    first, second = Inspector(trace.meta), Inspector(trace.meta)
    first.add(trace, stop=400)
    second.add(trace, start=400)
    found = compare(first, second)
    k = found.second.ranks.size_K.index(4)
    assert (found.placed_KL[k] < found.second.ranks.busiest_KL[k] - 0.02).all()
    np.testing.assert_allclose(found.placed_KL[k], found.best_KL[k], rtol=0.02)
    slots_LE = even_placement(found.first.share_LE, 4)
    rows_SL4 = np.stack([load_SLE[600:, layer, slots_LE[layer]].reshape(-1, 4, 4).sum(axis=2) for layer in range(2)], 1)
    own_L = (rows_SL4.max(axis=2) / rows_SL4.mean(axis=2)).mean(axis=0)
    np.testing.assert_allclose(found.placed_KL[k], own_L, rtol=1e-9)


def test_no_torch_and_no_pandas_are_imported() -> None:
    """Facts come at once: neither takes a second to import."""
    import subprocess
    import sys

    code = "import sys, moeload_bench.ops.commands.inspect; print(*{'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert facts.RECENT_ROWS == 200


def test_the_sizes_that_are_shown_are_those_that_clusters_have(tmp_path: Path) -> None:
    """Powers of two where there are enough, as for 384 experts; --ranks names them, and one that does not divide the
    experts is refused with those that do."""
    assert shown_sizes(sizes_of(384), 3) == [2, 16, 128]
    assert shown_sizes(sizes_of(384), 6) == [2, 4, 8, 32, 64, 128]
    assert shown_sizes(sizes_of(60), 3) == [2, 10, 60]
    path = write_trace(synthetic_trace(400), tmp_path / "own.parquet")
    shown = CliRunner().invoke(app, ["inspect", str(path), "--ranks", "4"]).output
    assert re.search(r"^ +4 +1 ", shown, re.MULTILINE)
    assert not re.search(r"^ +2 +2 ", shown, re.MULTILINE)
    for ranks, says in (
        ("3", "3 ranks do not share 4 experts evenly; there is: 2, 4"),
        ("x", "--ranks is 'x', expected"),
    ):
        with pytest.raises(TraceError, match=says):
            CliRunner().invoke(app, ["inspect", str(path), "--ranks", ranks], catch_exceptions=False)
