"""Does a fresh run agree with the committed result? Value by value, and in the mean over a run's tasks in one state.

The first tolerance is wide, since honest values move: on another processor the sums of a trained network end elsewhere,
and equal experts change places in a plan. The second is narrow, since the leaderboard is made of means, and what moves
single values both ways hardly moves them. The third, of the mean over all horizons, is for plans: an honest regret is
about 0.01, so that a result which is lower at every horizon must not hide behind what one of them may move by.

Measured for this package's LSTM on suite mini, between a processor with AVX-512 and the same with everything above
SSE4.2 switched off, November 2026, the largest differences by task, in the mean, and over all horizons: `window_tv`
1 %, 0.12 % and 0.02 %; imbalance and regret 0.037, 0.0011 and 0.0002; drop rate 0.0008, 0.00002 and 0.000005;
`error_rate_uniform` 0.0003, 0.00003 and 0.00001. ARIMA: 0.03 % and 0.007 by task, 0.003 % and 0.0004 in the mean;
averages nothing.

A network that is fitted again on another processor ends where another seed's might, so its single values are not
compared: every tolerance holds one level up (`Tolerances.over_runs`).

Both sides are rounded as files of results are (`results.storage.as_stored`). A frame of pairs has the columns
`committed`, `fresh` and `size`, the mean magnitude that relative limits refer to; `metric` is the last level of its
index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moeload_bench.results.columns import FACT_KEYS, metric_columns, run_costs
from moeload_bench.results.results import Results
from moeload_bench.results.storage import as_stored
from moeload_bench.scoring.catalogue import LEAST, METRICS, Bound, Tolerance


class Limit(NamedTuple):
    """How far two numbers may be apart: by ``relative`` of the larger one, or by ``absolute`` if that is more.

    ``absolute`` is at most ``of_size`` of the metric's size (NaN: no limit), but never less than ``least``.
    """

    relative: float
    absolute: float
    of_size: float | None = None
    least: float = LEAST


FEW_RUNS = 10
"""With fewer runs their mean says no more than one of them."""
EXACT: Bound = (0.0, 0.0)
ANY: Bound = (0.0, math.inf)
SAME_FACT = Limit(1e-6, 1e-9)
"""How far two numbers of a trace may be apart, which no forecaster changes."""
TASK = ["trace", "state", "origin", "horizon"]
LAYER = ["trace", "state", "layer", "horizon"]
RUN_FACTS = ["layers", "experts", "training_step_s", "observed_rows", "forecasts"]
"""Among the costs, what is the trace's and not measured, as long as no forecast fails."""
FORECASTS = ["counts", "forecasts_sha256"]

Bounds = Callable[[str], Bound]
"""How far a value of a metric may be from the committed one, by the metric's name."""


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


@dataclass(frozen=True)
class Tolerances:
    """How far a fresh run may be from the committed one.

    ``value`` bounds single values; where all of them agree, ``means`` over tasks must hold the catalogue's tolerances.
    With ``over_runs``, for what was fitted again, ``value`` bounds the mean of a run in a state at a horizon, and
    ``over_runs`` the mean over runs. ``exact``: the hashes of forecasts and what forecasters counted are compared, too.
    """

    value: Bounds = value_bound
    means: bool = True
    over_runs: Bounds | None = None
    exact: bool = False


EXACTLY = Tolerances(value=lambda metric: EXACT, means=False, exact=True)
"""For the machine that made the result: nothing differs beyond the rounding of files."""


def differences(fresh: Results, committed: Results, tolerances: Tolerances, whole: bool = True) -> list[str]:
    """Return what differs between the committed result of an entry and a fresh run of the same tasks, in words.

    Each line names trace, metric, state, origin, horizon and both values; [] if they agree. Measured costs are not
    compared, and means by layer only if both have them. ``whole``: every run has all of its origins in both, so that
    what describes it as a whole is compared, too.
    """

    def value_limit(metric: str) -> Limit:
        return Limit(*tolerances.value(metric), tolerance_of(metric).of_value)

    rows = _pairs(_with_crossings(committed.table), _with_crossings(fresh.table))
    lines = _new_failures(fresh, committed)
    if whole:
        lines += _unequal_facts(fresh, committed)
    if whole and tolerances.exact:
        lines += _unequal_forecasts(fresh, committed)
    if tolerances.over_runs is not None:
        return lines + _refit_differences(rows, tolerances.value, tolerances.over_runs)
    lines += _apart(rows, value_limit)
    if whole and committed.layers is not None and fresh.layers is not None:
        layers = _pairs(_metrics(committed.layers, LAYER), _metrics(fresh.layers, LAYER), sized=rows)
        lines += _apart(layers, value_limit)
    return lines or (_mean_differences(rows) if tolerances.means else [])


