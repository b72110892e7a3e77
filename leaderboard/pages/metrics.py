"""The table of docs/methods/metrics.md, from the catalogue of metrics."""

from __future__ import annotations

from collections.abc import Mapping

from leaderboard.pages.parts import Maker
from moeload_bench.results.markdown import markdown_table
from moeload_bench.scoring.catalogue import METRICS, UNBOUNDED, Metric

BETTER = {True: "less", False: "more", None: "-"}


def catalogue_table() -> str:
    """Return a row per metric: what it is, which direction is better, and which values it can take."""
    rows = [
        (f"`{one.label}`", one.plain, one.description, one.unit, BETTER[one.lower_is_better], _range(one))
        for one in METRICS.values()
    ]
    return markdown_table(("metric", "in plain words", "what it is", "unit", "better", "values"), rows)


def _range(metric: Metric) -> str:
    least, most = metric.span
    if metric.per_device:
        return f"{least:g} to D" + (f" - {-most:g}" if most else "")
    return f"from {least:g}" if most == UNBOUNDED else f"{least:g} to {most:g}"


PARTS: Mapping[str, Maker] = {"metrics": lambda _: catalogue_table()}
