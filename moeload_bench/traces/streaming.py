"""Rows of a large trace, read from its file when they are asked for: memory holds a few row groups, never the run.

Axis letters: S steps, L MoE layers, E experts, G row groups.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from moeload_bench.arrays import Array, IntArray

HELD_BYTES = 1 << 26
"""Decoded row groups that are kept for the next look, of each column: windows that overlap are decoded once."""
CELLS_A_PART = 3 << 20
"""Loads (steps x layers x experts) that a pass over a trace looks at together: 25 MB, memory that is used again."""


class StoredRows:
    """A column [S, L, E] in a file: `rows[step]`, `rows[start:stop]` and `rows[start:stop, layer]` are arrays.

    ``decode`` returns a row group by its number; ``stop_G`` is the row after each group. The first index is a row or a
    range of rows, further ones are as for an array. `rows[:]` is the whole column in memory; nothing makes an array of
    it unasked.
    """

    ndim = 3

    def __init__(self, decode: Callable[[int], Array], stop_G: IntArray, cells: Sequence[int], dtype: str) -> None:
        self.shape = (int(stop_G[-1]), *cells)
        self.dtype = np.dtype(dtype)
        self._decode, self._stop_G = decode, stop_G
        largest = int(np.diff(stop_G, prepend=0).max()) * math.prod(cells) * self.dtype.itemsize
        self._group = functools.lru_cache(max(2, HELD_BYTES // max(1, largest)))(functools.partial(_held, decode))

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRows, (self._decode, self._stop_G, self.shape[1:], self.dtype.str)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        index, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(index, slice):
            row = range(len(self))[index]
            return self[(slice(row, row + 1), *rest)][0]
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise IndexError(f"rows are read in order, got a step of {step}; [start:stop] is an array")
        first = int(np.searchsorted(self._stop_G, start, side="right"))
        parts = []
        while start < stop:
            before = int(self._stop_G[first - 1]) if first else 0
            until = min(stop, int(self._stop_G[first]))
            parts.append(self._group(first)[(slice(start - before, until - before), *rest)])
            start, first = until, first + 1
        if not parts:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        gigabytes = self.size * self.dtype.itemsize / 1e9
        raise TypeError(
            f"rows of this trace stay in its file until they are asked for: take [start:stop], or [:] for all "
            f"{len(self):,} steps ({gigabytes:.1f} GB)"
        )

    def of_layers(self, index_N: Sequence[int]) -> StoredRows:
        """Return the same rows of some of the layers."""
        decode = functools.partial(_of_layers, self._decode, tuple(index_N))
        return StoredRows(decode, self._stop_G, (len(index_N), *self.shape[2:]), self.dtype.str)


def _held(decode: Callable[[int], Array], group: int) -> Array:
    array = decode(group)
    array.flags.writeable = False
    return array


def _of_layers(decode: Callable[[int], Array], index_N: tuple[int, ...], group: int) -> Array:
    return np.take(decode(group), index_N, axis=1)


def of_layers(column: Array | StoredRows, index_N: Sequence[int]) -> Any:
    """Return a column [S, L] or [S, L, E] of some of the layers, in memory if it is in memory."""
    return column.of_layers(index_N) if isinstance(column, StoredRows) else np.take(column, index_N, axis=1)


def parts(shape: Sequence[int], multiple: int = 1, cells: int | None = None) -> Iterator[slice]:
    """Yield the rows of a pass over an array of this shape, so many loads at once, in multiples of so many rows."""
    rows = max(1, (cells or CELLS_A_PART) // max(1, math.prod(shape[1:])) // multiple) * multiple
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))
