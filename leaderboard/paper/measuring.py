"""What is measured on a run: how its loads fluctuate, when they settle, and what the paper's forecasters score.

Forecasters run through `evaluate` and its cache, so that an interrupted study continues. An origin every so many steps,
each asked for the longest horizon, is the paper's sliding evaluation; the windows of those origins that lie a multiple
of the horizon apart are disjoint, its evaluation in blocks.

Axis letters: S rows, L MoE layers, E experts, K horizons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leaderboard.paper import study as records
from leaderboard.paper.choice import HORIZONS, Choice, Chosen
from moeload_bench.errors import SuiteError
from moeload_bench.evaluation.evaluate import evaluate, installed
from moeload_bench.isolation.hosts import Level
from moeload_bench.results.collection import Results
from moeload_bench.results.grid import run_means
from moeload_bench.results.record import Result, RunResult
from moeload_bench.scoring.floors import FLOOR_NAMES
from moeload_bench.states.drift import sliding_range, sliding_variance
from moeload_bench.states.rule import LABELS, StateLabels, label_states
from moeload_bench.suites.suite import FitTrace, Suite, SuiteTrace, sliding_suite
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace, layer_names, shares
from moeload_bench.words import FineProgress, Progress

EVERY = 100
DIGITS = 6


@dataclass(frozen=True)
class Request:
    """How to measure: origins ``every`` steps, which must divide the horizons."""

    every: int = EVERY
    horizons: tuple[int, ...] = HORIZONS
    level: Level = "process"
    jobs: int = 1
    fresh: bool = False

    def __post_init__(self) -> None:
        wrong = [h for h in self.horizons if self.every < 1 or h % self.every]
        if wrong:
            raise SuiteError(f"origins lie {self.every} steps apart, expected a divisor of the horizon {wrong[0]:,}")


def measure_runs(
    choice: Choice, request: Request, progress: Progress | None = None
) -> Iterator[tuple[records.RunStudy, Results]]:
    """Study each run in turn; with it come the results that figures are drawn from.

    ``progress(done, total, what)`` counts forecasters over all runs.
    """
    able = [available(run) for run in choice.runs]
    total, done = sum(len(targets) for targets, _ in able), 0
    for run, (targets, missing) in zip(choice.runs, able, strict=True):

        def report(at: float, _: int, what: str, before: int = done) -> None:
            if progress is not None:
                progress(before + int(at), total, what)

        yield measure_run(run, targets, missing, request, report)
        done += len(targets)


def measure_run(
    run: Chosen,
    targets: Mapping[str, str],
    missing: Sequence[str],
    request: Request,
    progress: FineProgress | None = None,
) -> tuple[records.RunStudy, Results]:
    """Study one run with these forecasters; ``missing`` says why others are left out."""
    trace = read_trace(run.path)
    paths = {ref.id: ref.path for ref in run.train}
    results = evaluate(
        list(targets.values()), task_list(run, trace, request), traces=[trace], paths=paths,
        level=request.level, jobs=request.jobs, fresh=request.fresh, progress=progress,
    )  # fmt: skip
    labels = label_states(trace.load_SLE)
    errors: list[records.ErrorRow] = []
    floors: list[records.FloorRow] = []
    for name, result in zip(targets, results, strict=True):
        errors += error_rows(name, result, trace)
        floors = floors or floor_rows(result)
    failures = (f"{one} on {where}, origin {task.origin}: {task.failure}" for one, where, task in results.failures)
    study = records.RunStudy(
        id=run.id,
        data_sha256=data_sha256(trace),
        family=trace.meta.family,
        steps=trace.steps,
        experts=trace.num_experts,
        top_k=trace.meta.top_k,
        tokens=trace.meta.global_batch_tokens,
        lstm=_learnt(run, targets.get("lstm"), missing),
        targets=dict(targets),
        states=layer_states(trace, labels),
        fluctuation=fluctuation(trace, labels),
        errors=tuple(errors),
        floors=tuple(floors),
        counts={name: result.runs[0].counts for name, result in zip(targets, results, strict=True)},
        failures=tuple(failures),
    )
    return study, results


def _learnt(run: Chosen, target: str | None, missing: Sequence[str]) -> str:
    """Return how the LSTM came by what it knows."""
    if target is None:
        return "; ".join(missing) or "not run"
    return "learnt online" if "@" in target else f"learnt from {run.train[0].id}"


def available(run: Chosen) -> tuple[dict[str, str], list[str]]:
    """Forecasters by name, with the target that runs under it, and why others cannot run here."""
    online = "lstm@mode=online"
    targets = {name: online if name == "lstm" and not run.train else name for name in records.FORECASTERS}
    kept, missing = installed(targets.values())
    return {name: target for name, target in targets.items() if target in kept}, [f"left out: {one}" for one in missing]


def task_list(run: Chosen, trace: Trace, request: Request) -> Suite:
    """Return the sliding origins of one run, as a suite of its own; its `train` run is there to fit on."""
    suite = Suite(
        name=f"paper:{run.id}".lower(),
        horizons=request.horizons,
        fit=tuple(FitTrace(id=ref.id, data_sha256=data_sha256(read_trace(ref.path))) for ref in run.train),
        traces=(SuiteTrace(id=run.id, data_sha256=data_sha256(trace)),),
    )
    return sliding_suite(suite, {run.id: trace}, request.every, request.horizons)


def error_rows(name: str, result: Result, trace: Trace) -> list[records.ErrorRow]:
    """Return a forecaster's errors in every state that it has origins in, sliding and in blocks, at every horizon."""
    (run,) = result.runs
    rows = []
    for k, horizon in enumerate(result.suite.horizons):
        for protocol in records.PROTOCOLS:
            part = run if protocol == "sliding" else in_blocks(run, int(trace.step_S[0]), horizon)
            for state in dict.fromkeys(task.state for task in part.tasks):
                rows.append(_error_row(name, part, state, protocol, horizon, k))
    return rows


