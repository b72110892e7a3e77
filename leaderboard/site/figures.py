"""What the charts of a trace's page are drawn from: shares over time, drift, and the states that the rule says.

Axis letters: S rows, L MoE layers, E experts, N bins.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from moeload_bench.plots import View
from moeload_bench.traces.trace import shares

ACROSS = 4
"""Bins are as fine as so many panels side by side allow."""
PARTS = 100_000
"""Shares are whole numbers of so many parts: a page holds tens of thousands of them."""


def trace_data(view: View) -> dict[str, Any]:
    """Return the means of bins of steps by layer and expert, and the states with their onsets, as JSON."""
    trace, labels, first = view.trace, view.labels, int(view.trace.step_S[0])
    stride = trace.meta.stride
    layers = []
    edges = view.binned(trace.tokens_SL[view.rows], across=ACROSS).edge_N1
    for layer in view.layers:
        share_NE = view.binned(shares(trace.load_SLE[view.rows, layer]), across=ACROSS).mean_NX
        row: dict[str, Any] = {"name": view.name(layer).removeprefix("layer "), "share": _whole(PARTS * share_NE)}
        if labels is not None:
            drift_N = view.binned(labels.drift_SL[view.rows, layer], across=ACROSS).mean_NX
            onset, low, high = (int(one) for one in (labels.onset_L[layer], *labels.onset_band_L2[layer]))
            end = trace.steps if high < 0 else high
            row |= {
                "drift": _whole(PARTS * drift_N),
                "spans": list(view.spans(layer)),
                "onset": first + onset * stride if onset >= 0 else None,
                "band": [first + low * stride, first + end * stride] if low >= 0 else None,
            }
        layers.append(row)
    rule = None if labels is None else {"high": labels.rule.high, "low": labels.rule.low}
    return {"edges": edges.tolist(), "parts": PARTS, "layers": layers, "shifts": view.shifts(), "rule": rule}


def _whole(value_X: Any) -> Any:
    """Return whole numbers as nested lists; None for what is not there."""
    return np.where(np.isnan(value_X), None, np.nan_to_num(value_X).round().astype(int)).tolist()


@functools.cache
def trace_specs() -> dict[str, Any]:
    """Vega-Lite specifications of the three charts, the same for every trace; the page puts in the data by layer.

    Of shares and loads: `lines` (step, expert, share, rank), `cells` (step, end, expert, load: the binary logarithm of
    load over even load), `dead` (step, end, expert: no token), `spans` (start, end, state), `even` (share), `shifts`
    (step). Of states: `drift` (step, layer, drift), `rules` (drift, what), `bars` (start, end, state, layer), `bands`
    (start, end, layer), `onsets` (step, layer).
    """
    import altair as alt

    from leaderboard.site.charts import finished

    step = alt.X("step:Q", title="training step", scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, format="~s"))
    state = alt.Color("state:N", legend=None, scale=alt.Scale(
        domain=["transient", "mixed", "stable"], range=["#e69f00", "#999999", "#56b4e9"]))  # fmt: skip

    def data(name: str) -> Any:
        return alt.Chart(alt.NamedData(name=name))

    def ramp(field: str) -> Any:
        return alt.Color(f"{field}:Q", legend=None)

    strip = data("spans").mark_rect().encode(
        x=alt.X("start:Q"), x2="end:Q", y=alt.value(-9), y2=alt.value(-3), color=state, tooltip=["state:N"]
    )  # fmt: skip
    shifts = data("shifts").mark_rule(strokeDash=[1, 2]).encode(x=step)
    tip = ["expert:N", alt.Tooltip("step:Q", format=",.0f"), alt.Tooltip("share:Q", format=".3p")]
    lines = data("lines").mark_line(strokeWidth=1).encode(
        x=step, y=alt.Y("share:Q", title="share of tokens", axis=alt.Axis(format="~p", tickCount=5)),
        color=ramp("rank"), detail="expert:N", tooltip=tip,
    )  # fmt: skip
    even = data("even").mark_rule(strokeDash=[6, 3]).encode(y="share:Q")
    expert = alt.Y("expert:O", title="expert", axis=alt.Axis(labelOverlap=True, ticks=False))
    colour = alt.Color("load:Q", legend=None, scale=alt.Scale(domain=[-3, 3], domainMid=0, clamp=True))
    cells = data("cells").mark_rect().encode(
        x=step, x2="end:Q", y=expert, color=colour, tooltip=["expert:N", alt.Tooltip("times:Q", format=".2f")]
    )  # fmt: skip
    dead = data("dead").mark_rect(color="black").encode(x=step, x2="end:Q", y=expert)
    drift = data("drift").mark_line(strokeWidth=1.2).encode(
        x=step, color=ramp("rank"), detail="layer:N", tooltip=["layer:N", alt.Tooltip("drift:Q", format=".3p")],
        y=alt.Y("drift:Q", title="drift", scale=alt.Scale(type="sqrt"), axis=alt.Axis(format="~p", tickCount=5)),
    )  # fmt: skip
    rules = data("rules").mark_rule(strokeDash=[6, 3]).encode(y="drift:Q", tooltip=["what:N"])
    layer = alt.Y("layer:N", title="layer", sort=None, axis=alt.Axis(ticks=False))
    bars = data("bars").mark_rect().encode(x=alt.X("start:Q", title="training step"), x2="end:Q", y=layer, color=state,
                                           tooltip=["layer:N", "state:N", "start:Q", "end:Q"])  # fmt: skip
    bands = data("bands").mark_rule(strokeWidth=1.5).encode(x="start:Q", x2="end:Q", y=layer)
    onsets = data("onsets").mark_tick(thickness=2.5).encode(x=step, y=layer, tooltip=["layer:N", "step:Q"])
    return {
        "shares": finished(alt.layer(strip, lines, even, shifts), "Share of each expert over training", 190),
        "loads": finished(alt.layer(strip, cells, dead, shifts), "Load of each expert over an even load", 190),
        "drift": finished(alt.layer(drift, rules, shifts), "Drift of each layer", 230),
        "states": finished(alt.layer(bars, bands, onsets), "State of each layer over training", None),
    }
