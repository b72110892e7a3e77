"""When to re-plan: policies simulated over a whole trace, with the migration charged (docs/methods/placement.md).

The cost model, in milliseconds. T is the step time measured in the static layout (the plan for uniform loads), f the
part of it that waits for the most loaded device, I(t, l) = max / mean device load of layer l in step t:

    step(t) = T (1 - f) + T f mean_l I(t, l) / I_static,        I_static = mean over t, l in the static layout
    migration = replan_ms + (1 - overlap) * (most replicas that one device receives) * expert_mb / bandwidth_gb_s

Axis letters: S rows of the trace, L MoE layers, E experts, R replica slots, D devices, N decisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import PlacementError, not_found
from moeload_bench.placement.cost import PlanCost, device_weights, held_by, replicas_moved, step_imbalance, steps_last
from moeload_bench.placement.plans import ClusterShape, plan

CELLS_AT_ONCE = 1 << 21
"""Shares that are worked on at once: rows x layers x experts."""
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
        self.experts, self.shape, self.cost = experts, shape, cost
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
    ``imbalance`` by state of the layer-step, None if there is none.
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


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows start .. stop-1 under one plan per layer [L, R], and the replicas [L, D] that moved to get there."""

    start: int
    stop: int
    slot_expert_LR: IntArray
    moved_LD: IntArray


