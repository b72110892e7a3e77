"""Does a re-run agree with the claim? Value by value, and in the mean over the tasks of a run in one state.

The first tolerance is wide, since honest values move: on another processor the sums of a trained network end elsewhere,
and equal experts change places in a plan. The second is narrow, since the leaderboard is made of means, and what moves
single values both ways hardly moves them. The third, of the mean over all horizons, is for plans: an honest regret is
about 0.01, so that a claim which is lower at every horizon must not hide behind what one of them may move by.

Measured for this package's LSTM on suite mini, between a processor with AVX-512 and the same with everything above
SSE4.2 switched off, November 2026, the largest differences by task, in the mean, and over all horizons: `window_tv`
1 %, 0.12 % and 0.02 %; imbalance and regret 0.037, 0.0011 and 0.0002; drop rate 0.0008, 0.00002 and 0.000005;
`error_rate_uniform` 0.0003, 0.00003 and 0.00001. ARIMA: 0.03 % and 0.007 by task, 0.003 % and 0.0004 in the mean;
averages nothing.

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moeload_bench.results.record import RunResult

Tolerance = Mapping[str, tuple[float, float]]
# (relative, absolute): a re-run value may differ from the claim by the larger of the two. A name that ends in "@"
# is that of a metric of plans of every shape; other metrics: "".
TOLERANCE: Tolerance = {
    "window_tv": (0.05, 1e-3),
    "tv": (0.05, 1e-3),
    "error_rate": (0.05, 5e-3),
    "error_rate_uniform": (0.05, 5e-3),
    "error_rate_covered": (0.05, 5e-3),
    "window_error_rate": (0.05, 5e-3),
    "hot_recall": (0.0, 0.25),
    "rank_correlation": (0.0, 0.25),
    "revival_recall": (0.0, 0.5),
    "imbalance@": (0.05, 0.1),
    "regret@": (0.05, 0.1),
    "drop_rate@": (0.05, 0.02),
    "": (0.05, 0.1),
}
MEAN_TOLERANCE: Tolerance = {
    "window_tv": (0.01, 1e-4),
    "tv": (0.01, 1e-4),
    "error_rate": (0.01, 1e-3),
    "error_rate_uniform": (0.01, 1e-3),
    "error_rate_covered": (0.01, 1e-3),
    "window_error_rate": (0.01, 1e-3),
    "hot_recall": (0.0, 0.03),
    "rank_correlation": (0.0, 0.03),
    "revival_recall": (0.0, 0.1),
    "imbalance@": (0.002, 3e-3),
    "regret@": (0.002, 3e-3),
    "drop_rate@": (0.002, 1e-3),
    "": (0.01, 0.02),
}
# An absolute tolerance is no more than so much of a metric's own size in the run, where the size is small: of a single
# value, and of a mean. Single values of plans move by more than their size, so that only their means are held to it.
SMALL_VALUE: Mapping[str, float] = {"imbalance@": math.inf, "regret@": math.inf, "drop_rate@": math.inf, "": 1.0}
SMALL_MEAN: Mapping[str, float] = {"imbalance@": 0.5, "regret@": 0.5, "drop_rate@": 0.5, "": 0.1}
# No mean is narrowed to less than honest ones moved by, see above; a drop rate is often 0 but for one task.
LEAST_MEAN: Mapping[str, float] = {"drop_rate@": 2e-5}
FACTS = ("training_step_s", "observed_rows", "forecasts")  # among the costs: what is of the trace, not measured
OVERALL_TOLERANCE: Tolerance = {"imbalance@": (0.0, 1e-3), "regret@": (0.0, 1e-3), "drop_rate@": (0.0, 3e-4)}


def bound(metric: str, tolerance: Tolerance) -> tuple[float, float]:
    """The tolerance of a metric: its own, that of its kind of plans, or that of all others."""
    kind = metric.partition("@")[0] + "@"
    return tolerance.get(metric, tolerance.get(kind, tolerance[""]))


def part(metric: str, parts: Mapping[str, float]) -> float:
    """How much of its own size a metric may move by at most."""
    return parts.get(metric, parts.get(metric.partition("@")[0] + "@", parts[""]))


def sizes(run: RunResult) -> dict[str, float]:
    """The mean size of each metric over the tasks and horizons of a run."""
    found: dict[str, list[float]] = {}
    for task in run.tasks:
        for metric, values in task.metrics.items():
            found.setdefault(metric, []).extend(abs(value) for value in values if value is not None)
    return {metric: float(np.mean(values)) for metric, values in found.items() if values}


EXACT = 1e-6  # what nine significant digits and other processors do to a number that is nearly 0


def _narrowed(allowed: tuple[float, float], size: float, of_size: float, least: float = EXACT) -> tuple[float, float]:
    relative, absolute = allowed
    return relative, min(absolute, max(of_size * size, least)) if math.isfinite(of_size) else absolute


def differences(
    claimed: RunResult, again: RunResult, horizons: Sequence[int], tolerance: Tolerance = TOLERANCE
) -> Iterator[str]:
    """What differs between two runs of the same tasks, in words: each value by more than its metric's tolerance, or
    where all values are close, each mean by state and horizon by more than `MEAN_TOLERANCE`, or that over all horizons
    by more than `OVERALL_TOLERANCE`."""
    yield from list(_values(claimed, again, horizons, tolerance)) or _means(claimed, again, horizons)


def _values(claimed: RunResult, again: RunResult, horizons: Sequence[int], tolerance: Tolerance) -> Iterator[str]:
    if (claimed.layers, claimed.experts) != (again.layers, again.experts):
        yield f"claimed {claimed.layers} layers of {claimed.experts} experts, got {again.layers} of {again.experts}"
    for name in FACTS if not (claimed.failures or again.failures) else ():
        said, got = getattr(claimed.cost, name), getattr(again.cost, name)
        if not _near(math.nan if said is None else said, math.nan if got is None else got, (1e-6, 0.0)):
            yield f"cost.{name}: claimed {said}, got {got}"
    size = sizes(again)
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
                if not _close(metric, said, got, tolerance, size):
                    yield f"origin {one.origin} ({one.state}), {metric} at horizon {horizon}: claimed {said}, got {got}"
    yield from _layers(claimed, again, tolerance, size)
    if not np.allclose(*_paired(claimed.floors, again.floors), rtol=1e-6, equal_nan=True):
        yield "the floors are not those of the trace"


def _layers(claimed: RunResult, again: RunResult, tolerance: Tolerance, size: Mapping[str, float]) -> Iterator[str]:
    """The first mean by layer of each state and metric that differs."""
    for state in sorted(claimed.per_layer.keys() | again.per_layer.keys()):
        ours, theirs = claimed.per_layer.get(state, {}), again.per_layer.get(state, {})
        for metric in sorted(ours.keys() | theirs.keys()):
            said, got = _flat(ours.get(metric, ())), _flat(theirs.get(metric, ()))
            odd = [pair for pair in zip(said, got, strict=False) if not _close(metric, *pair, tolerance, size)]
            if len(said) != len(got):
                yield f"per_layer.{state}.{metric}: claimed {len(said)} numbers, got {len(got)}"
            elif odd:
                yield f"per_layer.{state}.{metric}: claimed {odd[0][0]}, got {odd[0][1]}"


def _means(claimed: RunResult, again: RunResult, horizons: Sequence[int]) -> Iterator[str]:
    for state in sorted({task.state for task in claimed.tasks}):
        pairs = [(o.metrics, a.metrics) for o, a in zip(claimed.tasks, again.tasks, strict=True) if o.state == state]
        for metric in sorted({name for ours, theirs in pairs for name in ours.keys() & theirs.keys()}):
            values = [(ours[metric], theirs[metric]) for ours, theirs in pairs if metric in ours]
            of_size = part(metric, SMALL_MEAN)
            least = LEAST_MEAN.get(metric.partition("@")[0] + "@", EXACT)
            both_K = [_given((ours[k], theirs[k]) for ours, theirs in values) for k in range(len(horizons))]
            for horizon, both in zip(horizons, both_K, strict=True):
                what = f"{state}, mean {metric} at horizon {horizon}"
                yield from _mean(what, both, bound(metric, MEAN_TOLERANCE), of_size, least)
            overall = OVERALL_TOLERANCE.get(metric.partition("@")[0] + "@")
            if overall is not None:
                every = [pair for both in both_K for pair in both]
                yield from _mean(f"{state}, mean {metric} over all horizons", every, overall, of_size, least)


def _given(pairs: Iterable[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    return [(one, other) for one, other in pairs if one is not None and other is not None]


def _mean(
    what: str, pairs: Sequence[tuple[float, float]], allowed: tuple[float, float], of_size: float, least: float
) -> Iterator[str]:
    said, got = np.mean(pairs, axis=0) if pairs else (math.nan, math.nan)
    size = float(np.mean(np.abs(pairs))) if pairs else 0.0
    if not _near(float(said), float(got), _narrowed(allowed, size, of_size, least)):
        yield f"{what}: claimed {said:.6g}, got {got:.6g}"


def _close(metric: str, said: float | None, got: float | None, tolerance: Tolerance, size: Mapping[str, float]) -> bool:
    one, other = (math.nan if value is None else value for value in (said, got))
    allowed = _narrowed(bound(metric, tolerance), size.get(metric, 0.0), part(metric, SMALL_VALUE))
    return _near(one, other, allowed)


def _near(one: float, other: float, allowed: tuple[float, float]) -> bool:
    relative, absolute = allowed
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
