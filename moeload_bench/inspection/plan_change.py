"""What a plan that is about to be written changes: against the last file, and in the coming steps.

Axis letters: L MoE layers, R replica slots.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import counted
from moeload_bench.harness.replay import follow
from moeload_bench.inspection.planning import Settings
from moeload_bench.interchange.placements import Placement, slots_in
from moeload_bench.isolation.targets import parse_target
from moeload_bench.placement.cost import replicas_moved, step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.placement.replan import with_fewest_moves
from moeload_bench.results.skill import LEAST_PARTS, t_quantile
from moeload_bench.traces.means import mean_known
from moeload_bench.traces.trace import RowShares, Trace

COVERAGE = 0.8
"""Part of the coming windows that an interval is made to cover."""
RECENT = 100
"""Rows on whose loads a plan's imbalance is expected."""
MOST_WINDOWS = 10
"""Past windows from whose errors the interval is made."""


def before_and_after(
    trace: Trace, placement: Placement, path: Path, kind: str, forecaster: str, settings: Settings
) -> tuple[Placement, str]:
    """Return the plan, its devices renumbered so that the fewest replicas move from the file at ``path``, and what it
    changes in a sentence. Without such a file the change is from the even spread.
    """
    shape, share_SLE = placement.shape, RowShares(trace.load_SLE)
    last_LR = slots_in(path, kind, placement)
    before_LR = plan(np.ones((trace.num_layers, trace.num_experts)), shape) if last_LR is None else last_LR
    if last_LR is not None:
        placement = replace(placement, slot_expert_LR=_beside(last_LR, placement.slot_expert_LR, shape))
    after_LR = placement.slot_expert_LR
    recent_SLE = share_SLE[max(0, trace.steps - RECENT) : trace.steps]
    before, after = (_imbalance(plan_LR, recent_SLE, shape) for plan_LR in (before_LR, after_LR))
    after, interval = _outlook(trace, forecaster, shape, settings, after)
    text = (
        f"expected max/mean {before:.2f} -> {after:.2f} over the next {settings.horizon:,} steps "
        f"({interval}), "
        f"{counted(int(replicas_moved(before_LR, after_LR, shape.devices).sum()), 'replica')} to move, "
        f"{counted(int((before_LR != after_LR).sum()), 'slot')} different from "
    )
    return placement, text + ("the even spread: no such plan was there before" if last_LR is None else "the last file")


def _beside(before_LR: IntArray, after_LR: IntArray, shape: ClusterShape) -> IntArray:
    """Return the same plans, numbered so that the fewest replicas move, each expert that stays in its slot."""
    settled_LR = with_fewest_moves(before_LR, after_LR, shape)
    before_NC, after_NC = (each_LR.reshape(-1, shape.slots_per_device) for each_LR in (before_LR, settled_LR))
    out_NC = np.full_like(after_NC, -1)
    for before_C, after_C, out_C in zip(before_NC.tolist(), after_NC.tolist(), out_NC, strict=True):
        for slot, expert in enumerate(before_C):
            if expert in after_C:
                after_C.remove(expert)
                out_C[slot] = expert
        out_C[out_C < 0] = after_C
    return out_NC.reshape(after_LR.shape)


def _outlook(trace: Trace, forecaster: str, shape: ClusterShape, settings: Settings, after: float) -> tuple[float, str]:
    """Return what is expected of the coming window, and an interval in words: from plans made in the same way before
    past windows, which fit the rows that they are made from better than those that come.
    """
    share_SLE, rows = RowShares(trace.load_SLE), max(1, settings.horizon // trace.meta.stride)
    origins = range(trace.steps - rows * min(MOST_WINDOWS, max(0, (trace.steps - RECENT) // rows)), trace.steps, rows)
    ratios = []
    if len(origins) >= LEAST_PARTS:
        with follow(parse_target(forecaster), trace, seed=settings.seed, level=settings.level) as feed:
            for row in origins:
                forecast = feed.at(int(trace.step_S[row]), [settings.horizon])
                plan_LR = plan(forecast.window_means([settings.horizon])[0], shape)
                expected, came = (
                    _imbalance(plan_LR, share_SLE[a:b], shape) for a, b in ((row - RECENT, row), (row, row + rows))
                )
                ratios.append(came / expected)
    if len(ratios) < LEAST_PARTS:
        return after, f"no interval: {counted(len(origins), 'such window')} so far, {LEAST_PARTS} are needed"
    half = float(t_quantile(len(ratios) - 1, COVERAGE)) * np.std(ratios, ddof=1) * np.sqrt(1 + 1 / len(ratios))
    low, middle, high = (after * (float(np.mean(ratios)) + sign * half) for sign in (-1, 0, 1))
    words = f"{100 * COVERAGE:.0f} % interval {max(1.0, low):.2f} to {high:.2f}"
    return max(1.0, middle), f"{words}, from the last {len(ratios)} windows"


def _imbalance(plan_LR: IntArray, share_SLE: FloatArray, shape: ClusterShape) -> float:
    return mean_known(step_imbalance(plan_LR, share_SLE, shape.devices).ravel())
