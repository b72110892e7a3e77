"""Error over training, layer by layer: a forecaster asked at regular origins, as in the founding paper's evaluation.

Result records keep the mean over layers of each origin, or the mean over origins of each layer, never both apart; so
the forecaster is replayed here by the harness, at the same isolation level and with the same scores.

Axis letters: O origins, L MoE layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import not_found
from moeload_bench.harness.replay import follow
from moeload_bench.harness.truth import Truth
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import parse_target, preflight
from moeload_bench.scoring.catalogue import PRIMARY, forecast_metrics
from moeload_bench.scoring.scores import score_forecast
from moeload_bench.states.origins import origins_every
from moeload_bench.states.rule import StateRule
from moeload_bench.traces.trace import Trace


@dataclass(frozen=True, eq=False)
class TrainingErrors:
    """One forecaster's error at each origin and layer, [O, L], NaN where a forecast failed or a layer had no load."""

    forecaster: str
    metric: str
    horizon: int
    origin_O: NDArray[np.int64]
    error_OL: NDArray[np.float64]
    failures: tuple[str, ...] = ()


def training_errors(
    trace: Trace, target: str, *, every: int, horizon: int, metric: str = PRIMARY, level: Level = "process",
    seed: int = 0,
) -> TrainingErrors:  # fmt: skip
    """Ask a forecaster every so many steps for the next ``horizon`` and score each answer per layer.

    Nothing is fitted beforehand: a forecaster that needs the `train` runs of a suite cannot be drawn this way. Raises
    `NotFoundError` for a metric that needs quantiles or does not exist, `SuiteError` where no window fits,
    `TargetError` for the target; a failed forecast is a gap, with its reason in ``failures``.
    """
    names = [spec.name for spec in forecast_metrics() if not spec.needs_quantiles]
    if metric not in names:
        raise not_found("metric", metric, names)
    parsed = parse_target(target)
    preflight(parsed)
    origins = origins_every(trace.step_S, every, horizon)
    truth = Truth(trace, StateRule(), (horizon,))
    error_OL = np.full((len(origins), trace.num_layers), np.nan)
    failures = []
    with follow(parsed, trace, seed=seed, level=level) as feed:
        for o, answer in enumerate(feed.answers(origins, (horizon,))):
            if answer.forecast is None:
                failures.append(f"origin {answer.origin}: {answer.failure}")
                continue
            scores = score_forecast(
                answer.forecast, truth.window(answer.origin), (horizon,), stride=trace.meta.stride,
                last_share_LE=truth.last_share(answer.origin),
            )  # fmt: skip
            error_OL[o] = scores[metric][0]
    return TrainingErrors(target, metric, horizon, np.array(origins, dtype=np.int64), error_OL, tuple(failures))
