"""A recording that went on says where its shares jump."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import TraceWriter, rows_of
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace

TOKENS, EXPERTS, STEPS, RESUMED = 4096, 8, 200, 100


def resumed_trace(out: Path, moved: float) -> Trace:
    """Two writers, the second goes on at RESUMED; from there on a part of the load is another expert's."""
    rng = np.random.default_rng(0)
    share_E = rng.dirichlet(np.full(EXPERTS, 5.0))
    other_E = (1 - moved) * share_E + moved * np.roll(share_E, 1)
    share_SE = np.where(np.arange(STEPS)[:, None] < RESUMED, share_E, other_E)
    load = rng.multinomial(TOKENS, share_SE)[:, None].repeat(2, axis=1)
    whole = Trace.from_arrays(load, top_k=1)
    rows = list(rows_of(whole))
    for part in (rows[:RESUMED], rows[RESUMED:]):
        writer = TraceWriter(Parts(out / "own/test/seed0.parquet"), lambda: whole.meta, shard_steps=40)
        writer.parts.start(resume=True)
        for row in part:
            writer.add(row)
        writer.flush()
    return read_trace(writer.finish(complete=True))


@pytest.mark.parametrize(("moved", "noted"), [(0.0, False), (0.05, False), (1.0, True)])
def test_a_jump_at_the_resume_is_noted(moved: float, noted: bool, tmp_path: Path) -> None:
    """With the step and its size; a recording that goes on as it was says nothing."""
    notes = " ".join(resumed_trace(tmp_path, moved).meta.notes)
    assert (f"at step {RESUMED}, where the recording was resumed, shares jump" in notes) == noted
    assert "expected" not in notes


def test_a_change_elsewhere_is_no_jump_at_the_resume(tmp_path: Path) -> None:
    """The same loads in one go: nobody resumed, so there is nothing to note."""
    trace = resumed_trace(tmp_path, 1.0)
    writer = TraceWriter(
        Parts(tmp_path / "again/test/seed0.parquet"), lambda: trace.meta.model_copy(update={"notes": ()})
    )
    writer.parts.start(resume=False)
    for row in rows_of(trace):
        writer.add(row)
    assert read_trace(writer.finish(complete=True)).meta.notes == ()
