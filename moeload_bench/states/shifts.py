"""The shifts that a recipe planned: new stages of its data, restarts of its learning rate.

Axis letters: S rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeload_bench.traces.trace import Trace


def planned_shifts(trace: Trace, lr_factor: float = 2.0) -> list[int]:
    """Return the rows at which the recipe planned a shift: a new data stage, or a restart of the learning rate.

    A learning rate restarts where it jumps up by ``lr_factor``, or where it rises by ``lr_factor`` above the lowest
    value that it has fallen to (a restart that warms up); not in the first 10 rows.
    """
    rows = set()
    stage_S = trace.columns.get("stage")
    if stage_S is not None:
        rows |= set((np.flatnonzero(np.diff(stage_S)) + 1).tolist())
    lr_S = trace.columns.get("lr")
    if lr_S is not None:
        jump = (lr_S[1:] > lr_factor * lr_S[:-1]) & (lr_S[:-1] > 0)
        rows |= {row for row in (np.flatnonzero(jump) + 1).tolist() if row > 10}
        rows |= {row for row in _rises_after_falls(lr_S.tolist(), lr_factor) if row > 10}
    return sorted(rows)


def _rises_after_falls(lr_S: Sequence[float], factor: float) -> list[int]:
    """Return the first rows after a fall at which the value has climbed to ``factor`` times where the fall ended."""
    rows, fallen = [], None
    for row in range(1, len(lr_S)):
        if lr_S[row] < lr_S[row - 1]:
            fallen = row
        elif fallen is not None and lr_S[row] > factor * lr_S[fallen]:
            rows.append(fallen + 1)
            fallen = None
    return rows
