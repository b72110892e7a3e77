"""Does a result belong to its submission and its suite, and can its numbers be what the harness writes?

Nothing is executed: what can be told from the files is told. Of numbers these are names, shapes, ranges, and sums that
agree.

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeload_bench.errors import IsolationError, SubmissionError
from moeload_bench.isolation.hosts import Level, level_available, parse_level
from moeload_bench.results.record import Result, RunResult, TaskResult, load_result
from moeload_bench.scoring.catalogue import METRICS, PLAN_METRICS
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.submissions.folder import Folder
from moeload_bench.suites.suite import CROSSING, STATES, Suite, SuiteTrace

PRIMARY = "window_tv"
# Metrics that exist in every layer, whose means may be taken over tasks and layers in either order.
RECOMPUTED = ("window_tv", "tv", "imbalance@", "regret@", "drop_rate@")
SUM_TOLERANCE = 1e-5  # both sides are kept to nine digits
MAX_NUMBER = 1e15  # no score, time or count comes near it; sums of such numbers stay finite
MAX_SECONDS = 1e8  # three years
MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 1 << 20, 1 << 50
_PLAN_METRIC = re.compile(rf"({'|'.join(spec.name for spec in PLAN_METRICS)})@[a-z][a-z0-9_-]{{0,39}}")
_FLOOR = re.compile(r"floor_[a-z_]{1,40}")
_REQUIRED = frozenset(spec.name for spec in METRICS if not spec.needs_quantiles)
_OPTIONAL = frozenset(spec.name for spec in METRICS if spec.needs_quantiles)

APART: tuple[Level, ...] = ("process", "sandbox")
MAX_CLAIM_BYTES = 32 << 20
MAX_TEXT = 2000
_SHA256 = re.compile(r"[0-9a-f]{64}")


def apart_level(text: str) -> Level:
    """A level at which a stranger's code may run, and that this machine offers.

    Raises `IsolationError` for one that does not exist or cannot be used here, `SubmissionError` for one too low.
    """
    level = parse_level(text)
    if level not in APART:
        raise SubmissionError(
            f"isolation: got {text!r}, expected {' or '.join(APART)}: a claim is made and verified so"
        )
    require_level(level)
    return level


def require_level(level: Level, instead: str = "or say --level process") -> None:
    """Raise `IsolationError` where a level cannot be used, with what to do instead: that is no forecaster's fault."""
    reason = level_available(level)
    if reason is not None:
        raise IsolationError(f"isolation level {level!r} is not available here: {reason}; {instead}")


def load_claim(path: Path) -> Result:
    """A submission's result; raises `SubmissionError` for what is no regular file of a sane size, `ResultError`."""
    try:
        mode = path.lstat()
    except FileNotFoundError:
        raise SubmissionError(f"{path}: no result; `moeload-bench submit` writes it there") from None
    except OSError as error:
        raise SubmissionError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode.st_mode):
        raise SubmissionError(f"{path}: expected a regular file, got a link, folder or device")
    if mode.st_size > MAX_CLAIM_BYTES:
        raise SubmissionError(f"{path}: {mode.st_size} bytes, at most {MAX_CLAIM_BYTES} are accepted")
    return load_result(path)


def check_submission(folder: Folder, result: Result, suite: Suite) -> list[str]:
    """Everything wrong with a submission and its result, in words that say what to do; [] when all is well."""
    wrong = [*_identity(folder, result, suite), *_status(folder, result), *_texts(result)]
    if result.suite.sha256 != suite.sha256():
        return wrong  # the rest would only repeat it
    return [*wrong, *check_cost("fit_wall_s", result.fit_wall_s), *_runs(result, suite)]


def _identity(folder: Folder, result: Result, suite: Suite) -> Iterator[str]:
    record, made = folder.record, result.forecaster
    if record.wrong_name is not None:
        yield record.wrong_name
    expected = {
        "suite name": (result.suite.name, suite.name),
        "suite hash": (result.suite.sha256, suite.sha256()),
        "suite name in submission.toml": (record.suite.name, suite.name),
        "suite hash in submission.toml": (record.suite.sha256, suite.sha256()),
        "suite horizons": (list(result.suite.horizons), list(suite.horizons)),
        "suite reference": (result.suite.reference, suite.reference),
        "forecaster name": (made.name, record.name),
        "forecaster target": (made.target, record.result_target),
        "forecaster kwargs": (made.kwargs, record.kwargs),
        "requirements": (made.requirements, folder.requirements),
        "scoring version": (result.scoring_version, SCORING_VERSION),
        "seed": (result.seed, suite.seed),
    }
    for what, (got, wanted) in expected.items():
        if got != wanted:
            yield f"{what}: the result says {got!r}, expected {wanted!r}: run `moeload-bench submit` again"
    if made.source_sha256 != folder.source_sha256:
        yield (
            f"the code has changed since the result was made: the source's hash is {folder.source_sha256[:12]!r}, the "
            f"result was made from {made.source_sha256[:12]!r}: run `moeload-bench submit` again"
        )
    if result.isolation not in APART:
        yield f"isolation: got {result.isolation!r}, expected {' or '.join(APART)}"


