"""One run in numbers, in fixed windows of steps: balance, what the switch moves, overflow, dead experts, loss.

States are outcomes of the balancing, so no window here depends on them; first stable steps are shown by themselves.

Axis letters: S steps, U units of `UNIT` steps, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from leaderboard.balancing.claims import Window, imbalance
from moeload_bench.arrays import FloatArray
from moeload_bench.generator.recipe import load_recipe
from moeload_bench.ops.facts.balance import expert_noise
from moeload_bench.ops.facts.needs import MICRO, Loads, excess
from moeload_bench.scoring.metrics import DEAD_SHARE, total_variation
from moeload_bench.states.rule import trace_labels
from moeload_bench.traces.trace import Trace, shares

UNIT = 10
"""Steps that a point of the figure, and of the floor, is a mean over."""
WINDOWS: Mapping[str, Window] = {
    "early": (100, 150),
    "before": (950, 1000),
    "after": (1000, 1050),
    "late": (1400, 1500),
}
"""Fixed windows; the switch of the text is at step 1,000. A run of 1,000 steps has the first two."""
FACTORS = (1.0, 1.25, 1.5, 2.0)
"""Capacity factors."""
MOVED = 10
"""Steps at once whose mean shares are compared around the switch."""
BACK = 1.1
"""Loads are back once the imbalance of `UNIT` steps is at most so many times that of the window `before`."""


class Switch(NamedTuple):
    """The effect of the switch of the text on loads, such as 5 % of the tokens moved and 4 steps until they are back.

    ``moved``: part of the tokens that go to other experts from the `MOVED` steps before it to those after it, mean over
    layers; ``moved_before``: the same between the two stretches of steps before. ``back``: steps until loads are back,
    None if not in the run.
    """

    moved: float
    moved_before: float
    back: int | None


class Measured(NamedTuple):
    """The numbers of a run; by name of a window, of those that the run has.

    ``imbalance_U`` and ``floor_U``: largest over mean load, as recorded and as noise alone would give it at equal
    probabilities, means over layers. ``onset_L``: the first stable step, -1 for never. ``dead``: experts below a tenth
    of the even share in the window's sums, of all layers. ``overflow``: by window and factor, the part of the routed
    pairs above the capacity: of the batch, and at most of the micro-batches.
    """

    id: str
    experts: int
    imbalance_U: FloatArray
    floor_U: FloatArray
    onset_L: tuple[int, ...]
    imbalance: dict[str, float]
    floor: dict[str, float]
    dead: dict[str, int]
    loss: dict[str, float]
    overflow: dict[tuple[str, float], tuple[float, float]]
    switch: Switch | None


def measured(trace: Trace, switch: int) -> Measured:
    """Return the numbers of a run; ``switch``: the step at which the text changes, if the run gets that far."""
    imbalance_S = imbalance(trace.load_SLE).mean(axis=1)
    floor_U = noise_floor(trace)
    windows = {name: window for name, window in WINDOWS.items() if window[1] <= trace.steps}
    rows = {name: slice(*window) for name, window in windows.items()}
    return Measured(
        id=trace.id,
        experts=trace.num_layers * trace.num_experts,
        imbalance_U=imbalance_S.reshape(-1, UNIT).mean(axis=1),
        floor_U=floor_U,
        onset_L=tuple(map(int, trace_labels(trace).onset_L)),
        imbalance={name: float(imbalance_S[part].mean()) for name, part in rows.items()},
        floor={name: float(floor_U[start // UNIT : end // UNIT].mean()) for name, (start, end) in windows.items()},
        dead={name: _dead(trace, part) for name, part in rows.items()},
        loss={name: float(trace.columns["loss"][part].mean(dtype=np.float64)) for name, part in rows.items()},
        overflow={
            (name, factor): over
            for name, window in windows.items()
            for factor, over in _overflow(trace, window).items()
        },
        switch=_switch(trace, imbalance_S, switch) if switch < trace.steps else None,
    )


def noise_floor(trace: Trace) -> FloatArray:
    """Return what noise alone gives for the busiest expert, from half batches: mean over layers of each unit [U]."""
    load_SLE = trace.load_SLE
    load_ULE = load_SLE.reshape(-1, UNIT, *load_SLE.shape[1:]).sum(axis=1)
    top_k_L = np.full(trace.num_layers, float(trace.meta.top_k or 1))
    return np.asarray(expert_noise(trace.rows(0, trace.steps), shares(load_ULE), top_k_L).mean(axis=1))


def _dead(trace: Trace, rows: slice) -> int:
    share_LE = shares(trace.load_SLE[rows].sum(axis=0))
    return int((share_LE < DEAD_SHARE / trace.num_experts).sum())


def _overflow(trace: Trace, window: Window) -> dict[float, tuple[float, float]]:
    """Return by factor the overflow of the batch, and the most that micro-batches can have."""
    loads = (Loads(trace, "load", 1), Loads(trace, MICRO, load_recipe(trace.meta.recipe).data.micro_batches))
    batch, micro = (excess(load, range(*window)).pooled() for load in loads)
    return {factor: (batch.dropped(factor), micro.dropped(factor)) for factor in FACTORS}


def _switch(trace: Trace, imbalance_S: FloatArray, switch: int) -> Switch:
    mean_LE = [
        shares(trace.load_SLE[start : start + MOVED].sum(axis=0))
        for start in (switch - 2 * MOVED, switch - MOVED, switch)
    ]
    moved_before, moved = (
        float(total_variation(before, after).mean()) for before, after in itertools.pairwise(mean_LE)
    )
    base = imbalance_S[slice(*WINDOWS["before"])].mean()
    of_unit = np.convolve(imbalance_S[switch:], np.full(UNIT, 1 / UNIT), "valid")
    back = np.flatnonzero(of_unit <= BACK * base)
    return Switch(moved, moved_before, int(back[0]) if back.size else None)
