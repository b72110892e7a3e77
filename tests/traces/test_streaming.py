"""Rows of a large trace stay in its file until they are asked for, and what is worked out of them is the same."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.scoring.description import describe_layers
from moeload_bench.scoring.floors import trace_floors
from moeload_bench.states.rule import label_states
from moeload_bench.traces import streaming
from moeload_bench.traces.parquet import held_bytes
from moeload_bench.traces.store import data_sha256, read_trace, write_trace
from moeload_bench.traces.streaming import HELD_BYTES, StoredRows
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace

STEPS = 700
CLUSTER = ["--devices", "2", "--slots", "6", "--expert-mb", "1", "--bandwidth", "25", "--step-ms", "100"]
COMMANDS = {
    "inspect": ["inspect", "{trace}"],
    "run": ["run", "sw_avg", "--level", "none", "--trace", "{trace}"],
    "plan": ["plan", "{trace}", "--forecaster", "sw_avg", "--level", "none", "--every", "50", *CLUSTER],
    "page": ["inspect", "{trace}", "--html", "{folder}/report.html"],
}


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Trace, Path]]:
    """A trace in memory, and its file, of which row groups of 64 steps are read and parts of 100 steps looked at."""
    trace = synthetic_trace(STEPS)
    cells = trace.num_layers * trace.num_experts
    monkeypatch.setattr("moeload_bench.traces.parquet.CELLS_A_BATCH", 1)
    path = write_trace(trace, tmp_path / "own" / "test" / "seed0.parquet")
    monkeypatch.setattr("moeload_bench.traces.parquet.CELLS_AT_ONCE", 0)
    monkeypatch.setattr(streaming, "CELLS_A_PART", 100 * cells)
    monkeypatch.setattr("moeload_bench.states.drift.CELLS_AT_ONCE", 100 * cells)
    monkeypatch.setattr(streaming, "HELD_BYTES", 3 * 64 * cells * 8)
    monkeypatch.setattr("moeload_bench.harness.replay.FEED_CELLS", 100 * cells)
    monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / "cache"))
    return trace, path


def test_rows_are_those_of_the_array(stored: tuple[Trace, Path]) -> None:
    """A row, a range, a part of it inside, and everything; across row groups, before the end and beyond it."""
    trace, path = stored
    found = read_trace(path).load_SLE
    assert isinstance(found, StoredRows)
    assert (found.shape, found.dtype, len(found), found.size) == (
        trace.load_SLE.shape, trace.load_SLE.dtype, STEPS, trace.load_SLE.size,
    )  # fmt: skip
    for key in (0, -1, 64, slice(60, 200), slice(-5, None), slice(690, 900), slice(9, 9), slice(None)):
        np.testing.assert_array_equal(found[key], trace.load_SLE[key], strict=True)
        np.testing.assert_array_equal(found[key, 1], trace.load_SLE[key, 1], strict=True)
    with pytest.raises(IndexError):
        found[STEPS]
    with pytest.raises(IndexError, match="step of 2"):
        found[::2]
    picked = read_trace(path).of_layers([1])
    np.testing.assert_array_equal(picked.load_SLE[:], trace.load_SLE[:, [1]])
    assert data_sha256(picked) == data_sha256(trace.of_layers([1]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found))[100:300], trace.load_SLE[100:300])


def test_nothing_makes_an_array_of_a_whole_run_unasked(stored: tuple[Trace, Path]) -> None:
    """NumPy is refused, and the message says how to ask."""
    found = read_trace(stored[1]).load_SLE
    with pytest.raises(TypeError, match=r"take \[start:stop\], or \[:\] for all 700 steps"):
        np.asarray(found)


def test_what_is_worked_out_is_the_same(stored: tuple[Trace, Path]) -> None:
    """Hash, states, floors and descriptions, of a trace that is seen a part at a time and of one in memory."""
    trace, path = stored
    found = read_trace(path)
    assert data_sha256(found) == data_sha256(trace)
    labels = label_states(trace.load_SLE)
    np.testing.assert_array_equal(label_states(found.load_SLE).drift_SL, labels.drift_SL)
    floors, expected = (trace_floors(one, labels, (1, 10, 100)).by_state() for one in (found, trace))
    assert expected.keys() == floors.keys() != set()
    for state, by_floor in expected.items():
        for name, metrics in by_floor.items():
            for metric, value_K in metrics.items():
                np.testing.assert_allclose(floors[state][name][metric], value_K, rtol=1e-9, err_msg=f"{name} {metric}")
    for one, other in zip(describe_layers(found), describe_layers(trace), strict=True):
        for name, value in dataclasses.asdict(other).items():
            expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert getattr(one, name) == expected, name


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_reads_a_whole_run_at_once(
    name: str, stored: tuple[Trace, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each asks for at most half of the rows at a time, and for no array of the column."""
    path = stored[1]
    asked: list[int] = []
    read = StoredRows.__getitem__

    def counting(self: StoredRows, key: Any) -> Any:
        at = key[0] if isinstance(key, tuple) else key
        rows = len(range(len(self))[at]) if isinstance(at, slice) else 1
        asked.append(rows)
        assert rows <= STEPS // 2
        return read(self, key)

    monkeypatch.setattr(StoredRows, "__getitem__", counting)
    done = CliRunner().invoke(app, [word.format(trace=path, folder=tmp_path) for word in COMMANDS[name]])
    assert done.exit_code == 0, done.exception
    assert asked


def test_row_groups_share_a_footer(stored: tuple[Trace, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A million rows have a thousand groups: what parsing the footer for each leaves behind is not given back."""
    found = read_trace(stored[1], verify=False)
    read_footer = mock.Mock(wraps=pq.read_metadata)
    monkeypatch.setattr(pq, "read_metadata", read_footer)
    assert pq.ParquetFile(stored[1]).num_row_groups > 1
    assert int(found.load_SLE[:].sum()) == int(stored[0].load_SLE.sum())
    assert read_footer.call_count <= 1


def test_a_file_that_changes_while_it_is_read_is_refused(stored: tuple[Trace, Path]) -> None:
    """What was checked when the trace was opened would not be what is read."""
    path = stored[1]
    found = read_trace(path, verify=False)
    os.utime(path, ns=(0, 0))
    with pytest.raises(TraceError, match="was changed or replaced while it was read"):
        found.load_SLE[0]


def test_a_trace_that_is_read_in_parts_is_not_refused_for_its_size(tmp_path: Path) -> None:
    """Memory holds a few row groups of a large column, so 98 MB of loads count as 64 MiB."""
    load = np.random.default_rng(0).integers(0, 9, (3000, 64, 64))
    path = write_trace(Trace.from_arrays(load), tmp_path / "large.parquet")
    assert 8 * load.size > HELD_BYTES
    assert HELD_BYTES <= held_bytes(path) < HELD_BYTES + 8 * 3000 * 70
