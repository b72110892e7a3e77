"""The result record: what one forecaster scored on one suite, and all that is needed to obtain it again.

Axis letters: O origins, K suite horizons, L MoE layers. Numbers are kept to nine significant digits; a value that
does not exist (a layer without load) is null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from moeload_bench.environment import Environment
from moeload_bench.errors import ResultError
from moeload_bench.schema import Record, first_problem

if TYPE_CHECKING:
    import pandas as pd

MAX_RESULT_BYTES = 64 << 20

Status = Literal["claimed", "checked", "verified"]
Value = float | None


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
    training_step_s: float | None = Field(default=None, description="median recorded time of a training step")

    @property
    def per_forecast_s(self) -> float:
        """Seconds per answered origin, observing included."""
        return (self.observe_wall_s + self.forecast_wall_s) / max(1, self.forecasts)

    @property
    def of_training(self) -> float | None:
        """Seconds spent per second of the recorded training; None where its step time or the cost is not known."""
        trained_s = (self.training_step_s or 0.0) * self.observed_rows
        return (self.observe_wall_s + self.forecast_wall_s) / trained_s if trained_s else None


class RunResult(Record):
    """One forecaster on one run.

    ``per_layer[state][metric]`` is [K][L], the mean over the state's origins; ``floors[state][floor][metric]`` is [K],
    ``floor_marks[floor]`` says how far a floor can be trusted.
    ``counts`` are events that the forecaster counted itself (`not_converged`, `fallback`).
    """

    trace: str
    data_sha256: str
    layers: int
    experts: int
    tasks: tuple[TaskResult, ...]
    per_layer: dict[str, dict[str, tuple[tuple[Value, ...], ...]]] = {}
    floors: dict[str, dict[str, dict[str, tuple[Value, ...]]]] = {}
    floor_marks: dict[str, Literal["exact", "approximate", "not given"]] = {}
    counts: dict[str, int] = {}
    cost: CostResult
    forecasts_sha256: str

    @property
    def recipe(self) -> str:
        return self.trace.split("/")[0]

    @property
    def failures(self) -> list[TaskResult]:
        return [task for task in self.tasks if task.failure is not None]


class ForecasterRecord(Record):
    """Which forecaster this was."""

    name: str
    target: str
    source_sha256: str
    kwargs: dict[str, Any] = {}
    requirements: tuple[str, ...] = ()


class SuiteRecord(Record):
    """Which task list was run."""

    name: str
    sha256: str
    horizons: tuple[int, ...]
    reference: str


class Result(Record):
    """One forecaster on one suite."""

    schema_version: Literal[1] = 1
    status: Status = "claimed"
    suite: SuiteRecord
    forecaster: ForecasterRecord
    scoring_version: int
    isolation: str
    seed: int
    fit_wall_s: float | None = None
    environment: Environment
    runs: tuple[RunResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.forecaster.name

    @property
    def failures(self) -> list[tuple[str, TaskResult]]:
        """(trace, task) of every failed task."""
        return [(run.trace, task) for run in self.runs for task in run.failures]

    def to_json(self) -> str:
        """Canonical text: sorted keys, one space of indent, a final newline."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record, replacing what was there in one move."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.tmp")
        scratch.write_text(self.to_json())
        os.replace(scratch, target)
        return target


class Results(Sequence[Result]):
    """What `evaluate` returns: one result per forecaster, in the order asked for."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = tuple(results)

    def __len__(self) -> int:
        return len(self._results)

    def __getitem__(self, index: Any) -> Any:
        return self._results[index]

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    @property
    def failures(self) -> list[tuple[str, str, TaskResult]]:
        """(forecaster, trace, task) of every failed task."""
        return [(result.name, trace, task) for result in self for trace, task in result.failures]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One flat record per (forecaster, trace, origin, horizon)."""
        for result in self:
            for run in result.runs:
                for task in run.tasks:
                    for k, horizon in enumerate(result.suite.horizons):
                        yield {
                            "forecaster": result.name,
                            "trace": run.trace,
                            "recipe": run.recipe,
                            "state": task.state,
                            "origin": task.origin,
                            "horizon": horizon,
                            "crossing": task.crossing[k],
                            "failure": task.failure,
                            **{metric: values[k] for metric, values in task.metrics.items()},
                        }

    def to_pandas(self) -> pd.DataFrame:
        """`rows` as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def to_json(self) -> str:
        """A JSON list of the results."""
        return "[" + ",\n".join(result.to_json().rstrip() for result in self) + "]\n"


def load_result(path: str | os.PathLike[str]) -> Result:
    """Read a result record; raises `ResultError` naming the file and field."""
    source = Path(path)
    try:
        size = source.stat().st_size
        if size > MAX_RESULT_BYTES:
            raise ResultError(f"{source}: {size} bytes, at most {MAX_RESULT_BYTES} are read")
        return Result.model_validate_json(source.read_bytes())
    except OSError as error:
        raise ResultError(f"{source}: {error.strerror}") from None
    except ValidationError as error:
        raise ResultError(f"{source}: {first_problem(error, 'record')}") from None


def rounded(value: float) -> Value:
    """Nine significant digits; what is not finite becomes None."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def rounded_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`rounded` over nested mappings of arrays."""
    return {key: rounded_tree(v) if isinstance(v, Mapping) else _rounded_array(v) for key, v in tree.items()}


def _rounded_array(array: Any) -> Any:
    if hasattr(array, "tolist"):
        array = array.tolist()
    return [_rounded_array(item) for item in array] if isinstance(array, list | tuple) else rounded(float(array))
