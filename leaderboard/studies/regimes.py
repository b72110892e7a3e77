"""How forecasters do by regime: small batches, large ones, rows that are sums, and counts without training noise.

A run of the suite has its committed results. Every other run here is scored once, where its trace is in traces/, and
its record is kept in `leaderboard/regimes.json` under the hash of its content and of the code (`python -m leaderboard
studies regimes`; about a minute a run). Nothing is fitted on any of them: `gated`, `guarded` and `average_tuned` use
what ships.

Axis letters: K horizons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from leaderboard.committed import ROOT, TRACES, committed_results, recipe_name, recipe_of_run
from leaderboard.studies.kept import answered, read_records, records_text
from moeload_bench.errors import ResultError
from moeload_bench.evaluation.evaluate import as_target, evaluate
from moeload_bench.files import write_whole
from moeload_bench.isolation.targets import source_sha256
from moeload_bench.recipes.draws import expert_tokens
from moeload_bench.results.comparison import errors_of, with_runs_of
from moeload_bench.results.grid import run_means
from moeload_bench.results.json_text import content_sha256
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import log_ratio
from moeload_bench.schema import Record
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import load_suite, suite_for_trace
from moeload_bench.traces.meta import stratum_of
from moeload_bench.traces.store import TraceRef, list_traces, read_trace, stored_hash
from moeload_bench.traces.summed import sum_rows

OUT = ROOT / "leaderboard" / "regimes.json"
SUITE = "v3"
HORIZONS = (1, 10, 100, 1000)
"""Of runs of 3,000 steps; those of rows that stand for ten steps are the multiples of ten."""
SUMMED = 10
LEAST_ORIGINS = 20
"""Origins in a state below which a run says nothing of it."""
TUNED = "average_tuned"
FORECASTERS = (TUNED, "adaptive", "gated", "guarded", "ema", "last_value", "since_plan", "sw_avg")
FLOOR = "floor_batch"

Kind = Literal["small", "large", "probe", "summed"]


class StateScores(Record):
    """A run in one state: what each forecaster misplaced, [K], and the mean log of its ratio to the tuned average."""

    origins: int
    floor_K: tuple[float | None, ...]
    error_K: dict[str, tuple[float | None, ...]]
    log_ratio_K: dict[str, tuple[float | None, ...]]


class RegimeRun(Record):
    """One run; ``horizons`` belong to the scores' axis K."""

    id: str
    kind: Kind
    data_sha256: str
    code: str
    balancing: str
    horizons: tuple[int, ...]
    states: dict[str, StateScores]

    @property
    def recipe(self) -> str:
        return recipe_name(self.id).removesuffix(f".sum{SUMMED}")


def suite_runs() -> list[RegimeRun]:
    """Return the suite's runs by its committed results; raise `ResultError` without the tuned average's."""
    results = [result for result in committed_results(SUITE) if result.name in FORECASTERS]
    if TUNED not in {result.name for result in results}:
        raise ResultError(f"leaderboard/results/{SUITE} has no result of {TUNED}")
    suite = load_suite(SUITE)
    size = {run: stratum for stratum, runs in suite.strata().items() for run in runs}
    return [
        RegimeRun(
            id=entry.id,
            kind=size.get(entry.id, "small"),
            data_sha256=entry.data_sha256,
            code="",
            balancing=recipe_of_run(entry.id).balancing.method,
            horizons=(asked := entry.asked(suite.horizons)),
            states=dict(_states(with_runs_of(results, {entry.id}), asked)),
        )
        for entry in suite.traces
    ]


def measured_runs(folder: Path = TRACES, kept: Sequence[RegimeRun] | None = None) -> Iterator[RegimeRun]:
    """Yield the record of every other run of the folder, measured where none is kept."""
    kept = read_records(RegimeRun, OUT) if kept is None else kept
    known = {(run.id, run.data_sha256, run.code): run for run in kept}
    code = code_hash()
    for ref in list_traces(folder):
        for kind in kinds_of(ref.id):
            name = ref.id.replace("/", f".sum{SUMMED}/", 1) if kind == "summed" else ref.id
            yield known.get((name, str(stored_hash(ref.path)), code)) or measure_run(ref, kind, code)


def kinds_of(run: str) -> list[Kind]:
    """Return the regimes in which a run of traces/ is scored beside the suite, by its name."""
    recipe, split = run.split("/")[:2]
    if split != "test":
        return []
    if run in {entry.id for entry in load_suite(SUITE).traces}:
        return ["summed"]
    if stratum_of(expert_tokens(recipe_of_run(run))) != "large":
        return []
    return ["probe"] if recipe.endswith(".probe") else ["large", "summed"]


def code_hash() -> str:
    """Return the hash of the code that a record rests on."""
    sources = {name: source_sha256(as_target(name)) for name in FORECASTERS}
    return content_sha256({"scoring": SCORING_VERSION, "sources": sources, "horizons": HORIZONS, "sum": SUMMED})


def measure_run(ref: TraceRef, kind: Kind, code: str) -> RegimeRun:
    """Score every forecaster on a run, or on its rows summed."""
    trace = read_trace(ref.path)
    if kind == "summed":
        trace = sum_rows(trace, SUMMED)
    horizons = [h for h in HORIZONS if h % trace.meta.stride == 0]
    suite = suite_for_trace(trace, horizons=horizons, rule=load_suite(SUITE).rule)
    results = answered(evaluate(list(FORECASTERS), suite, traces=[trace], level="none"))
    return RegimeRun(
        id=trace.id,
        kind=kind,
        data_sha256=str(stored_hash(ref.path)),
        code=code,
        balancing=recipe_of_run(ref.id).balancing.method,
        horizons=suite.horizons,
        states=dict(_states(list(results), suite.horizons)),
    )


def _states(results: Sequence[Result], horizons: Sequence[int]) -> Iterator[tuple[str, StateScores]]:
    """Yield the scores of one run in each state that has enough origins, at the first K horizons of its suite."""
    errors, run = errors_of(results, PRIMARY), results[0].runs[0]
    K = len(horizons)
    for state in LABELS:
        here = errors.select(state=state)
        origins = sum(task.state == state for task in run.tasks)
        if origins < LEAST_ORIGINS:
            continue
        mean_K = {result.name: run_means(result.runs[0], state, PRIMARY) for result in results}
        floor_K = run.floors.get(state, {}).get(FLOOR, {}).get(PRIMARY, ())
        here_K = [here.select(horizon=h).by_forecaster for h in horizons]
        ratio_K = {name: [np.nanmean(log_ratio(of[name], of[TUNED])) for of in here_K] for name in here.by_forecaster}
        yield (
            state,
            StateScores(
                origins=origins,
                floor_K=floor_K[:K],
                error_K={name: tuple(value_K[:K]) for name, value_K in mean_K.items()},
                log_ratio_K={name: tuple(float(f"{one:.6g}") for one in found) for name, found in ratio_K.items()},
            ),
        )


def regimes() -> None:
    """Score every large, probe and summed run that has no score yet; about a minute of a core each."""
    for run in (found := list(measured_runs())):
        print(f"{run.kind:7}{run.id}")
    write_whole(OUT, records_text(found, lambda run: run.id).encode())
