"""The past of a run at the resolution of a screen: bins that grow coarser as it grows longer.

Axis letters: N bins, S rows, L MoE layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import BoolArray, FloatArray
from moeload_bench.means import mean_over

BINS = 240
"""Bins at most twice as many; then every two become one."""


@dataclass(frozen=True, eq=False)
class Past:
    """Bins in order: first step [N], mean shares [N, L, E] float32, fraction of blocks labelled transient [N, L]."""

    step_N: NDArray[np.int64]
    share_NLE: NDArray[np.float32]
    transient_NL: NDArray[np.float32]


class History:
    """Mean shares and states per bin of blocks, at most 2 x `BINS` bins whatever the length of the run."""

    def __init__(self, layers: int, experts: int) -> None:
        self._step: list[int] = []
        self._share: list[NDArray[np.float32]] = []
        self._transient: list[NDArray[np.float32]] = []
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
            self._close()

    def past(self) -> Past:
        """What is kept, the open bin included."""
        step, share, transient = list(self._step), list(self._share), list(self._transient)
        if self._open:
            step.append(self._open_step)
            share.append(_mean([share_LE for share_LE, _ in self._open]))
            transient.append(_mean([state_L.astype(np.float64) for _, state_L in self._open]))
        if not step:
            empty = np.empty((0, *self._shape), dtype=np.float32)
            return Past(np.empty(0, dtype=np.int64), empty, empty[:, :, 0])
        return Past(np.array(step, dtype=np.int64), np.stack(share), np.stack(transient))

    def _close(self) -> None:
        self._step.append(self._open_step)
        self._share.append(_mean([share_LE for share_LE, _ in self._open]))
        self._transient.append(_mean([state_L.astype(np.float64) for _, state_L in self._open]))
        self._open = []
        if len(self._step) == 2 * BINS:
            self._step = self._step[::2]
            self._share = [_mean(self._share[i : i + 2]) for i in range(0, 2 * BINS, 2)]
            self._transient = [_mean(self._transient[i : i + 2]) for i in range(0, 2 * BINS, 2)]
            self._span *= 2


def _mean(parts: list[NDArray[np.float64]] | list[NDArray[np.float32]]) -> NDArray[np.float32]:
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
