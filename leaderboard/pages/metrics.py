"""The table of docs/methods/metrics.md, from the catalogue of metrics."""

from __future__ import annotations

from collections.abc import Mapping

from leaderboard.pages.parts import Maker
from moeload_bench.results.render import markdown_table
from moeload_bench.scoring.catalogue import METRICS, UNBOUNDED, Metric

BETTER = {True: "less", False: "more", None: "-"}


def metric_table() -> str:
    """Return a row per metric: its definition, which direction is better, and which values it can take."""
    rows = [
        (f"`{metric.label}`", metric.plain, metric.definition, BETTER[metric.lower_is_better], _range(metric))
        for metric in METRICS.values()
    ]
    return markdown_table(("metric", "in plain words", "definition", "better", "values"), rows)


def _range(metric: Metric) -> str:
    if metric.per_device:
        return f"{metric.least:g} to D" + (f" - {-metric.most:g}" if metric.most else "")
    return f"from {metric.least:g}" if metric.most == UNBOUNDED else f"{metric.least:g} to {metric.most:g}"


PARTS: Mapping[str, Maker] = {"metrics": lambda _: metric_table()}
