"""Does a re-run agree with the committed result? Value by value, and in the mean over the tasks of a run in one state.

The first tolerance is wide, since honest values move: on another processor the sums of a trained network end elsewhere,
and equal experts change places in a plan. The second is narrow, since the leaderboard is made of means, and what moves
single values both ways hardly moves them. The third, of the mean over all horizons, is for plans: an honest regret is
about 0.01, so that a result which is lower at every horizon must not hide behind what one of them may move by.

Measured for this package's LSTM on suite mini, between a processor with AVX-512 and the same with everything above
SSE4.2 switched off, November 2026, the largest differences by task, in the mean, and over all horizons: `window_tv`
1 %, 0.12 % and 0.02 %; imbalance and regret 0.037, 0.0011 and 0.0002; drop rate 0.0008, 0.00002 and 0.000005;
`error_rate_uniform` 0.0003, 0.00003 and 0.00001. ARIMA: 0.03 % and 0.007 by task, 0.003 % and 0.0004 in the mean;
averages nothing.

A network that is fitted again on another processor ends where another seed's might: see `refit_differences`.

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moeload_bench.results.grid import run_means
from moeload_bench.results.run_result import RunResult
from moeload_bench.scoring.catalogue import LEAST, METRICS, Bound, Tolerance

FEW_RUNS = 10
"""With fewer runs their mean says no more than one of them."""
FACTS = ("training_step_s", "observed_rows", "forecasts")  # among the costs: what is of the trace, not measured
EXACT: Bound = (0.0, 0.0)

Bounds = Callable[[str], Bound]
"""How far a single value of a metric may be from the committed one, by the metric's name."""


def tolerance_of(metric: str) -> Tolerance:
    """Return the catalogue's tolerance of a metric; one that the catalogue does not know must be exactly the same."""
    spec = METRICS.get(metric.partition("@")[0])
    return spec.tolerance if spec else Tolerance(EXACT, EXACT)


def value_bound(metric: str) -> Bound:
    """Return how far a single value may be from the committed one."""
    return tolerance_of(metric).value


def mean_bound(metric: str) -> Bound:
    """Return how far the mean over the tasks of a run in one state may be from the committed one."""
    return tolerance_of(metric).mean


def sizes(run: RunResult) -> dict[str, float]:
    """Return the mean size of each metric over the tasks and horizons of a run."""
    found: dict[str, list[float]] = {}
    for task in run.tasks:
        for metric, values in task.metrics.items():
            found.setdefault(metric, []).extend(abs(value) for value in values if value is not None)
    return {metric: float(np.mean(values)) for metric, values in found.items() if values}


def _narrowed(allowed: Bound, size: float, of_size: float | None, least: float) -> Bound:
    relative, absolute = allowed
    return relative, absolute if of_size is None else min(absolute, max(of_size * size, least))


def differences(
    committed: RunResult, again: RunResult, horizons: Sequence[int], bounds: Bounds = value_bound
) -> Iterator[str]:
    """Say what differs between two runs of the same tasks: each value by more than its bound, or where all values
    are close, each mean by state and horizon, or that over all horizons, by more than its metric's tolerance."""
    yield from list(value_differences(committed, again, horizons, bounds)) or _means(committed, again, horizons)


def unequal_fields(one: RunResult, other: RunResult) -> list[str]:
    """Name what is not the same of two runs of one code on one machine; what they cost is measured, and never is."""
    return [name for name in RunResult.model_fields if name != "cost" and getattr(one, name) != getattr(other, name)]


def _facts(committed: RunResult, again: RunResult) -> Iterator[str]:
    """Say what differs of a run that has nothing to do with how well it was forecast."""
    if (committed.layers, committed.experts) != (again.layers, again.experts):
        said, got = (f"{run.layers} layers of {run.experts} experts" for run in (committed, again))
        yield f"committed {said}, got {got}"
    for name in FACTS if not (committed.failures or again.failures) else ():
        said, got = getattr(committed.cost, name), getattr(again.cost, name)
        if not _near(_or_nan(said), _or_nan(got), (1e-6, 0.0)):
            yield f"cost.{name}: committed {said}, got {got}"
    for one, other in zip(committed.tasks, again.tasks, strict=True):
        if one.crossing != other.crossing:
            yield f"origin {one.origin}: crossing: committed {list(one.crossing)}, got {list(other.crossing)}"
        if one.failure is None and other.failure is not None:
            yield f"origin {one.origin}: it fails here: {other.failure}"
    if not np.allclose(*_paired(committed.floors, again.floors), rtol=1e-6, equal_nan=True):
        yield "the floors are not those of the trace"


def value_differences(
    committed: RunResult, again: RunResult, horizons: Sequence[int], bounds: Bounds = value_bound
) -> Iterator[str]:
    """Say what differs between two runs of the same tasks by more than the bound of a single value."""
    yield from _facts(committed, again)
    size = sizes(again)
    for one, other in zip(committed.tasks, again.tasks, strict=True):
        if one.failure is None and other.failure is not None:
            continue
        for metric in sorted(set(one.metrics) | set(other.metrics)):
            missing = (None,) * len(horizons)
            values = zip(horizons, one.metrics.get(metric, missing), other.metrics.get(metric, missing), strict=True)
            for horizon, said, got in values:
                if not _close(metric, said, got, bounds, size):
                    where = f"origin {one.origin} ({one.state}), {metric} at horizon {horizon}"
                    yield f"{where}: committed {said}, got {got}"
    yield from _layers(committed, again, bounds, size)


