"""Policies that react to recorded loads, a stated number of steps late, without a forecast.

- `spill`: in every step, what a device has above `most` times the mean goes to the least loaded devices, which receive
  the weights of the experts whose tokens they take (least-loaded expert parallelism, arXiv 2601.17111).
- `at_threshold`: every k steps the layout is planned again, if devices were used less than a threshold in those k
  steps: mean over max load, mean over steps and layers (sglang's issue 8345). The plan may come from those k steps, or
  from a forecast.

`reaction` has the others: a plan for each step from its exact loads, and replicas for the mean + z deviations of the
last steps (FlashLB of vllm-ascend).

Axis letters: S steps, L MoE layers, E experts, D devices, R replica slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.placement.cost import device_weights, replicas_moved, step_imbalance
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import with_fewest_moves

TINY = 1e-12


class Measured(NamedTuple):
    """Mean max / mean device load, and the most experts that one device receives per action, all layers together."""

    imbalance: float
    moved: float


def spill(share_E: FloatArray, weight_DE: FloatArray, most: float) -> tuple[FloatArray, IntArray]:
    """Return the part of each expert's tokens per device [D, E] after spilling, and the experts that each receives [D].

    ``weight_DE``: that part in the layout. The busiest device gives first, of its largest expert first.
    """
    load_DE = weight_DE * share_E
    device_D, received_D = load_DE.sum(axis=1), np.zeros(len(load_DE), dtype=np.int64)
    top = most * device_D.mean()
    for giver in np.argsort(-device_D, kind="stable"):
        for expert in np.argsort(-load_DE[giver], kind="stable"):
            while device_D[giver] - top > TINY and load_DE[giver, expert] > TINY:
                taker = int(device_D.argmin())
                part = min(load_DE[giver, expert], device_D[giver] - top, top - device_D[taker])
                if part <= TINY:
                    break
                received_D[taker] += load_DE[taker, expert] == 0
                load_DE[[giver, taker], expert] += -part, part
                device_D[[giver, taker]] += -part, part
    known_E = share_E > 0
    return np.where(known_E, load_DE / np.where(known_E, share_E, 1.0), weight_DE), received_D


def spilled(share_SLE: FloatArray, plan_LR: IntArray, rows: range, late: int, most: float, devices: int) -> Measured:
    """Measure spilling at some rows, each decided from the loads that lie ``late`` steps before it."""
    weight_LDE = device_weights(plan_LR, share_SLE.shape[2], devices)
    imbalance, moved = [], []
    for row in rows:
        received_D = np.zeros(devices, dtype=np.int64)
        for layer, weight_DE in enumerate(weight_LDE):
            after_DE, layer_D = spill(share_SLE[row - late, layer], weight_DE, most)
            load_D = after_DE @ share_SLE[row, layer]
            imbalance.append(float(load_D.max() / load_D.mean()))
            received_D += layer_D
        moved.append(int(received_D.max()))
    return Measured(float(np.mean(imbalance)), float(np.mean(moved)))


def at_threshold(
    share_SLE: FloatArray,
    before_LR: IntArray,
    plans_NLR: IntArray,
    rows_N: IntArray,
    late: int,
    threshold: float,
    shape: ClusterShape,
) -> Measured:
    """Measure plans for rows a k apart, each taken only if devices were used less than a threshold in k rows.

    These k rows end where it is decided, ``late`` rows before the plan's first; ``before_LR`` is in force first.
    """
    every, moved, imbalance = int(rows_N[1] - rows_N[0]), [], []
    for row, plan_LR in zip(rows_N.tolist(), plans_NLR, strict=True):
        seen_SLE = share_SLE[max(0, row - late - every) : row - late]
        after_LR = before_LR
        if (1.0 / step_imbalance(before_LR, seen_SLE, shape.devices)).mean() < threshold:
            after_LR = with_fewest_moves(before_LR, plan_LR, shape)
        moved.append(int(replicas_moved(before_LR, after_LR, shape.devices).sum(axis=0).max()))
        imbalance.append(step_imbalance(after_LR, share_SLE[row : row + every], shape.devices).mean())
        before_LR = after_LR
    return Measured(float(np.mean(imbalance)), float(np.mean(moved)))
