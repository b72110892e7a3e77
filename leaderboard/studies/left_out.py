"""How `gated` does on recipes that it has not seen: every cluster of related recipes left out once, on `train` runs.

    python -m leaderboard studies left-out [--only EXPERIMENT]...

Writes leaderboard/left_out.json, which `python -m leaderboard pages gated` makes a page from. For each
experiment a network is fitted on the runs of all other clusters and asked at origins of the left-out runs that are
chosen as the suite's are. No `test` run is read. Some minutes of one core per experiment; what is there already is kept
unless named.

Axis letters: K suite horizons, W windows, L MoE layers, E experts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from moeload_bench.baselines import _gate_fit
from moeload_bench.baselines._gate import Gate
from moeload_bench.baselines._measures import ANCHORS, Measures, Memory, measure
from moeload_bench.baselines._path import hat_weights
from moeload_bench.baselines._spread import Spread, moving, scale_of
from moeload_bench.baselines.gated import MIN_ROWS
from moeload_bench.baselines.sw_avg import SlidingWindowAverage
from moeload_bench.baselines.sw_avg_conformal import ConformalWindowAverage
from numpy.typing import NDArray

from leaderboard.committed import TRACES
from leaderboard.grouped import grouped
from leaderboard.studies.clusters import CLUSTERS, OUT, SUITE
from moeload_bench.arrays import FloatArray
from moeload_bench.evaluation.harness import make_request
from moeload_bench.forecaster import step_block, trace_info
from moeload_bench.results.statistics import log_ratio
from moeload_bench.scoring import metrics
from moeload_bench.scoring.metrics import relative_error, total_variation
from moeload_bench.states.origins import choose_origins
from moeload_bench.states.rule import LABELS, label_states, state_names
from moeload_bench.suites.suite import Suite, load_suite
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace, shares

PER_STATE = 20
LATE_STARTS = (1000, 3000, 6000)


@dataclass(frozen=True, eq=False)
class Task:
    """One origin of a left-out run: what was measured, what came, what `sw_avg` told and fixed windows would have."""

    run: int
    recipe: str
    state: str
    stride: int
    measured: Measures
    moving_L: NDArray[np.bool_]
    truth_KLE: FloatArray
    told_KLE: FloatArray
    reference_K: FloatArray
    window_WK: FloatArray


def tasks_of(trace: Trace, run: int, suite: Suite, stride: int = 1, start: int = 0) -> list[Task]:
    """Return the tasks of a run at origins chosen as the suite's are; with a stride, of the run sampled at it.

    With a ``start`` nothing before it is seen, and the origins lie 10 to 400 steps after it.
    """
    info = trace_info(trace)
    sampled = type(info)(**{**vars(info), "stride": stride})
    seen, mean = Memory(sampled), SlidingWindowAverage(sampled, 0)
    share_SLE = np.nan_to_num(shares(trace.load_SLE), nan=1 / trace.num_experts)
    sum_SLE = np.concatenate([np.zeros((1, *share_SLE.shape[1:])), np.cumsum(share_SLE, axis=0)])
    labels = label_states(trace.load_SLE, rule=suite.rule)
    chosen = choose_origins(labels, trace.step_S, suite.horizon, PER_STATE)
    if start:
        names = state_names(labels)
        after = [start + int(n) for n in np.geomspace(10, 400, PER_STATE // 2)]
        chosen = {state: [o for o in after if names[o] == state] for state in chosen}
    found, fed = [], start
    for origin, state in sorted({(o // stride * stride, state) for state, steps in chosen.items() for o in steps}):
        if origin - start < MIN_ROWS * stride:
            continue
        block = step_block(trace, fed, origin)
        rows = type(block)(block.step_S[::stride], block.load_SLE[::stride], block.tokens_SL[::stride])
        fed = origin
        seen.observe(rows)
        mean.observe(rows)
        measured = measure(seen)
        true_KLE = np.stack([(sum_SLE[origin + h] - sum_SLE[origin]) / h for h in suite.horizons])
        told = mean.forecast(make_request(trace, origin, suite.horizons)).window_means(suite.horizons)
        windows = [[total_variation(w, t).mean() for t in true_KLE] for w in measured.window_WLE]
        reference = total_variation(told, true_KLE).mean(axis=-1)
        recipe = trace.id.split("/")[0]
        found.append(
            Task(run, recipe, state, stride, measured, moving(seen), true_KLE, told, reference, np.array(windows))
        )
    return found


def window_means(gate: Gate, measured: Measures, horizons: Sequence[int]) -> FloatArray:
    """[K, L, E]: the mean shares over each horizon."""
    at_ALE = gate.forecast(measured)
    return np.stack([np.tensordot(hat_weights(ANCHORS, (h,))[0], at_ALE, axes=1) for h in horizons])


def errors(gate: Gate, task: Task, horizons: Sequence[int], context_LC: FloatArray | None = None) -> FloatArray:
    """[2, K]: `window_tv` and `window_error_rate`, means over layers; with another context where one is given."""
    measured = task.measured
    if context_LC is not None:
        measured = Measures(**{**vars(measured), "context_LC": context_LC})
    mean_KLE = window_means(gate, measured, horizons)
    relative = np.nanmean(relative_error(mean_KLE, task.truth_KLE), axis=-1)
    return np.stack([total_variation(mean_KLE, task.truth_KLE).mean(axis=-1), relative])


class Study:
    """The runs, what was measured in them, and the loop over clusters."""

    def __init__(self) -> None:
        self.suite = load_suite(SUITE)
        ids = [entry.id for entry in self.suite.fit]
        traces = [read_trace(TRACES / f"{i}.parquet", expected_sha256=e.data_sha256)
                  for i, e in zip(ids, self.suite.fit, strict=True)]  # fmt: skip
        self.recipe = [i.split("/")[0] for i in ids]
        self.runs = [(trace_info(t, n), step_block(t, 0, t.steps)) for n, t in enumerate(traces)]
        self.samples = _gate_fit.samples_of(self.runs, 0)
        self.tasks = [task for n, t in enumerate(traces) for task in tasks_of(t, n, self.suite)]
        self.late = [
            task for n, t in enumerate(traces) for s in LATE_STARTS for task in tasks_of(t, n, self.suite, start=s)
        ]
        self.sampled = [task for n, t in enumerate(traces) for task in tasks_of(t, n, self.suite, stride=10)]

    def folds(self) -> list[tuple[list[int], list[int]]]:
        """Return (runs to learn from, runs that are left out), by cluster."""
        runs = list(enumerate(self.recipe))
        return [
            ([n for n, recipe in runs if recipe not in cluster], [n for n, recipe in runs if recipe in cluster])
            for cluster in CLUSTERS
        ]

    def gates(
        self, learning: _gate_fit.Learning, keep: Callable[[_gate_fit.Samples], bool] = lambda _: True, most: int = 99
    ) -> list[Gate]:
        """Return the networks, one per cluster; ``most`` clusters to learn from, taken in turn after the
        left-out one.
        """
        out = []
        for f, (learn, _) in enumerate(self.folds()):
            near = {r for n in range(1, most + 1) for r in CLUSTERS[(f + n) % len(CLUSTERS)]}
            runs = [n for n in learn if most >= len(CLUSTERS) or self.recipe[n] in near]
            out.append(_gate_fit.train([s for s in self.samples if s.run in runs and keep(s)], 0, learning))
        return out

    def scored(self, gates: Sequence[Gate], tasks: Sequence[Task], swapped: bool = False) -> dict[str, Any]:
        """Return the record of one experiment: every task by the network that has not seen its cluster."""
        of_run = {run: gate for gate, (_, left) in zip(gates, self.folds(), strict=True) for run in left}
        rng = np.random.default_rng(0)
        rows = []
        for task in tasks:
            context = None
            if swapped:
                others = [o for o in tasks if o.recipe != task.recipe and o.state == task.state]
                other = others[rng.integers(len(others))].measured.context_LC
                context = other[np.arange(len(task.measured.context_LC)) % len(other)]
            rows.append(errors(of_run[task.run], task, self.suite.horizons, context))
        return record(tasks, [row[0] for row in rows], [row[1] for row in rows])


def record(
    tasks: Sequence[Task], error_TK: Sequence[FloatArray], relative_TK: Sequence[FloatArray] = ()
) -> dict[str, Any]:
    """Skill by recipe and horizon, and mean errors, of each state that occurs."""
    out: dict[str, Any] = {}
    ratio_TK = [log_ratio(error_K, task.reference_K) for error_K, task in zip(error_TK, tasks, strict=True)]
    for state in LABELS:
        here = sorted((n for n, task in enumerate(tasks) if task.state == state), key=lambda n: tasks[n].recipe)
        of = grouped(here, lambda n: tasks[n].recipe)
        known = (("log_ratio", ratio_TK, 5), ("window_tv", error_TK, 6), ("window_error_rate", relative_TK, 5))
        out[state] = {
            name: {r: np.mean([value_TK[n] for n in own], axis=0).round(d).tolist() for r, own in of.items()}
            if len(value_TK)
            else {}
            for name, value_TK, d in known
        }
    return out


def quantiles(study: Study, gates: Sequence[Gate]) -> dict[str, Any]:
    """Coverage and `wql` of `gated` and of `sw_avg_conformal`, both calibrated on the clusters that they learn from.

    ``log_ratio`` is that of their `wql`.
    """
    found: dict[tuple[str, str, str], list[FloatArray]] = {}
    for gate, (learn, left) in zip(gates, study.folds(), strict=True):
        own = _gate_fit.calibrated(gate, [samples for samples in study.samples if samples.run in learn]).spread
        average = Spread.from_bytes(ConformalWindowAverage.fit([study.runs[n] for n in learn], 0))
        for task in study.tasks:
            if task.run in left and own is not None:
                mean_KLE = window_means(gate, task.measured, study.suite.horizons)
                for name, spread, told_KLE in (("gated", own, mean_KLE), ("sw_avg_conformal", average, task.told_KLE)):
                    found.setdefault((task.state, name, task.recipe), []).append(
                        _quantile_scores(study.suite, spread, told_KLE, task)
                    )
    out: dict[str, Any] = {}
    for (state, name, recipe), scores in found.items():
        coverage_K, wql_K = np.mean(scores, axis=0)
        here = out.setdefault(state, {"coverage": {}, "wql": {}, "log_ratio": {}})
        here["coverage"].setdefault(name, {})[recipe] = coverage_K.round(4).tolist()
        here["wql"].setdefault(name, {})[recipe] = wql_K.round(6).tolist()
    for here in out.values():
        first, second = here["wql"]["gated"], here["wql"]["sw_avg_conformal"]
        here["log_ratio"] = {
            r: log_ratio(np.array(first[r]), np.array(second[r])).round(5).tolist() for r in sorted(first)
        }
    return out


def _quantile_scores(suite: Suite, spread: Spread, mean_KLE: FloatArray, task: Task) -> FloatArray:
    """[2, K]: coverage and `wql`, means over layers."""
    scale_KLE = scale_of(task.measured, mean_KLE, suite.horizons)
    quantile_QKLE = spread.quantiles(suite.quantiles, suite.horizons, mean_KLE, scale_KLE, task.moving_L)
    pairs = [(quantile_QKLE[:, k], truth_LE, suite.quantiles) for k, truth_LE in enumerate(task.truth_KLE)]
    return np.array([[metric(*pair).mean() for pair in pairs] for metric in (metrics.coverage, metrics.wql)])


def tuned(study: Study, hindsight: bool = False) -> dict[str, Any]:
    """Return a fixed window per horizon and state: chosen on the other clusters, or in hindsight for each
    left-out run.
    """
    folds = {run: learn for learn, left in study.folds() for run in left}
    ratio = [log_ratio(task.window_WK, task.reference_K[None]) for task in study.tasks]
    chosen: dict[tuple[int, str], NDArray[np.intp]] = {}
    out = []
    for task in study.tasks:
        key = (task.run, task.state)
        if key not in chosen:
            from_runs = [task.run] if hindsight else folds[task.run]
            picked = [
                r for o, r in zip(study.tasks, ratio, strict=True) if o.run in from_runs and o.state == task.state
            ]
            chosen[key] = np.mean(picked, axis=0).argmin(axis=0)
        out.append(task.window_WK[chosen[key], np.arange(task.window_WK.shape[1])])
    return record(study.tasks, out)


def experiments(study: Study) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return every experiment on the page, by name; the first five share their networks."""
    headline: list[Gate] = []

    def full() -> list[Gate]:
        headline.extend([] if headline else study.gates(_gate_fit.Learning()))
        return headline

    def changed(ignored: tuple[str, ...] = (), **how: Any) -> dict[str, Any]:
        return study.scored(study.gates(_gate_fit.Learning(ignored=ignored), **how), study.tasks)

    return {
        "gated": lambda: study.scored(full(), study.tasks),
        "sampled": lambda: study.scored(full(), study.sampled),
        "late": lambda: study.scored(full(), study.late),
        "quantiles": lambda: quantiles(study, full()),
        "control.swapped": lambda: study.scored(full(), study.tasks, swapped=True),
        "control.tuned": lambda: tuned(study),
        "yardstick.window": lambda: tuned(study, hindsight=True),
        "control.constant": lambda: changed(("",)),
        "without.controlled": lambda: changed(keep=lambda s: s.kind != _gate_fit.CONTROLLED),
        "without.back": lambda: changed(("back",)),
        "without.layers": lambda: changed(("layers.",)),
        "learn.2": lambda: changed(most=2),
        "learn.4": lambda: changed(most=4),
        "without.momentum": lambda: changed(("momentum", "fade", "close")),
        "late.untaught": lambda: study.scored(
            study.gates(_gate_fit.Learning(), keep=lambda s: s.kind != _gate_fit.LATE), study.late
        ),
        "without.sampled": lambda: changed(keep=lambda s: s.kind != _gate_fit.SAMPLED),
    }


def left_out(
    only: Annotated[
        list[str] | None, typer.Option(help="An experiment to run again, and no others; give it once for each.")
    ] = None,
) -> None:
    """Measure `gated` on unseen recipes: every cluster of related recipes is left out once.

    For each experiment a network is fitted on the `train` runs of all other clusters and asked at origins of the
    left-out runs that are chosen as the suite's are. No `test` run is read. Some minutes of one core per experiment;
    what leaderboard/left_out.json has already is kept unless named.
    """
    known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    started = time.process_time()
    study = Study()
    print(f"measured in {time.process_time() - started:.0f} s of CPU", flush=True)
    for name, run in experiments(study).items():
        if name not in only if only else name in known:
            continue
        started = time.process_time()
        known[name] = run() | {"cpu_s": round(time.process_time() - started, 1)}
        OUT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        print(name, *(f"{s} {1 - np.exp(np.mean(list(known[name][s]['log_ratio'].values()))):+.3f}"
                      for s in LABELS), known[name]["cpu_s"], flush=True)  # fmt: skip