def _layers(committed: RunResult, again: RunResult, bounds: Bounds, size: Mapping[str, float]) -> Iterator[str]:
    """Return the first mean by layer of each state and metric that differs."""
    for state in sorted(committed.per_layer.keys() | again.per_layer.keys()):
        ours, theirs = committed.per_layer.get(state, {}), again.per_layer.get(state, {})
        for metric in sorted(ours.keys() | theirs.keys()):
            said, got = _flat(ours.get(metric, ())), _flat(theirs.get(metric, ()))
            odd = [pair for pair in zip(said, got, strict=False) if not _close(metric, *pair, bounds, size)]
            if len(said) != len(got):
                yield f"per_layer.{state}.{metric}: committed {len(said)} numbers, got {len(got)}"
            elif odd:
                yield f"per_layer.{state}.{metric}: committed {odd[0][0]}, got {odd[0][1]}"


def _means(committed: RunResult, again: RunResult, horizons: Sequence[int]) -> Iterator[str]:
    for state in sorted({task.state for task in committed.tasks}):
        pairs = [(o.metrics, a.metrics) for o, a in zip(committed.tasks, again.tasks, strict=True) if o.state == state]
        for metric in sorted({name for ours, theirs in pairs for name in ours.keys() & theirs.keys()}):
            values = [(ours[metric], theirs[metric]) for ours, theirs in pairs if metric in ours]
            allowed = tolerance_of(metric)
            both_K = [_given((ours[k], theirs[k]) for ours, theirs in values) for k in range(len(horizons))]
            for horizon, both in zip(horizons, both_K, strict=True):
                yield from _mean(f"{state}, mean {metric} at horizon {horizon}", both, allowed.mean, allowed)
            if allowed.overall is not None:
                every = [pair for both in both_K for pair in both]
                yield from _mean(f"{state}, mean {metric} over all horizons", every, allowed.overall, allowed)


def refit_differences(
    committed: RunResult, again: RunResult, horizons: Sequence[int], bounds: Bounds = value_bound
) -> Iterator[str]:
    """Say what differs between two runs whose network was fitted to the same data on two processors.

    Rounding sends the descent elsewhere, as another seed does, so that every tolerance holds one level up: the mean of
    a run in a state at a horizon may move by what a single value may, here; the mean over runs by what a run's mean
    may, in `refit_mean_differences`.
    """
    yield from _facts(committed, again)
    for (state, metric, horizon), means in _both_means(committed, again, horizons):
        if not _near(*means, bounds(metric)):
            yield f"{state}, mean {metric} at horizon {horizon}: {_said(means)}"


def refit_mean_differences(
    pairs: Iterable[tuple[RunResult, RunResult]], horizons: Sequence[int], bounds: Bounds = mean_bound
) -> Iterator[str]:
    """Say which means over such runs, as committed and again, differ; of metrics that `FEW_RUNS` or more have."""
    over: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for committed, again in pairs:
        for key, means in _both_means(committed, again, horizons):
            over.setdefault(key, []).append(means)
    for (state, metric, horizon), found in over.items():
        said, got = np.mean(found, axis=0).tolist()
        if len(found) >= FEW_RUNS and not _near(said, got, bounds(metric)):
            yield f"{state}, mean {metric} over runs at horizon {horizon}: {_said((said, got))}"


def _both_means(
    committed: RunResult, again: RunResult, horizons: Sequence[int]
) -> Iterator[tuple[tuple[str, str, int], tuple[float, float]]]:
    """Yield state, metric and horizon with both means over a run's tasks; NaN where only one of the two has values."""
    named = {(task.state, metric) for run in (committed, again) for task in run.tasks for metric in task.metrics}
    for state, metric in sorted(named):
        said_K, got_K = (run_means(run, state, metric) or [None] * len(horizons) for run in (committed, again))
        for horizon, said, got in zip(horizons, said_K, got_K, strict=True):
            if said is not None or got is not None:
                yield (state, metric, horizon), (_or_nan(said), _or_nan(got))


def _said(pair: tuple[float, float]) -> str:
    return f"committed {pair[0]:.6g}, got {pair[1]:.6g}"


def _given(pairs: Iterable[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    return [(one, other) for one, other in pairs if one is not None and other is not None]


def _mean(what: str, pairs: Sequence[tuple[float, float]], bound: Bound, allowed: Tolerance) -> Iterator[str]:
    said, got = np.mean(pairs, axis=0) if pairs else (math.nan, math.nan)
    size = float(np.mean(np.abs(pairs))) if pairs else 0.0
    if not _near(float(said), float(got), _narrowed(bound, size, allowed.of_mean, allowed.least_mean)):
        yield f"{what}: {_said((float(said), float(got)))}"


def _close(metric: str, said: float | None, got: float | None, bounds: Bounds, size: Mapping[str, float]) -> bool:
    allowed = tolerance_of(metric)
    return _near(_or_nan(said), _or_nan(got), _narrowed(bounds(metric), size.get(metric, 0.0), allowed.of_value, LEAST))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _near(one: float, other: float, allowed: Bound) -> bool:
    relative, absolute = allowed
    return math.isclose(one, other, rel_tol=relative, abs_tol=absolute) or (math.isnan(one) and math.isnan(other))


def _flat(tree: Any) -> list[float]:
    """Return the numbers of nested records and lists, records in the order of their names; NaN where there is none."""
    if isinstance(tree, Mapping):
        return [number for name in sorted(tree) for number in _flat(tree[name])]
    if isinstance(tree, Sequence):
        return [number for item in tree for number in _flat(item)]
    return [_or_nan(tree)]


def _paired(one: Any, other: Any) -> tuple[list[float], list[float]]:
    """Two trees as equally long lists; of unequal trees, lists that differ."""
    flat = _flat(one), _flat(other)
    return flat if len(flat[0]) == len(flat[1]) else ([0.0], [1.0])
