"""When to re-plan: policies simulated over a whole trace, with the migration charged (docs/methods/placement.md).

The cost model, in milliseconds. T is the step time measured in the static layout (the plan for uniform loads), f the
part of it that waits for the most loaded device, I(t, l) = max / mean device load of layer l in step t:

    step(t) = T (1 - f) + T f mean_l I(t, l) / I_static,        I_static = mean over t, l in the static layout
    migration = replan_ms + (1 - overlap) * (most replicas that one device receives) * expert_mb / bandwidth_gb_s

Axis letters: S rows of the trace, L MoE layers, E experts, R replica slots, D devices, N decisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import PlacementError, not_found
from moeload_bench.placement.cost import device_weights, replicas_moved, step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan

PARTS = 20
"""Number of equal parts of a trace; savings are stored per part, so that two policies can be compared part by part."""

Policy = Literal["static", "every", "if_pays", "stable_only", "reserve_allocate", "on_change", "oracle"]

POLICIES: Mapping[Policy, str] = {
    "static": "the plan for uniform loads, never changed",
    "every": "re-plan every layer every k steps",
    "if_pays": "look every k steps; re-plan when the forecast promises more in k steps than the migration costs",
    "stable_only": "re-plan every k steps the layers that are stable; never in the transient",
    "reserve_allocate": "as stable_only, and back to the uniform plan when a layer turns transient",
    "on_change": "re-plan a layer, for the next k steps, when its state changes",
    "oracle": "if_pays with the true mean loads to come instead of a forecast",
}


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

    def migration_ms(self, moved_LD: IntArray) -> float:
        """Return the time to move replicas, all layers at once, every device receiving over its own link."""
        most = int(moved_LD.sum(axis=0).max(initial=0))
        return self.replan_ms + (1 - self.overlap) * most * self.expert_mb / self.bandwidth_gb_s


class Layout:
    """The plan in force, step by step, and what its changes cost: of a run that goes on, or of a trace.

    It begins as ``static_LR``, the plan for uniform loads; ``replans``, ``replicas`` and ``migration_ms`` add up.
    """

    def __init__(self, layers: int, experts: int, shape: ClusterShape, cost: CostModel) -> None:
        self.shape, self.cost = shape, cost
        self.static_LR = self.current_LR = plan(np.ones((layers, experts)), shape)
        self.replans = self.replicas = 0
        self.migration_ms = 0.0

    def imbalance(self, share_SLE: FloatArray, slot_expert_LR: IntArray | None = None) -> FloatArray:
        """Return max / mean device load [S, L] under the plan in force, or another."""
        plan_LR = self.current_LR if slot_expert_LR is None else slot_expert_LR
        return step_imbalance(plan_LR, share_SLE, self.shape.devices)

    def moved(self, slot_expert_LR: IntArray) -> IntArray:
        """Return the replicas [L, D] that each device would receive."""
        return replicas_moved(self.current_LR, slot_expert_LR, self.shape.devices)

    def step(self, slot_expert_LR: IntArray) -> IntArray:
        """Put a plan [L, R] in force from here on and charge it; return the replicas [L, D] that move."""
        moved_LD = self.moved(slot_expert_LR)
        self.current_LR = slot_expert_LR
        if moved_LD.any():
            self.replans += 1
            self.replicas += int(moved_LD.sum())
            self.migration_ms += self.cost.migration_ms(moved_LD)
        return moved_LD


@dataclass(frozen=True)
class PolicyRun:
    """What one policy cost over the trace; milliseconds are means per step, percentages of the static step time.

    ``moved_mb``: the size of all ``replicas_moved`` together. ``gain_percent``: saved before migration;
    ``saved_percent``: after it. ``break_even_steps``: steps until a re-plan has paid for itself; ``break_even_mb``: the
    size of an expert up to which the policy gains anything. Both are None if the policy gains nothing or moves nothing.
    ``imbalance`` by state of the layer-step, None if there is none. ``saved_parts``: `saved_percent` of each of `PARTS`
    equal parts of the trace (of each row, if there are fewer), NaN for a part without load.
    """

    policy: Policy
    every: int
    replans: int
    replicas_moved: int
    moved_mb: float
    step_ms: float
    migration_ms: float
    gain_percent: float
    saved_percent: float
    break_even_steps: float | None
    break_even_mb: float | None
    imbalance: float
    imbalance_transient: float | None
    imbalance_stable: float | None
    saved_parts: tuple[float, ...] = field(repr=False, default=())


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows start .. stop-1 under one plan per layer [L, R], and the replicas [L, D] that moved to get there."""

    start: int
    stop: int
    slot_expert_LR: IntArray
    moved_LD: IntArray


