"""`evaluate`: forecasters x suite -> results.

The unit of work is a (forecaster, trace) pair. Pairs are independent, so they are spread by joblib (loky here, Dask
or Ray on a cluster) and cached one by one; the results do not depend on how they were spread.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeload_bench.environment import environment
from moeload_bench.errors import SuiteError
from moeload_bench.isolate import Level, Limits
from moeload_bench.parallel import spread
from moeload_bench.results import ForecasterRecord, Result, Results, RunResult, SuiteRecord
from moeload_bench.runs import Fitted, Pair, Setting, fit, run_pair
from moeload_bench.scoring import SCORING_VERSION
from moeload_bench.store import find_trace
from moeload_bench.suite import Suite, load_suite
from moeload_bench.targets import Target, class_target, parse_target, preflight, source_sha256

ForecasterLike = str | type[Any] | Target
Progress = Callable[[int, int, str], None]


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
    tasks = load_suite(suite) if isinstance(suite, str) else suite
    setting = Setting(tasks, level, limits or Limits(), tasks.seed if seed is None else seed, fresh)
    targets = [as_target(one) for one in _listed(forecasters, tasks)]
    for target in targets:
        preflight(target)
    files = _locate(tasks, paths or {})
    run = functools.partial(spread, jobs=jobs, backend=backend, address=address)
    fits = list(run([functools.partial(fit, setting, files, target) for target in targets]))
    pairs = [
        Pair(setting, entry, files[entry.id], target, fitted)
        for entry in tasks.traces
        for target, fitted in zip(targets, fits, strict=True)
    ]
    done: dict[int, list[RunResult]] = defaultdict(list)
    for i, result in enumerate(run([functools.partial(run_pair, pair) for pair in pairs])):
        done[i % len(targets)].append(result)
        if progress is not None:
            progress(i + 1, len(pairs), f"{pairs[i].target.text} on {pairs[i].entry.id}")
    return Results([_result(setting, target, fits[i], done[i]) for i, target in enumerate(targets)])


def as_target(forecaster: ForecasterLike) -> Target:
    """A target from its text, from a class of this process, or as it is."""
    if isinstance(forecaster, Target):
        return forecaster
    return parse_target(forecaster) if isinstance(forecaster, str) else class_target(forecaster)


def _listed(forecasters: ForecasterLike | Sequence[ForecasterLike] | None, suite: Suite) -> Sequence[ForecasterLike]:
    if forecasters is None:
        if not suite.baselines:
            raise SuiteError(f"suite {suite.name} names no baselines: say which forecasters to run")
        return suite.baselines
    return [forecasters] if isinstance(forecasters, str | type | Target) else forecasters


def _locate(suite: Suite, paths: Mapping[str, Path]) -> dict[str, Path]:
    ids = [entry.id for entry in (*suite.traces, *suite.fit)]
    hub = (suite.hub.repo, suite.hub.revision) if suite.hub else None
    return {name: paths[name] if name in paths else find_trace(name, hub=hub) for name in ids}


def _result(setting: Setting, target: Target, fitted: Fitted, runs: Sequence[RunResult]) -> Result:
    suite = setting.suite
    return Result(
        suite=SuiteRecord(name=suite.name, sha256=suite.sha256(), horizons=suite.horizons, reference=suite.reference),
        forecaster=ForecasterRecord(
            name=target.text,
            target=target.text,
            source_sha256=source_sha256(target),
            kwargs=dict(target.kwargs),
        ),
        scoring_version=SCORING_VERSION,
        isolation=setting.level,
        seed=setting.seed,
        fit_wall_s=fitted.wall_s,
        environment=environment(),
        runs=tuple(runs),
    )
