"""The series that a monitor logs: few, with stable names (docs/guide/live.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moeload_bench.inspection.facts import Inspection

PREFIX = "moe"
SERIES: Mapping[str, str] = {
    "max_violation": "busiest expert's load over the mean, less 1, in the worst layer; mean over the last 200 rows",
    "mean_violation": "the same, mean over layers",
    "dead": "experts in all layers with less than a tenth of an equal share",
    "drift": "fraction of tokens that moves between neighbouring windows, mean over layers",
    "events": "events so far: layers that settled or moved again, experts that collapsed, died or recovered",
}


def series_of(found: Inspection) -> dict[str, float]:
    """Return `moe/NAME` of each of `SERIES`; what is not known is left out."""
    violation_L = found.busiest_L - 1
    known_L = violation_L[np.isfinite(violation_L)]
    values: dict[str, float] = {}
    if known_L.size:
        values = {
            "max_violation": float(known_L.max()),
            "mean_violation": float(known_L.mean()),
            "dead": float(found.dead_LE.sum()),
            "events": float(found.events.total),
        }
    if found.states is not None and np.isfinite(found.states.drift_L).any():
        values["drift"] = float(np.nanmean(found.states.drift_L))
    return {f"{PREFIX}/{name}": values[name] for name in SERIES if name in values}


def console_line(values: Mapping[str, float], step: int) -> str:
    """Return what a console says of a step: `moe, step 500: busiest expert 2.58 times the mean, 3 dead, ...`."""
    known = [
        words.format(values[f"{PREFIX}/{name}"])
        for name, words in (
            ("max_violation", "violation {:.2f} in the worst layer"),
            ("mean_violation", "{:.2f} on average"),
            ("dead", "{:,.0f} experts dead"),
            ("drift", "drift {:.1%} of tokens"),
            ("events", "{:,.0f} events"),
        )
        if f"{PREFIX}/{name}" in values
    ]
    return f"{PREFIX}, step {step:,}: {', '.join(known) or 'no load'}"
