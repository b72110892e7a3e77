"""What is measured on a run: how its loads fluctuate, when they settle, and what the paper's forecasters score.

A run gives a row of the table of runs, and a row of the table of errors per forecaster, state, horizon and protocol. An
origin every EVERY steps is the paper's sliding evaluation; those of its windows that are disjoint are its evaluation in
blocks. Forecasters run through `evaluate` and its cache, so that an interrupted study continues.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import SuiteError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.isolation.hosts import Level
from moeload_bench.plots.traces import SLIDING, Statistic
from moeload_bench.states.rule import trace_labels
from moeload_bench.suites.suite import FitTrace, Suite, SuiteTrace, sliding_suite
from moeload_bench.traces.lookup import TraceRef
from moeload_bench.traces.means import ratio_of
from moeload_bench.traces.store import data_sha256, stored_hash
from moeload_bench.traces.trace import Trace, shares

HORIZONS = (1000, 2000)
"""The paper's."""
EVERY = 100
"""Steps between sliding origins: a divisor of the horizons, so that blocks are among them."""
PREDICTORS = ("sw_avg", "arima", "lstm")
OTHER_WINDOWS = ("sw_avg@window=10", "sw_avg@window=500", "sw_avg@window=1000")
"""SW_Avg with other windows, because the paper does not state its own."""
FORECASTERS = (*PREDICTORS, *OTHER_WINDOWS, "uniform")
ONLINE = "lstm@mode=online"
"""The LSTM of a recipe without a `train` run."""
METRICS = ("error_rate", "window_error_rate", "window_tv")
"""The readings of the paper's error ratio, for which it gives no formula: step by step, and twice on window means."""
RATES = METRICS[:2]
"""Those that are a ratio."""
FLOORS = ("floor_batch", "floor_sampling")
STATISTICS: tuple[tuple[Statistic, int], ...] = (("variance", 10), ("variance", 100), ("range", 100))
"""The paper's sliding statistics and their windows in steps."""
KEYS = ["run", "protocol", "horizon", "state", "forecaster"]


def score_run(
    trace: Trace, train: Sequence[TraceRef], *, horizons: Sequence[int] = HORIZONS, every: int = EVERY,
    forecasters: Sequence[str] = FORECASTERS, level: Level = "process", jobs: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Return a row per forecaster, sliding origin and horizon, with its errors and floors.

    The LSTM learns from the ``train`` runs, or online without any. Raise `SuiteError` if a forecast fails.
    """
    suite = Suite(
        name=f"paper:{trace.id}".lower(),
        horizons=tuple(horizons),
        fit=tuple(FitTrace(id=ref.id, data_sha256=stored_hash(ref.path)) for ref in train),
        traces=(SuiteTrace(id=trace.id, data_sha256=data_sha256(trace)),),
    )
    results = evaluate(
        [ONLINE if name == "lstm" and not train else name for name in forecasters],
        sliding_suite(suite, {trace.id: trace}, every, horizons),
        traces=[trace], paths={ref.id: ref.path for ref in train}, level=level, jobs=jobs, shapes=(),
    )  # fmt: skip
    for row in results.failures.itertuples():
        raise SuiteError(f"{row.trace}: {row.forecaster} failed at origin {row.origin}: {row.failure}")
    scores = results.table.merge(results.facts, how="left", on=["trace", "state", "horizon"])
    scores = scores.rename(columns={"trace": "run"})
    return scores.replace({"forecaster": {ONLINE: "lstm"}})


def in_blocks(scores: pd.DataFrame, first: int) -> pd.DataFrame:
    """Return the rows whose windows are disjoint: blocks of a horizon, counted from step ``first``."""
    return scores[(scores["origin"] - first) % scores["horizon"] == 0]


def mean_errors(scores: pd.DataFrame, first: int) -> pd.DataFrame:
    """Return the means over the origins of a state, sliding and in blocks; ``first`` is the first step of the run."""
    protocols = pd.concat({"sliding": scores, "blocks": in_blocks(scores, first)}, names=["protocol"])
    groups = protocols.groupby(KEYS)
    errors = groups[[*METRICS, *(f"{floor}.{metric}" for floor in FLOORS for metric in METRICS)]].mean()
    errors.insert(0, "origins", groups.size())
    return errors.reset_index()


def describe_run(trace: Trace, train: Sequence[TraceRef]) -> dict[str, Any]:
    """Return a run's row of the table of runs.

    ``onset``: the first step at which every layer has become stable, with the band that other thresholds give.
    ``back``: the largest fraction of the steps after its onset that a layer spends transient; 1 without an onset.
    ``falls``: a sliding statistic before the onset over that after it. ``first``: that of the first layer over the
    largest of the others.
    """
    labels, meta = trace_labels(trace), trace.meta
    settles = bool((labels.onset_L >= 0).all())
    last = int(labels.onset_L.argmax())
    onset = int(labels.onset_L[last]) if settles else trace.steps
    back = [labels.transient_SL[row:, layer].mean() if row >= 0 else 1.0 for layer, row in enumerate(labels.onset_L)]
    edges = (onset, *labels.onset_band_L2[last].tolist()) if settles else (-1, -1, -1)
    statistics: dict[str, float] = {}
    for statistic, window in STATISTICS:
        value_SL = sliding_means(trace, statistic, window)
        before_L, after_L, all_L = (
            _means(value_SL[start + window : stop + 1])
            for start, stop in ((0, onset), (onset, trace.steps), (0, trace.steps))
        )
        statistics[f"falls {statistic} w={window}"] = before_L.mean() / after_L.mean()
        statistics[f"first {statistic} w={window}"] = all_L[0] / all_L[1:].max() if len(all_L) > 1 else np.nan
    return {
        "run": trace.id,
        "data_sha256": data_sha256(trace),
        "model": meta.family,
        "steps": trace.steps,
        "layers": trace.num_layers,
        "experts": trace.num_experts,
        "top_k": meta.top_k,
        "tokens": meta.global_batch_tokens,
        "lstm": train[0].id if train else "online",
        **{
            name: int(trace.step_S[row]) if row >= 0 else None
            for name, row in zip(("onset", "onset_low", "onset_high"), edges, strict=True)
        },
        "back": max(back),
        **statistics,
    }


def sliding_means(trace: Trace, statistic: Statistic, window: int) -> FloatArray:
    """Return a sliding statistic of the shares [S + 1, L], as a mean over experts; layer by layer to save memory."""
    compute, _ = SLIDING[statistic]
    share_S1E = (shares(trace.load_SLE[:, layer : layer + 1]) for layer in range(trace.num_layers))
    return np.concatenate([compute(share, window).mean(axis=2) for share in share_S1E], axis=1)


def _means(value_SL: FloatArray) -> FloatArray:
    """Return the mean [L] over rows; NaN without any."""
    finite_SL = np.isfinite(value_SL)
    return ratio_of(np.where(finite_SL, value_SL, 0.0).sum(axis=0), finite_SL.sum(axis=0))
