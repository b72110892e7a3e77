"""One forecaster on one run: replayed, scored, and kept in the cache of finished work.

Axis letters: K suite horizons, L MoE layers, E experts.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from moeload_bench import cache
from moeload_bench.arrays import FloatArray
from moeload_bench.environment import installed_sha256, package_versions
from moeload_bench.errors import ForecastError
from moeload_bench.forecaster import FitRuns, Forecast, trace_info
from moeload_bench.harness.replay import Answer, follow
from moeload_bench.harness.rescore import StoredForecast, forecasts_path, save_forecasts
from moeload_bench.harness.run_rows import failed_rows, from_tree, layer_rows, origin_rows, scored_rows, to_tree
from moeload_bench.harness.truth import Truth, load_references, open_truth, save_references, trace_facts
from moeload_bench.isolation.hosts import Host, Level, Limits, fit_target
from moeload_bench.isolation.sources import imports_sha256
from moeload_bench.isolation.targets import ClassTarget, FileTarget, Target, is_baseline, source_sha256
from moeload_bench.results.columns import CostResult, Row, fact_rows
from moeload_bench.scoring.catalogue import METRICS, forecast_metrics
from moeload_bench.scoring.plan_scores import score_plans
from moeload_bench.scoring.scores import SCORING_VERSION, failure_scores, filled, score_forecast
from moeload_bench.states.rule import State
from moeload_bench.suites.suite import Suite, SuiteTrace, check_origins
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.store import Source, open_source
from moeload_bench.traces.trace import Trace

Scores = Mapping[str, FloatArray]
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What is the same for all the work of one request."""

    suite: Suite
    level: Level
    limits: Limits
    seed: int
    fresh: bool | frozenset[str]
    numba_cache: Path | None = None  # no part of any key: compiled code changes no forecast
    keep: Path | None = None  # no part of any key either: where forecasts are kept
    shapes: tuple[str, ...] | None = None  # those whose plans are scored, by name; None for all

    def finished(self, target: Target, key: str, parse: Callable[[Any], T]) -> T | None:
        """Return what the cache has of this forecaster's work; None where it has nothing, or what it has is not wanted.

        A class of this process has no key: what it closes over and inherits is not in its source.
        """
        fresh = self.fresh if isinstance(self.fresh, bool) else target.label in self.fresh
        return None if fresh or isinstance(target, ClassTarget) else cache.load(key, parse)


@dataclass(frozen=True)
class Fitted:
    """What `fit` returned for one forecaster: no data for those that do not fit."""

    data: bytes | None = None
    wall_s: float | None = None
    failure: str | None = None

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Fitted:
        """Return the record from what `fit_forecaster` saves."""
        data, wall_s = tree["data"], tree["wall_s"]
        return cls(None if data is None else bytes.fromhex(data), None if wall_s is None else float(wall_s))


@dataclass(frozen=True)
class Pair:
    """One unit of work; everything in it can be sent to another process."""

    setting: Setting
    scored_run: SuiteTrace
    source: Source
    target: Target
    fitted: Fitted

    def rows_from(self, tree: Any) -> list[Row]:
        """Return the pair's rows from a cache entry; raise `ValueError` for those of another trace, or other tasks."""
        return from_tree(tree, self.scored_run, self.setting.suite.horizons)


def fit_forecaster(setting: Setting, sources: Mapping[str, Source], target: Target) -> Fitted:
    """Let a forecaster learn from the suite's `train` runs; from the cache where it was done before."""
    if not setting.suite.fit:
        return Fitted()
    key = cache.task_key(kind="fit", **key_parts(setting, target))
    stored = setting.finished(target, key, Fitted.from_tree)
    if stored is not None:
        return stored
    runs: FitRuns = [
        (trace_info(trace, setting.suite.group_of(trace.id)), trace.rows(0, trace.steps))
        for trace in (open_source(sources[run.id], run.data_sha256) for run in setting.suite.fit)
    ]
    try:
        out = fit_target(target, runs, seed=setting.seed, level=setting.level, limits=setting.limits)
    except ForecastError as error:
        return Fitted(failure=str(error))
    fitted = Fitted() if out is None else Fitted(out[0], out[1].observe_wall_s)
    if not isinstance(target, ClassTarget):
        cache.save(key, {"data": None if fitted.data is None else fitted.data.hex(), "wall_s": fitted.wall_s})
    return fitted


def run_pair(pair: Pair, on_answer: Callable[[Answer], None] = lambda answer: None) -> list[Row]:
    """Replay one trace to one forecaster and score the answers; from the cache where it was done before.

    ``on_answer`` gets every answer.

    A run with failures is not kept: what made it fail may be gone the next time.
    """
    key = _pair_key(pair)
    cached = pair.setting.finished(pair.target, key, pair.rows_from)
    if cached is not None and _forecasts_kept(pair, cached):
        return cached
    rows = replay_and_score(pair, on_answer=on_answer)
    if not failed_rows(rows) and not isinstance(pair.target, ClassTarget):
        cache.save(key, to_tree(rows))
    return rows


