"""Plans: which expert sits in which slot of which device, made from an expected load.

Replication gives the next spare slot to the expert with the most load per replica; packing takes items in falling
order of load and puts each on the lightest device that has room. This is the algorithm published with DeepSeek's
EPLB, flat and hierarchical (groups of experts to nodes first, then replication and packing inside each node), here
computed for many layers and origins at once. Added to it: two replicas of one expert never share a device when
another can take one of them.

A plan is an int64 array `slot_expert` [..., R]: the expert in each slot; device d owns the slots
d * R/D .. (d + 1) * R/D - 1, node n the devices n * D/nodes .. (n + 1) * D/nodes - 1. The tokens of an expert are
split evenly over its replicas. Ties go to the device with fewer items, then to the lower number.

Axis letters: N plans, L MoE layers, E experts, R replica slots, D devices, C slots per device, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import PlacementError, counted, short
from moeload_bench.placement import packing


@dataclass(frozen=True)
class ClusterShape:
    """Where experts can go.

    ``devices`` D with ``slots`` R in all, the same number on each. ``nodes`` > 1 makes the plan hierarchical: experts
    come in ``groups`` of consecutive indices, and a group with all replicas of its experts stays on one node.
    """

    name: str
    devices: int
    slots: int
    nodes: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        for field in ("devices", "slots", "nodes", "groups"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise PlacementError(
                    f"shape {self.name!r}: {field} is {short(value)}, expected a whole number of at least 1"
                )
        if self.slots % self.devices:
            fits = -(-self.slots // self.devices) * self.devices
            raise PlacementError(
                f"shape {self.name!r}: {self.slots} slots do not divide over {self.devices} devices; {fits} would"
            )
        if self.devices % self.nodes:
            fits_n = [n for n in range(1, self.devices + 1) if self.devices % n == 0]
            raise PlacementError(
                f"shape {self.name!r}: {self.devices} devices do not divide over {self.nodes} nodes; fitting: {fits_n}"
            )
        if self.groups % self.nodes:
            raise PlacementError(
                f"shape {self.name!r}: {self.groups} groups do not divide over {self.nodes} nodes; "
                f"groups must be a multiple of {self.nodes}"
            )

    @property
    def slots_per_device(self) -> int:
        return self.slots // self.devices

    def check(self, experts: int) -> None:
        """Raise `PlacementError` unless ``experts`` can be placed and different plans can differ in cost."""
        where = f"shape {self.name!r}: {counted(experts, 'expert')}"
        if self.slots < experts:
            fits = least_slots(experts, self.devices)
            raise PlacementError(f"{where} need a slot each, got {self.slots} slots; {fits} would do")
        if self.devices == 1:
            raise PlacementError(f"{where} on 1 device: every plan costs the same; expected 2 to {experts} devices")
        if self.slots > experts * self.devices:
            raise PlacementError(
                f"{where} on {self.devices} devices have at most {experts * self.devices} replicas, one of each "
                f"expert on each device; got {self.slots} slots"
            )
        if experts < self.devices:
            raise PlacementError(
                f"{where} on {self.devices} devices: fewer experts than devices; at most {experts} fit"
            )
        if experts == self.devices == self.slots:
            raise PlacementError(
                f"{where} on as many devices without spare slots: every plan costs the same; "
                f"{2 * self.devices} slots or fewer devices would make a choice"
            )
        if experts % self.groups:
            fits_g = [g for g in range(self.nodes, experts + 1, self.nodes) if experts % g == 0]
            raise PlacementError(f"{where} do not divide into {self.groups} groups; fitting: {fits_g or 'none'}")


SHAPE_NAMES = ("quarter", "half", "plain", "nodes")
"""Names of `headline_shapes`, of which a model may lack some."""


def headline_shapes(experts: int) -> tuple[ClusterShape, ...]:
    """Return the fixed shapes that `run` scores, by names that mean the same for every E.

    ``quarter`` (the headline) and ``half``: one spare slot on each of D = E/4 and D = E/2 devices; ``plain``: D = E/4
    without spare slots; ``nodes``, from 64 experts on: ``quarter`` over 4 nodes with 8 groups of experts. If E does not
    divide, D is the next smaller divisor of E; a shape is left out if no D of at least 2 fits.
    """
    shapes = []
    quarter, half = _divisor(experts, experts // 4), _divisor(experts, experts // 2)
    if quarter >= 2:
        shapes.append(ClusterShape("quarter", quarter, experts + quarter))
    if half > quarter and half >= 2:
        shapes.append(ClusterShape("half", half, experts + half))
    if quarter >= 2:
        shapes.append(ClusterShape("plain", quarter, experts))
    if experts >= 64 and experts % 8 == 0 and quarter % 4 == 0:
        shapes.append(ClusterShape("nodes", quarter, experts + quarter, nodes=4, groups=8))
    return tuple(shapes)


def default_shape(experts: int) -> ClusterShape | None:
    """Return the shape that is assumed where none is stated, without replicas, as training engines have none.

    It has E / 4 devices, or E / 2 for fewer than 8 experts (the next smaller divisor of E); None for fewer than 4.
    """
    most = experts // 4 if experts >= 8 else experts // 2
    devices = _divisor(experts, most)
    return ClusterShape("plain", devices, experts) if devices >= 2 else None


def least_slots(experts: int, devices: int) -> int:
    """Return the fewest slots that hold every expert, as many on each device: 9 for 8 experts on 3 devices."""
    return -(-experts // devices) * devices


def _divisor(experts: int, most: int) -> int:
    return next((d for d in range(most, 0, -1) if experts % d == 0), 0)


def plan(load: Any, shape: ClusterShape) -> IntArray:
    """Return the plan for each expected load.

    ``load`` [..., E], any unit, finite and non-negative, each row with a positive sum; the plan is `slot_expert` [...,
    R]. Loads are compared at a resolution of `packing.level_bits` (2^-34 of the row's sum with 128 slots), so that
    rounding breaks no tie. Raise `PlacementError` for a load or shape that allows no plan.
    """
    load = _checked(load)
    experts = load.shape[-1]
    shape.check(experts)
    rows = load.reshape(-1, experts)
    slot_expert = np.empty((len(rows), shape.slots), dtype=np.int64)
    chunk = max(1, packing.max_rows(shape.slots // shape.nodes) // shape.nodes)
    for start in range(0, len(rows), chunk):
        slot_expert[start : start + chunk] = _plan_rows(rows[start : start + chunk], shape)
    return slot_expert.reshape(*load.shape[:-1], shape.slots)


def replicate(load: Any, slots: int) -> IntArray:
    """Return the replicas per expert [..., E], at least one each, ``slots`` in all.

    Each spare slot goes to the expert with the most load per replica, ties to the expert with the larger load, then to
    the lower number.
    """
    load = _checked(load)
    experts = load.shape[-1]
    if slots < experts:
        raise PlacementError(
            f"{counted(experts, 'expert')} need a slot each, got {slots} slots; at least {experts} would do"
        )
    rows = load.reshape(-1, experts)
    if slots == experts:
        return np.ones(load.shape, dtype=np.int64)
    _, count = packing.replicate(packing.quantise(rows, slots), slots)
    return count.reshape(load.shape)


def expert_capacity(load: Any, capacity_factor: float) -> FloatArray:
    """Return each expert's buffer [..., E] as a share of the layer's tokens: capacity planning without replicas.

    All buffers together hold ``capacity_factor`` times the layer's tokens and are divided in proportion to the expected
    load (the usual equal buffers are the case of a uniform load). Raise `PlacementError` for a factor that is not
    positive.
    """
    load = _checked(load)
    if not (np.isfinite(capacity_factor) and capacity_factor > 0):
        raise PlacementError(f"capacity factor is {short(capacity_factor)}, expected a finite number above 0")
    return np.asarray(capacity_factor * load / load.sum(axis=-1, keepdims=True))


def _checked(value: Any) -> FloatArray:
    load: FloatArray = np.asarray(value, dtype=np.float64)
    if load.ndim == 0 or load.shape[-1] == 0:
        raise PlacementError(f"load has shape {load.shape}, expected [..., experts] with at least one expert")
    total = load.sum(axis=-1)
    if load.size and not (load.min() >= 0 and np.isfinite(total).all()):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(load) | (load < 0))[0])
        raise PlacementError(f"load{list(index)} is {load[index]}, expected finite and not negative")
    empty = total <= 0
    if empty.any():
        index = tuple(int(i) for i in np.argwhere(empty)[0])
        where = f"load{list(index)}" if index else "load"
        raise PlacementError(f"{where} is zero for every expert: there is nothing to plan for")
    return load


def _plan_rows(load_NE: FloatArray, shape: ClusterShape) -> IntArray:
    rows, experts = load_NE.shape
    level_NE = packing.quantise(load_NE, shape.slots)
    label_NE = np.broadcast_to(np.arange(experts), level_NE.shape)
    if shape.nodes > 1:
        size = experts // shape.groups
        level_NGe = level_NE.reshape(rows, shape.groups, size)
        group_NG = packing.assign(level_NGe.sum(axis=2), label_NE[:, : shape.groups], shape.groups, shape.nodes)
        level_NE = level_NGe[np.arange(rows)[:, None], group_NG].reshape(rows * shape.nodes, -1)
        label_NE = (group_NG[:, :, None] * size + np.arange(size)).reshape(level_NE.shape)
    slot_expert = packing.assign(level_NE, label_NE, shape.slots // shape.nodes, shape.devices // shape.nodes)
    return slot_expert.reshape(rows, shape.slots)
