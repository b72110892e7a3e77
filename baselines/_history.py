"""Bounded memory of a stream of rows from which the sum of any recent stretch can be had.

The newest rows are kept one by one, older ones as sums of 16 rows: 3,072 rows of 60 layers x 256 experts would take 377
MB, this takes a tenth. A stretch that ends further back than the single rows reach begins at a border of blocks, so it
may be up to 8 rows longer or shorter than asked for; borders are multiples of 16 of the row number, so that they do not
depend on how the rows came in.

Axis letters: S rows, L MoE layers, E experts, N stretches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moeload_bench.forecaster import TraceInfo

from ._series import FloatArray, Tail

BLOCK = 16
"""Rows of a block."""
SINGLE = 128
"""Rows back from the newest up to which every stretch is exact."""
REACH = 4096
"""Rows back from the newest beyond which everything is forgotten."""

IntArray = NDArray[np.int64]


class History:
    """Sums over stretches of the newest rows [L, E]; memory and cost per row do not grow with the run."""

    def __init__(self, info: TraceInfo) -> None:
        self.rows = 0
        self._single = Tail(SINGLE + BLOCK, info)
        self._blocks = Tail(REACH // BLOCK, info)

    def push(self, row_SLE: FloatArray) -> None:
        """Take in rows; a block is summed when its sixteenth row has come."""
        head = BLOCK - self.rows % BLOCK
        self.rows += len(row_SLE)
        self._single.push(row_SLE[:head])
        if len(row_SLE) < head:
            return
        self._blocks.push(self._single.rows_SLE[-BLOCK:].sum(axis=0)[None])
        rest = row_SLE[head:]
        blocks = len(rest) // BLOCK
        if blocks:
            sum_NLE = rest[: blocks * BLOCK].reshape(blocks, BLOCK, *rest.shape[1:]).sum(axis=1)
            self._blocks.push(sum_NLE)
        self._single.push(rest)

    def newest(self, rows: int) -> FloatArray:
        """Return the newest rows, at most `SINGLE` of them, oldest first (a view)."""
        return self._single.rows_SLE[-min(rows, SINGLE) :]

    @property
    def reach(self) -> int:
        """Rows back to which sums can be had."""
        return len(self._blocks.rows_SLE) * BLOCK + self.rows % BLOCK

    def sums(self, back_N: Sequence[int]) -> tuple[IntArray, FloatArray]:
        """Return sums over the newest ``back_N`` rows: the rows that each holds [N] and the sums [N, L, E].

        ``back_N`` rising from at least 0; what lies beyond the memory is cut off.
        """
        single = np.array([back for back in back_N if back <= SINGLE], dtype=np.int64)
        single = np.minimum(single, self.rows)
        part = self.rows % BLOCK
        wanted = np.array([back for back in back_N if back > SINGLE], dtype=np.int64)
        block = np.clip(np.rint((wanted - part) / BLOCK).astype(np.int64), 0, len(self._blocks.rows_SLE))
        near = _tail_sums(self._single.rows_SLE, np.append(single, part))
        far = _tail_sums(self._blocks.rows_SLE, block) + near[-1]
        return np.concatenate([single, block * BLOCK + part]), np.concatenate([near[:-1], far])


def _tail_sums(row_SLE: FloatArray, back_N: IntArray) -> FloatArray:
    """[N, L, E]: the sum of the last ``back_N`` rows for each, in one pass over the rows."""
    out = np.zeros((len(back_N), *row_SLE.shape[1:]))
    done, total = 0, np.zeros(row_SLE.shape[1:])
    for n in np.argsort(back_N, kind="stable"):
        back = int(back_N[n])
        if back > done:
            total = total + row_SLE[len(row_SLE) - back : len(row_SLE) - done].sum(axis=0)
            done = back
        out[n] = total
    return out