class Shares(Protocol):
    """True shares [S, L, E], NaN where a layer-step has no load: an array, or what makes rows when asked for them."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> FloatArray: ...


MeansAt = Callable[[int], Mapping[int, FloatArray]]
"""The forecast mean shares [L, E] at a row, by interval; NaN, or no entry, where there is no forecast."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """A trace on a cluster.

    ``transient_SL``: the label of each row from rows before it; ``stride``: training steps between rows. The shares are
    read a few rows at a time, and every policy takes its steps along them.
    """

    share_SLE: Shares
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

    def _true_means(self, rows_of: Mapping[int, IntArray]) -> MeansAt:
        """Return what gives the mean true shares of the steps from a row on, for the rows asked about per interval."""
        S, _, E = self.share_SLE.shape
        span_of = {every: every // self.stride for every in rows_of}
        stops = [np.minimum(rows_N + span_of[every], S) for every, rows_N in rows_of.items()]
        total_of = self._totals({int(row) for rows_N in (*rows_of.values(), *stops) for row in rows_N})

        def mean(row: int, stop: int) -> FloatArray:
            window_LE = total_of[stop] - total_of[row]
            mass_L1 = window_LE.sum(axis=1, keepdims=True)
            return np.asarray(np.where(mass_L1 > 0, window_LE / np.where(mass_L1 > 0, mass_L1, 1), 1 / E))

        return lambda row: {
            every: mean(row, min(row + span_of[every], S)) for every, rows_N in rows_of.items() if row in rows_N
        }

    def _totals(self, edges: set[int]) -> dict[int, FloatArray]:
        """Return the sum of all shares [L, E] before each of these rows."""
        total_LE = np.zeros(self.share_SLE.shape[1:])
        found = {0: total_LE}
        for start, stop in self._stretches(edges):
            filled_SLE = np.nan_to_num(self.share_SLE[start:stop])
            filled_SLE[0] += total_LE
            total_LE = filled_SLE.sum(axis=0)
            if stop in edges:
                found[stop] = total_LE
        return found

    def history(self, policy: Policy, every: int, share_hat_NLE: FloatArray | None = None) -> list[Segment]:
        """Return the plans in force, in order; ``share_hat_NLE`` are the forecast means at the policy's `decisions`.

        A decision whose forecast is missing (NaN) changes nothing. ``static`` and ``oracle`` need no forecast.
        """
        walk, means_at = _Walk(self, policy, every), self._given(policy, every, share_hat_NLE)
        stops = [*walk.acts, self.share_SLE.shape[0]]
        current_LR = walk.layout.current_LR
        segments = [Segment(0, stops[0], current_LR, walk.layout.moved(current_LR))]
        for start, stop in itertools.pairwise(stops):
            moved_LD = walk.decide(start, self._ahead(means_at(start).get(every)))
            segments.append(Segment(start, stop, walk.layout.current_LR, moved_LD))
        return segments

    def run(self, policy: Policy, every: int, share_hat_NLE: FloatArray | None = None) -> PolicyRun:
        """Return what a policy costs; arguments as for `history`."""
        return self.runs([(policy, every)], self._given(policy, every, share_hat_NLE))[0]

    def runs(self, asked: Sequence[tuple[Policy, int]], means_at: MeansAt) -> list[PolicyRun]:
        """Return what policies cost at their intervals, all simulated in one pass along the trace.

        ``means_at`` is called once for each row at which a policy acts that needs forecasts, in rising order.
        """
        walks = [_Walk(self, policy, every) for policy, every in asked]
        oracles = [walk for walk in walks if walk.policy == "oracle"]
        others = [walk for walk in walks if walk.policy != "oracle"]
        truth_at = self._true_means({walk.every: np.array(list(walk.acts), dtype=np.int64) for walk in oracles})
        for start, stop in self._stretches({row for walk in walks for row in walk.acts}):
            for group, at in ((others, means_at), (oracles, truth_at)):
                acting = [walk for walk in group if start in walk.acts]
                means = at(start) if acting else {}
                ahead = {every: self._ahead(means.get(every)) for every in {walk.every for walk in acting}}
                for walk in acting:
                    walk.decide(start, ahead[walk.every])
            share_SLE = steps_last(self.share_SLE[start:stop])
            costs: dict[bytes, FloatArray] = {}  # of each different plan that is in force
            for walk in walks:
                if walk.key not in costs:
                    costs[walk.key] = self._by_state(walk.cost.imbalance(share_SLE), start)
                walk.imbalance_2S[:, start:stop] = costs[walk.key]
        return [self._result(walk) for walk in walks]

    def _ahead(self, mean_LE: FloatArray | None) -> Proposal:
        """Return a forecast with the plan for it."""
        _, L, E = self.share_SLE.shape
        mean_LE = np.full((L, E), np.nan) if mean_LE is None else mean_LE
        known_L = ~np.isnan(mean_LE[:, 0])
        plan_LR = np.zeros((L, self.shape.slots), dtype=np.int64)
        if known_L.any():
            plan_LR[known_L] = plan(mean_LE[known_L], self.shape)
        return Proposal(mean_LE, known_L, plan_LR)

    def _stretches(self, edges: set[int]) -> Iterator[tuple[int, int]]:
        """Yield first and last row of stretches without a decision inside, none longer than is worked on at once."""
        S, L, E = self.share_SLE.shape
        most = max(1, CELLS_AT_ONCE // (L * E))
        for start, stop in itertools.pairwise(sorted({0, S, *edges})):
            yield from itertools.pairwise([*range(start, stop, most), stop])

    def _given(self, policy: Policy, every: int, share_hat_NLE: FloatArray | None) -> MeansAt:
        """Return what gives the means that belong to a policy's decisions."""
        rows, _ = self.decisions(policy, every)
        if policy == "oracle":
            return self._true_means({every: rows})
        known = {} if share_hat_NLE is None else dict(zip(rows.tolist(), share_hat_NLE, strict=True))
        return lambda row: {every: known[row]} if row in known else {}

    def _by_state(self, imbalance_SL: FloatArray, start: int = 0) -> FloatArray:
        """Return the sums over layers with load, those that are transient and those that are stable, [2, S]."""
        known_SL, transient_SL = np.isfinite(imbalance_SL), self.transient_SL[start : start + len(imbalance_SL)]
        kept = (np.where(known_SL & state_SL, imbalance_SL, 0.0) for state_SL in (transient_SL, ~transient_SL))
        # rows are summed along memory: the sum is the same however many are summed together
        return np.stack([np.ascontiguousarray(kept_SL).sum(axis=1) for kept_SL in kept])

    @cached_property
    def _known_2S(self) -> FloatArray:
        """How many layer-steps have load, of those that are transient and of those that are stable."""
        return self._by_state(np.where(np.isfinite(self.static_SL), 1.0, np.nan))

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

    @cached_property
    def static_SL(self) -> FloatArray:
        """Return max / mean device load [S, L] of each step in the static layout."""
        cost = PlanCost(self.layout().static_LR, self.share_SLE.shape[2], self.shape.devices)
        imbalance_SL = np.empty(self.transient_SL.shape)
        for start, stop in self._stretches(set()):
            imbalance_SL[start:stop] = cost.imbalance(steps_last(self.share_SLE[start:stop]))
        return imbalance_SL

    @cached_property
    def static_imbalance(self) -> float:
        """Return the mean over steps and layers of max / mean device load in the static layout."""
        return _ratio(self._by_state(self.static_SL), self._known_2S)

    def _result(self, walk: _Walk) -> PolicyRun:
        layout, S = walk.layout, len(self.transient_SL)
        replans, moved, migration = layout.replans, layout.replicas, layout.migration_ms
        mean = _ratio(walk.imbalance_2S, self._known_2S)
        transient, stable = map(_ratio, walk.imbalance_2S, self._known_2S)
        gain = self.cost.step_ms - self.cost.step_time(mean, self.static_imbalance)
        per_step = migration / (S * self.stride)
        pays = gain > 0 and migration > 0
        return PolicyRun(
            policy=walk.policy,
            every=walk.every,
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
            imbalance_transient=None if np.isnan(transient) else transient,
            imbalance_stable=None if np.isnan(stable) else stable,
        )

    def _break_even_mb(self, gain_ms: float, migration_ms: float, replans: int) -> float | None:
        fixed = replans * self.cost.replan_ms
        moving = migration_ms - fixed
        return self.cost.expert_mb * max(gain_ms - fixed, 0) / moving if moving > 0 else None


