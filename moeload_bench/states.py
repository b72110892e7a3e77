"""Transient or stable: one rule that uses the past only, per MoE layer (docs/states.md).

The founding paper (arXiv 2404.16914) describes the two states in words; `StateRule` turns them into a definition. A
label at row t depends on the rows before t alone: it is what an engineer could have known at t.

Axis letters: S rows, L MoE layers, E experts, G grid points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.drift import Blocks, FloatArray, long_drift, short_drift, summarise
from moeload_bench.errors import TraceError
from moeload_bench.trace import Array, shares

State = Literal["transient", "stable", "mixed"]
BoolArray = NDArray[np.bool_]

SLIDING_CHUNK = 256
"""Rows of sliding statistics worked on at once."""


@dataclass(frozen=True)
class StateRule:
    """The constants of the rule, in training steps and fractions of a layer's tokens.

    X = max(D, R / 2): D the drift between the means of the last ``window`` steps and of as many before, R the root mean
    square over the last ``window`` steps of the drift between neighbouring blocks of ``block`` steps, both without
    the share of batch noise. A layer becomes stable when X <= ``low`` at every check of the last ``hold`` steps, and
    transient again as soon as X > ``high``. Checks come every ``block`` steps. ``band``: factors on both thresholds
    between which the onset is reported. For a stride above 1, X = D.
    """

    window: int = 100
    block: int = 10
    low: float = 0.04
    high: float = 0.08
    hold: int = 100
    band: tuple[float, float] = (0.75, 1.25)


class Span(NamedTuple):
    """Rows start .. stop-1 of one layer that share a label."""

    layer: int
    start: int
    stop: int
    state: State


class Grid(NamedTuple):
    """A rule in rows and blocks of a trace with some stride."""

    rows: int
    window: int
    hold: int
    has_short: bool


def grid_of(rule: StateRule, stride: int) -> Grid:
    """Rows per block, and blocks per window and hold.

    With a stride above 1 a block is as many rows as make ``rule.block`` steps, or one row. Raises `TraceError` for a
    stride that does not divide the window or leaves fewer than 4 rows in it: such a trace cannot be labelled.
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
    return Grid(rows, window, hold, has_short=stride == 1)


@dataclass(frozen=True, eq=False)
class StateLabels:
    """Labels of a trace.

    ``transient_SL`` bool: the label at row t, from rows before t; ``drift_SL`` float64: the X behind it, NaN where the
    rows seen do not determine it (too few of them, or a layer without load).
    """

    rule: StateRule
    stride: int
    transient_SL: BoolArray
    drift_SL: FloatArray
    grid_drift_GL: FloatArray = field(repr=False)

    @cached_property
    def onset_L(self) -> NDArray[np.int64]:
        """First row at which a layer is labelled stable, -1 where it never is."""
        return first_stable(self.transient_SL)

    @cached_property
    def onset_band_L2(self) -> NDArray[np.int64]:
        """The onset with both thresholds times ``rule.band``, looser first; -1 where a layer is never stable."""
        grid = grid_of(self.rule, self.stride)
        bounds = []
        for factor in sorted(self.rule.band, reverse=True):
            state_GL = run_hysteresis(self.grid_drift_GL, self.rule.low * factor, self.rule.high * factor, grid.hold)
            bounds.append(first_stable(np.repeat(state_GL, grid.rows, axis=0)[: len(self.transient_SL)]))
        return np.stack(bounds, axis=1)

    def spans(self, layer: int) -> list[Span]:
        """The runs of equal labels of one layer, in order."""
        column = self.transient_SL[:, layer]
        edges = [0, *(np.flatnonzero(column[1:] != column[:-1]) + 1).tolist(), len(column)]
        return [
            Span(layer, start, stop, "transient" if column[start] else "stable")
            for start, stop in zip(edges, edges[1:], strict=False)
            if stop > start
        ]


def label_states(load_SLE: Array, stride: int = 1, rule: StateRule | None = None) -> StateLabels:
    """Label every row and layer of a trace; ``load_SLE`` counts [S, L, E], ``stride`` training steps between rows.

    A trace shorter than two windows and the hold is transient throughout. Raises `TraceError` for a stride that the
    rule cannot work with.
    """
    rule = rule or StateRule()
    grid = grid_of(rule, stride)
    blocks = summarise(shares(load_SLE), grid.rows)
    drift_GL = drift(blocks, grid)
    state_GL = run_hysteresis(drift_GL, rule.low, rule.high, grid.hold)
    S = load_SLE.shape[0]
    return StateLabels(
        rule=rule,
        stride=stride,
        transient_SL=np.repeat(state_GL, grid.rows, axis=0)[:S],
        drift_SL=np.repeat(drift_GL, grid.rows, axis=0)[:S],
        grid_drift_GL=drift_GL,
    )


