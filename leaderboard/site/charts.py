"""Vega-Lite specifications of the two charts of the leaderboard; data, colours and shapes are put in by the page.

Named data of error against horizon: `rows` (forecaster, horizon, value, text, colour, shape) and `floors` (floor,
horizon, value, text, dash) of one state, `extent` (value) of all panels. Of accuracy against cost: `points`
(forecaster, ms, ms_text: CPU time, value, text, front, colour, shape) and `floor` (value, text).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from typing import Any

from leaderboard.site import words
from moeload_bench.scoring.catalogue import lower_is_better

HEIGHT = 270
METRIC, TITLE = "<METRIC>", "<TITLE>"
"""Stand for a metric, and for it with its unit, in specifications that serve for all of them."""
TICKS = [m * 10.0**e for e in range(-7, 7) for m in (1, 2, 5)]
"""Where a logarithmic axis may have a tick."""


def chart_specs(metric: str, least: float, horizons: Sequence[int]) -> dict[str, Any]:
    """Return both specifications for a metric; its axis is logarithmic where every value is positive.

    ``least`` is the least value of all views, infinite without any.
    """
    log = 0 < least < math.inf and bool(lower_is_better(metric))
    specs: dict[str, Any] = json.loads(
        _specs(log, tuple(horizons)).replace(TITLE, axis_title(metric)).replace(METRIC, metric)
    )
    return specs


@functools.lru_cache
def _specs(log: bool, horizons: tuple[int, ...]) -> str:
    """Return both specifications of any metric as JSON: they differ in its name alone, and drawing them is dear."""
    return json.dumps({"horizon": horizon_chart(log, horizons), "cost": cost_chart(log)})


def horizon_chart(log: bool, horizons: Sequence[int]) -> dict[str, Any]:
    """Draw a metric against the horizon, one line per forecaster, floors dashed."""
    import altair as alt

    x = alt.X("horizon:Q", title="horizon (training steps)", scale=alt.Scale(type="log", nice=False, padding=6),
              axis=alt.Axis(format="~s", grid=False, values=list(horizons)))  # fmt: skip
    y = _value_axis(log)
    steps, text = alt.Tooltip("horizon:Q", format=",", title="horizon"), alt.Tooltip("text:N", title=METRIC)
    dash = alt.StrokeDash("dash:N", scale=None)
    floors = alt.Chart(alt.NamedData(name="floors")).mark_line(strokeWidth=1.2).encode(
        x=x, y=y, detail="floor:N", strokeDash=dash, tooltip=["floor:N", steps, text]
    )  # fmt: skip
    rows = alt.Chart(alt.NamedData(name="rows")).encode(x=x, y=y, color=_own("Color", "colour"), detail="forecaster:N")
    lines = rows.mark_line(strokeWidth=1.6)
    points = rows.mark_point(filled=True, size=42, opacity=1).encode(
        shape=_own("Shape", "shape"), tooltip=["forecaster:N", steps, text]
    )
    extent = alt.Chart(alt.NamedData(name="extent")).mark_point(opacity=0).encode(y=y)
    return finished(alt.layer(extent, floors, lines, points), f"{METRIC} against the horizon, a line per forecaster")


def cost_chart(log: bool) -> dict[str, Any]:
    """Draw a metric against the CPU time of a forecast; the line joins the forecasters that none beats in both."""
    import altair as alt

    x = alt.X("ms:Q", title="time per forecast, observing included (ms of CPU time)",
              scale=alt.Scale(type="log", nice=False, padding=30),
              axis=alt.Axis(grid=False, values=TICKS, format="~g"))  # fmt: skip
    y = _value_axis(log)
    data = alt.NamedData(name="points")
    tip = ["forecaster:N", alt.Tooltip("ms_text:N", title="CPU ms per forecast"), alt.Tooltip("text:N", title=METRIC)]
    points = alt.Chart(data).mark_point(filled=True, size=95, opacity=1).encode(
        x=x, y=y, color=_own("Color", "colour"), shape=_own("Shape", "shape"), tooltip=tip
    )  # fmt: skip
    on_front = alt.Chart(data).transform_filter("datum.front == 'front'")
    line = on_front.mark_line(interpolate="step-after", strokeWidth=1.2).encode(x=x, y=y, order="ms:Q")
    floor = alt.Chart(alt.NamedData(name="floor")).mark_rule(strokeDash=[6, 3]).encode(
        y=y, tooltip=[alt.Tooltip("text:N", title="floor_batch")]
    )  # fmt: skip
    return finished(alt.layer(floor, line, points), f"{METRIC} against the CPU time that a forecast takes")


def axis_title(metric: str) -> str:
    """Return the metric with its unit."""
    unit = words.metric_unit(metric)
    return f"{metric} ({unit})" if unit else metric


def _value_axis(log: bool) -> Any:
    import altair as alt

    scale = alt.Scale(type="log", nice=False, padding=10) if log else alt.Scale(nice=False, padding=10, zero=False)
    axis = alt.Axis(format="~g", values=TICKS) if log else alt.Axis(format="~g", tickCount=6)
    return alt.Y("value:Q", title=TITLE, scale=scale, axis=axis)


def _own(channel: str, field: str) -> Any:
    """Return a channel whose values are in the data as they are drawn; the page has one legend for all charts."""
    import altair as alt

    return getattr(alt, channel)(f"{field}:N", scale=None, legend=None)


def finished(chart: Any, description: str, height: int | None = HEIGHT) -> dict[str, Any]:
    """Return the specification without a width of its own: it fills its box; colours come from the page's theme."""
    given = {} if height is None else {"height": height}
    spec: dict[str, Any] = chart.properties(width="container", description=description, **given).to_dict()
    spec.pop("config", None)
    spec.pop("$schema", None)
    spec["autosize"] = {"type": "fit", "contains": "padding", "resize": True}
    return spec
