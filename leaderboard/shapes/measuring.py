"""What is measured on a run, layer by layer, and whether its layers move together.

Axis letters: S rows, W windows, L MoE layers, N shuffles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moeload_bench.arrays import FloatArray
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import describe_layers
from moeload_bench.states.rule import trace_labels
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.store import data_sha256
from moeload_bench.traces.trace import Trace

FORECASTER, HORIZON = "sw_avg", 100
"""Whose error is shown by depth, and how far ahead in steps."""
WINDOW = 100
"""Steps between two values of a layer's drift, whose windows then share no row."""
SETTLED_FROM = 1 / 3
"""Part of a run after which drift is averaged."""
SHUFFLES = 200


class Together(NamedTuple):
    """Mean rank correlation of the changes of drift of two layers: neighbours, all pairs, and what chance explains.

    ``chance``: the 95 % quantile of ``pairs`` when each layer's changes are shifted in time by a drawn number of
    windows.
    """

    neighbours: float
    pairs: float
    chance: float


def measure_layers(trace: Trace) -> pd.DataFrame:
    """Return a row per MoE layer, the first one first.

    ``onset``: the step at which it becomes stable, NaN for never; ``drift``: its mean drift (docs/methods/states.md)
    after a third of the run; ``imbalance``: largest over mean share of the last 100 steps; ``dead``: experts without
    load in them; ``error``: mean `window_tv` of FORECASTER over HORIZON steps, over origins of both states.
    """
    described, labels = describe_layers(trace), trace_labels(trace)
    results = evaluate([FORECASTER], suite_for_trace(trace), traces=[trace], level="none", shapes=())
    assert results.layers is not None
    errors = results.layers[results.layers["horizon"] == HORIZON].groupby("layer")[PRIMARY].mean()
    return pd.DataFrame(
        {
            "run": trace.id,
            "layer": np.arange(trace.num_layers),
            "onset": [None if one.onset is None else one.onset.step for one in described],
            "drift": np.nanmean(labels.drift_SL[int(trace.steps * SETTLED_FROM) :], axis=0),
            "imbalance": [one.imbalance_last for one in described],
            "dead": [one.dead_experts for one in described],
            "error": errors.sort_index().to_numpy(),
        }
    )


def measure_run(trace: Trace) -> dict[str, Any]:
    """Return a run's row: its shape, and how far its layers move together."""
    return {
        "run": trace.id,
        "data_sha256": data_sha256(trace),
        "steps": trace.steps,
        "layers": trace.num_layers,
        "experts": trace.num_experts,
        "top_k": trace.meta.top_k,
        **layers_together(trace_labels(trace).drift_SL)._asdict(),
    }


def layers_together(drift_SL: FloatArray) -> Together:
    """Return how far the changes of drift from one window to the next agree between layers, early windows left out."""
    drift_WL = drift_SL[WINDOW - 1 :: WINDOW]
    change_WL = np.diff(drift_WL[len(drift_WL) // 6 :], axis=0)
    change_WL = change_WL[np.isfinite(change_WL).all(axis=1)]
    random = np.random.default_rng(0)
    by_chance = [
        _pairs(np.stack([np.roll(change_W, random.integers(len(change_WL))) for change_W in change_WL.T], axis=1))
        for _ in range(SHUFFLES)
    ]
    neighbours = np.diagonal(_rank_correlation(change_WL), offset=1).mean()
    return Together(float(neighbours), _pairs(change_WL), float(np.quantile(by_chance, 0.95)))


def _rank_correlation(change_WL: FloatArray) -> FloatArray:
    return np.asarray(pd.DataFrame(change_WL).corr("spearman"))


def _pairs(change_WL: FloatArray) -> float:
    """Return the mean over pairs of different layers."""
    found_LL = _rank_correlation(change_WL)
    return float(found_LL[np.triu_indices(len(found_LL), 1)].mean())