def _forecasts_kept(pair: Pair, rows: Sequence[Row]) -> bool:
    """Return whether the forecasts of finished work lie where this request keeps them, if it keeps any."""
    keep, windows = pair.setting.keep, scored_rows(rows)
    if keep is None or not windows:
        return True
    hashes = pair.scored_run.data_sha256, windows[0]["forecasts_sha256"]
    return forecasts_path(keep, *hashes, pair.scored_run.asked(pair.setting.suite.horizons)).is_file()


def replay_and_score(pair: Pair, on_answer: Callable[[Answer], None] = lambda answer: None) -> list[Row]:
    """Replay one trace to one forecaster and score the answers; ``on_answer`` gets every answer."""
    setting, suite = pair.setting, pair.setting.suite
    horizons = pair.scored_run.asked(suite.horizons)
    truth = open_truth(pair.source, pair.scored_run.data_sha256, suite.rule, horizons, setting.shapes)
    check_origins(truth.trace, pair.scored_run, horizons[-1])
    if not truth.known_references and setting.shapes is None:
        truth.known_references.update(load_references(suite, pair.scored_run, truth))
    references_before = len(truth.known_references)
    scores = _RunScores(pair, truth)
    try:
        if pair.fitted.failure is not None:
            raise ForecastError(f"fit: {pair.fitted.failure}")
        with follow(
            pair.target,
            truth.trace,
            group=suite.group_of(pair.scored_run.id),
            seed=setting.seed,
            fitted=pair.fitted.data,
            level=setting.level,
            limits=setting.limits,
            numba_cache=setting.numba_cache,
        ) as feed:
            for answer in feed.answers(list(scores.states), horizons, suite.quantiles):
                on_answer(answer)
                scores.add(answer)
            if len(truth.known_references) > references_before and setting.shapes is None:
                save_references(suite, pair.scored_run, truth.known_references)
            return scores.finish(feed.host)
    except ForecastError as error:
        scores.fail_rest(str(error))
        return scores.finish(None)


def _hashed(answer: Answer) -> Iterator[bytes]:
    """Yield what the hash of forecasts is made of: two runs can be told to have forecast the same. A failure counts."""
    yield str(answer.origin).encode()
    forecast = answer.forecast
    if forecast is None:
        yield b"failed"
        return
    for array in (forecast.share_BLE, forecast.edges_B, forecast.quantile_QKLE):
        if array is not None:
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            yield str(little.shape).encode() + little.tobytes()


class _RunScores:
    """Collects the scores of one run, origin by origin; keeps a forecast's window means where that was asked for."""

    def __init__(self, pair: Pair, truth: Truth) -> None:
        self.pair, self.truth = pair, truth
        self.facts = trace_facts(pair.setting.suite, pair.scored_run, truth)
        self.states: dict[int, State] = dict(pair.scored_run.origins())
        self.scored: dict[int, tuple[str | None, Scores]] = {}
        self.quantiles = False
        self.digest = hashlib.sha256()
        self.stored: list[StoredForecast] = []

    def add(self, answer: Answer) -> None:
        """Score one answer."""
        self.scored[answer.origin] = answer.failure, _score(answer, self.truth, self.pair.setting.suite.quantiles)
        self.quantiles |= answer.forecast is not None and answer.forecast.quantile_QKLE is not None
        for part in _hashed(answer):
            self.digest.update(part)
        if self.pair.setting.keep is not None:
            self.stored.append(StoredForecast.of(answer, self.truth))

    def fail_rest(self, reason: str) -> None:
        """Let every origin without an answer fail for one reason."""
        for origin in sorted(set(self.states) - set(self.scored)):
            self.add(Answer(origin, None, reason))

    def finish(self, host: Host | None) -> list[Row]:
        """Return the rows of the run; failed tasks have the metrics of quantiles where the others have them."""
        pair, suite = self.pair, self.pair.setting.suite
        scored_run, L = pair.scored_run, self.truth.trace.num_layers
        sha256, run = self.digest.hexdigest(), self._run(host)
        layered: dict[str, dict[str, list[FloatArray]]] = defaultdict(lambda: defaultdict(list))
        left_out = set() if self.quantiles else {spec.name for spec in forecast_metrics() if spec.needs_quantiles}
        rows: list[Row] = []
        for origin, (failure, scores) in self.scored.items():
            shown = {metric: value_KL for metric, value_KL in scores.items() if metric not in left_out}
            for metric, value_KL in shown.items():
                layered[self.states[origin]][metric].append(value_KL)
            window = {"state": self.states[origin], "origin": origin, "failure": failure}
            means = {metric: self._filled(mean_over(value_KL, axis=1)) for metric, value_KL in shown.items()}
            rows += origin_rows(run, window, self.facts.crossing[origin], suite.horizons, means)
        for state, metrics in layered.items():
            means = {metric: self._filled(mean_over(np.stack(values), axis=0)) for metric, values in metrics.items()}
            rows += layer_rows(scored_run.id, state, suite.horizons, L, means)
        if pair.setting.keep is not None:
            path = forecasts_path(pair.setting.keep, scored_run.data_sha256, sha256, self.truth.horizons)
            save_forecasts(path, self.stored, self.truth.horizons)
        return [*rows, *fact_rows(scored_run.id, self.facts, suite.horizons)]

    def _run(self, host: Host | None) -> Row:
        """Return what all rows of forecasts have in common."""
        scored_run, trace = self.pair.scored_run, self.truth.trace
        return {
            "trace": scored_run.id,
            "recipe": scored_run.id.split("/")[0],
            "stratum": self.pair.setting.suite.stratum_by_trace().get(scored_run.id),
            "data_sha256": scored_run.data_sha256,
            "layers": trace.num_layers,
            "experts": trace.num_experts,
            **_cost(host, self.truth).model_dump(),
            "counts": json.dumps(host.counts() if host else {}, sort_keys=True),
            "forecasts_sha256": self.digest.hexdigest(),
            "accounting": None if host is None or self.pair.setting.level == "none" else "processes",
        }

    def _filled(self, value_K: FloatArray) -> FloatArray:
        """Fill up to the suite's horizons: one that the run is too short for has no value."""
        return filled(value_K, len(self.pair.setting.suite.horizons))


