"""What a forecaster scored on one run: the unit that workers return and the cache keeps, and the table of many.

Axis letters: K suite horizons, L MoE layers. Numbers are kept to nine significant digits; a value that does not exist
(a layer without load) is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from moeload_bench.errors import counted, printable
from moeload_bench.results.columns import COST_KEYS, LAYER_KEYS, ROW_KEYS, CostResult, fact_frame, number_frame
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results
from moeload_bench.results.trace_facts import FloorMarks, Floors, TraceFacts, Value
from moeload_bench.schema import Record, extra_field

if TYPE_CHECKING:
    import pandas as pd


class TaskResult(Record):
    """One origin of one run. ``metrics`` holds, by metric, the mean over layers at each suite horizon [K]."""

    origin: int
    state: Literal["transient", "mixed", "stable"]
    crossing: tuple[bool, ...] = Field(description="[K]: the window contains a change of state or a planned switch")
    failure: str | None = None
    metrics: dict[str, tuple[Value, ...]]


class RunResult(Record):
    """One forecaster on one run.

    ``per_layer[state][metric]`` is [K][L], the mean over the state's origins; ``floors``, ``floor_marks`` and each
    task's ``crossing`` are the trace's (`results.trace_facts.TraceFacts`).
    ``counts`` are events that the forecaster counted itself (`not_converged`, `fallback`). ``accounting``: how memory
    and CPU time of its processes were counted and limited; earlier results had control groups. Left out where unknown.
    """

    trace: str
    data_sha256: str
    layers: int
    experts: int
    tasks: tuple[TaskResult, ...]
    per_layer: dict[str, dict[str, tuple[tuple[Value, ...], ...]]] = {}
    floors: Floors = {}
    floor_marks: FloorMarks = {}
    counts: dict[str, int] = {}
    cost: CostResult
    forecasts_sha256: str
    accounting: Literal["cgroup v2", "cgroup v1", "processes"] | None = extra_field(None)

    def __repr__(self) -> str:
        size = f"{counted(self.layers, 'layer')} of {counted(self.experts, 'expert')}"
        return f"RunResult: {printable(self.trace)}, {size}, {counted(len(self.tasks), 'task')}"

    __str__ = __repr__

    @property
    def recipe(self) -> str:
        return self.trace.split("/")[0]

    @property
    def failures(self) -> list[TaskResult]:
        return [task for task in self.tasks if task.failure is not None]

    @property
    def facts(self) -> TraceFacts:
        """Return what of this record belongs to the trace."""
        return TraceFacts(
            data_sha256=self.data_sha256,
            crossing={task.origin: task.crossing for task in self.tasks},
            floors=self.floors,
            floor_marks=self.floor_marks,
        )


def results_of(entries: Sequence[Entry], runs: Mapping[str, Sequence[RunResult]], strata: Mapping[str, str]) -> Results:
    """Return the table of what forecasters scored; ``strata`` has the stratum of each trace that is in one."""
    horizons = entries[0].suite.horizons if entries else ()
    facts = {run.trace: run.facts for found in runs.values() for run in found}
    return Results(
        {entry.name: entry for entry in entries},
        number_frame(_rows(runs, horizons, strata), ROW_KEYS),
        _cost_frame(runs),
        fact_frame(facts, horizons),
        number_frame(_layers(runs, horizons), LAYER_KEYS),
    )


def _cost_frame(runs: Mapping[str, Sequence[RunResult]]) -> pd.DataFrame:
    """Return what forecasters cost and counted; ``counts`` is JSON, events by name."""
    import pandas as pd

    records = [
        {
            "forecaster": name,
            "trace": run.trace,
            "data_sha256": run.data_sha256,
            "layers": run.layers,
            "experts": run.experts,
            **run.cost.model_dump(),
            "counts": json.dumps(run.counts, sort_keys=True),
            "forecasts_sha256": run.forecasts_sha256,
            "accounting": run.accounting,
        }
        for name, found in runs.items()
        for run in found
    ]
    return pd.DataFrame(records, columns=list(COST_KEYS))


def _rows(
    runs: Mapping[str, Sequence[RunResult]], horizons: Sequence[int], strata: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    for name, found in runs.items():
        for run in found:
            for task in run.tasks:
                for k, horizon in enumerate(horizons):
                    yield {
                        "forecaster": name,
                        "trace": run.trace,
                        "recipe": run.recipe,
                        "stratum": strata.get(run.trace),
                        "state": task.state,
                        "crossing": task.crossing[k],
                        "origin": task.origin,
                        "horizon": horizon,
                        "failure": task.failure,
                        **{metric: values[k] for metric, values in task.metrics.items()},
                    }


def _layers(runs: Mapping[str, Sequence[RunResult]], horizons: Sequence[int]) -> Iterator[dict[str, Any]]:
    for name, found in runs.items():
        for run in found:
            for state, metrics in run.per_layer.items():
                for k, horizon in enumerate(horizons):
                    for layer in range(run.layers):
                        means = {metric: values[k][layer] for metric, values in metrics.items()}
                        yield {
                            "forecaster": name, "trace": run.trace, "state": state, "layer": layer, "horizon": horizon,
                        } | means  # fmt: skip


def rounded(value: float) -> Value:
    """Round to nine significant digits; what is not finite becomes None."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def rounded_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Round nested mappings of arrays, as `rounded` does."""
    return {key: rounded_tree(v) if isinstance(v, Mapping) else _rounded_array(v) for key, v in tree.items()}


def _rounded_array(array: Any) -> Any:
    if hasattr(array, "tolist"):
        array = array.tolist()
    return [_rounded_array(item) for item in array] if isinstance(array, list | tuple) else rounded(float(array))