class Proposal(NamedTuple):
    """What is planned from at a decision: mean shares, in which layers they are known, and the plan for them."""

    mean_LE: FloatArray
    known_L: BoolArray
    plan_LR: IntArray


class _Walk:
    """One policy on its way along a trace: the plan in force, and what it cost so far.

    ``acts``: the layers [L] that it re-plans, by row; ``key``: the plan's bytes, the same for equal plans;
    ``imbalance_2S``: the imbalance of each step, added up over its transient and over its stable layers.
    """

    def __init__(self, simulation: Simulation, policy: Policy, every: int) -> None:
        rows, acts = simulation.decisions(policy, every)
        self.policy, self.every = policy, every
        self.acts = dict(zip(rows.tolist(), acts, strict=True))
        self.layout = simulation.layout()
        self.cost = self._cost(self.layout.current_LR)
        self.key = self.layout.current_LR.tobytes()
        self.imbalance_2S = np.empty((2, len(simulation.transient_SL)))
        self._simulation = simulation

    def decide(self, row: int, ahead: Proposal) -> IntArray:
        """Act at a row; return the replicas [L, D] that move."""
        layout, simulation = self.layout, self._simulation
        current_LR = layout.current_LR
        act_L = self.acts[row] & ahead.known_L
        wanted_LR = np.where(act_L[:, None], ahead.plan_LR, current_LR)
        if self.policy == "reserve_allocate":
            transient_L = simulation.transient_SL[row]
            wanted_LR[transient_L] = layout.static_LR[transient_L]
        new_L = (wanted_LR != current_LR).any(axis=1)
        if not new_L.any():
            return layout.step(current_LR)
        wanted_LR[new_L] = with_fewest_moves(current_LR[new_L], wanted_LR[new_L], simulation.shape)
        cost = self._cost(wanted_LR)
        if self.policy in ("if_pays", "oracle"):
            share_LE = np.where(act_L[:, None], ahead.mean_LE, 0.0)
            before, after = (
                simulation.cost.step_time(float(each.imbalance(share_LE[None]).mean()), simulation.static_imbalance)
                for each in (self.cost, cost)
            )
            if (before - after) * self.every <= simulation.cost.migration_ms(layout.moved(wanted_LR)):
                return layout.step(current_LR)
        self.cost, self.key = cost, wanted_LR.tobytes()
        return layout.step(wanted_LR)

    def _cost(self, plan_LR: IntArray) -> PlanCost:
        return PlanCost(plan_LR, self.layout.experts, self.layout.shape.devices)


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


def best_run(runs: Sequence[PolicyRun]) -> PolicyRun:
    """Return the policy that saves most after migration, except the oracle; the earlier one if two save the same."""
    real = [run for run in runs if run.policy != "oracle"]
    return max(real, key=lambda run: run.saved_percent)


def _ratio(total: FloatArray, count: FloatArray) -> float:
    """Return the mean of what was added up, NaN if there is nothing."""
    return float(total.sum() / count.sum()) if count.any() else float("nan")
