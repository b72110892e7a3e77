"""The cost model's constants, and plans renumbered so that the fewest replicas move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeload_bench.errors import PlacementError
from moeload_bench.placement.cost import replicas_moved
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.placement.replan import CostModel, with_fewest_moves


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([(4, 12, 1, 1), (4, 8, 2, 4), (6, 18, 3, 6), (2, 12, 1, 1)]))
def test_settling_never_changes_a_plan_and_never_moves_more(seed, size):
    """Renumbering devices keeps the set of devices and nodes, and moves at most as many replicas."""
    devices, slots, nodes, groups = size
    shape = ClusterShape("x", devices, slots, nodes, groups)
    experts = 8 if groups in (1, 4) else 12
    rng = np.random.default_rng(seed)
    before, after = (plan(rng.dirichlet(np.ones(experts), size=2), shape) for _ in "ab")
    settled = with_fewest_moves(before, after, shape)
    moved = [replicas_moved(before, x, devices).sum(axis=1) for x in (after, settled)]
    assert (moved[1] <= moved[0]).all()
    assert (with_fewest_moves(after, after, shape) == np.sort(after.reshape(2, devices, -1)).reshape(2, -1)).all()

    def nodes_of(row):
        return sorted(
            tuple(sorted(tuple(sorted(slots)) for slots in node))
            for node in row.reshape(nodes, devices // nodes, -1).tolist()
        )

    assert [nodes_of(row) for row in settled] == [nodes_of(row) for row in after]


@pytest.mark.parametrize("field", ["step_ms", "bandwidth_gb_s", "expert_fraction"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_constants_that_must_be_positive(field, value):
    """Zero, negative or infinite constants are refused by name."""
    with pytest.raises(PlacementError, match=f"{field} is {value}"):
        CostModel(**{"step_ms": 1, "expert_mb": 1, "bandwidth_gb_s": 1, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("expert_mb", -1), ("expert_mb", float("inf")), ("overlap", 1.5), ("overlap", -0.1), ("replan_ms", -1),
     ("expert_fraction", 1.1)],
)  # fmt: skip
def test_constants_out_of_range(field, value):
    """Negative sizes and fractions above 1 are refused by name."""
    with pytest.raises(PlacementError, match=f"{field} is {value}"):
        CostModel(**{"step_ms": 1, "expert_mb": 1, "bandwidth_gb_s": 1, field: value})
