"""Forecasts kept beside their results, and metrics made from them again without running anyone.

Kept is what plans are made from: the mean share over each horizon of the suite, and the quantiles where there are some.
A folder holds the result records and, in `forecasts/`, one archive per run, named by the hashes of the trace, of the
forecasts that its result states, and of the horizons. So a new metric of window means costs seconds for every
forecaster that ever ran.

Axis letters: O origins, K suite horizons, Q quantiles, L MoE layers, E experts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ResultError, TraceError, not_found
from moeload_bench.files import replacing
from moeload_bench.harness.replay import Answer
from moeload_bench.harness.truth import Truth, open_truth
from moeload_bench.names import name_problem
from moeload_bench.results.columns import ROW_KEYS, RUN_KEYS, run_costs
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.storage import scored_columns
from moeload_bench.scoring.catalogue import METRICS, Metric, metric_names, metric_spec, ratio_metric
from moeload_bench.scoring.plan_scores import score_plans
from moeload_bench.scoring.scores import SCORING_VERSION, failure_scores, filled, horizon_rows
from moeload_bench.scoring.window import Window
from moeload_bench.suites.suite import Suite, as_suite, load_suite, sources_of
from moeload_bench.traces.archives import read_arrays
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.store import Source
from moeload_bench.traces.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

WindowMetric = Callable[[FloatArray, FloatArray], FloatArray]
"""From the forecast's and the true window-mean shares, each [L, E], to one value per layer [L]."""

MAX_BYTES = 2 * 2**30
_NAMES = ("origin_O", "horizon_K", "mean_OKLE", "quantile_OQKLE")


class StoredForecast(NamedTuple):
    """What is kept of one forecast; NaN throughout where it failed."""

    origin: int
    mean_KLE: FloatArray
    quantile_QKLE: FloatArray | None

    @classmethod
    def of(cls, answer: Answer, truth: Truth) -> StoredForecast:
        """Return what is stored of the answer at one origin."""
        if answer.forecast is not None:
            return cls(answer.origin, answer.forecast.window_means(truth.horizons), answer.forecast.quantile_QKLE)
        shape = (len(truth.horizons), truth.trace.num_layers, truth.trace.num_experts)
        return cls(answer.origin, np.full(shape, np.nan), None)


def save_forecasts(path: Path, forecasts: Sequence[StoredForecast], horizons: Sequence[int]) -> None:
    """Write the forecasts of one run as an archive, whole or not at all; their means are over these horizons.

    A run without origins has none, and no archive.
    """
    if not forecasts:
        return
    arrays: dict[str, Any] = {
        "origin_O": np.array([forecast.origin for forecast in forecasts]),
        "horizon_K": np.array(horizons, dtype=np.int64),
        "mean_OKLE": np.stack([forecast.mean_KLE for forecast in forecasts]),
    }
    given = next((forecast.quantile_QKLE for forecast in forecasts if forecast.quantile_QKLE is not None), None)
    if given is not None:
        nothing_QKLE = np.full(given.shape, np.nan)
        quantiles = (forecast.quantile_QKLE for forecast in forecasts)
        arrays["quantile_OQKLE"] = np.stack([nothing_QKLE if q is None else q for q in quantiles])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch, scratch.open("wb") as file:
        np.savez_compressed(file, **arrays)


def forecasts_path(folder: Path, data_sha256: str, forecasts_sha256: str, horizons: Sequence[int]) -> Path:
    """Return where the means over these horizons are kept, of the forecasts with a hash on the trace with a hash."""
    windows = hashlib.sha256(",".join(map(str, horizons)).encode()).hexdigest()[:8]
    return folder / "forecasts" / data_sha256[:16] / f"{forecasts_sha256}-{windows}.npz"


