"""Labels compared with the rows at which something is known to have changed.

Axis letters: N shifts, S rows, L MoE layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.states.rule import StateLabels

WITHIN = 300
"""Training steps after a shift in which a return to transient counts as its detection: three windows."""


@dataclass(frozen=True, eq=False)
class ShiftScores:
    """``delay_NL`` training steps from a shift to the first transient label, -1 where it was missed, -2 where the layer
    was not stable when the shift came; ``false_alarms_L`` returns to transient that no shift explains.
    """

    delay_NL: NDArray[np.int64]
    false_alarms_L: NDArray[np.int64]

    @property
    def missed(self) -> int:
        """(shift, layer) pairs without detection."""
        return int((self.delay_NL == -1).sum())


def score_shifts(labels: StateLabels, shift_N: Sequence[int]) -> ShiftScores:
    """Compare labels with the rows at which something is known to have changed."""
    transient_SL = labels.transient_SL
    S, L = transient_SL.shape
    rows = WITHIN // labels.stride
    explained_SL = np.zeros((S, L), dtype=np.bool_)
    delay_NL = np.full((len(shift_N), L), -1, dtype=np.int64)
    for n, shift in enumerate(shift_N):
        explained_SL[shift : shift + rows] = True
        after = transient_SL[shift : shift + rows]
        answered_L = after.any(axis=0)
        delay_NL[n, answered_L] = after.argmax(axis=0)[answered_L] * labels.stride
        delay_NL[n, transient_SL[min(shift, S - 1)]] = -2
    returns_SL = transient_SL[1:] & ~transient_SL[:-1]
    return ShiftScores(delay_NL, (returns_SL & ~explained_SL[1:]).sum(axis=0).astype(np.int64))
