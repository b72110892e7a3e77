"""The layout in force: where the experts sit before a plan moves any of them.

Training engines and vLLM hold experts by number: with 16 experts on 4 devices, device 0 has 0 to 3. vLLM's other
placement deals them round: device 0 has 0, 4, 8 and 12. A layout is a plan like any other, `slot_expert` [..., R].

Axis letters: L MoE layers, E experts, R replica slots, D devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import PlacementError, not_found
from moeload_bench.placement.plans import ClusterShape

LINEAR, ROUND_ROBIN = LAYOUTS = ("linear", "round_robin")
"""Layouts by name, in vLLM's words; the first one is that of engines that are not told otherwise."""


def layout(name: str, experts: int, shape: ClusterShape) -> IntArray:
    """Return the expert in each slot [R] of one layer.

    ``linear``: slot s holds expert s mod E, and device d owns the slots d R/D and on. ``round_robin``: expert e is on
    device e mod D. Spare slots hold the first experts again. Raise `NotFoundError` for another name.
    """
    slot_R = np.arange(shape.slots)
    if name == ROUND_ROBIN:
        device_R, place_R = np.divmod(slot_R, shape.slots_per_device)
        slot_R = place_R * shape.devices + device_R
    elif name != LINEAR:
        raise not_found("layout", name, LAYOUTS)
    return slot_R % experts


def checked_layout(slot_expert: Any, experts: int, where: str = "the plan") -> IntArray:
    """Return the slots [L, R] as an array; raise `PlacementError` for a layer that lacks an expert or has another."""
    slots_LR = np.asarray(slot_expert)
    if slots_LR.ndim != 2 or slots_LR.dtype.kind not in "iu":
        raise PlacementError(
            f"{where} has shape {slots_LR.shape} of {slots_LR.dtype}, expected whole numbers [layers, slots]"
        )
    for row, slot_R in enumerate(slots_LR.tolist()):
        wrong = sorted(set(range(experts)).symmetric_difference(slot_R))
        if wrong:
            fault = "missing" if 0 <= wrong[0] < experts else "unknown"
            raise PlacementError(
                f"row {row} of {where}: expert {wrong[0]} is {fault}, expected each of 0 to {experts - 1} at least once"
            )
    return slots_LR.astype(np.int64)
