"""Mean shares over any stretches of a run's memory, from one pass of running sums.

A row is counted back from the newest: stretch (2, 5) holds the third, fourth and fifth newest rows. An origin at 2 has
not seen the two newest rows. Beyond `SINGLE` rows a stretch begins and ends at the nearest border of blocks
(`_history`), and holds at least one block.

Axis letters: S rows, N stretches or origins, L MoE layers, E experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._history import BLOCK, SINGLE, History
from ._series import FloatArray, IntArray


class Totals:
    """Sums over the newest rows [B, L, E], and how many rows each holds [B]; ``reach``: rows that are remembered."""

    def __init__(self, history: History) -> None:
        near_SLE = history.newest(SINGLE)[::-1].cumsum(axis=0)
        near_SLE = np.concatenate([np.zeros_like(near_SLE[:1]), near_SLE])
        self.reach = max(history.reach, len(near_SLE) - 1)
        first = len(near_SLE) + (history.rows - len(near_SLE)) % BLOCK
        rows_N, far_NLE = history.sums(range(first, self.reach + 1, BLOCK))
        self._back_B = np.concatenate([np.arange(len(near_SLE)), rows_N])
        self._sum_BLE = np.concatenate([near_SLE, far_NLE])
        middle_B = (self._back_B[1:] + self._back_B[:-1]) / 2
        self._border_R = np.searchsorted(middle_B, np.arange(self._back_B[-1] + 1), side="right")

    def means(self, near: ArrayLike, far: ArrayLike) -> FloatArray:
        """[..., L, E]: the mean of each stretch; what lies beyond the memory is cut off."""
        begin = np.minimum(self._nearest(near), len(self._back_B) - 2)
        end = np.maximum(self._nearest(far), begin + 1)
        mean = self._sum_BLE[end] - self._sum_BLE[begin]
        mean /= (self._back_B[end] - self._back_B[begin])[..., None, None]
        return np.asarray(mean)

    def windows(self, origin_N: ArrayLike, rows_W: ArrayLike) -> FloatArray:
        """[N, W, L, E]: the means of the newest rows that each origin has seen."""
        near_N1 = np.asarray(origin_N)[:, None]
        return self.means(*np.broadcast_arrays(near_N1, near_N1 + np.asarray(rows_W)))

    def _nearest(self, back: ArrayLike) -> IntArray:
        """Return the nearest border at which a sum ends, the farther of two."""
        return self._border_R[np.minimum(back, len(self._border_R) - 1)]