def _status(folder: Folder, result: Result) -> Iterator[str]:
    verification = folder.verification
    if verification is None:
        if result.status == "verified":
            yield "the result says verified, but no verification.json says so: leave status at claimed"
    elif verification.result_sha256 != result.content_sha256:
        yield "verification.json is about another result: remove it; the maintainers verify again"
    elif (result.status == "verified") != verification.verified:
        yield f"the result says {result.status}, verification.json says verified = {verification.verified}"


def _texts(result: Result) -> Iterator[str]:
    """Texts that are shown as they are: one line each, of a length that a page can hold."""
    counts = [name for run in result.runs for name in run.counts]
    failed = [task.failure or "" for _, task in result.failures]
    for text in (*_strings(result.environment.model_dump()), *result.notes, *counts, *failed):
        if len(text) > MAX_TEXT or not text.isprintable():
            yield f"{text[:40]!r}: expected one line of at most {MAX_TEXT} printable characters"
            return


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from (name, *_strings(value))
    elif isinstance(tree, str):
        yield tree


def _runs(result: Result, suite: Suite) -> Iterator[str]:
    expected = {entry.id: entry for entry in suite.traces}
    found = [run.trace for run in result.runs]
    for trace in sorted(expected.keys() - set(found)):
        yield f"{trace}: missing; a result holds every run of the suite"
    for trace in sorted(set(found) - expected.keys()):
        yield f"{trace[:80]!r}: not in suite {suite.name}"
    if len(set(found)) != len(found):
        yield "a run is listed twice"
    for run in result.runs:
        if run.trace in expected:
            for line in _run(run, expected[run.trace], len(suite.horizons)):
                yield f"{run.trace}: {line}"


def _run(run: RunResult, entry: SuiteTrace, K: int) -> Iterator[str]:
    if run.data_sha256 != entry.data_sha256:
        yield f"trace hash {run.data_sha256[:12]!r}, expected {entry.data_sha256[:12]!r}: the run was on other data"
    if not _SHA256.fullmatch(run.forecasts_sha256):
        yield "forecasts_sha256 is not a SHA-256"
    wanted = entry.origins()
    got = [(task.origin, task.state) for task in run.tasks]
    missing = sorted(set(wanted) - set(got))
    if missing:
        origin, state = missing[0]
        yield f"{len(missing)} of {len(wanted)} tasks are missing, the first is origin {origin} ({state})"
    elif got != wanted:
        yield f"{len(got)} tasks that are not the suite's {len(wanted)} in their order"
    if missing or got != wanted:
        return
    yield from check_numbers(run, K)


def check_numbers(run: RunResult, K: int) -> Iterator[str]:
    """What is wrong with a run's numbers, in words; its tasks are the suite's already."""
    yield from _ranges(run)
    names = set(run.tasks[0].metrics) if run.tasks else set()
    yield from _names(names)
    for task in run.tasks:
        yield from _task(task, names, K)
    wrong = [*_layers(run, names, K), *_floors(run, K)]
    yield from wrong or _sums(run, K)


def _ranges(run: RunResult) -> Iterator[str]:
    """Nothing negative and nothing beyond all measure, where the harness counts or takes a time; no work in no time."""
    for name, value in {**run.cost.model_dump(), **run.counts, "layers": run.layers, "experts": run.experts}.items():
        yield from check_cost(name, value)
    cost = run.cost
    if run.failures:
        return
    if cost.forecasts != len(run.tasks):
        yield f"'forecasts': got {cost.forecasts}, expected {len(run.tasks)}, one for each origin"
    if not (cost.observe_wall_s > 0 and cost.forecast_wall_s > 0 and cost.observed_rows > 0):
        yield "cost: got 0 s of observing or forecasting, expected what the harness measured"
    if cost.peak_memory_bytes is not None and cost.peak_memory_bytes < MIN_MEMORY_BYTES:
        yield f"'peak_memory_bytes': got {cost.peak_memory_bytes}, expected at least {MIN_MEMORY_BYTES}"


