"""The state rule, judged: how late it sees a known shift, how often it sees a false one, which ones it misses.

Axis letters: S rows, L MoE layers, N shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.states.rule import StateLabels
from moeload_bench.traces.trace import Trace

WITHIN = 300
"""Training steps after a shift in which a return to transient counts as its detection: three windows."""


@dataclass(frozen=True, eq=False)
class ShiftScores:
    """``delay_NL`` training steps from a shift to the first transient label, -1 where it was missed, -2 where the layer
    was not stable when the shift came; ``false_alarms_L`` returns to transient that no shift explains; ``stable_L``
    rows labelled stable, to judge the false alarms against.
    """

    shift_N: tuple[int, ...]
    delay_NL: NDArray[np.int64]
    false_alarms_L: NDArray[np.int64]
    stable_L: NDArray[np.int64]

    @property
    def missed(self) -> int:
        """(shift, layer) pairs without detection."""
        return int((self.delay_NL == -1).sum())


def score_shifts(labels: StateLabels, shift_N: Sequence[int], within: int = WITHIN) -> ShiftScores:
    """Compare labels with the rows at which something is known to have changed; ``within`` in training steps."""
    transient_SL = labels.transient_SL
    S, L = transient_SL.shape
    rows = within // labels.stride
    explained_SL = np.zeros((S, L), dtype=np.bool_)
    delay_NL = np.full((len(shift_N), L), -1, dtype=np.int64)
    for n, shift in enumerate(shift_N):
        explained_SL[shift : shift + rows] = True
        after = transient_SL[shift : shift + rows]
        found = after.any(axis=0)
        delay_NL[n, found] = after.argmax(axis=0)[found] * labels.stride
        delay_NL[n, transient_SL[min(shift, S - 1)]] = -2
    returns_SL = transient_SL[1:] & ~transient_SL[:-1]
    false_alarms = (returns_SL & ~explained_SL[1:]).sum(axis=0)
    return ShiftScores(tuple(shift_N), delay_NL, false_alarms.astype(np.int64), (~transient_SL).sum(axis=0))


def planned_shifts(trace: Trace, lr_factor: float = 2.0) -> list[int]:
    """Rows at which the recipe planned a shift: a new data stage, or a learning rate that starts again.

    A learning rate starts again where it jumps up by ``lr_factor``, or where it rises by ``lr_factor`` above the least
    value it has fallen to (a restart that warms up). The first 10 rows are left out.
    """
    found = set()
    stage_S = trace.columns.get("stage")
    if stage_S is not None:
        found |= set((np.flatnonzero(np.diff(stage_S)) + 1).tolist())
    lr_S = trace.columns.get("lr")
    if lr_S is not None:
        jump = (lr_S[1:] > lr_factor * lr_S[:-1]) & (lr_S[:-1] > 0)
        found |= {row for row in (np.flatnonzero(jump) + 1).tolist() if row > 10}
        found |= {row for row in _rises_after_falls(lr_S.tolist(), lr_factor) if row > 10}
    return sorted(found)


def _rises_after_falls(lr_S: Sequence[float], factor: float) -> list[int]:
    """First rows after a fall from which the value climbs to ``factor`` times where the fall ended."""
    rows, fallen = [], None
    for row in range(1, len(lr_S)):
        if lr_S[row] < lr_S[row - 1]:
            fallen = row
        elif fallen is not None and lr_S[row] > factor * lr_S[fallen]:
            rows.append(fallen + 1)
            fallen = None
    return rows
