"""What moving experts costs and brings, and the plan in force step by step (docs/methods/placement.md).

The cost model, in milliseconds. T is the step time measured in the static layout (the plan for uniform loads), f the
part of it that waits for the most loaded device, I(t, l) = max / mean device load of layer l in step t:

    step(t) = T (1 - f) + T f mean_l I(t, l) / I_static,        I_static = mean over t, l in the static layout
    migration = replan_ms + (1 - overlap) * (most replicas that one device receives) * expert_mb / bandwidth_gb_s

Axis letters: S rows of the trace, L MoE layers, E experts, R replica slots, D devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import PlacementError
from moeload_bench.placement.cost import held_by, replicas_moved, step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan


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
        for name, least, most in (
            ("step_ms", "above 0", None),
            ("bandwidth_gb_s", "above 0", None),
            ("expert_mb", "of at least 0", None),
            ("replan_ms", "of at least 0", None),
            ("expert_fraction", "above 0", 1),
            ("overlap", "of at least 0", 1),
        ):
            value = getattr(self, name)
            low_enough = most is None or value <= most
            if not (np.isfinite(value) and low_enough and (value > 0 if least == "above 0" else value >= 0)):
                limit = "" if most is None else f" and at most {most}"
                raise PlacementError(f"{name} is {value}, expected a finite number {least}{limit}")

    def step_time(self, imbalance: float, static: float) -> float:
        """Return the step time, in ms, for a mean imbalance over layers; ``static`` is that of the static layout."""
        waiting = self.step_ms * self.expert_fraction
        return self.step_ms - waiting + waiting * imbalance / static

    def price_ms(self, moves: Any, received: Any) -> Any:
        """Return the time of moves in which the busiest devices receive so many replicas in all; numbers or arrays."""
        return self.replan_ms * moves + (1 - self.overlap) * self.expert_mb / self.bandwidth_gb_s * received

    def migration_ms(self, moved_LD: IntArray) -> float:
        """Return the time to move replicas, all layers at once, every device receiving over its own link."""
        return float(self.price_ms(1, int(moved_LD.sum(axis=0).max(initial=0))))


class Layout:
    """The plan in force, step by step, and what its changes cost: of a run that goes on, or of a trace.

    It begins as ``static_LR``, the plan for uniform loads; ``replans`` and ``replicas`` add up, and so does
    ``received``, by the device that receives most in each move.

    A move is written off evenly over a span of steps. What is left of it when the next one comes is due at once.
    """

    def __init__(self, layers: int, experts: int, shape: ClusterShape) -> None:
        self.experts, self.shape = experts, shape
        self.static_LR = self.current_LR = plan(np.ones((layers, experts)), shape)
        self.replans = self.replicas = self.received = 0
        self._due_2, self._left_2, self._per_step_2 = np.zeros((3, 2))

    def imbalance(self, share_SLE: FloatArray, slot_expert_LR: IntArray | None = None) -> FloatArray:
        """Return max / mean device load [S, L] under the plan in force, or another."""
        plan_LR = self.current_LR if slot_expert_LR is None else slot_expert_LR
        return step_imbalance(plan_LR, share_SLE, self.shape.devices)

    def moved(self, slot_expert_LR: IntArray) -> IntArray:
        """Return the replicas [L, D] that each device would receive."""
        return replicas_moved(self.current_LR, slot_expert_LR, self.shape.devices)

    def step(self, slot_expert_LR: IntArray, span: int = 1) -> IntArray:
        """Put a plan [L, R] in force, to be written off over ``span`` steps; return the replicas [L, D] that move."""
        moved_LD = self.moved(slot_expert_LR)
        self.current_LR = slot_expert_LR
        if moved_LD.any():
            most = int(moved_LD.sum(axis=0).max())
            self.replans += 1
            self.replicas += int(moved_LD.sum())
            self.received += most
            self._due_2 = self._due_2 + self._left_2
            self._left_2 = np.array([1.0, most])
            self._per_step_2 = self._left_2 / span
        return moved_LD

    def written_off(self, steps: int) -> FloatArray:
        """Return what the next ``steps`` steps are charged with [2]: moves, and replicas received."""
        part_2 = np.minimum(self._left_2, self._per_step_2 * steps)
        due_2 = self._due_2 + part_2
        self._due_2, self._left_2 = np.zeros(2), self._left_2 - part_2
        return due_2


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
