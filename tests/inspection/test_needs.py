"""The need of a window: the largest load over the even share."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.errors import PlacementError
from moeload_bench.inspection.needs import device_needs, dropped_after, expert_needs, micro_needs
from moeload_bench.traces import streaming
from moeload_bench.traces.trace import Trace


def run(load_SLE: np.ndarray, **more: object) -> Trace:
    return Trace.from_arrays(load_SLE, **more)


def test_need_is_the_busiest_expert_over_the_even_share() -> None:
    """6 of 8 tokens on one of four experts are 3 times the even share of 2; a layer without load needs 1."""
    trace = run(np.array([[[6, 2, 0, 0], [2, 2, 2, 2]], [[0, 0, 0, 0], [4, 4, 0, 0]]]))
    assert expert_needs(trace).tolist() == [[3.0, 1.0], [1.0, 2.0]]


def test_devices_hold_experts_by_number() -> None:
    """Two devices of two experts: 8 of 8 tokens on the first are twice its share; three devices cannot share four."""
    trace = run(np.array([[[6, 2, 0, 0]], [[4, 0, 4, 0]]]))
    assert device_needs(trace, 2).tolist() == [[2.0], [1.0]]
    with pytest.raises(
        PlacementError, match="expected a divisor of the 4 experts, each device holding as many: 1, 2, 4"
    ):
        device_needs(trace, 3)


def test_micro_batches_only_where_recorded() -> None:
    """The busiest expert of a micro-batch is given over the even share of the whole step."""
    load = np.array([[[6, 2, 0, 0]]])
    assert micro_needs(run(load)) is None
    assert micro_needs(run(load, columns={"micro_max": np.array([[[3, 2, 0, 0]]])})).tolist() == [[1.5]]  # type: ignore[union-attr]


def test_a_trace_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass gives does not depend on how many rows it reads at once."""
    trace = run(np.random.default_rng(0).integers(0, 50, (37, 3, 8)))
    whole = expert_needs(trace)
    monkeypatch.setattr(streaming, "CELLS_A_PART", 3 * 8 * 5)
    assert (expert_needs(trace) == whole).all()


def test_dropped_tokens_are_those_above_the_factor() -> None:
    """Level 1, then a step of need 3 in a window of two: at 1.5 x the level 1.5 of 4 shares are lost in one of two
    steps, at 3 x nothing is.
    """
    even, high = [2, 2, 2, 2], [6, 2, 0, 0]
    trace = run(np.array([[even], [even], [high], [even]]))
    need_S = expert_needs(trace).max(axis=1)
    assert dropped_after(trace, need_S, 2, np.array([1.5, 3.0])).tolist() == [[1.5 / 4 / 2, 0.0]]
