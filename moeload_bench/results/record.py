"""The result record: what one forecaster scored on one suite, and all that is needed to obtain it again.

In its file, a run's tasks are rows of numbers in the order of its `metrics`, and what belongs to the traces of a suite
of this package is left out: it is joined from `results.facts` on reading.

Axis letters: O origins, K suite horizons, L MoE layers. Numbers are kept to nine significant digits; a value that
does not exist (a layer without load) is null.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import from_json

from moeload_bench.environment import Environment
from moeload_bench.errors import ResultError, counted, printable
from moeload_bench.files import write_whole
from moeload_bench.results.facts import TraceFacts, suite_facts
from moeload_bench.results.json_text import content_sha256, readable_json
from moeload_bench.results.run_result import RunResult, TaskResult
from moeload_bench.schema import Record, first_problem

MAX_RESULT_BYTES = 64 << 20
MAX_NAMES = 10_000  # metrics of a task, counts of a run, origins whose windows cross
LEAST_MS = 1e-3
"""What a forecaster that took no measurable time is counted with: a microsecond."""

Status = Literal["claimed", "checked", "verified"]


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

    schema_version: Literal[2] = 2
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
        """Return (trace, task) of every failed task."""
        return [(run.trace, task) for run in self.runs for task in run.failures]

    @property
    def per_forecast_s(self) -> float:
        """Return seconds per answered origin, observing included; mean over runs."""
        return _mean([run.cost.per_forecast_s for run in self.runs])

    @property
    def of_training(self) -> float | None:
        """Return seconds spent per second of the recorded training; mean over the runs that know it."""
        known = [found for run in self.runs if (found := run.cost.of_training) is not None]
        return _mean(known) if known else None

    @property
    def cpu_ms(self) -> float | None:
        """Return CPU milliseconds per answered origin, observing included; mean over runs, None where not measured."""
        spent = [run.cost.per_forecast_cpu_s for run in self.runs]
        known = [one for one in spent if one is not None]
        return max(1e3 * _mean(known), LEAST_MS) if len(known) == len(spent) else None

    @property
    def counts(self) -> dict[str, int]:
        """Return what the forecaster counted itself, over all runs."""
        names = dict.fromkeys(name for run in self.runs for name in run.counts)
        return {name: sum(run.counts.get(name, 0) for run in self.runs) for name in names}

    @property
    def content_sha256(self) -> str:
        """Return the hash of what the forecaster did, whatever the status and however the file is laid out."""
        return content_sha256(packed(self.model_copy(update={"status": "claimed"}), own=False))

    def __repr__(self) -> str:
        failed = len(self.failures)
        done = f"{counted(failed, 'task')} failed" if failed else "no task failed"
        about = f"{counted(len(self.runs), 'run')} of suite {printable(self.suite.name)}, {done}"
        return f"Result: {printable(self.name)} on {about}; {self.status}, isolation {self.isolation}, seed {self.seed}"

    __str__ = __repr__

    def to_json(self) -> str:
        """Return canonical text, one line a task; without what the package keeps of the suite's traces."""
        kept = suite_facts(self.suite.name, self.suite.sha256)
        return readable_json(packed(self, own=not kept)) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record, replacing what was there in one move."""
        target = Path(path)
        write_whole(target, self.to_json().encode())
        return target


def load_result(path: str | os.PathLike[str]) -> Result:
    """Read a result record; raise `ResultError` naming the file and field.

    What a file says of its suite's traces must be what this package keeps of them.
    """
    source = Path(path)
    try:
        size = source.stat().st_size
        if size > MAX_RESULT_BYTES:
            raise ResultError(f"{source}: {size} bytes, at most {MAX_RESULT_BYTES} are read")
        return parse_result(source.read_bytes(), str(source))
    except OSError as error:
        raise ResultError(f"{source}: {error.strerror}") from None


def parse_result(text: bytes, where: str) -> Result:
    """Return the record in a file's bytes; see `load_result`."""
    try:
        tree = from_json(text, allow_inf_nan=False)
        if not isinstance(tree, dict) or not isinstance(tree.get("runs"), list):
            raise ResultError(f"{where}: expected a result record with a list of runs")
        if tree.get("schema_version") != 2:
            raise ResultError(f"{where}: schema_version is {tree.get('schema_version')!r}, this version reads 2")
        suite = SuiteRecord.model_validate(tree.get("suite"))
        facts = suite_facts(suite.name, suite.sha256)
        runs = [_unpacked(run, facts, suite.name) for run in tree["runs"]]
        result = Result.model_validate({**tree, "runs": runs})
    except ValidationError as error:
        raise ResultError(f"{where}: {first_problem(error, 'record')}") from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{where}: not a result record: {error}") from None
    _check_facts(result, facts, where)
    return result


