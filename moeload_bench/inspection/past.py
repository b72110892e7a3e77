"""The past of a run at the resolution of a screen: bins that grow coarser as it grows longer.

Axis letters: N bins, S rows, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import BoolArray, FloatArray
from moeload_bench.traces.means import mean_over

BINS = 240
"""Bins at most twice as many; then every two become one."""


@dataclass(frozen=True, eq=False)
class Past:
    """Bins in order: first step [N], mean shares [N, L, E] float32, fraction of blocks labelled transient [N, L]."""

    step_N: NDArray[np.int64]
    share_NLE: NDArray[np.float32]
    transient_NL: NDArray[np.float32]


_Bin = tuple[int, NDArray[np.float32], NDArray[np.float32]]
"""First step, mean shares [L, E], fraction of blocks labelled transient [L]."""


class History:
    """Mean shares and states per bin of blocks, at most 2 x `BINS` bins whatever the length of the run."""

    def __init__(self, layers: int, experts: int) -> None:
        self._bins: list[_Bin] = []
        self._span = 1
        self._open: list[tuple[FloatArray, BoolArray]] = []
        self._open_step = 0
        self._shape = (layers, experts)

    def add(self, first_step: int, share_SLE: FloatArray, transient_L: BoolArray) -> None:
        """One block of rows; NaN where a layer has no load."""
        if not self._open:
            self._open_step = first_step
        self._open.append((mean_over(share_SLE, axis=0), transient_L))
        if len(self._open) == self._span:
            self._bins.append(self._open_bin())
            self._open = []
        if len(self._bins) == 2 * BINS:
            pairs = zip(self._bins[::2], self._bins[1::2], strict=True)
            self._bins = [(one[0], _mean([one[1], two[1]]), _mean([one[2], two[2]])) for one, two in pairs]
            self._span *= 2

    def past(self) -> Past:
        """Return what is kept, the open bin included."""
        bins = [*self._bins, self._open_bin()] if self._open else self._bins
        if not bins:
            empty = np.empty((0, *self._shape), dtype=np.float32)
            return Past(np.empty(0, dtype=np.int64), empty, empty[:, :, 0])
        step, share, transient = zip(*bins, strict=True)
        return Past(np.array(step, dtype=np.int64), np.stack(share), np.stack(transient))

    def _open_bin(self) -> _Bin:
        share, state = zip(*self._open, strict=True)
        return self._open_step, _mean(share), _mean([state_L.astype(np.float64) for state_L in state])


def _mean(parts: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    return (parts[0] if len(parts) == 1 else mean_over(np.stack(parts), axis=0)).astype(np.float32)


class Kept:
    """Some of the numbers of a run, spread over it: when more than ``most`` are kept, every other one is let go."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self._seen = most, 1, 0
        self.values: list[float] = []

    def add(self, value: float) -> None:
        """Take in the next number."""
        if self._seen % self._every == 0:
            if len(self.values) == self._most:
                self.values, self._every = self.values[::2], 2 * self._every
            if self._seen % self._every == 0:
                self.values.append(value)
        self._seen += 1