def _score(answer: Answer, truth: Truth, quantiles: tuple[float, ...]) -> Scores:
    """Return errors of the forecast and costs of its plans; the stated scores for a failed one."""
    if answer.forecast is not None:
        errors = _errors(answer.forecast, answer.origin, truth, quantiles)
        if truth.shapes == ():
            return errors
        mean_KLE = answer.forecast.window_means(truth.horizons)
        return {**errors, **score_plans(mean_KLE, truth.window(answer.origin), truth.references(answer.origin))}
    L, E = truth.trace.num_layers, truth.trace.num_experts
    uniform = Forecast.constant(np.full((L, E), 1 / E), truth.horizons[-1])
    errors = failure_scores(_errors(uniform, answer.origin, truth, quantiles), with_quantiles=bool(quantiles))
    return errors if truth.shapes == () else {**errors, **truth.references(answer.origin).failed()}


def _errors(forecast: Forecast, origin: int, truth: Truth, quantiles: tuple[float, ...]) -> Scores:
    return score_forecast(
        forecast,
        truth.window(origin),
        truth.horizons,
        stride=truth.trace.meta.stride,
        quantiles=quantiles,
        last_share_LE=truth.last_share(origin),
    )


def _row_time(trace: Trace) -> float | None:
    """Return the seconds of training of a row: the median of the steps whose time is known, times the stride."""
    known_S = trace.columns.get("step_time_s", np.empty(0))
    known_S = known_S[np.isfinite(known_S)]
    return float(np.median(known_S)) * trace.meta.stride if len(known_S) else None


def _cost(host: Host | None, truth: Truth) -> CostResult:
    measured = {} if host is None else asdict(host.cost())
    return CostResult(training_step_s=_row_time(truth.trace), **measured)


def _pair_key(pair: Pair) -> str:
    fitted = None if pair.fitted.data is None else hashlib.sha256(pair.fitted.data).hexdigest()
    return cache.task_key(
        kind="run",
        trace=pair.scored_run.id,
        trace_sha256=pair.scored_run.data_sha256,
        fitted_sha256=fitted,
        **key_parts(pair.setting, pair.target),
    )


def key_parts(setting: Setting, target: Target) -> dict[str, Any]:
    """Return all but the trace that a forecaster's answers and scores depend on; it is in every key of the cache."""
    beside = imports_sha256(target.file) if isinstance(target, FileTarget) else None
    return {
        "suite_sha256": setting.suite.sha256(),
        "source_sha256": source_sha256(target),
        "class_name": target.class_name,
        "kwargs": dict(target.kwargs),
        **({} if target.packages is None else {"packages": target.packages.name}),
        **({} if setting.shapes is None else {"shapes": setting.shapes}),
        "level": setting.level,
        "limits": repr(setting.limits),
        "seed": setting.seed,
        "scoring_version": SCORING_VERSION,
        "metrics": sorted(METRICS),
        "versions": package_versions(),
        **({} if is_baseline(target) else {"installed": installed_sha256()}),
        **({} if beside is None else {"imports": beside}),
    }