def load_forecasts(
    folder: Path, run: Mapping[str, Any], origins: Sequence[int], horizons: Sequence[int]
) -> dict[int, StoredForecast]:
    """Return the forecasts of a run by origin; raise `ResultError` where they are not there or are another run's.

    ``run``: a row of the table of costs.
    """
    if not origins:
        return {}
    path = forecasts_path(folder, run["data_sha256"], run["forecasts_sha256"], horizons)
    if not path.is_file():
        raise ResultError(f"{path}: the forecasts of {run['trace']} are not there; use run --keep-forecasts {folder}")
    try:
        arrays = read_arrays(path, _NAMES, MAX_BYTES)
    except TraceError as error:
        raise ResultError(str(error)) from None
    shapes = {name: array.shape for name, array in arrays.items()}
    levels = shapes.get("quantile_OQKLE", (0, 0))[1:2]
    windows = (len(horizons), int(run["layers"]), int(run["experts"]))
    expected = {"origin_O": (len(origins),), "horizon_K": (len(horizons),), "mean_OKLE": (len(origins), *windows)}
    if "quantile_OQKLE" in shapes:
        expected["quantile_OQKLE"] = (len(origins), *levels, *windows)
    if shapes != expected or arrays["origin_O"].tolist() != origins:
        raise ResultError(f"{path}: arrays are {shapes}, expected {expected} at the origins of {run['trace']}")
    if arrays["horizon_K"].tolist() != list(horizons):
        raise ResultError(f"{path}: means over {arrays['horizon_K'].tolist()} steps, expected {list(horizons)}")
    quantiles = arrays.get("quantile_OQKLE", [None] * len(origins))
    rows = zip(origins, arrays["mean_OKLE"], quantiles, strict=True)
    return {origin: StoredForecast(origin, mean_KLE, quantile_QKLE) for origin, mean_KLE, quantile_QKLE in rows}


class _Windows(NamedTuple):
    """One forecast beside what came: means [K, L, E] over the horizons, forecast and true."""

    mean_KLE: FloatArray
    quantile_QKLE: FloatArray | None
    share_KLE: FloatArray
    origin: int
    truth: Truth
    quantiles: tuple[float, ...]

    def score(self, metric: Metric) -> FloatArray | None:
        """Return a metric of window means [K, L]; None where this forecast has not what it needs."""
        last_LE, quantile_QKLE = self.truth.last_share(self.origin), self.quantile_QKLE
        windows = [
            Window(
                mean_LE, share_LE, None, last_LE, None if quantile_QKLE is None else quantile_QKLE[:, k], self.quantiles
            )
            for k, (mean_LE, share_LE) in enumerate(zip(self.mean_KLE, self.share_KLE, strict=True))
        ]
        return np.stack([metric.formula(window) for window in windows]) if metric.applies(windows[0]) else None


_Scorer = Callable[[_Windows, bool], FloatArray | None]
"""The metric [K, L] of a window, or, for a forecast that failed, what is scored then; None where there is no such."""


def rescore(
    folder: str | Path,
    suite: str | Suite | Trace,
    metric: str,
    function: WindowMetric | None = None,
    *,
    paths: Mapping[str, str | Path] | None = None,
) -> Results:
    """Return every result in ``folder`` with one metric only, made from the stored forecasts; and with the metric that
    its skill is taken of, where that is another one (imbalance, for regret).

    ``function`` is the metric where the package has none of that name; a forecast that failed has no value by it.
    ``suite``: what they were scored on, and ``paths`` as in `evaluate`. Raises `NotFoundError` for an unknown metric,
    `ResultError` for one that needs single steps, for a folder without results, and for results of another suite or
    version of the scoring.
    """
    traces = (suite,) if isinstance(suite, Trace) else ()
    tasks, folder = load_suite(suite) if isinstance(suite, str) else as_suite(suite), Path(folder)
    scorers = {metric: _own_metric(function, metric) if function else _package_metric(metric)}
    ratio = None if function else ratio_metric(metric)
    if ratio is not None and ratio not in scorers:
        scorers[ratio] = _package_metric(ratio)
    results = load_results(folder)
    for entry in results.entries.values():
        _check_belongs(entry, tasks, own=function is not None)
    sources = sources_of(tasks, traces, paths, fit=False)
    runs: list[dict[str, Any]] = [
        {str(k): v for k, v in row.items()} for row in run_costs(results.table).to_dict("records")
    ]
    rows = [_rescored(folder, results, run, tasks, sources, scorers) for run in runs]
    return dataclasses.replace(results, table=_frame(rows, results), layers=None)


def _check_belongs(entry: Entry, suite: Suite, own: bool) -> None:
    got, expected = entry.suite.sha256, suite.sha256()
    if got != expected:
        raise ResultError(
            f"{entry.name}: scored on suite {entry.suite.name} {got[:12]}, expected {suite.name} {expected[:12]}"
        )
    if not own and entry.scoring_version != SCORING_VERSION:
        raise ResultError(f"{entry.name}: scored by version {entry.scoring_version}, this is {SCORING_VERSION}")