def _check_facts(result: Result, facts: Mapping[str, TraceFacts], where: str) -> None:
    for run in result.runs:
        known = facts.get(run.trace)
        if known is None or known.data_sha256 != run.data_sha256:
            continue  # said by the checks of a submission, which know the suite
        if run.floor_marks != known.floor_marks or not same_numbers(run.floors, known.floors):
            raise ResultError(f"{where}: {run.trace}: the floors are not those of suite {result.suite.name}")
        for task in run.tasks:
            if known.crossing.get(task.origin, task.crossing) != task.crossing:
                raise ResultError(
                    f"{where}: {run.trace}: origin {task.origin}: crossing is {list(task.crossing)}, in suite "
                    f"{result.suite.name} it is {list(known.crossing[task.origin])}"
                )


def same_numbers(one: Any, other: Any) -> bool:
    """Return whether two trees are equal, numbers as far as two processors agree."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_numbers(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same_numbers, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return bool(one == other)


def packed(result: Result, own: bool) -> dict[str, Any]:
    """Return the record as its file holds it; with ``own``, including what belongs to the traces."""
    tree = result.model_dump(mode="json")
    tree["runs"] = [_packed_run(run, own) for run in tree["runs"]]
    return tree


def _packed_run(run: dict[str, Any], own: bool) -> dict[str, Any]:
    tasks = run["tasks"]
    metrics = sorted({name for task in tasks for name in task["metrics"]})
    facts = {
        "crossing": {str(task["origin"]): task["crossing"] for task in tasks},
        "floors": run.pop("floors"),
        "floor_marks": run.pop("floor_marks"),
    }
    rows = [
        [task["origin"], task["state"], task["failure"], [task["metrics"].get(name) for name in metrics]]
        for task in tasks
    ]
    return {**run, "metrics": metrics, "tasks": rows, **({"own": facts} if own else {})}


def _unpacked(run: dict[str, Any], kept: Mapping[str, TraceFacts], suite: str) -> dict[str, Any]:
    """Return a run as `RunResult` has it; raise `ValueError` where nobody says what belongs to its trace."""
    fields = dict(run)
    metrics, rows, own = fields.pop("metrics"), fields.pop("tasks"), fields.pop("own", None)
    for named in (metrics, own, *(own or {}).values(), *fields.values()):
        if isinstance(named, dict | list) and len(named) > MAX_NAMES:
            raise ValueError(f"{len(named)} names in one place of a run, expected at most {MAX_NAMES}")
    if own is None:
        known = kept.get(str(run.get("trace")))
        if known is None:
            raise ValueError(
                f"{str(run.get('trace'))[:80]}: not in suite {suite[:40]} as this package knows it, and the file holds "
                "neither its floors nor which windows cross"
            )
        own = known.model_dump(mode="json", include={"crossing", "floors", "floor_marks"})
    tasks = []
    for origin, state, failure, values in rows:
        scores = dict(zip(metrics, values, strict=True))
        tasks.append(
            {
                "origin": origin,
                "state": state,
                "failure": failure,
                "crossing": own["crossing"].get(str(origin), own["crossing"].get(origin, ())),
                "metrics": {name: value for name, value in scores.items() if value is not None},
            }
        )
    return {**fields, "tasks": tasks, "floors": own["floors"], "floor_marks": own["floor_marks"]}


def _mean(values: Sequence[float]) -> float:
    """Return the mean in numpy's order of summation, as of all published numbers."""
    import numpy as np

    return float(np.mean(values))
