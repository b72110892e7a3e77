"""The numbers of a snapshot by the names that dashboards show: few, stable, documented in docs/guide/live.md.

Axis letters: L MoE layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.inspection.snapshots import Snapshot

PREFIX = "moe"
VALUES: Mapping[str, str] = {
    "maxvio": "max / mean expert load - 1, mean over the steps of the last window",
    "imbalance": "max / mean device load under the plan in force, mean over the steps of the last window",
    "entropy": "entropy of the last window's mean shares over ln E: 1 is even",
    "dead": "experts with less than a tenth of the even share",
    "dying": "experts that the alarm warns of: below a fifth of the even share and falling, until it is back",
    "drift": "fraction of the layer's tokens that moves between neighbouring windows",
    "transient": "1 while the layer is transient, 0 once it is stable",
    "forecast_tv": "mean window_tv of the last finished forecasts",
    "last_value_tv": "mean window_tv of the last step's shares, taken as a forecast at the same steps",
    "floor_tv": "the batch noise's own part of that error (with half batches only)",
}
RUN: Mapping[str, str] = {
    "advice/layers": "layers that the advice says to re-plan now, 0: leave it",
    "advice/saves_percent": "what that saves of the step time over the coming steps, before the move is paid",
    "advice/costs_percent": "what the move costs, over the same steps",
    "saved_percent": "saved so far by the plans in force against the even spread, migration charged",
}
LEAST_IS_WORST = ("entropy",)


def metrics_of(snapshot: Snapshot, *, all_layers: bool = False) -> dict[str, float]:
    """Name to number: `moe/mean/NAME` and `moe/worst/NAME` over layers, `moe/NAME` of the run.

    With ``all_layers`` also `moe/layer_03/NAME`, numbered as the layers come. What is not known is left out.
    """
    out: dict[str, float] = {}
    for name, value_L in _values(snapshot).items():
        known_L = value_L[np.isfinite(value_L)]
        if known_L.size:
            out[f"{PREFIX}/mean/{name}"] = float(known_L.mean())
            out[f"{PREFIX}/worst/{name}"] = float(known_L.min() if name in LEAST_IS_WORST else known_L.max())
        if all_layers:
            layers = enumerate(value_L.tolist())
            out |= {f"{PREFIX}/layer_{i:02}/{name}": value for i, value in layers if np.isfinite(value)}
    if snapshot.advice is not None and snapshot.placing is not None:
        advice = snapshot.advice
        numbers = (len(advice.layers), advice.saves_percent, advice.costs_percent, snapshot.placing.saved_percent)
        named = zip(RUN, numbers, strict=True)
        out |= {f"{PREFIX}/{name}": float(value) for name, value in named if np.isfinite(value)}
    return out


def console_line(values: Mapping[str, float], step: int) -> str:
    """Return what a console says of a step's numbers: `moe, step 500: 40 % of layers transient, ...`."""
    said: tuple[tuple[str, Callable[[float], str]], ...] = (
        ("mean/transient", lambda x: f"{100 * x:.0f} % of layers transient"),
        ("worst/maxvio", lambda x: f"busiest expert {1 + x:.2f} times the mean"),
        ("worst/dead", lambda x: f"up to {x:.0f} dead experts in a layer"),
        ("mean/forecast_tv", lambda x: f"forecasts misplace {100 * x:.1f} % of tokens"),
        ("advice/layers", lambda x: f"advice: re-plan {x:.0f} layers" if x else "advice: leave the placement"),
    )
    known = [words(values[f"{PREFIX}/{name}"]) for name, words in said if f"{PREFIX}/{name}" in values]
    return f"{PREFIX}, step {step:,}: {', '.join(known)}"


def _values(snapshot: Snapshot) -> dict[str, FloatArray]:
    """Per layer, in the order of `VALUES`; NaN where not known."""
    scores = snapshot.outlook.lately
    values = (
        snapshot.maxvio_L,
        snapshot.imbalance_L,
        snapshot.entropy_L,
        snapshot.dead_LE.sum(axis=1).astype(np.float64),
        snapshot.dying_LE.sum(axis=1).astype(np.float64),
        snapshot.drift_L,
        snapshot.transient_L.astype(np.float64),
        scores.forecast_L,
        scores.last_value_L,
        scores.floor_L,
    )
    return dict(zip(VALUES, values, strict=True))