@dataclass(frozen=True, eq=False)
class Simulation:
    """A trace on a cluster.

    ``share_SLE``: true shares, NaN where a layer-step has no load; ``transient_SL``: the label of each row from rows
    before it; ``stride``: training steps between rows.
    """

    share_SLE: FloatArray
    transient_SL: BoolArray
    shape: ClusterShape
    cost: CostModel
    stride: int = 1

    def decisions(self, policy: Policy, every: int) -> tuple[IntArray, BoolArray]:
        """Return rows [N] at which a policy acts, and layers [N, L] that it re-plans there; no forecast is needed for
        this.
        """
        if policy not in POLICIES:
            raise not_found("policy", policy, POLICIES)
        S, L = self.transient_SL.shape
        if policy == "static":
            return np.empty(0, dtype=np.int64), np.empty((0, L), dtype=np.bool_)
        if every < self.stride or every % self.stride:
            raise PlacementError(f"re-planning every {every} steps does not fit a stride of {self.stride} steps")
        if policy == "on_change":
            changed = self.transient_SL[1:] != self.transient_SL[:-1]
            rows = np.flatnonzero(changed.any(axis=1)) + 1
            return rows, changed[rows - 1]
        rows = np.arange(every // self.stride, S, every // self.stride)
        if policy in ("every", "if_pays", "oracle"):
            return rows, np.ones((len(rows), L), dtype=np.bool_)
        return rows, ~self.transient_SL[rows]

    def true_means(self, rows_N: IntArray, every: int) -> FloatArray:
        """Return the mean true share [N, L, E] of the ``every`` steps from each row on (fewer at the trace's end)."""
        filled = np.nan_to_num(self.share_SLE)
        total = np.concatenate([np.zeros_like(filled[:1]), np.cumsum(filled, axis=0)])
        window = total[np.minimum(rows_N + every // self.stride, len(filled))] - total[rows_N]
        mass = window.sum(axis=2, keepdims=True)
        return np.asarray(np.where(mass > 0, window / np.where(mass > 0, mass, 1), 1 / filled.shape[2]))

    def history(self, policy: Policy, every: int, share_hat_NLE: FloatArray | None = None) -> list[Segment]:
        """Return the plans in force, in order; ``share_hat_NLE`` are the forecast means at the policy's `decisions`.

        A decision whose forecast is missing (NaN) changes nothing. ``static`` and ``oracle`` need no forecast.
        """
        return self._steps(policy, every, share_hat_NLE)[0]

    def _steps(self, policy: Policy, every: int, share_hat_NLE: FloatArray | None) -> tuple[list[Segment], Layout]:
        rows, acts = self.decisions(policy, every)
        if policy == "oracle":
            share_hat_NLE = self.true_means(rows, every)
        known = None if share_hat_NLE is None else ~np.isnan(share_hat_NLE[:, :, 0])
        acts = np.zeros_like(acts) if known is None else acts & known
        planned = self._plans(acts, share_hat_NLE)
        layout = self.layout()
        ends = [*rows.tolist(), len(self.share_SLE)]
        segments = [Segment(0, ends[0], layout.current_LR, layout.step(layout.current_LR))]
        for n, act_L in enumerate(acts):
            current = layout.current_LR
            wanted = np.where(act_L[:, None], planned[n], current)
            if policy == "reserve_allocate":
                transient_L = self.transient_SL[rows[n]]
                wanted[transient_L] = layout.static_LR[transient_L]
            new_L = (wanted != current).any(axis=1)
            wanted[new_L] = with_fewest_moves(current[new_L], wanted[new_L], self.shape)
            if policy in ("if_pays", "oracle") and share_hat_NLE is not None:
                share_LE = np.where(act_L[:, None], share_hat_NLE[n], 0.0)
                wanted = wanted if self._pays(layout, wanted, share_LE, every) else current
            segments.append(Segment(ends[n], ends[n + 1], wanted, layout.step(wanted)))
        return segments, layout

    def run(self, policy: Policy, every: int, share_hat_NLE: FloatArray | None = None) -> PolicyRun:
        """Return what a policy costs; arguments as for `history`."""
        segments, layout = self._steps(policy, every, share_hat_NLE)
        imbalance = [layout.imbalance(self.share_SLE[part.start : part.stop], part.slot_expert_LR) for part in segments]
        imbalance_SL = np.concatenate(imbalance)
        result = self._result(policy, every, imbalance_SL, layout)
        return replace(result, saved_parts=self._parts(imbalance_SL, segments))

    def _parts(self, imbalance_SL: FloatArray, segments: Sequence[Segment]) -> tuple[float, ...]:
        S = len(imbalance_SL)
        spent_S = np.zeros(S)
        for part in segments:
            if part.moved_LD.any():
                spent_S[part.start] += self.cost.migration_ms(part.moved_LD)
        edges = np.unique(np.linspace(0, S, PARTS + 1).round().astype(int)).tolist()
        saved = []
        for start, stop in itertools.pairwise(edges):
            mean = _mean(imbalance_SL[start:stop])
            gain = np.nan if mean is None else self.cost.step_ms - self.cost.step_time(mean, self.static_imbalance)
            spent = float(spent_S[start:stop].sum()) / ((stop - start) * self.stride)
            saved.append(float(100 * (gain - spent) / self.cost.step_ms))
        return tuple(saved)

    def device_loads(self, segments: Sequence[Segment], layer: int) -> FloatArray:
        """Return the load of each device, relative to the mean device, in every step of one layer, [S, D]."""
        devices, experts = self.shape.devices, self.share_SLE.shape[2]
        loads = [
            self.share_SLE[part.start : part.stop, layer]
            @ device_weights(part.slot_expert_LR[layer], experts, devices).T
            for part in segments
        ]
        return np.concatenate(loads) * devices

    def layout(self) -> Layout:
        """Return the cluster before the first step, under the plan for uniform loads."""
        _, layers, experts = self.share_SLE.shape
        return Layout(layers, experts, self.shape, self.cost)

    def _pays(self, layout: Layout, wanted: IntArray, share_LE: FloatArray, every: int) -> bool:
        before, after = (
            self.cost.step_time(float(layout.imbalance(share_LE[None], plan_LR).mean()), self.static_imbalance)
            for plan_LR in (layout.current_LR, wanted)
        )
        return (before - after) * every > self.cost.migration_ms(layout.moved(wanted))

    @cached_property
    def static_imbalance(self) -> float:
        """Return the mean over steps and layers of max / mean device load in the static layout."""
        return float(np.nanmean(self.layout().imbalance(self.share_SLE)))

    def _plans(self, acts_NL: BoolArray, share_hat_NLE: FloatArray | None) -> IntArray:
        planned = np.zeros((*acts_NL.shape, self.shape.slots), dtype=np.int64)
        if acts_NL.any() and share_hat_NLE is not None:
            planned[acts_NL] = plan(share_hat_NLE[acts_NL], self.shape)
        return planned

    def _result(self, policy: Policy, every: int, imbalance_SL: FloatArray, layout: Layout) -> PolicyRun:
        replans, moved, migration = layout.replans, layout.replicas, layout.migration_ms
        S = len(imbalance_SL)
        mean = float(np.nanmean(imbalance_SL))
        gain = self.cost.step_ms - self.cost.step_time(mean, self.static_imbalance)
        per_step = migration / (S * self.stride)
        pays = gain > 0 and migration > 0
        return PolicyRun(
            policy=policy,
            every=every,
            replans=replans,
            replicas_moved=moved,
            moved_mb=moved * self.cost.expert_mb,
            step_ms=self.cost.step_ms - gain + per_step,
            migration_ms=per_step,
            gain_percent=100 * gain / self.cost.step_ms,
            saved_percent=100 * (gain - per_step) / self.cost.step_ms,
            break_even_steps=migration / replans / gain if pays else None,
            break_even_mb=self._break_even_mb(gain * S * self.stride, migration, replans) if pays else None,
            imbalance=mean,
            imbalance_transient=_mean(imbalance_SL[self.transient_SL]),
            imbalance_stable=_mean(imbalance_SL[~self.transient_SL]),
        )

    def _break_even_mb(self, gain_ms: float, migration_ms: float, replans: int) -> float | None:
        fixed = replans * self.cost.replan_ms
        moving = migration_ms - fixed
        return self.cost.expert_mb * max(gain_ms - fixed, 0) / moving if moving > 0 else None


def with_fewest_moves(before_LR: IntArray, after_LR: IntArray, shape: ClusterShape) -> IntArray:
    """Return the same plans with devices (inside nodes) and nodes renumbered so that the fewest replicas move."""
    from scipy.optimize import linear_sum_assignment

    nodes, per_node = shape.nodes, shape.devices // shape.nodes
    old = before_LR.reshape(len(before_LR), shape.devices, shape.slots_per_device)
    new = np.sort(after_LR.reshape(old.shape), axis=2)
    kept: BoolArray = (new[:, :, None, :, None] == old[:, None, :, None, :]).any(axis=4)
    kept[..., 1:] &= (new[..., 1:] != new[..., :-1])[:, :, None]
    value_LDD = kept.sum(axis=3).reshape(-1, nodes, per_node, nodes, per_node)
    settled = np.empty_like(new)
    for layer, value in enumerate(value_LDD):
        target, total = np.empty((nodes, nodes, per_node), dtype=np.int64), np.empty((nodes, nodes))
        for a, b in np.ndindex(nodes, nodes):
            row, target[a, b] = linear_sum_assignment(value[a, :, b, :], maximize=True)
            total[a, b] = value[a, row, b, target[a, b]].sum()
        for a, b in zip(*linear_sum_assignment(total, maximize=True), strict=True):
            settled[layer, b * per_node + target[a, b]] = new[layer, a * per_node : (a + 1) * per_node]
    return settled.reshape(after_LR.shape)


def best_run(runs: Sequence[PolicyRun]) -> PolicyRun:
    """Return the policy that saves most after migration, except the oracle; the earlier one if two save the same."""
    real = [run for run in runs if run.policy != "oracle"]
    return max(real, key=lambda run: run.saved_percent)


def _mean(values: FloatArray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None
