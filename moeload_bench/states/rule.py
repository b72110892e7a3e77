"""Transient or stable: one rule that uses the past only, per MoE layer (docs/methods/states.md).

The founding paper (arXiv 2404.16914) describes the two states in words; `StateRule` turns them into a definition. The
label at row t depends only on the rows before t: it is what an engineer could have known at t.

Axis letters: S rows, L MoE layers, E experts, G grid points.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import Array, BoolArray, FloatArray, IntArray
from moeload_bench.errors import SuiteError, TraceError
from moeload_bench.states.drift import (
    Blocks,
    Grid,
    drift,
    first_stable,
    hysteresis_step,
    run_hysteresis,
    summarise,
    summarise_shares,
    trace_drift,
)
from moeload_bench.traces.trace import Trace

State = Literal["transient", "stable", "mixed"]
LABELS: tuple[State, ...] = ("transient", "stable")
"""The states that a layer can be in at a step. A run whose layers differ is `mixed`."""


@dataclass(frozen=True)
class StateRule:
    """The constants of the rule, in training steps and fractions of a layer's tokens.

    Every ``block`` steps each layer gets its drift X (`states.drift.drift`). X is the larger of two numbers: how far
    shares moved between the last ``window`` steps and the ``window`` steps before, and half of how far they move
    between neighbouring means of ``scales`` steps. ``margin`` times what noise explains is taken off first. A layer
    becomes stable when X <= ``low`` at every check of the last ``hold`` steps, and transient again as soon as X >
    ``high``. ``band``: two factors on both thresholds, between which the onset is reported. For a stride above 1 only
    the windows decide.
    """

    window: int = 100
    block: int = 10
    scales: tuple[int, ...] = (1, 2, 5, 10)
    margin: float = 1.5
    low: float = 0.04
    high: float = 0.08
    hold: int = 100
    band: tuple[float, float] = (0.75, 1.25)

    @property
    def earliest_stable(self) -> int:
        """Return how many steps a layer needs before it can be called stable: two windows to compare, and the hold."""
        return 2 * self.window + self.hold

    def __post_init__(self) -> None:
        positive = bool(self.scales) and min(self.window, self.block, *self.scales) >= 1
        if not positive or self.window % self.block or any(self.block % m for m in self.scales):
            raise SuiteError(
                f"a state rule needs scales that divide its block and a block that divides its window, all at least 1, "
                f"got scales {self.scales}, block {self.block}, window {self.window}"
            )
        if not 0 < self.low <= self.high < float("inf"):
            raise SuiteError(f"a state rule needs 0 < low <= high, both finite, got {self.low} and {self.high}")
        if self.hold < 1:
            raise SuiteError(f"a state rule needs a hold of at least 1 step, got {self.hold}")
        if not 0 <= self.margin < float("inf"):
            raise SuiteError(f"a state rule needs a finite margin of at least 0, got {self.margin}")
        if len(self.band) != 2 or not 0 < self.band[0] <= 1 <= self.band[1] < float("inf"):
            raise SuiteError(f"a state rule needs a band of two factors around 1, got {self.band}")


class Span(NamedTuple):
    """Rows start .. stop-1 of one layer that share a label."""

    start: int
    stop: int
    state: State


def grid_of(rule: StateRule, stride: int) -> Grid:
    """Return rows per block, and blocks per window and hold.

    For a stride above 1 a block is the rows that make ``rule.block`` steps, or one row. Raise `TraceError` for a stride
    that does not divide the window or leaves fewer than 4 rows in it: such a trace cannot be labelled.
    """
    if stride < 1 or rule.window % stride or rule.window // stride < 4:
        fit = [s for s in range(1, rule.window // 4 + 1) if rule.window % s == 0]
        raise TraceError(
            f"states need a stride that divides {rule.window} steps into at least 4 rows, got a stride of {stride}; "
            f"these do: {', '.join(map(str, fit))}"
        )
    rows = rule.block // stride if rule.block % stride == 0 else 1
    if (rule.window // stride) % rows:
        rows = 1
    window = rule.window // stride // rows
    hold = -(-rule.hold // (stride * rows))
    scales = rule.scales if stride == 1 else (1,)
    return Grid(rows, window, hold, scales, has_short=stride == 1, margin=rule.margin)


@dataclass(frozen=True, eq=False)
class StateLabels:
    """Labels of a trace.

    ``transient_SL`` bool: the label at row t, from rows before t. ``drift_SL`` float64: the X behind it; NaN if the
    rows seen do not determine it (too few, or a layer without load).
    """

    rule: StateRule
    stride: int
    transient_SL: BoolArray
    drift_SL: FloatArray
    grid_drift_GL: FloatArray = field(repr=False)

    @cached_property
    def onset_L(self) -> IntArray:
        """Return the first row at which a layer is labelled stable, -1 if it never is."""
        return first_stable(self.transient_SL)

    @cached_property
    def onset_band_L2(self) -> IntArray:
        """Return the onset with both thresholds times ``rule.band``, looser first; -1 if a layer is never stable."""
        grid, L = grid_of(self.rule, self.stride), self.grid_drift_GL.shape[1]
        factor_X = np.repeat(sorted(self.rule.band, reverse=True), L)  # both bounds at once: X = 2 L
        low_X, high_X = self.rule.low * factor_X, self.rule.high * factor_X
        state_GX = run_hysteresis(np.tile(self.grid_drift_GL, 2), low_X, high_X, grid.hold)
        return first_stable(np.repeat(state_GX, grid.rows, axis=0)[: len(self.transient_SL)]).reshape(2, L).T

    def spans(self, layer: int) -> list[Span]:
        """Return the runs of equal labels of one layer, in order."""
        return spans_of(self.transient_SL[:, layer])


def spans_of(transient_S: BoolArray) -> list[Span]:
    """Return the runs of equal labels, in order."""
    edges = [0, *(np.flatnonzero(transient_S[1:] != transient_S[:-1]) + 1).tolist(), len(transient_S)]
    pairs = itertools.pairwise(edges if len(transient_S) else ())
    return [Span(start, stop, "transient" if transient_S[start] else "stable") for start, stop in pairs]


def label_states(load_SLE: Array, stride: int = 1, rule: StateRule | None = None) -> StateLabels:
    """Label every row and layer of a trace; ``load_SLE`` counts [S, L, E], ``stride`` training steps between rows.

    A trace shorter than two windows and the hold is transient throughout. Raise `TraceError` for a stride that the rule
    cannot work with.
    """
    rule = rule or StateRule()
    grid = grid_of(rule, stride)
    drift_GL = trace_drift(load_SLE, grid)
    state_GL = run_hysteresis(drift_GL, rule.low, rule.high, grid.hold)
    S = load_SLE.shape[0]
    return StateLabels(
        rule=rule,
        stride=stride,
        transient_SL=np.repeat(state_GL, grid.rows, axis=0)[:S],
        drift_SL=np.repeat(drift_GL, grid.rows, axis=0)[:S],
        grid_drift_GL=drift_GL,
    )


@lru_cache(maxsize=1)
def trace_labels(trace: Trace) -> StateLabels:
    """Return the labels of a trace by the rule as it is, kept until another trace is asked for; raise as
    `label_states`.
    """
    return label_states(trace.load_SLE, stride=trace.meta.stride)


class StateDetector:
    """Makes the same labels while a run goes on, a block of rows at a time.

    `transient_L` is the label of the step after the last block, `drift_L` its drift, `since_L` the first step with that
    label. `onset_L3`: the first stable step of each layer, by the rule and with its looser and tighter thresholds.
    """

    def __init__(self, layers: int, experts: int, stride: int, rule: StateRule) -> None:
        self._grid = grid = grid_of(rule, stride)
        self._lead = np.full((grid.rows, layers, experts), np.nan)
        self._blocks = summarise(np.empty((0, layers, experts)), grid)
        factor_31 = np.array([[1.0], *([factor] for factor in sorted(rule.band, reverse=True))])
        self._low_31, self._high_31 = rule.low * factor_31, rule.high * factor_31
        self._transient_3L: BoolArray = np.ones((len(factor_31), layers), dtype=np.bool_)
        self._calm_3L = np.zeros(self._transient_3L.shape, dtype=np.int64)
        self.drift_L = np.full(layers, np.nan)
        self.since_L = np.full(layers, -1, dtype=np.int64)
        self.onset_L3 = np.full((layers, len(factor_31)), -1, dtype=np.int64)

    @property
    def transient_L(self) -> BoolArray:
        """The label of the step after the last block."""
        return np.asarray(self._transient_3L[0])

    def add(self, share_SLE: FloatArray, first_steps: Sequence[int], steps: int) -> list[BoolArray]:
        """Take in whole blocks of so many steps; return the label of the step after each."""
        labels = []
        for first_step, drift_L in zip(first_steps, self._drift(share_SLE), strict=True):
            before_L, next_step, self.drift_L = self.transient_L, first_step + steps, drift_L
            self._transient_3L, self._calm_3L = hysteresis_step(
                self._transient_3L, self._calm_3L, drift_L, self._low_31, self._high_31, self._grid.hold
            )
            labels.append(self.transient_L)
            self.onset_L3[(~self._transient_3L).T & (self.onset_L3 < 0)] = next_step
            self.since_L[self.since_L < 0] = first_step
            self.since_L[self.transient_L != before_L] = next_step
        return labels

    def _drift(self, share_SLE: FloatArray) -> FloatArray:
        """Return the drift after each block of rows, [N, L]."""
        grid = self._grid
        new = summarise_shares(share_SLE, self._lead, grid)
        self._lead = share_SLE[-grid.rows :]
        blocks = Blocks(*(np.concatenate(pair) for pair in zip(self._blocks, new, strict=True)))
        self._blocks = Blocks(*(part[-2 * grid.window :].copy() for part in blocks))
        return drift(blocks, grid)[-len(new.mean_NLE) :]


def state_names(labels: StateLabels) -> list[State]:
    """Return the state of a run at every row: transient or stable if all layers agree, else mixed.

    Layers whose drift is unknown there (no load) do not vote. If it is unknown in all layers, the state is transient.
    """
    vote_SL = np.isfinite(labels.drift_SL)
    none_S: BoolArray = np.asarray(~vote_SL.any(axis=1))
    transient_S: BoolArray = np.asarray((labels.transient_SL | ~vote_SL).all(axis=1) | none_S)
    stable_S: BoolArray = np.asarray((~labels.transient_SL | ~vote_SL).all(axis=1) & ~none_S)
    pairs = zip(transient_S.tolist(), stable_S.tolist(), strict=True)
    return ["transient" if t else "stable" if s else "mixed" for t, s in pairs]


def crossing(labels: StateLabels, row: int, rows: int) -> BoolArray:
    """Return whether each layer's label changes inside the window of ``rows`` rows that starts at ``row``; [L]."""
    window = labels.transient_SL[row : row + rows]
    return np.asarray((window != window[:1]).any(axis=0))
