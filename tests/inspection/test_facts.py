"""Facts of a run: the same rows give the same facts, whatever portions they come in.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeload_bench.errors import TraceError
from moeload_bench.inspection.facts import Inspector, inspect_trace
from moeload_bench.recording.writer import rows_of
from moeload_bench.traces.trace import Trace
from tests.support.synthetic import draw


def run_of(rows: int, *, stride: int = 1, seed: int = 0) -> Trace:
    """Return a run that moves to another mixture in its middle, and whose expert 3 of layer 0 dies there."""
    rng = np.random.default_rng(seed)
    share_SLE = np.repeat(rng.dirichlet(np.full(6, 4.0), (2, 2)), -(-rows // 2), axis=0)[:rows]
    share_SLE[rows // 2 :, 0, 3] *= 0.02
    load_SLE, half_SLE = draw(share_SLE / share_SLE.sum(axis=-1, keepdims=True), 480, seed=seed)
    step_S = np.arange(rows) * stride
    columns = {
        "load_half": half_SLE,
        "loss": rng.random(rows),
        "lr": np.linspace(1e-3, 1e-4, rows),
        "stage": (step_S >= step_S[rows // 2]).astype(np.int32),
    }
    return Trace.from_arrays(load_SLE, top_k=1, step_S=step_S, columns=columns)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 900),
    stride=st.sampled_from([1, 5, 7, 20]),
    cuts=st.lists(st.integers(0, 900), max_size=6),
    looks=st.booleans(),
)
def test_portions_of_any_size_give_equal_facts(rows: int, stride: int, cuts: list[int], looks: bool) -> None:
    """Rows one by one, in portions, with looks between them or without, say what one pass says."""
    trace = run_of(rows, stride=stride)
    whole = inspect_trace(trace)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    inspector = Inspector(trace.meta)
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = Trace(
            trace.meta,
            trace.step_S[start:stop],
            trace.tokens_SL[start:stop],
            trace.load_SLE[start:stop],
            {name: column[start:stop] for name, column in trace.columns.items()},
        )
        if number % 2:
            inspector.add(part)
        else:
            for row in rows_of(part):
                inspector.add_row(row)
        if looks:
            inspector.inspection()
    assert inspector.inspection().record == whole.record


def test_a_gap_between_portions_is_refused() -> None:
    """Rows follow each other: a gap or a repeat would make differences and states wrong."""
    trace = run_of(60)
    inspector = Inspector(trace.meta)
    inspector.add(trace)
    with pytest.raises(TraceError, match="got step 0, expected step 60"):
        inspector.add(trace)
    with pytest.raises(TraceError, match="got step 0, expected step 60"):
        inspector.add_row(next(rows_of(trace)))
