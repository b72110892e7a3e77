"""At which training steps a forecaster is asked: origins spread over each state, or regularly over a run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import SuiteError
from moeload_bench.states.rule import LABELS, StateLabels, state_names

FIRST = 20
"""Rows that are seen before the earliest origin."""


def choose_origins(
    labels: StateLabels, step_S: NDArray[np.int64], horizon: int, per_state: int, first: int = FIRST
) -> dict[str, list[int]]:
    """Return up to ``per_state`` origins in each state, as training steps, spread evenly over the rows of that state.

    Only rows count where all layers agree, with at least ``first`` rows before and ``horizon`` training steps from the
    origin on. A state with fewer rows than ``per_state`` gives them all, and none if it never occurs. The choice is
    deterministic.
    """
    _check_horizon(horizon, labels.stride)
    last = len(step_S) - horizon // labels.stride
    names = state_names(labels)
    chosen: dict[str, list[int]] = {}
    for state in LABELS:
        rows = [row for row in range(first, min(last + 1, len(names))) if names[row] == state]
        pick = np.linspace(0, len(rows) - 1, min(per_state, len(rows))).round().astype(int)
        chosen[state] = [int(step_S[rows[i]]) for i in pick]
    return chosen


def origins_every(step_S: NDArray[np.int64], every: int, horizon: int, first: int = FIRST) -> list[int]:
    """Return origins ``every`` training steps apart, each with the whole horizon to come: the paper's sliding
    evaluation.

    If ``every`` equals ``horizon``, the windows are disjoint blocks, the paper's other evaluation. The earliest origin
    is the first multiple of ``every`` with ``first`` rows before it. Raise `SuiteError` if there is none.
    """
    stride = int(step_S[1] - step_S[0]) if len(step_S) > 1 else 1
    _check_horizon(horizon, stride)
    if every < 1 or every % stride:
        raise SuiteError(f"origins must lie a multiple of the stride of {stride} steps apart, got {every}")
    row_step, rows = every // stride, horizon // stride
    start = -(-first // row_step) * row_step
    chosen = [int(step_S[row]) for row in range(start, len(step_S) - rows + 1, row_step)]
    if not chosen:
        raise SuiteError(f"{len(step_S)} rows hold no window of {horizon} steps after the first {first} rows")
    return chosen


def _check_horizon(horizon: int, stride: int) -> None:
    if horizon < 1 or horizon % stride:
        raise SuiteError(f"the stride of {stride} steps does not divide the horizon of {horizon} steps")
