"""Rows of a trace summed over steps, as logs that write once per k steps and count all of them.

Right for such logs. As a picture of a larger batch it is too restless: k updates of the weights lie within one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from moeload_bench.arrays import Array
from moeload_bench.errors import TraceError
from moeload_bench.traces.meta import COLUMNS, VERSIONS
from moeload_bench.traces.trace import Trace, check_trace

_Join = Callable[[Array], Array]
"""Joins [rows, k, ...] to [rows, ...]."""


def _sum(parts: Array) -> Array:
    return np.asarray(parts.sum(axis=1))


def _mean(parts: Array) -> Array:
    return np.asarray(parts.mean(axis=1, dtype=np.float64))


JOINS: Mapping[str, _Join] = {
    **dict.fromkeys(("load_half", "dropped"), _sum),
    **dict.fromkeys(("loss", "aux_loss", "lr", "grad_norm", "router_entropy", "step_time_s", "imbalance_rank"), _mean),
    **dict.fromkeys(("stage", "expert_bias"), lambda parts: parts[:, -1]),
    "micro_max": lambda parts: np.asarray(parts.max(axis=1)),
}
"""How ``k`` steps of an optional column become one: counts add up, others are means, or what stood at the end."""


def sum_rows(trace: Trace, k: int) -> Trace:
    """Return the trace with ``k`` rows as one, named ``RECIPE.sumK``; a row's step is the last one that it holds.

    Rows at the end that do not fill a sum are cut, and the notes say so. Raise `TraceError` if there are steps between
    the rows that were not counted, if a planned switch of data would lie within a row, or if fewer than two are left.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 2 <= k <= trace.steps // 2:
        raise TraceError(f"{trace.id}: k is {k!r}, expected a whole number from 2 to {trace.steps // 2}, half its rows")
    if trace.meta.stride != trace.meta.row_steps:
        raise TraceError(
            f"{trace.id}: a row counts {trace.meta.row_steps} of every {trace.meta.stride} steps, expected no "
            "uncounted steps between rows: their sum is not the load of the steps that it would stand for"
        )
    rows = trace.steps // k
    _refuse_switches(trace, rows, k)

    def joined(name: str, array: Array, join: _Join) -> Array:
        parts = join(array[: rows * k].reshape(rows, k, *array.shape[1:]))
        return np.ascontiguousarray(parts, dtype=COLUMNS[name].dtype)

    stride, cut = trace.meta.stride * k, trace.steps - rows * k
    meta = trace.meta.model_copy(
        update={
            "recipe": f"{trace.meta.recipe}.sum{k}",
            "format_version": VERSIONS[-1],
            "stride": stride,
            "row_steps": stride,
            "notes": (
                *trace.meta.notes,
                f"each row is the sum of {k} rows of {trace.id}" + (f"; its last {cut} rows are cut" if cut else ""),
            ),
        }
    )
    summed = Trace(
        meta,
        trace.step_S[k - 1 : rows * k : k].copy(),
        joined("tokens", trace.tokens_SL, _sum),
        joined("load", trace.load_SLE, _sum),
        {name: joined(name, array, JOINS[name]) for name, array in trace.columns.items()},
    )
    check_trace(summed, where=summed.id)
    return summed


def _refuse_switches(trace: Trace, rows: int, k: int) -> None:
    if "stage" not in trace.columns:
        return
    starts = 1 + np.flatnonzero(np.diff(trace.columns["stage"][: rows * k]))
    within = starts[starts % k != 0]
    if within.size:
        stage = trace.columns["stage"][within[0]]
        raise TraceError(
            f"{trace.id}: data stage {stage} begins at row {within[0]}, within a sum of {k}; expected a k that divides "
            "the rows of each stage"
        )
