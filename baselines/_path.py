"""A forecast that is given at a few steps after the origin and interpolated between them in the logarithm of the step.

Every mean over a block of steps is then a fixed mixture of the given shares: a convex one, so it needs no repair, and
the mean over a horizon does not depend on which longer horizon was asked for. Before the first and after the last of
these steps the forecast is constant.

Axis letters: A anchors, B blocks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moeload_bench.forecaster import ForecastRequest

from ._series import FloatArray, row_count


@lru_cache(maxsize=256)
def hat_weights(anchors: tuple[int, ...], edges_B: tuple[int, ...]) -> FloatArray:
    """[B, A]: how much each anchor counts in the mean over a block; ``edges_B`` are ends in steps after the origin.

    Step s of the horizon (1 for the first) lies at log s; ``anchors`` rise from at least 1.
    """
    log_anchor = np.log(np.array(anchors, dtype=np.float64))
    steps = min(edges_B[-1], anchors[-1])
    hats = [np.interp(np.log(np.arange(1, steps + 1)), log_anchor, unit_A) for unit_A in np.eye(len(anchors))]
    total_SA = np.concatenate([np.zeros((1, len(anchors))), np.cumsum(np.stack(hats, axis=1), axis=0)])
    beyond_A = np.eye(len(anchors))[-1]
    ends = [total_SA[min(e, steps)] + max(0, e - steps) * beyond_A for e in (0, *edges_B)]
    return np.asarray(np.diff(np.stack(ends), axis=0) / np.diff((0, *edges_B))[:, None])


def block_edges(request: ForecastRequest, stride: int) -> tuple[int, ...]:
    """Return ends of blocks in steps: powers of two in rows and every horizon asked for, the last one the horizon."""
    rows = {row_count(h, stride) for h in request.horizons if h <= request.horizon}
    rows |= {1 << n for n in range(row_count(request.horizon, stride).bit_length())}
    return tuple(sorted({row * stride for row in rows if row * stride < request.horizon} | {request.horizon}))