class StateDetector:
    """The same labels one row at a time: after row t has been given, `transient_L` is the label at row t + 1."""

    def __init__(self, num_layers: int, num_experts: int, stride: int = 1, rule: StateRule | None = None) -> None:
        self.rule = rule or StateRule()
        self._grid = grid_of(self.rule, stride)
        self._pending: list[FloatArray] = []
        empty = np.empty((0, num_layers, num_experts))
        self._blocks = Blocks(empty, empty)
        self.transient_L: BoolArray = np.ones(num_layers, dtype=np.bool_)
        self.drift_L: FloatArray = np.full(num_layers, np.nan)
        self._calm_L = np.zeros(num_layers, dtype=np.int64)

    def update(self, load_LE: Array) -> BoolArray:
        """Take in one row's counts [L, E]; returns the label at the next row [L], True for transient."""
        self._pending.append(shares(load_LE))
        if len(self._pending) == self._grid.rows:
            new = summarise(np.stack(self._pending), self._grid.rows)
            self._pending.clear()
            keep = 2 * self._grid.window
            self._blocks = Blocks(*(np.concatenate([a, b])[-keep:] for a, b in zip(self._blocks, new, strict=True)))
            self.drift_L = drift(self._blocks, self._grid)[-1]
            self.transient_L, self._calm_L = hysteresis_step(
                self.transient_L, self._calm_L, self.drift_L, self.rule.low, self.rule.high, self._grid.hold
            )
        return self.transient_L


def drift(blocks: Blocks, grid: Grid) -> FloatArray:
    """X at every grid point; [G, L]."""
    long_GL = long_drift(blocks, grid.window)
    if not grid.has_short:
        return long_GL
    return np.asarray(np.maximum(long_GL, 0.5 * short_drift(blocks, grid.rows, grid.window)))


def run_hysteresis(drift_GL: FloatArray, low: float, high: float, hold: int) -> BoolArray:
    """Labels at every grid point from the drift at every grid point; [G, L], True for transient."""
    G, L = drift_GL.shape
    state_GL = np.ones((G, L), dtype=np.bool_)
    transient_L, calm_L = np.ones(L, dtype=np.bool_), np.zeros(L, dtype=np.int64)
    for g in range(G):
        transient_L, calm_L = hysteresis_step(transient_L, calm_L, drift_GL[g], low, high, hold)
        state_GL[g] = transient_L
    return state_GL


def hysteresis_step(
    transient_L: BoolArray, calm_L: NDArray[np.int64], drift_L: FloatArray, low: float, high: float, hold: int
) -> tuple[BoolArray, NDArray[np.int64]]:
    """One check: the new labels and for how many checks in a row the drift has been low. NaN counts as high."""
    calm_L = np.where(drift_L <= low, calm_L + 1, 0)
    leave = ~(drift_L <= high)
    return np.where(transient_L, calm_L <= hold, leave), calm_L


def first_stable(transient_SL: BoolArray) -> NDArray[np.int64]:
    """First row that is not transient, -1 where there is none; [L]."""
    stable = ~transient_SL
    return np.where(stable.any(axis=0), stable.argmax(axis=0), -1).astype(np.int64)


def state_at(labels: StateLabels, row: int) -> State:
    """The state of a run at a row: transient or stable when all layers agree, else mixed.

    Layers whose drift is not known there (no load) have no vote, unless it is known in none: then transient.
    """
    return state_names(labels)[row]


def state_names(labels: StateLabels) -> list[State]:
    """`state_at` of every row."""
    vote_SL = np.isfinite(labels.drift_SL)
    none_S = ~vote_SL.any(axis=1)
    transient_S = (labels.transient_SL | ~vote_SL).all(axis=1) | none_S
    stable_S = (~labels.transient_SL | ~vote_SL).all(axis=1) & ~none_S
    return ["transient" if t else "stable" if s else "mixed" for t, s in zip(transient_S, stable_S, strict=True)]


def crossing(labels: StateLabels, row: int, rows: int) -> BoolArray:
    """Whether each layer's label changes inside the window of ``rows`` rows that starts at ``row``; [L]."""
    window = labels.transient_SL[row : row + rows]
    return np.asarray((window != window[:1]).any(axis=0))


def sliding_variance(share_SLE: FloatArray, window: int) -> FloatArray:
    """Variance of each expert's share over the ``window`` rows before each row; [S + 1, L, E], NaN for the first ones.

    The founding paper draws it for windows of 10 and 100 steps. Row t covers rows t - window .. t - 1.
    """
    return _sliding(share_SLE, window, lambda view: view.var(axis=-1))


def sliding_range(share_SLE: FloatArray, window: int) -> FloatArray:
    """Largest minus smallest share over the ``window`` rows before each row; [S + 1, L, E], NaN for the first ones."""
    return _sliding(share_SLE, window, lambda view: view.max(axis=-1) - view.min(axis=-1))


def _sliding(share_SLE: FloatArray, window: int, statistic: Callable[[FloatArray], FloatArray]) -> FloatArray:
    S = share_SLE.shape[0]
    if window < 1:
        raise TraceError(f"a window holds at least 1 row, got {window}")
    out = np.full((S + 1, *share_SLE.shape[1:]), np.nan)
    for start in range(0, S - window + 1, SLIDING_CHUNK):
        part = share_SLE[start : min(start + SLIDING_CHUNK, S - window + 1) + window - 1]
        view = np.lib.stride_tricks.sliding_window_view(part, window, axis=0)
        out[start + window : start + window + len(view)] = statistic(view)
    return out
