"""Refusals name the place that is wrong, and two layers only where they differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.errors import TraceError
from moeload_bench.interchange.importing import import_log
from moeload_bench.interchange.jsonlines import read_jsonl
from moeload_bench.traces.store import validate_path, write_trace
from moeload_bench.traces.trace import Trace
from tests.support.foreign.formats import imported


def lines(path: Path, *layers: tuple[int, list[int]]) -> Path:
    """Step 0 of a log, a line per layer."""
    path.write_text("".join(json.dumps({"step": 0, "layer": m, "load": load}) + "\n" for m, load in layers))
    return path


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([(1, [5, 5, 5])], "line 3: layer 1 has 3 experts, expected 2"),
        ([(1, [5, 5]), (7, [5, 5])], "line 4: step 0: layer 7 is missing or new"),
        ([], "line 1: step 0: layer 1 is missing or new"),
    ],
)
def test_the_line_that_is_wrong_is_named(wrong: list[tuple[int, list[int]]], words: str, tmp_path: Path) -> None:
    """Not the first one of its step, unless a line is missing from it."""
    right = [(0, [5, 5]), (2, [5, 5])]
    whole = lines(tmp_path / "rank0.jsonl", *right, (1, [5, 5]))
    other = lines(tmp_path / "rank1.jsonl", *right, *wrong)
    with pytest.raises(TraceError, match=rf"rank1\.jsonl, {words}"):
        list(read_jsonl([whole, other]).rows)


def test_equal_totals_that_top_k_does_not_divide_are_said_once(tmp_path: Path) -> None:
    """Not "64 in layer 0 and to 64 in layer 0"."""
    folder = tmp_path / "log"
    folder.mkdir()
    lines(folder / "rank0.jsonl", (0, [16] * 4), (1, [20, 12, 20, 12]))
    with pytest.raises(
        TraceError, match="loads sum to 64 in layer 0, expected the same multiple of top-k = 3 in every"
    ):
        imported("jsonl", folder, tmp_path / "out.parquet", top_k=3)


def test_a_log_without_any_count_is_refused(tmp_path: Path) -> None:
    """By import and by `validate`: a router that was not counted."""
    np.savez(tmp_path / "zero.npz", load=np.zeros((20, 2, 4), dtype=np.int64))
    with pytest.raises(TraceError, match="every count is zero"):
        import_log(tmp_path / "zero.npz", tmp_path / "out.parquet", format="npz")
    assert not (tmp_path / "out.parquet").exists()
    path = write_trace(Trace.from_arrays(np.zeros((20, 2, 4), dtype=np.int64)), tmp_path / "zero.parquet")
    ((_, error),) = validate_path(path)
    assert "every count is zero" in str(error)
