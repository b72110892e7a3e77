"""Plans for uncertain loads: mean + z standard deviations, with covariances if they are known.

A device waits for all of its experts together. So experts whose loads grow together should be apart, and experts that
grow at each other's cost may be together. FlashLB (vllm-ascend) packs by such a bound on the load of a device. Here
replicas are given by mean + z standard deviations of each expert. Items are packed in falling order of that, each on
the device whose bound mean_D + z sqrt(var_D) stays lowest; var_D includes all covariances of what the device holds.

Axis letters: N plans, E experts, R replica slots, D devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import PlacementError
from moeload_bench.placement.plans import ClusterShape, plan, replicate


def risk_plan(mean: Any, shape: ClusterShape, z: float, *, deviation: Any = None, covariance: Any = None) -> IntArray:
    """Return the plan [..., R] for uncertain loads; with ``z`` = 0 it is that of `plan`.

    ``mean`` [..., E] as for `plan`; ``deviation`` [..., E]: standard deviations, in the unit of the mean; or
    ``covariance`` [..., E, E]. With deviations alone, mean + z deviations is planned for as if it were the load. Raise
    `PlacementError` for a z below 0, for neither or both of them, for values that are not finite or variances below 0,
    and for covariances on a hierarchical shape.
    """
    mean = np.asarray(mean, dtype=np.float64)
    if not (np.isfinite(z) and z >= 0):
        raise PlacementError(f"z is {z!r}, expected a finite number of at least 0 standard deviations")
    if (deviation is None) == (covariance is None):
        raise PlacementError("a plan for uncertain loads needs deviations or covariances: one of them")
    if covariance is None:
        spread = _checked("deviation", deviation, mean.shape)
        if (spread < 0).any():
            raise PlacementError(f"deviation holds {spread.min():g}, expected at least 0")
        return plan(mean + z * spread, shape)
    if shape.nodes > 1:
        raise PlacementError(f"shape {shape.name!r} has {shape.nodes} nodes; covariances plan one node at a time")
    both = _checked("covariance", covariance, (*mean.shape, mean.shape[-1]))
    variance = np.diagonal(both, axis1=-2, axis2=-1)
    if (variance < 0).any():
        raise PlacementError(f"covariance has a variance of {variance.min():g}, expected at least 0")
    if z == 0:
        return plan(mean, shape)
    E = mean.shape[-1]
    shape.check(E)
    count_NE = replicate(mean + z * np.sqrt(variance), shape.slots).reshape(-1, E)
    slot_NR = _packed(mean.reshape(-1, E), both.reshape(-1, E, E), count_NE, shape, z)
    return slot_NR.reshape(*mean.shape[:-1], shape.slots)


def _packed(
    mean_NE: FloatArray, covariance_NEE: FloatArray, count_NE: IntArray, shape: ClusterShape, z: float
) -> IntArray:
    """Pack items in falling order of their own bound, each on the device whose bound stays lowest.

    A device that already holds the expert is taken only if no other has room.
    """
    N, E = mean_NE.shape
    D, room = shape.devices, shape.slots_per_device
    at = np.arange(N)
    own_NE = (mean_NE + z * np.sqrt(np.diagonal(covariance_NEE, axis1=1, axis2=2))) / count_NE
    order_NE = np.argsort(-own_NE, axis=1, kind="stable")
    times_NE = np.take_along_axis(count_NE, order_NE, axis=1)
    item_NR = np.repeat(order_NE.ravel(), times_NE.ravel()).reshape(N, shape.slots)
    part_NDE = np.zeros((N, D, E))
    load_ND, variance_ND, held_ND = np.zeros((N, D)), np.zeros((N, D)), np.zeros((N, D), dtype=np.int64)
    out = np.empty((N, D, room), dtype=np.int64)
    for expert_N in item_NR.T:
        share_N1 = 1.0 / count_NE[at, expert_N][:, None]
        row_NE = covariance_NEE[at, expert_N]
        more_ND = 2 * share_N1 * np.einsum("nde,ne->nd", part_NDE, row_NE)
        var_ND = variance_ND + more_ND + share_N1**2 * row_NE[at, expert_N][:, None]
        bound_ND = load_ND + share_N1 * mean_NE[at, expert_N][:, None] + z * np.sqrt(np.maximum(var_ND, 0.0))
        twice_ND = part_NDE[at, :, expert_N] > 0
        key_ND = np.where(held_ND == room, np.inf, bound_ND + np.where(twice_ND, 1e6 * mean_NE.sum(axis=1)[:, None], 0))
        to_N = key_ND.argmin(axis=1)
        out[at, to_N, held_ND[at, to_N]] = expert_N
        held_ND[at, to_N] += 1
        part_NDE[at, to_N, expert_N] += share_N1[:, 0]
        load_ND[at, to_N] += share_N1[:, 0] * mean_NE[at, expert_N]
        variance_ND[at, to_N] = var_ND[at, to_N]
    return out.reshape(N, shape.slots)


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> FloatArray:
    array: FloatArray = np.asarray(value, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise PlacementError(f"{name} has shape {array.shape}, expected finite values of shape {shape}")
    return array
