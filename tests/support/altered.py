"""The results of one entry with something changed: another entry, other scores, other costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results


def entry_of(results: Results) -> Entry:
    """Return the only entry."""
    (entry,) = results.entries.values()
    return entry


def with_entry(results: Results, **changes: Any) -> Results:
    """Change what describes the entry, but not its name."""
    entry = entry_of(results).model_copy(update=changes)
    return dataclasses.replace(results, entries={entry.name: entry})


def with_costs(results: Results, **changes: Any) -> Results:
    """Change columns of the costs."""
    return dataclasses.replace(results, table=results.table.assign(**changes))


def with_value(results: Results, value: float, metric: str = "window_tv", row: int = 1) -> Results:
    """Change one score: by default that of the first task of the first run at the second horizon."""
    table = results.table.copy()
    table.iloc[row, table.columns.get_loc(metric)] = value
    return dataclasses.replace(results, table=table)


def scaled(results: Results, metric: str, factor: float, traces: Collection[str] | None = None) -> Results:
    """Multiply a metric of all tasks of some runs, of all by default."""
    chosen = results.table["trace"].isin(results.traces if traces is None else traces)
    values = results.table[metric].where(~chosen, factor * results.table[metric])
    return dataclasses.replace(results, table=results.table.assign(**{metric: values}))
