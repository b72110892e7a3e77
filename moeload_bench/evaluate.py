"""`evaluate`: forecasters x suite -> results.

The unit of work is a (forecaster, trace) pair. Pairs are independent, so they are spread by joblib (loky here, Dask
or Ray on a cluster) and cached one by one; the results do not depend on how they were spread.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench import cache
from moeload_bench.errors import ForecastError, SuiteError
from moeload_bench.forecaster import FitRuns, Forecast, step_block, trace_info
from moeload_bench.harness import Answer, ForecastDigest, replay
from moeload_bench.isolate import Host, Level, Limits, fit_target, open_host
from moeload_bench.results import (
    CostResult,
    Environment,
    ForecasterRecord,
    Result,
    Results,
    RunResult,
    SuiteRecord,
    TaskResult,
    rounded_tree,
)
from moeload_bench.scoring import SCORING_VERSION, failure_scores, score_forecast
from moeload_bench.store import find_trace, read_trace
from moeload_bench.suite import Suite, SuiteTrace, check_origins, load_suite
from moeload_bench.targets import Target, class_target, parse_target, preflight, source_sha256
from moeload_bench.truth import Truth, open_truth

TRACKED_PACKAGES = ("numpy", "statsmodels", "torch", "numba")
ForecasterLike = str | type[Any] | Target
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Fitted:
    """What `fit` returned for one forecaster: None for those that do not fit."""

    data: bytes | None = None
    wall_s: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Pair:
    """One unit of work; everything in it can be sent to another process."""

    suite: Suite
    entry: SuiteTrace
    path: Path
    target: Target
    level: Level
    limits: Limits
    seed: int
    fitted: Fitted = Fitted()


def evaluate(
    forecasters: ForecasterLike | Sequence[ForecasterLike] | None = None,
    suite: str | Suite = "mini",
    *,
    paths: Mapping[str, Path] | None = None,
    level: Level = "process",
    limits: Limits | None = None,
    seed: int | None = None,
    jobs: int = 1,
    backend: str = "loky",
    address: str | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Results:
    """Score forecasters on a suite.

    ``forecasters``: targets (`"sw_avg@window=500"`, `"my.py:Mine"`), classes of this process (level `none` only), or
    None for the suite's baselines. ``paths`` gives trace files by id instead of looking them up. ``fresh`` ignores
    finished work in the cache. ``progress(done, total, what)`` is called as pairs finish. A forecaster's failure
    is a failed task in its result; what is raised (`TargetError`, `SuiteError`, `TraceError`) concerns the request.
    """
    task_list = load_suite(suite) if isinstance(suite, str) else suite
    targets = [as_target(one) for one in _listed(forecasters, task_list)]
    for target in targets:
        preflight(target, level)
    files = _locate(task_list, paths or {})
    context = dict(level=level, limits=limits or Limits(), seed=task_list.seed if seed is None else seed)
    run = functools.partial(_spread, jobs=jobs, backend=backend, address=address)
    fits = list(run([functools.partial(_fit, task_list, files, target, fresh=fresh, **context) for target in targets]))
    pairs = [
        Pair(task_list, entry, files[entry.id], target, fitted=fitted, **context)
        for entry in task_list.traces
        for target, fitted in zip(targets, fits, strict=True)
    ]
    done: dict[int, list[RunResult]] = defaultdict(list)
    for i, result in enumerate(run([functools.partial(run_pair, pair, fresh=fresh) for pair in pairs])):
        done[i % len(targets)].append(result)
        if progress is not None:
            progress(i + 1, len(pairs), f"{pairs[i].target.text} on {pairs[i].entry.id}")
    return Results([_result(task_list, target, fits[i], done[i], **context) for i, target in enumerate(targets)])


def as_target(forecaster: ForecasterLike) -> Target:
    """A target from its text, from a class of this process, or as it is."""
    if isinstance(forecaster, Target):
        return forecaster
    return parse_target(forecaster) if isinstance(forecaster, str) else class_target(forecaster)


def run_pair(pair: Pair, fresh: bool = False) -> RunResult:
    """Replay one trace to one forecaster and score the answers; from the cache where it was done before."""
    key = _pair_key(pair)
    stored = None if fresh else cache.load(key)
    if stored is not None:
        return RunResult.model_validate(stored)
    result = _run_pair(pair)
    if not result.failures:
        cache.save(key, result.model_dump(mode="json"))
    return result


def _run_pair(pair: Pair) -> RunResult:
    truth = open_truth(pair.path, pair.entry.data_sha256, pair.suite.rule, pair.suite.horizons)
    check_origins(truth.trace, pair.entry, pair.suite.horizon)
    scores = _RunScores(pair, truth)
    info = trace_info(truth.trace, pair.suite.group_of(pair.entry.id))
    try:
        if pair.fitted.failure is not None:
            raise ForecastError(f"fit: {pair.fitted.failure}")
        with open_host(
            pair.target,
            info,
            seed=pair.seed,
            fitted=pair.fitted.data,
            level=pair.level,
            limits=pair.limits,
        ) as host:
            origins = [origin for origin, _ in pair.entry.origins()]
            for answer in replay(truth.trace, host, origins, pair.suite.horizons, pair.suite.quantiles):
                scores.add(answer)
            return scores.finish(host)
    except ForecastError as error:
        scores.fail_rest(str(error))
        return scores.finish(None)


class _RunScores:
    """Collects the scores of one run, origin by origin; keeps no forecast."""

    def __init__(self, pair: Pair, truth: Truth) -> None:
        self.pair, self.truth = pair, truth
        self.states = dict(pair.entry.origins())
        self.tasks: list[TaskResult] = []
        self.digest = ForecastDigest()
        self.layered: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))

    def add(self, answer: Answer) -> None:
        scores = self._score(answer)
        self.digest.update(answer)
        state = self.states[answer.origin]
        for metric, value_KL in scores.items():
            self.layered[state][metric].append(value_KL)
        self.tasks.append(
            TaskResult(
                origin=answer.origin,
                state=state,
                crossing=self.truth.crosses(answer.origin),
                failure=answer.failure,
                metrics=rounded_tree({name: mean_over(value_KL, axis=1) for name, value_KL in scores.items()}),
            )
        )

    def fail_rest(self, reason: str) -> None:
        """Every origin without an answer fails for one reason."""
        seen = {task.origin for task in self.tasks}
        for origin in sorted(set(self.states) - seen):
            self.add(Answer(origin, -1, None, reason))

    def finish(self, host: Host | None) -> RunResult:
        trace = self.truth.trace
        per_layer = {
            state: {metric: mean_over(np.stack(values), axis=0) for metric, values in metrics.items()}
            for state, metrics in self.layered.items()
        }
        return RunResult(
            trace=self.pair.entry.id,
            data_sha256=self.pair.entry.data_sha256,
            layers=trace.num_layers,
            experts=trace.num_experts,
            tasks=tuple(self.tasks),
            per_layer=rounded_tree(per_layer),
            floors=rounded_tree(self.truth.floors.by_state()),
            counts=dict(host.counts()) if host else {},
            cost=_cost(host, self.truth),
            forecasts_sha256=self.digest.hexdigest(),
        )

    def _score(self, answer: Answer) -> Mapping[str, Any]:
        truth_HLE = self.truth.window(answer.origin)
        args = dict(
            stride=self.truth.trace.meta.stride,
            quantiles=self.pair.suite.quantiles,
            last_share_LE=self.truth.last_share(answer.origin),
        )
        if answer.forecast is not None:
            return score_forecast(answer.forecast, truth_HLE, self.pair.suite.horizons, **args)
        E = self.truth.trace.num_experts
        uniform_LE = np.full((self.truth.trace.num_layers, E), 1 / E)
        uniform = Forecast.constant(uniform_LE, self.pair.suite.horizon)
        return failure_scores(score_forecast(uniform, truth_HLE, self.pair.suite.horizons, **args))


def mean_over(values: Any, axis: int) -> Any:
    """Mean along an axis over the values that exist; NaN where none does, without a warning."""
    array = np.asarray(values, dtype=np.float64)
    exists = ~np.isnan(array)
    count = exists.sum(axis=axis)
    total = np.where(exists, array, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _cost(host: Host | None, truth: Truth) -> CostResult:
    cost = host.cost() if host else None
    step_time = truth.trace.columns.get("step_time_s")
    return CostResult(
        observe_wall_s=cost.observe_wall_s if cost else 0.0,
        observe_cpu_s=cost.observe_cpu_s if cost else None,
        forecast_wall_s=cost.forecast_wall_s if cost else 0.0,
        forecast_cpu_s=cost.forecast_cpu_s if cost else None,
        startup_wall_s=cost.startup_wall_s if cost else 0.0,
        observed_rows=cost.observe_rows if cost else 0,
        forecasts=cost.forecasts if cost else 0,
        peak_memory_bytes=cost.peak_memory_bytes if cost else None,
        training_step_s=None if step_time is None else float(np.median(step_time)),
    )


# ---------------------------------------------------------------- fitting, spreading, keys


def _fit(suite: Suite, files: Mapping[str, Path], target: Target, *, fresh: bool, **context: Any) -> Fitted:
    key = cache.task_key(kind="fit", **_key_parts(suite, target, **context))
    stored = None if fresh else cache.load(key)
    if stored is not None:
        data = stored["data"]
        return Fitted(None if data is None else bytes.fromhex(data), stored["wall_s"])
    runs: FitRuns = [
        (trace_info(trace, suite.group_of(trace.id)), step_block(trace, 0, trace.steps))
        for trace in (read_trace(files[entry.id], expected_sha256=entry.data_sha256) for entry in suite.fit)
    ]
    try:
        out = fit_target(target, runs, seed=context["seed"], level=context["level"], limits=context["limits"])
    except ForecastError as error:
        return Fitted(failure=str(error))
    fitted = Fitted() if out is None else Fitted(out[0], out[1].observe_wall_s)
    cache.save(key, {"data": fitted.data.hex() if fitted.data is not None else None, "wall_s": fitted.wall_s})
    return fitted


def _pair_key(pair: Pair) -> str:
    parts = _key_parts(pair.suite, pair.target, level=pair.level, limits=pair.limits, seed=pair.seed)
    fitted = hashlib.sha256(pair.fitted.data).hexdigest() if pair.fitted.data is not None else None
    return cache.task_key(kind="run", trace_sha256=pair.entry.data_sha256, trace=pair.entry.id, fitted=fitted, **parts)


def _key_parts(suite: Suite, target: Target, *, level: Level, limits: Limits, seed: int) -> dict[str, Any]:
    return {
        "suite_sha256": suite.sha256(),
        "source_sha256": source_sha256(target),
        "class_name": target.class_name,
        "kwargs": dict(target.kwargs),
        "level": level,
        "limits": repr(limits),
        "seed": seed,
        "scoring_version": SCORING_VERSION,
        "versions": package_versions(),
    }


def _spread(calls: Sequence[Callable[[], Any]], *, jobs: int, backend: str, address: str | None) -> Iterator[Any]:
    """Call them all and yield what they return, in order, as soon as it is there."""
    if jobs == 1 and backend == "loky":
        yield from (call() for call in calls)
        return
    import joblib

    with cache.parallel_backend(backend, jobs, address):
        yield from joblib.Parallel(n_jobs=jobs, return_as="generator")(joblib.delayed(call)() for call in calls)


def _listed(forecasters: ForecasterLike | Sequence[ForecasterLike] | None, suite: Suite) -> Sequence[ForecasterLike]:
    if forecasters is None:
        if not suite.baselines:
            raise SuiteError(f"suite {suite.name} names no baselines: say which forecasters to run")
        return suite.baselines
    return [forecasters] if isinstance(forecasters, str | type | Target) else forecasters


def _locate(suite: Suite, paths: Mapping[str, Path]) -> dict[str, Path]:
    ids = [entry.id for entry in (*suite.traces, *suite.fit)]
    return {name: paths[name] if name in paths else find_trace(name) for name in ids}


# ---------------------------------------------------------------- the record


def _result(
    suite: Suite, target: Target, fitted: Fitted, runs: Sequence[RunResult], *, level: Level, limits: Limits, seed: int
) -> Result:
    return Result(
        suite=SuiteRecord(name=suite.name, sha256=suite.sha256(), horizons=suite.horizons, reference=suite.reference),
        forecaster=ForecasterRecord(
            name=target.text,
            target=target.text,
            source_sha256=source_sha256(target),
            kwargs=dict(target.kwargs),
        ),
        scoring_version=SCORING_VERSION,
        isolation=level,
        seed=seed,
        fit_wall_s=fitted.wall_s,
        environment=environment(),
        runs=tuple(runs),
    )


def package_versions() -> dict[str, str]:
    """Versions of the libraries whose numerics a forecast may depend on."""
    found = {}
    for name in TRACKED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> Environment:
    """Where this runs."""
    return Environment(
        package_version=importlib.metadata.version("moeload-bench"),
        commit=_commit(),
        python=platform.python_version(),
        versions=package_versions(),
        hardware=f"{platform.machine()} {platform.system()}, {_cores()} cores",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _cores() -> int:
    import joblib

    return int(joblib.cpu_count())


def _commit() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    asked = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None