def in_blocks(run: RunResult, first: int, horizon: int) -> RunResult:
    """Return the run with those tasks whose windows of ``horizon`` steps are disjoint: blocks counted from step
    ``first``.
    """
    return run.model_copy(update={"tasks": tuple(t for t in run.tasks if (t.origin - first) % horizon == 0)})


def _error_row(
    name: str, run: RunResult, state: str, protocol: records.Protocol, horizon: int, k: int
) -> records.ErrorRow:
    layered = run.per_layer.get(state, {}) if protocol == "sliding" and name in records.PAPER_FORECASTERS else {}
    return records.ErrorRow(
        protocol=protocol,
        horizon=horizon,
        state=state,
        forecaster=name,
        origins=sum(task.state == state for task in run.tasks),
        errors={metric: _short(run_means(run, state, metric)[k]) for metric in records.METRICS},
        per_layer={
            metric: tuple(map(_short, layered[metric][k])) for metric in records.LAYER_METRICS if metric in layered
        },
    )


def floor_rows(result: Result) -> list[records.FloorRow]:
    """Return the floors of the run; the same for every forecaster."""
    (run,) = result.runs
    return [
        records.FloorRow(
            horizon=horizon,
            state=state,
            floor=floor,
            mark=run.floor_marks.get(floor, "not given"),
            errors={metric: _short(values[metric][k]) for metric in records.METRICS},
        )
        for k, horizon in enumerate(result.suite.horizons)
        for state, floors in run.floors.items()
        if state in LABELS
        for floor in FLOOR_NAMES
        if (values := floors.get(floor))
    ]


def layer_states(trace: Trace, labels: StateLabels) -> tuple[records.LayerStates, ...]:
    """Onset and band of every layer in steps, and how much of the time after the onset was transient again."""
    out = []
    for layer, name in enumerate(layer_names(trace)):
        onset = int(labels.onset_L[layer])
        low, high = labels.onset_band_L2[layer].tolist()
        after_S = labels.transient_SL[onset:, layer]
        back = _short(float(after_S.mean())) if onset >= 0 else None
        steps = [None if row < 0 else int(trace.step_S[row]) for row in (onset, low, high)]
        out.append(records.LayerStates(name=name, onset=steps[0], band=(steps[1], steps[2]), back=back))
    return tuple(out)


def fluctuation(trace: Trace, labels: StateLabels) -> tuple[records.Fluctuation, ...]:
    """Return the sliding statistics per layer over all steps, before the last layer's onset, and after it.

    A window belongs to a part when all its steps do. Without an onset in every layer nothing is "after".
    """
    settled = int(labels.onset_L.max()) if (labels.onset_L >= 0).all() else trace.steps
    spans: dict[records.Part, tuple[int, int]] = {
        "all": (0, trace.steps), "before": (0, settled), "after": (settled, trace.steps),
    }  # fmt: skip
    found: dict[tuple[str, int, records.Part], list[records.Value]] = {}
    for layer in range(trace.num_layers):
        share_S1E = shares(trace.load_SLE[:, layer : layer + 1])
        for statistic, window in records.STATISTICS:
            compute = sliding_variance if statistic == "variance" else sliding_range
            mean_S = compute(share_S1E, window)[:, 0].mean(axis=1)  # NaN where the layer has no load in the window
            for part, (start, stop) in spans.items():
                known = mean_S[start + window : stop + 1]
                known = known[np.isfinite(known)]
                value = _short(float(known.mean())) if known.size else None
                found.setdefault((statistic, window, part), []).append(value)
    return tuple(
        records.Fluctuation(statistic=statistic, window=window, part=part, value_L=tuple(values))
        for (statistic, window, part), values in found.items()
    )


def _short(value: records.Value) -> records.Value:
    """Six significant digits: what a page needs, and small enough to commit."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.{DIGITS}g}")
