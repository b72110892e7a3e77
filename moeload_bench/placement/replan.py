"""What moving experts costs and brings, and the plans that move the fewest (docs/methods/placement.md).

The cost model, in milliseconds. T is the step time measured under the layout in force, f the part of it that waits for
the most loaded device, I(t, l) = max / mean device load of layer l in step t:

    step(t) = T (1 - f) + T f mean_l I(t, l) / I_0,        I_0 = mean over t, l under the layout in force
    migration = replan_ms + (1 - overlap) * (most replicas that one device receives) * expert_mb / bandwidth_gb_s

Axis letters: S rows of the trace, L MoE layers, E experts, R replica slots, D devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import PlacementError
from moeload_bench.placement.cost import held_by
from moeload_bench.placement.plans import ClusterShape

PARTS = ("expert_fraction", "overlap")
"""Constants that are parts of a whole."""


@dataclass(frozen=True)
class CostModel:
    """The constants of the cost model; ``overlap`` is the part of a migration that is hidden behind training."""

    step_ms: float
    expert_mb: float
    bandwidth_gb_s: float
    expert_fraction: float = 0.5
    overlap: float = 0.0
    replan_ms: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            positive, part = name in ("step_ms", "bandwidth_gb_s", "expert_fraction"), name in PARTS
            if not (np.isfinite(value) and (value > 0 if positive else value >= 0) and (value <= 1 or not part)):
                minimum, limit = "above 0" if positive else "of at least 0", " and at most 1" if part else ""
                raise PlacementError(f"{name} is {value}, expected a finite number {minimum}{limit}")

    def price_ms(self, moves: Any, received: Any) -> Any:
        """Return the time of moves in which the busiest devices receive so many replicas in all; numbers or arrays."""
        return self.replan_ms * moves + (1 - self.overlap) * self.expert_mb / self.bandwidth_gb_s * received

    def migration_ms(self, moved_LD: IntArray) -> float:
        """Return the time to move replicas, all layers at once, every device receiving over its own link."""
        return float(self.price_ms(1, int(moved_LD.sum(axis=0).max(initial=0))))


def with_fewest_moves(before_LR: IntArray, after_LR: IntArray, shape: ClusterShape) -> IntArray:
    """Return the same plans [..., R], devices (inside nodes) and nodes renumbered so that the fewest replicas move."""
    from scipy.optimize import linear_sum_assignment

    new = np.sort(after_LR.reshape(-1, shape.devices, shape.slots_per_device), axis=2)
    experts = 1 + int(max(before_LR.max(initial=0), after_LR.max(initial=0)))
    old_LDE, new_LDE = (
        held_by(plan_LR.reshape(-1, shape.slots), shape.devices, experts).astype(np.float32)
        for plan_LR in (before_LR, after_LR)
    )
    # experts in common: whole numbers, exact in single precision
    kept_LDD = (new_LDE @ np.swapaxes(old_LDE, 1, 2)).astype(np.float64)
    settled = np.empty_like(new)
    for layer, kept_DD in enumerate(kept_LDD):
        flat = shape.nodes == 1
        target_D = linear_sum_assignment(kept_DD, maximize=True)[1] if flat else _inside_nodes(kept_DD, shape.nodes)
        settled[layer, target_D] = new[layer]
    return settled.reshape(after_LR.shape)


def _inside_nodes(kept_DD: FloatArray, nodes: int) -> IntArray:
    """Return the device that each device's experts go to, so that most stay: nodes as wholes, then devices in them."""
    from scipy.optimize import linear_sum_assignment

    per_node = len(kept_DD) // nodes
    kept_NDND = kept_DD.reshape(nodes, per_node, nodes, per_node)
    target_NND, total_NN = np.empty((nodes, nodes, per_node), dtype=np.int64), np.empty((nodes, nodes))
    for a, b in np.ndindex(nodes, nodes):
        row, target_NND[a, b] = linear_sum_assignment(kept_NDND[a, :, b, :], maximize=True)
        total_NN[a, b] = kept_NDND[a, row, b, target_NND[a, b]].sum()
    node_N = linear_sum_assignment(total_NN, maximize=True)[1]
    return (node_N[:, None] * per_node + target_NND[np.arange(nodes), node_N]).ravel()
