"""Result tables for the terminal and for Markdown. Every table says over what each cell is a mean.

A cell is the mean over runs of the run's mean over its origins in that state, itself a mean over layers. States and
horizons are never averaged away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.results import Result, Results, RunResult
from moeload_bench.suite import STATES, Suite

if TYPE_CHECKING:
    from rich.table import Table


TINY = 1e-12
"""Keeps a ratio of two exact forecasts at 1."""


@dataclass(frozen=True)
class Row:
    """One forecaster in one state: the metric at each suite horizon, None where it does not exist."""

    forecaster: str
    state: str
    value_K: tuple[float | None, ...]
    runs: int
    origins: int
    per_forecast_s: float
    counts: dict[str, int]


def run_means(run: RunResult, state: str, metric: str) -> list[float | None]:
    """[K] the run's mean over its origins in a state; empty when there is none."""
    values = [task.metrics[metric] for task in run.tasks if task.state == state and metric in task.metrics]
    return [_mean([value[k] for value in values]) for k in range(len(values[0]))] if values else []


def rows(results: Sequence[Result], metric: str) -> Iterator[Row]:
    """A `Row` per state and forecaster, states in the order of training."""
    for state in STATES:
        for result in results:
            means = [mean for run in result.runs if (mean := run_means(run, state, metric))]
            if not means:
                continue
            spent = sum(run.cost.forecast_wall_s + run.cost.observe_wall_s for run in result.runs)
            counts: dict[str, int] = {}
            for run in result.runs:
                for name, count in run.counts.items():
                    counts[name] = counts.get(name, 0) + count
            yield Row(
                forecaster=result.name,
                state=state,
                value_K=tuple(_mean([mean[k] for mean in means]) for k in range(len(means[0]))),
                runs=len(means),
                origins=sum(task.state == state for run in result.runs for task in run.tasks),
                per_forecast_s=spent / max(1, sum(run.cost.forecasts for run in result.runs)),
                counts=counts,
            )


def floor_row(results: Sequence[Result], state: str, floor: str, metric: str) -> list[float | None]:
    """[K] the mean over runs of a floor of a metric in a state; empty where no run has it."""
    found = [
        run.floors[state][floor][metric]
        for run in results[0].runs
        if metric in run.floors.get(state, {}).get(floor, {})
    ]
    return [_mean([values[k] for values in found]) for k in range(len(found[0]))] if found else []


def result_table(results: Results, suite: Suite, metric: str) -> Table | None:
    """A table forecaster x state x horizon of one metric, with the floors; None when no result has the metric."""
    from rich.table import Table

    listed = list(rows(results, metric))
    if not listed:
        return None
    table = Table(title=f"{metric}, suite {suite.name}", caption=caption(listed, metric), caption_justify="left")
    table.add_column("state")
    table.add_column("forecaster")
    for horizon in suite.horizons:
        table.add_column(f"h={horizon}", justify="right")
    table.add_column("ms per forecast", justify="right")
    for state in STATES:
        here = [row for row in listed if row.state == state]
        for row in here:
            table.add_row(state, row.forecaster, *map(cell, row.value_K), f"{1e3 * row.per_forecast_s:.2f}")
        for floor in ("floor_batch", "floor_level"):
            values = floor_row(results, state, floor, metric) if here else []
            if values:
                table.add_row(state, floor, *map(cell, values), "", style="dim")
        table.add_section()
    return table


def caption(listed: Sequence[Row], metric: str) -> str:
    """Over what the cells are means, and what the forecasters counted."""
    spans = {row.state: (row.runs, row.origins) for row in listed}
    parts = [f"{state}: {origins} origins of {runs} run(s)" for state, (runs, origins) in spans.items()]
    counted = {row.forecaster: row.counts for row in listed if row.counts}
    events = [f"{name}: " + ", ".join(f"{k} {v}" for k, v in counts.items()) for name, counts in counted.items()]
    text = f"{metric}: mean over runs of means over origins and layers; " + "; ".join(parts)
    return text + ("; counted by the forecaster: " + "; ".join(events) if events else "")


def failure_lines(results: Results) -> Iterator[str]:
    """One line per distinct failure: forecaster, trace, how many tasks, the first origin, the reason."""
    grouped: dict[tuple[str, str, str], list[int]] = {}
    for name, trace, task in results.failures:
        grouped.setdefault((name, trace, task.failure or ""), []).append(task.origin)
    for (name, trace, reason), origins in grouped.items():
        yield f"failed: {name} on {trace}, {len(origins)} task(s) from origin {min(origins)}: {reason}"


def best_lines(results: Results, metric: str) -> Iterator[str]:
    """Which forecaster served best in each state: least mean over the horizons' ratios to the row's best."""
    listed = list(rows(results, metric))
    for state in STATES:
        here = [row for row in listed if row.state == state]
        if not here:
            yield f"{state}: the trace has no origin in this state"
            continue
        value_RK = np.array([[np.inf if value is None else value for value in row.value_K] for row in here])
        ratio_RK = (value_RK + TINY) / (value_RK.min(axis=0) + TINY)
        best = here[int(ratio_RK.mean(axis=1).argmin())]
        yield f"{state}: {best.forecaster} served best ({metric}, horizons weighted alike)"


def cell(value: float | None) -> str:
    """Three significant digits, "-" for nothing."""
    return "-" if value is None else f"{value:.3g}"


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None
