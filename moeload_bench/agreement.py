"""Does a re-run agree with the claim? Value by value, within a tolerance for each metric.

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moeload_bench.results import RunResult

# (relative, absolute): a re-run value may differ from the claim by the larger of the two. Other metrics: "".
TOLERANCE: Mapping[str, tuple[float, float]] = {
    "window_tv": (0.01, 1e-4),
    "tv": (0.01, 1e-4),
    "error_rate": (0.02, 1e-3),
    "window_error_rate": (0.02, 1e-3),
    "hot_recall": (0.0, 0.1),
    "revival_recall": (0.0, 0.5),
    "rank_correlation": (0.0, 0.1),
    "": (0.02, 0.02),
}


def differences(
    claimed: RunResult,
    again: RunResult,
    horizons: Sequence[int],
    tolerance: Mapping[str, tuple[float, float]] = TOLERANCE,
) -> Iterator[str]:
    """Each value of two runs of the same tasks that differs by more than its metric's tolerance, in words."""
    if (claimed.layers, claimed.experts) != (again.layers, again.experts):
        yield f"claimed {claimed.layers} layers of {claimed.experts} experts, got {again.layers} of {again.experts}"
    for one, other in zip(claimed.tasks, again.tasks, strict=True):
        if one.crossing != other.crossing:
            yield f"origin {one.origin}: crossing: claimed {list(one.crossing)}, got {list(other.crossing)}"
        if one.failure is None and other.failure is not None:
            yield f"origin {one.origin}: it fails here: {other.failure}"
            continue
        for metric in sorted(set(one.metrics) | set(other.metrics)):
            missing = (None,) * len(horizons)
            values = zip(horizons, one.metrics.get(metric, missing), other.metrics.get(metric, missing), strict=True)
            for horizon, said, got in values:
                if not _close(metric, said, got, tolerance):
                    yield f"origin {one.origin} ({one.state}), {metric} at horizon {horizon}: claimed {said}, got {got}"
    yield from _layers(claimed, again, tolerance)
    if not np.allclose(*_paired(claimed.floors, again.floors), rtol=1e-6, equal_nan=True):
        yield "the floors are not those of the trace"


def _layers(claimed: RunResult, again: RunResult, tolerance: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """The first mean by layer of each state and metric that differs."""
    for state in sorted(claimed.per_layer.keys() | again.per_layer.keys()):
        ours, theirs = claimed.per_layer.get(state, {}), again.per_layer.get(state, {})
        for metric in sorted(ours.keys() | theirs.keys()):
            said, got = _flat(ours.get(metric, ())), _flat(theirs.get(metric, ()))
            odd = [pair for pair in zip(said, got, strict=False) if not _close(metric, *pair, tolerance)]
            if len(said) != len(got):
                yield f"per_layer.{state}.{metric}: claimed {len(said)} numbers, got {len(got)}"
            elif odd:
                yield f"per_layer.{state}.{metric}: claimed {odd[0][0]}, got {odd[0][1]}"


def _close(metric: str, said: float | None, got: float | None, tolerance: Mapping[str, tuple[float, float]]) -> bool:
    one, other = (math.nan if value is None else value for value in (said, got))
    relative, absolute = tolerance.get(metric, tolerance[""])
    return math.isclose(one, other, rel_tol=relative, abs_tol=absolute) or (math.isnan(one) and math.isnan(other))


def _flat(tree: Any) -> list[float]:
    """The numbers of nested records and lists, records in the order of their names; NaN where there is none."""
    if isinstance(tree, Mapping):
        return [number for name in sorted(tree) for number in _flat(tree[name])]
    if isinstance(tree, Sequence):
        return [number for item in tree for number in _flat(item)]
    return [math.nan if tree is None else tree]


def _paired(one: Any, other: Any) -> tuple[list[float], list[float]]:
    """Two trees as equally long lists; of unequal trees, lists that differ."""
    flat = _flat(one), _flat(other)
    return flat if len(flat[0]) == len(flat[1]) else ([0.0], [1.0])
