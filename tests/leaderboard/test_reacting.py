"""Policies that react, each against a case that is computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.studies.reacting import at_threshold, spill, spilled
from moeload_bench.placement.plans import ClusterShape

TWO = ClusterShape("two", 2, 4)
HALVES = np.array([[0, 1, 2, 3]])
"""One layer: experts 0 and 1 on the first device, 2 and 3 on the second."""
WEIGHT_DE = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
SKEWED = np.array([0.5, 0.2, 0.2, 0.1])
"""Device loads 0.7 and 0.3."""


@pytest.mark.parametrize(("most", "kept"), [(1.0, 0.6), (1.2, 0.8), (1.4, 1.0)])
def test_spilling_leaves_a_device_what_it_may_have(most: float, kept: float) -> None:
    """0.7 on the first device: it may keep 0.5, 0.6 or 0.7, and its largest expert, of 0.5, gives the rest."""
    after_DE, received_D = spill(SKEWED, WEIGHT_DE, most)
    assert after_DE[:, 0] == pytest.approx([kept, 1 - kept])
    assert after_DE[:, 1:] == pytest.approx(WEIGHT_DE[:, 1:])
    assert received_D.tolist() == [0, int(most < 1.4)]


def test_a_second_expert_spills_where_the_first_is_not_enough() -> None:
    """Three devices; all load is on the first, 0.6 and 0.4 of two experts: each other device takes a third.

    The second device is filled by expert 0, the third by the rest of expert 0 (0.6 - 1/3) and a part of expert 1.
    """
    weight_DE = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    after_DE, received_D = spill(np.array([0.6, 0.4, 0.0, 0.0]), weight_DE, 1.0)
    assert after_DE[:, 0] == pytest.approx([0.0, 1 / 1.8, 0.8 / 1.8])
    assert after_DE[:, 1] == pytest.approx([1 / 1.2, 0.0, 0.2 / 1.2])
    assert received_D.tolist() == [0, 1, 2]
    assert after_DE.sum(axis=0) == pytest.approx([1, 1, 1, 1])


def test_spilling_that_is_late_meets_other_loads() -> None:
    """Loads change sides in every step. In time: even. A step late, the wrong device gave: 0.7 + 0.5 * 0.4 of 1."""
    share_SLE = np.stack([SKEWED, SKEWED[[2, 3, 0, 1]]] * 2)[:, None]
    rows = range(1, 4)
    assert spilled(share_SLE, HALVES, rows, 0, 1.0, 2) == pytest.approx((1.0, 1.0))
    # decided from 0.5, 0.2 | 0.2, 0.1: expert 0 has 0.4 of its load on the second device; then it has 0.2, and
    # the second device has 0.5 + 0.2 + 0.4 * 0.2 = 0.78, over a mean of 0.5
    late = spilled(share_SLE, HALVES, rows, 1, 1.0, 2)
    assert late == pytest.approx((1.56, 1.0))


def test_a_plan_is_taken_only_below_the_threshold() -> None:
    """Even loads at first: kept. Then 0.7 and 0.3, a use of 0.5 / 0.7 = 71 %: one plan is taken, which evens them."""
    even, skewed = np.full((20, 1, 4), 0.25), np.tile(SKEWED, (40, 1, 1))
    share_SLE = np.concatenate([even, skewed])
    better = np.array([[0, 3, 1, 2]])  # 0.6 and 0.4
    plans_NLR, rows_N = np.stack([better] * 5), np.arange(10, 60, 10)
    taken = at_threshold(share_SLE, HALVES, plans_NLR, rows_N, 0, 0.8, TWO)
    # rows 10 to 19: 1.0; 20 to 29: 1.4, as nothing was seen of it before; from 30 on 1.2
    assert taken.imbalance == pytest.approx((1.0 + 1.4 + 3 * 1.2) / 5)
    assert taken.moved == pytest.approx(1 / 5)  # each device receives one expert, once
    late = at_threshold(share_SLE, HALVES, plans_NLR[1:], rows_N[1:], 10, 0.8, TWO)
    assert late.imbalance == pytest.approx((2 * 1.4 + 2 * 1.2) / 4)  # ten steps late: a block of 1.4 more
    never = at_threshold(share_SLE, HALVES, plans_NLR, rows_N, 0, 0.7, TWO)
    assert never == pytest.approx(((1.0 + 4 * 1.4) / 5, 0.0))