def _rescored(
    folder: Path,
    results: Results,
    run: Mapping[str, Any],
    suite: Suite,
    sources: Mapping[str, Source],
    scorers: Mapping[str, _Scorer],
) -> pd.DataFrame:
    """Return the rows of a forecaster on a trace, with these metrics in place of the others."""
    rows = results.table
    rows = rows[(rows["forecaster"] == run["forecaster"]) & (rows["trace"] == run["trace"])]
    first = rows.drop_duplicates("origin")
    failed = dict(zip(first["origin"].tolist(), first["failure"].notna().tolist(), strict=True))
    scored_run = next(scored for scored in suite.traces if scored.id == run["trace"])
    horizons = scored_run.asked(suite.horizons)
    truth = open_truth(sources[run["trace"]], run["data_sha256"], suite.rule, horizons)
    stored = load_forecasts(folder, run, sorted(failed), horizons)
    value_OK: dict[str, list[FloatArray]] = {name: [] for name in scorers}
    for origin, has_failed in failed.items():
        window = _window(stored[origin], truth, suite.quantiles)
        for name, scorer in scorers.items():
            value_KL = scorer(window, has_failed)
            mean_K = np.full(len(horizons), np.nan) if value_KL is None else mean_over(value_KL, axis=1)
            value_OK[name].append(filled(mean_K, len(suite.horizons)))
    keys: pd.DataFrame = rows[[*ROW_KEYS, *RUN_KEYS]]
    return keys.assign(**{name: np.concatenate(values) for name, values in value_OK.items() if values})


def _frame(rows: Sequence[pd.DataFrame], results: Results) -> pd.DataFrame:
    """Return all rows, forecaster by forecaster, without metrics that no forecast has."""
    import pandas as pd

    frame: pd.DataFrame = pd.concat([results.table.iloc[:0][[*ROW_KEYS, *RUN_KEYS]], *rows], ignore_index=True)
    return scored_columns(frame)


def _window(stored: StoredForecast, truth: Truth, quantiles: tuple[float, ...]) -> _Windows:
    share_HLE = truth.window(stored.origin)
    rows_K = horizon_rows(truth.horizons, truth.trace.meta.stride, len(share_HLE))
    share_KLE = np.stack([mean_over(share_HLE[:rows], axis=0) for rows in rows_K])
    return _Windows(stored.mean_KLE, stored.quantile_QKLE, share_KLE, stored.origin, truth, quantiles)


def _package_metric(metric: str) -> _Scorer:
    """Return the package's own metric of a name, with what it says of a failed forecast."""
    if metric not in metric_names():
        raise not_found("metric", metric, [*metric_names(), "FILE.py:function"])
    spec = metric_spec(metric)
    assert spec is not None
    if spec.stepwise:
        raise ResultError(f"{metric} needs the forecast of each step, and means over windows are kept: use `run`")

    def plans(window: _Windows, failed: bool) -> FloatArray | None:
        references = window.truth.references(window.origin)
        if failed:
            return references.failed().get(metric)
        return score_plans(window.mean_KLE, window.truth.window(window.origin), references).get(metric)

    def errors(window: _Windows, failed: bool) -> FloatArray | None:
        if not failed:
            return window.score(spec)
        even_KLE = np.full(window.share_KLE.shape, 1 / window.share_KLE.shape[2])
        even = window._replace(mean_KLE=even_KLE, quantile_QKLE=None)
        base = METRICS[spec.failed.of or metric]
        value_KL = even.score(base)
        uniform = {} if value_KL is None else {base.name: value_KL}
        return failure_scores(uniform, with_quantiles=window.quantile_QKLE is not None).get(metric)

    return plans if spec.per == "plan" else errors


def _own_metric(function: WindowMetric, name: str) -> _Scorer:
    """Return the scorer of a user's own metric, checked for one value per layer; raise `ResultError` for its name."""
    if (problem := name_problem("metric", name)) is not None:
        raise ResultError(problem)

    def scorer(window: _Windows, failed: bool) -> FloatArray:
        K, L, _ = window.share_KLE.shape
        if failed:
            return np.full((K, L), np.nan)
        pairs = zip(window.mean_KLE, window.share_KLE, strict=True)
        try:
            value_KL = [np.asarray(function(m, s), dtype=np.float64) for m, s in pairs]
        except Exception as error:
            raise ResultError(f"{name} failed: {type(error).__name__}: {error}") from error
        for value_L in value_KL:
            if value_L.shape != (L,):
                raise ResultError(f"{name} returned shape {value_L.shape}, expected one value per layer, {(L,)}")
            if np.isinf(value_L).any():
                raise ResultError(f"{name} returned an infinite value, expected finite ones, or NaN for none")
        return np.stack(value_KL)

    return scorer
