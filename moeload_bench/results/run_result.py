"""What a forecaster scored on one run: the unit that workers return and the cache keeps.

Axis letters: K suite horizons, L MoE layers. Numbers are kept to nine significant digits; a value that does not exist
(a layer without load) is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from moeload_bench.errors import counted, printable
from moeload_bench.results.trace_facts import FloorMarks, Floors, TraceFacts, Value
from moeload_bench.schema import Record, later


class TaskResult(Record):
    """One origin of one run. ``metrics`` holds, by metric, the mean over layers at each suite horizon [K]."""

    origin: int
    state: Literal["transient", "mixed", "stable"]
    crossing: tuple[bool, ...] = Field(description="[K]: the window contains a change of state or a planned switch")
    failure: str | None = None
    metrics: dict[str, tuple[Value, ...]]


class CostResult(Record):
    """What a run cost, measured by the harness. Seconds; bytes; None where it could not be measured."""

    observe_wall_s: float = 0.0
    observe_cpu_s: float | None = None
    forecast_wall_s: float = 0.0
    forecast_cpu_s: float | None = None
    startup_wall_s: float = 0.0
    observed_rows: int = 0
    forecasts: int = 0
    peak_memory_bytes: int | None = None
    training_step_s: float | None = Field(default=None, description="median recorded training time of a row")


class RunResult(Record):
    """One forecaster on one run.

    ``per_layer[state][metric]`` is [K][L], the mean over the state's origins; ``floors``, ``floor_marks`` and each
    task's ``crossing`` are the trace's (`results.trace_facts.TraceFacts`).
    ``counts`` are events that the forecaster counted itself (`not_converged`, `fallback`). ``accounting``: how memory
    and CPU time of its processes were counted and limited (docs/methods/isolation.md); left out where it is not known.
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
    accounting: Literal["cgroup v2", "cgroup v1", "processes"] | None = later(None)

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