def _with_crossings(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows by task, with whether the window crosses as a number: unknown to the catalogue, it must be equal."""
    return _metrics(table, TASK).assign(crosses=table["crossing"].to_numpy("float64"))


def _metrics(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return the metrics of rows or of means by layer, whose index are these columns."""
    return frame.set_index(list(keys))[metric_columns(frame)]


def _pairs(committed: pd.DataFrame, fresh: pd.DataFrame, sized: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return numbers of two frames, where either has a value; sizes are means over a trace, those of ``sized``."""
    columns = [as_stored(frame).stack(future_stack=True) for frame in (committed, fresh)]
    pairs = pd.concat(columns, axis=1, keys=["committed", "fresh"]).rename_axis([*committed.index.names, "metric"])
    pairs = pairs.dropna(how="all")
    groups = ["trace", "metric"]
    sizes = (pairs if sized is None else sized)["fresh"].abs().groupby(level=groups).mean()
    places = pd.MultiIndex.from_arrays([pairs.index.get_level_values(name) for name in groups])
    return pairs.assign(size=sizes.reindex(places).to_numpy())


def _means(pairs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the means of both columns over groups; sizes are means over the same group."""
    sized = pairs.assign(size=pairs[["committed", "fresh"]].abs().mean(axis=1))
    return sized.groupby(level=[*by, "metric"], sort=False).mean()


def _mean_differences(rows: pd.DataFrame) -> list[str]:
    """Return which means over a run's tasks in one state differ, at each horizon and over all horizons."""

    def at_horizon(metric: str) -> Limit:
        allowed = tolerance_of(metric)
        return Limit(*allowed.mean, allowed.of_mean, allowed.least_mean)

    def overall(metric: str) -> Limit:
        bound = tolerance_of(metric).overall
        return Limit(*ANY) if bound is None else at_horizon(metric)._replace(relative=bound[0], absolute=bound[1])

    return [
        *_apart(_means(rows, ["trace", "state", "horizon"]), at_horizon, "mean "),
        *_apart(_means(rows, ["trace", "state"]), overall, "mean over all horizons of "),
    ]


def _refit_differences(rows: pd.DataFrame, bounds: Bounds, over_runs: Bounds) -> list[str]:
    """Return which means of runs differ, and which means over runs, of metrics that `FEW_RUNS` or more have.

    Rounding sends the descent of a network elsewhere, as another seed does.
    """
    runs = _means(rows, ["trace", "state", "horizon"])
    enough = runs.groupby(["state", "horizon", "metric"])["size"].transform("count") >= FEW_RUNS
    suite = _means(runs[enough], ["state", "horizon"])
    return [
        *_apart(runs, lambda metric: Limit(*bounds(metric)), "mean "),
        *_apart(suite, lambda metric: Limit(*over_runs(metric)), "mean over runs of "),
    ]


def _apart(pairs: pd.DataFrame, limit: Callable[[str], Limit], what: str = "") -> list[str]:
    """Return a line for each pair that is further apart than its limit; a NaN is apart from every number."""
    metrics = pairs.index.get_level_values("metric")
    limits = {metric: limit(metric) for metric in metrics.unique()}
    table = pd.DataFrame.from_dict(limits, orient="index", columns=Limit._fields, dtype=np.float64)
    relative, absolute, of_size, least = table.loc[metrics].to_numpy().T
    committed, fresh, size = pairs[["committed", "fresh", "size"]].to_numpy().T
    narrowed = np.minimum(absolute, np.maximum(of_size * size, least))
    absolute = np.where(np.isnan(of_size), absolute, narrowed)
    allowed = np.maximum(relative * np.maximum(np.abs(committed), np.abs(fresh)), absolute)
    apart = pairs[~(np.abs(committed - fresh) <= allowed)]
    return [
        _line(dict(zip(apart.index.names, place, strict=True)), number, got, what)
        for place, number, got in apart[["committed", "fresh"]].itertuples()
    ]


def _line(place: dict[Hashable, Any], committed: float, fresh: float, what: str) -> str:
    trace, metric = place.pop("trace", "all runs"), place.pop("metric")
    where = "".join(f", {name} {value}" for name, value in place.items())
    return f"{trace}: {what}{metric}{where}: committed {committed:.9g}, got {fresh:.9g}"


def _new_failures(fresh: Results, committed: Results) -> list[str]:
    """Return the tasks that fail in the fresh run only, with the reason."""
    former = set(committed.failures[["trace", "origin"]].itertuples(index=False, name=None))
    failures = fresh.failures[["trace", "origin", "failure"]].itertuples(index=False, name=None)
    return [
        f"{trace}: origin {origin}: it fails here: {why}"
        for trace, origin, why in failures
        if (trace, origin) not in former
    ]


def _unequal_facts(fresh: Results, committed: Results) -> list[str]:
    """Return what differs of the traces of both: sizes, steps and floors."""
    failed = [*committed.failures["trace"], *fresh.failures["trace"]]
    runs = [run_costs(results.table).set_index("trace").drop(failed, errors="ignore")[RUN_FACTS].astype("float64")
            for results in (committed, fresh)]  # fmt: skip
    sizes = _apart(_pairs(*_shared(*runs)), lambda metric: SAME_FACT)
    return sizes + floor_differences(fresh.facts, committed.facts)


def floor_differences(fresh: pd.DataFrame, committed: pd.DataFrame) -> list[str]:
    """Return which floors differ between two frames of facts, of the traces that both have."""
    floors = [facts.set_index(list(FACT_KEYS)).select_dtypes("number") for facts in (committed, fresh)]
    return _apart(_pairs(*_shared(*floors)), lambda metric: SAME_FACT)


def _shared(left: pd.DataFrame, right: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that both frames have."""
    return left[left.index.isin(right.index)], right[right.index.isin(left.index)]


def _unequal_forecasts(fresh: Results, committed: Results) -> list[str]:
    """Return the runs whose forecasts have another hash, or whose forecaster counted other events."""
    costs = [run_costs(results.table).set_index("trace")[FORECASTS] for results in (committed, fresh)]
    left, right = _shared(*costs)
    return [
        f"{trace}: {name}: committed {left.at[trace, name]!s}, got {right.at[trace, name]!s}"
        for name in FORECASTS
        for trace in left.index[left[name] != right.loc[left.index, name]]
    ]
