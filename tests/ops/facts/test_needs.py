"""How far loads are above the even share, and what factors drop or overflow because of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeload_bench.errors import PlacementError
from moeload_bench.ops.facts.needs import (
    Loads,
    check_devices,
    effective_steps,
    excess,
    least_factor,
    rank_needs,
    unseen_limit,
)
from moeload_bench.traces import streaming
from moeload_bench.traces.trace import Trace


def loads(load_SLE: np.ndarray, **more: object) -> Loads:
    return Loads(Trace.from_arrays(load_SLE, **more), "load", 1)


def test_a_rank_holds_experts_by_number() -> None:
    """Two ranks of two experts: 8 of 8 tokens on the first are twice its share; three cannot share four."""
    found = loads(np.array([[[6, 2, 0, 0]], [[4, 0, 4, 0]], [[0, 0, 0, 0]]]))
    assert rank_needs(found, range(3), 2).tolist() == [2.0, 1.0, 0.0]
    with pytest.raises(PlacementError, match="divisor of the 4 experts, each device holding as many: 1, 2, 4"):
        check_devices(4, 3)


def test_the_layer_that_needs_most_decides() -> None:
    """6 of 8 tokens on one of four experts are 3 times the even share of 2, in the other layer 1."""
    assert rank_needs(loads(np.array([[[6, 2, 0, 0], [2, 2, 2, 2]]])), range(1), 4).tolist() == [3.0]


def test_a_trace_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass gives does not depend on how many rows it reads at once."""
    found = loads(np.random.default_rng(0).integers(0, 50, (37, 3, 8)))
    at_once, needs = excess(found, range(3, 37)), rank_needs(found, range(3, 37), 4)
    monkeypatch.setattr(streaming, "CELLS_A_PART", 3 * 8 * 5)
    assert np.allclose(excess(found, range(3, 37)).over_LK, at_once.over_LK)
    assert (rank_needs(found, range(3, 37), 4) == needs).all()


@given(st.integers(0, 2**32 - 1))
def test_the_histogram_drops_what_each_step_drops(seed: int) -> None:
    """The part above any factor of the grid is that of the loads; the least factor is the first that fits."""
    rng = np.random.default_rng(seed)
    load = rng.integers(0, 30, (rng.integers(1, 6), 2, 4))
    found = excess(loads(load), range(len(load)))
    for factor in (0.5, 1.0, 1.07, 1.5, 2.3, 4.0):
        over = np.maximum(load - factor * load.mean(axis=2, keepdims=True), 0).sum(axis=(0, 2))
        parts = over / np.maximum(load.sum(axis=(0, 2)), 1)
        assert found.dropped(factor) == pytest.approx(parts.max(), abs=1e-12)
        assert found.pooled().dropped(factor) == pytest.approx(over.sum() / max(1, load.sum()), abs=1e-12)
    (least,) = found.pooled().factors(0.05)
    assert found.pooled().dropped(least) <= 0.05
    assert least == 0 or found.pooled().dropped(least - 0.01) > 0.05


def test_nothing_drops_at_the_largest_need() -> None:
    """6 of 8 tokens on two experts are 1.5 shares: nothing drops from 1.50 on, exactly."""
    found = excess(loads(np.array([[[6, 2]]])), range(1))
    assert found.factors(0) == [1.5]
    assert found.dropped(1.5) == 0
    assert found.dropped(1.49) > 0


def test_the_least_factor_is_exceeded_as_often_as_allowed() -> None:
    """Of four steps one may be above: the second largest need, rounded up to a hundredth."""
    need_S = np.array([1.101, 1.4, 1.2, 1.3])
    assert [least_factor(need_S, over) for over in (0, 1, 3, 9)] == [1.4, 1.3, 1.11, 1.11]


def test_steps_that_are_alike_count_as_fewer() -> None:
    """Independent needs count as their number or nearly; needs that stay for 50 steps as a small part of it."""
    rng = np.random.default_rng(0)
    assert effective_steps(rng.normal(size=2000)) > 1500
    assert effective_steps(np.repeat(rng.normal(size=40), 50)) < 100


def test_what_was_never_seen_is_not_ruled_out() -> None:
    """None of 3,000: under 1 of 1,000 with 95 % confidence (the rule of three)."""
    assert 1000 * unseen_limit(3000) == pytest.approx(1.0, rel=0.01)
    assert unseen_limit(10) > 0.25
