"""What a plan costs under the true loads, step by step, and what it costs to change it.

The cost of a plan is max / mean device load: each MoE layer waits for its most loaded device in every step.
`moeload_bench.scoring.plan_scores` makes scores of it.

Axis letters: H rows of the window, L MoE layers, E experts, R replica slots, D devices.
"""

from __future__ import annotations

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import PlacementError

CAPACITY_FACTOR = 1.25
HEADLINE = "quarter"
"""The name of the shape of `plans.headline_shapes` that tables with one number per forecaster use."""


def device_weights(slot_expert: IntArray, experts: int, devices: int) -> FloatArray:
    """Return the part [..., D, E] of each expert's tokens that each device serves under plans [..., R].

    Replicas share evenly. Device loads are ``device_weights(...) @ load[..., E, steps]``.
    """
    rows, slots = slot_expert.reshape(-1, slot_expert.shape[-1]), slot_expert.shape[-1]
    device = np.arange(slots) // (slots // devices)
    cell = ((np.arange(len(rows))[:, None] * devices + device) * experts + rows).ravel()
    slots_PDE = np.bincount(cell, minlength=len(rows) * devices * experts).reshape(len(rows), devices, experts)
    total = slots_PDE.sum(axis=1, keepdims=True)
    if (total == 0).any():
        index = np.argwhere(total == 0)[0]
        raise PlacementError(f"plan {int(index[0])} places expert {int(index[2])} nowhere")
    return np.asarray((slots_PDE / total).reshape(*slot_expert.shape[:-1], devices, experts))


class PlanCost:
    """One plan per layer [L, R], or several of all layers [..., L, R], made ready to be costed in many steps."""

    def __init__(self, slot_expert: IntArray, experts: int, devices: int) -> None:
        self._devices, self._plans = devices, slot_expert.shape[:-1]
        layers, plans = self._plans[-1], int(np.prod(self._plans))
        expert = slot_expert + experts * np.arange(plans).reshape(*self._plans, 1)
        part = 1.0 / np.bincount(expert.ravel())[expert]
        row = slot_expert + experts * np.arange(layers)[:, None]
        # the first slot of every device, then the second: sums of few arrays that stay in the cache
        self._row_CN, self._part_CN = (each.reshape(plans * devices, -1).T.copy() for each in (row, part))

    def imbalance(self, share_HLE: FloatArray) -> FloatArray:
        """Return max / mean device load [H, ..., L] of each step; NaN if a layer-step has no load.

        Fastest where the steps are contiguous in memory (`steps_last`): no copy is made then.
        """
        H, L, E = share_HLE.shape
        share_XH = np.ascontiguousarray(np.moveaxis(share_HLE, 0, -1)).reshape(L * E, H)
        total_NH, taken_NH = np.zeros((2, self._row_CN.shape[1], H))
        for row_N, part_N in zip(self._row_CN, self._part_CN, strict=True):
            np.take(share_XH, row_N, axis=0, out=taken_NH, mode="clip")  # `clip` writes into `out` without a copy
            taken_NH *= part_N[:, None]
            total_NH += taken_NH
        largest = total_NH.reshape(-1, self._devices, H).max(axis=1).reshape(*self._plans, H)
        return np.asarray(np.moveaxis(largest, -1, 0) * self._devices)


def step_imbalance(slot_expert: IntArray, share_HLE: FloatArray, devices: int) -> FloatArray:
    """Return max / mean device load [H, ..., L] of each step under plans [..., L, R]; NaN where no load is."""
    return PlanCost(slot_expert, share_HLE.shape[2], devices).imbalance(share_HLE)


def steps_last(share_SLE: FloatArray) -> FloatArray:
    """Return the same array with the steps contiguous in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(share_SLE, 0, -1)), -1, 0)


def held_by(slot_expert: IntArray, devices: int, experts: int) -> BoolArray:
    """Return which experts each device holds [..., D, E] under plans [..., R]."""
    split_NC = slot_expert.reshape(-1, slot_expert.shape[-1] // devices)
    held_NE = np.zeros((len(split_NC), experts), dtype=np.bool_)
    held_NE[np.arange(len(split_NC))[:, None], split_NC] = True
    return held_NE.reshape(*slot_expert.shape[:-1], devices, experts)


def replicas_moved(before: IntArray, after: IntArray, devices: int) -> IntArray:
    """Return the replicas [..., D] that each device must receive to go from one plan to the next, both [..., R].

    An expert that a device holds already is copied inside the device at no cost.
    """
    if before.shape != after.shape:
        raise PlacementError(f"plans of shapes {before.shape} and {after.shape} cannot be compared; expected the same")
    experts = 1 + int(max(before.max(initial=0), after.max(initial=0)))
    old, new = (held_by(plan, devices, experts) for plan in (before, after))
    return np.asarray((new & ~old).sum(axis=-1))
