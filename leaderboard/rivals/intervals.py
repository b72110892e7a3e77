"""Plans that are renewed every so many steps, whatever that promises: from a forecast, one interval late, by an oracle.

The plan of an interval is made at its first step. A forecast knows the steps before. *Late* is the plan for the loads
of the interval before, so at an interval of one step a reaction one step late. The *oracle* knows the mean loads of the
interval to come, and may keep the late plan where that is better: what it loses is lost to the interval, not to error.

Axis letters: S steps, J intervals, L MoE layers, E experts, R replica slots, D devices, N rows with a plan each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.placement.cost import replicas_moved
from moeload_bench.placement.layouts import LINEAR, layout
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.placement.replan import with_fewest_moves

CELLS = 1 << 24
"""Of the experts on devices of the plans that are compared at once."""


class Followed(NamedTuple):
    """What plans of intervals come to: max / mean [S, L], and the replicas that they move.

    ``busiest``: received by the busiest device of each re-plan over all layers, added up; ``total``: by all devices.
    """

    imbalance_SL: FloatArray
    busiest: int
    total: int


def interval_means(load_SLE: IntArray, first: int, every: int, count: int) -> FloatArray:
    """Return the mean loads [J, L, E] of so many intervals from step ``first`` on; what lies before step 0 is no part.

    For example, first -500 and every 1,000: the mean of steps 0 to 499.
    """
    starts = [first + every * j for j in range(count)]
    return np.stack([load_SLE[max(0, start) : max(1, start + every)].mean(axis=0) for start in starts])


def plans_of(load_JLE: FloatArray, shape: ClusterShape) -> IntArray:
    """Return the plan [J, L, R] for each mean; a layer without load is planned as an even one."""
    silent = load_JLE.sum(axis=2, keepdims=True) == 0
    return plan(np.where(silent, 1.0, load_JLE), shape)


def followed(plan_JLR: IntArray, load_SLE: IntArray, shape: ClusterShape) -> Followed:
    """Return what plans come to, each in force for as many steps, the first one after experts held by number."""
    (J, L, R), (S, _, E) = plan_JLR.shape, load_SLE.shape
    in_force_NR = np.repeat(plan_JLR, S // J, axis=0).reshape(S * L, R)
    imbalance_N = own_imbalance(in_force_NR, load_SLE.reshape(S * L, E), shape.devices)
    start_LR = np.tile(layout(LINEAR, E, shape), (1, L, 1))
    moved_JD = _moved(np.concatenate([start_LR, plan_JLR[:-1]]), plan_JLR, shape, E)
    return Followed(imbalance_N.reshape(S, L), int(moved_JD.max(axis=1).sum()), int(moved_JD.sum()))


def own_imbalance(slot_expert_NR: IntArray, load_NE: IntArray, devices: int) -> FloatArray:
    """Return max / mean device load [N], each row under a plan of its own; NaN where no load is."""
    N, E = load_NE.shape
    cell_NR = slot_expert_NR + E * np.arange(N)[:, None]
    part_NE = load_NE / np.maximum(1, np.bincount(cell_NR.ravel(), minlength=N * E).reshape(N, E))
    device_ND = part_NE.ravel()[cell_NR].reshape(N, devices, -1).sum(axis=2)
    total_N = load_NE.sum(axis=1)
    return np.where(total_N > 0, device_ND.max(axis=1) * devices / np.maximum(1, total_N), np.nan)


def _moved(before_JLR: IntArray, after_JLR: IntArray, shape: ClusterShape, experts: int) -> IntArray:
    """Return the replicas [J, D] that each device receives over all layers, devices named as in the plan before."""
    J, L, R = after_JLR.shape
    at_once = max(1, CELLS // (L * shape.devices * experts))
    parts = []
    for first in range(0, J, at_once):
        before_NR, after_NR = (plans[first : first + at_once].reshape(-1, R) for plans in (before_JLR, after_JLR))
        moved_ND = replicas_moved(before_NR, with_fewest_moves(before_NR, after_NR, shape), shape.devices)
        parts.append(moved_ND.reshape(-1, L, shape.devices).sum(axis=1))
    return np.concatenate(parts)


def oracle(late: Followed, fresh: Followed, intervals: int) -> Followed:
    """Return the oracle: in each interval and layer the plan with less imbalance over its steps.

    ``fresh``: plans for the mean loads of the intervals themselves. Moves are charged as if it always renewed them.
    """
    S, L = fresh.imbalance_SL.shape
    late_JSL, fresh_JSL = (followed.imbalance_SL.reshape(intervals, -1, L) for followed in (late, fresh))
    keep_J1L = np.nan_to_num(fresh_JSL - late_JSL).sum(axis=1, keepdims=True) > 0
    return fresh._replace(imbalance_SL=np.where(keep_J1L, late_JSL, fresh_JSL).reshape(S, L))