def check_cost(name: str, value: float | None) -> Iterator[str]:
    """What is wrong with a time, a size or a count: negative, or larger than any can be."""
    most = MAX_SECONDS if name.endswith("_s") else MAX_MEMORY_BYTES if name == "peak_memory_bytes" else MAX_NUMBER
    if value is not None and not 0 <= value <= most:
        got = "a negative number" if value < 0 else "too large a number"
        yield f"{name[:40]!r}: got {got}, expected one between 0 and {most:g}"


def _names(names: set[str]) -> Iterator[str]:
    """Those of every forecast, those of plans, and all of the quantiles' metrics or none."""
    for name in sorted(names):
        if not _known(name):
            yield f"metrics: {name[:40]!r} is unknown"
    for name in sorted((_REQUIRED | (_OPTIONAL if names & _OPTIONAL else frozenset())) - names):
        yield f"metrics: {name!r} is missing"


def _known(metric: str) -> bool:
    return metric in _REQUIRED or metric in _OPTIONAL or _PLAN_METRIC.fullmatch(metric) is not None


def _task(task: TaskResult, names: set[str], K: int) -> Iterator[str]:
    where = f"origin {task.origin}"
    if set(task.metrics) != names:
        yield f"{where}: metrics {sorted(set(task.metrics) ^ names)[:3]} are not those of the other tasks"
        return
    if len(task.crossing) != K or any(not _sane(value_K, K) for value_K in task.metrics.values()):
        yield f"{where}: expected one sane value for each of the {K} horizons"
        return
    primary_K = task.metrics.get(PRIMARY, ())
    if any(value is None or not 0 <= value <= 1 for value in primary_K):
        yield f"{where}: {PRIMARY} is {list(primary_K)}, expected numbers between 0 and 1"
    if task.failure is not None and any(value != 1 for value in primary_K):
        yield f"{where}: a failed task scores {PRIMARY} = 1, got {list(primary_K)}"


def _sane(values: Sequence[float | None], length: int) -> bool:
    return len(values) == length and all(value is None or abs(value) <= MAX_NUMBER for value in values)


def _layers(run: RunResult, names: set[str], K: int) -> Iterator[str]:
    """Each state that has tasks holds each metric as [K][L]."""
    states = {task.state for task in run.tasks}
    if set(run.per_layer) != states:
        yield f"per_layer: expected the states {sorted(states)}"
        return
    for state, metrics in run.per_layer.items():
        if set(metrics) != names:
            yield f"per_layer.{state}: metrics {sorted(set(metrics) ^ names)[:3]} are not those of the tasks"
        for metric, rows_KL in metrics.items():
            if len(rows_KL) != K or not all(_sane(row_L, run.layers) for row_L in rows_KL):
                yield f"per_layer.{state}.{metric[:40]!r}: expected [{K}][{run.layers}] sane values"


def _floors(run: RunResult, K: int) -> Iterator[str]:
    for state, floors in run.floors.items():
        for floor, metrics in floors.items():
            named = state in (*STATES, CROSSING) and _FLOOR.fullmatch(floor) and all(map(_known, metrics))
            if not named or not all(_sane(value_K, K) for value_K in metrics.values()):
                yield f"floors: {state[:20]!r}, {floor[:40]!r}: expected [{K}] sane values of known metrics"
                return
    for floor in run.floor_marks:
        if not _FLOOR.fullmatch(floor):
            yield f"floor_marks: {floor[:40]!r} is unknown"
            return


def _sums(run: RunResult, K: int) -> Iterator[str]:
    """The means by layer and those by task are of the same numbers; of the shapes that `_layers` and `_task` found."""
    for state, metrics in sorted(run.per_layer.items()):
        tasks = [task for task in run.tasks if task.state == state]
        for metric in sorted(name for name in metrics if name.startswith(RECOMPUTED)):
            for k in range(K):
                by_task = _mean([_value(task.metrics, metric, k) for task in tasks])
                by_layer = _mean(list(metrics[metric][k]))
                if by_task is None or by_layer is None:
                    continue
                if not math.isclose(by_task, by_layer, rel_tol=SUM_TOLERANCE, abs_tol=1e-7):
                    yield (
                        f"{metric} ({state}, horizon number {k + 1}): the tasks' mean is {by_task:.6g}, the layers' "
                        f"{by_layer:.6g}: the numbers were changed after the run"
                    )
                    return


def _value(metrics: Mapping[str, Any], metric: str, k: int) -> float | None:
    values = metrics.get(metric, ())
    return values[k] if k < len(values) else None


def _mean(values: list[float | None]) -> float | None:
    """The mean; None where any value is missing."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None
