"""Plans that reckon with uncertainty: what z and covariances change, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.errors import PlacementError
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.placement.risk import risk_plan

SHAPE = ClusterShape("two", 2, 4)
SPARE = ClusterShape("spare", 4, 12)


def test_without_uncertainty_it_is_the_plan_of_the_mean() -> None:
    """z = 0, and deviations of 0."""
    mean_NE = np.random.default_rng(0).dirichlet(np.ones(8), 20)
    np.testing.assert_array_equal(risk_plan(mean_NE, SPARE, 0, deviation=np.ones((20, 8))), plan(mean_NE, SPARE))
    np.testing.assert_array_equal(risk_plan(mean_NE, SPARE, 0, covariance=np.ones((20, 8, 8))), plan(mean_NE, SPARE))
    np.testing.assert_array_equal(risk_plan(mean_NE, SPARE, 2, deviation=np.zeros((20, 8))), plan(mean_NE, SPARE))


def test_covariances_of_zero_balance_as_the_plan_does() -> None:
    """Every expert has a slot, no device holds more than its room, and the heaviest device is as heavy to 5 %."""
    mean_NE = np.random.default_rng(1).dirichlet(np.ones(8), 50)
    slots = [risk_plan(mean_NE, SPARE, 1, covariance=np.zeros((50, 8, 8))), plan(mean_NE, SPARE)]
    worst = []
    for slot_NR in slots:
        assert all(len(set(row)) == 8 for row in slot_NR.tolist())
        count = np.array([np.bincount(row, minlength=8) for row in slot_NR])
        part = np.take_along_axis(mean_NE / count, slot_NR, axis=1).reshape(50, 4, 3).sum(axis=2)
        worst.append(part.max(axis=1).mean())
    assert worst[0] == pytest.approx(worst[1], rel=0.05)


def test_experts_that_grow_together_are_kept_apart() -> None:
    """Four equal experts in two correlated pairs on two devices: each device gets one of each pair."""
    pair = np.array([[1.0, 0.99], [0.99, 1.0]]) * 0.01
    covariance = np.kron(np.eye(2), pair)
    devices = risk_plan(np.full(4, 0.25), SHAPE, 1, covariance=covariance).reshape(2, 2)
    assert all(len({expert // 2 for expert in device}) == 2 for device in devices.tolist())


def test_an_uncertain_expert_gets_the_spare_slot() -> None:
    """Of equal means the one with the largest deviation is replicated, and its replicas do not share a device."""
    shape = ClusterShape("spare", 2, 6)
    for how in ({"deviation": [0, 0.2, 0, 0.1, 0]}, {"covariance": np.diag([0, 0.04, 0, 0.01, 0])}):
        slots = risk_plan(np.full(5, 0.2), shape, 1, **how).reshape(2, 3)
        assert np.bincount(slots.ravel()).tolist() == [1, 2, 1, 1, 1]
        assert all(1 in device for device in slots.tolist())


@pytest.mark.parametrize(
    ("z", "how", "message"),
    [
        (-1, {"deviation": np.ones(4)}, "z is -1"),
        (1, {}, "one of them"),
        (1, {"deviation": np.ones(4), "covariance": np.eye(4)}, "one of them"),
        (1, {"deviation": np.ones(3)}, r"deviation has shape \(3,\), expected finite values of shape \(4,\)"),
        (1, {"deviation": np.full(4, -1.0)}, "deviation holds -1"),
        (1, {"covariance": -np.eye(4)}, "a variance of -1"),
        (1, {"covariance": np.full((4, 4), np.nan)}, "covariance has shape"),
    ],
)
def test_what_is_no_uncertainty_is_refused(z: float, how: dict[str, np.ndarray], message: str) -> None:
    """By name, with what was expected."""
    with pytest.raises(PlacementError, match=message):
        risk_plan(np.full(4, 0.25), SHAPE, z, **how)


def test_covariances_are_for_one_node() -> None:
    """A hierarchical plan is refused, not planned flat."""
    shape = ClusterShape("nodes", 4, 8, nodes=2, groups=2)
    with pytest.raises(PlacementError, match="2 nodes"):
        risk_plan(np.full(4, 0.25), shape, 1, covariance=np.eye(4))
