"""The forecasts themselves at one origin, for a figure: results keep scores only.

A forecast is asked for by the harness as in an evaluation, and kept in the cache of finished work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from leaderboard.paper.choice import Chosen
from leaderboard.paper.measuring import Request, task_list
from leaderboard.paper.study import PAPER_FORECASTERS
from moeload_bench import cache
from moeload_bench.evaluation.harness import follow
from moeload_bench.evaluation.pairs import Fitted, Setting, fit_forecaster, key_parts
from moeload_bench.forecaster import Forecast
from moeload_bench.isolation.hosts import Limits
from moeload_bench.isolation.targets import Target, parse_target
from moeload_bench.results.collection import Results
from moeload_bench.traces.store import data_sha256
from moeload_bench.traces.trace import Trace


def middle_origin(results: Results) -> int | None:
    """Return the origin in the middle of those in the stable state; None where there is none."""
    stable = [task.origin for task in results[0].runs[0].tasks if task.state == "stable"]
    return stable[len(stable) // 2] if stable else None


def ask_forecasters(
    run: Chosen, trace: Trace, targets: Mapping[str, str], origin: int, request: Request
) -> dict[str, Forecast]:
    """Return the paper's forecasters' answers at an origin, for the longest horizon; one that failed is left out."""
    suite = task_list(run, trace, request)
    setting = Setting(suite, request.level, Limits(), suite.seed, request.fresh)
    paths = {ref.id: ref.path for ref in run.train}
    answers = {}
    for name in PAPER_FORECASTERS:
        if name in targets:
            target = parse_target(targets[name])
            fitted = fit_forecaster(setting, paths, target)
            forecast = _forecast(setting, trace, target, fitted, origin)
            if forecast is not None:
                answers[name] = forecast
    return answers


def _forecast(setting: Setting, trace: Trace, target: Target, fitted: Fitted, origin: int) -> Forecast | None:
    if fitted.failure is not None:
        return None
    suite = setting.suite
    key = cache.task_key(
        kind="forecast",
        trace_sha256=data_sha256(trace),
        fitted_sha256=None if fitted.data is None else hashlib.sha256(fitted.data).hexdigest(),
        origin=origin,
        **key_parts(setting, target),
    )
    stored = None if setting.fresh else cache.load(key)
    if stored is not None:
        return Forecast(np.array(stored["share"]), np.array(stored["edges"], dtype=np.int64))
    with follow(
        target,
        trace,
        group=suite.group_of(trace.id),
        seed=setting.seed,
        fitted=fitted.data,
        level=setting.level,
        limits=setting.limits,
    ) as feed:
        forecast = next(feed.answers([origin], suite.horizons)).forecast
    if forecast is not None:
        cache.save(key, {"share": forecast.share_BLE.tolist(), "edges": forecast.edges_B.tolist()})
    return forecast
