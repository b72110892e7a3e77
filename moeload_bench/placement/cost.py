"""What a plan costs under the true loads, step by step, and what it costs to change it.

The cost of a plan is max / mean device load: each MoE layer waits for its most loaded device in every step.
`moeload_bench.scoring.plan_scores` makes scores of it.

Axis letters: H rows of the window, L MoE layers, E experts, R replica slots, D devices.
"""

from __future__ import annotations

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
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
    held = np.bincount(cell, minlength=len(rows) * devices * experts).reshape(len(rows), devices, experts)
    total = held.sum(axis=1, keepdims=True)
    if (total == 0).any():
        at = np.argwhere(total == 0)[0]
        raise PlacementError(f"plan {int(at[0])} places expert {int(at[2])} nowhere")
    return np.asarray((held / total).reshape(*slot_expert.shape[:-1], devices, experts))


def step_imbalance(slot_expert_LR: IntArray, share_HLE: FloatArray, devices: int) -> FloatArray:
    """Return max / mean device load [H, L] of each step under one plan per layer; NaN if a layer-step has no load."""
    weight_LDE = device_weights(slot_expert_LR, share_HLE.shape[2], devices)
    return np.asarray((weight_LDE @ np.moveaxis(share_HLE, 0, -1)).max(axis=1).T * devices)


def replicas_moved(before: IntArray, after: IntArray, devices: int) -> IntArray:
    """Return the replicas [..., D] that each device must receive to go from one plan to the next, both [..., R].

    An expert that a device holds already is copied inside the device at no cost.
    """
    if before.shape != after.shape:
        raise PlacementError(f"plans of shapes {before.shape} and {after.shape} cannot be compared; expected the same")
    split = (*before.shape[:-1], devices, before.shape[-1] // devices)
    old, new = before.reshape(split), np.sort(after.reshape(split), axis=-1)
    known = (new[..., :, None] == old[..., None, :]).any(axis=-1)
    known[..., 1:] |= new[..., 1:] == new[..., :-1]
    return np.asarray((~known).sum(axis=-1))
