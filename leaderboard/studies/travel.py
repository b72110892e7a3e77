"""How `guarded` does away from home: on `train` runs that it has not learned from, as they are and otherwise logged.

    python -m leaderboard studies travel

Clusters of near twins are dealt into `FOLDS` parts. Each part is left out once: everything that can be fitted is fitted
on the `train` runs of the others, and every forecaster follows the runs of the part, as they are and as logs that could
have been kept of them (`KINDS`), which the network that is asked there has not learned from either. No `test` run is
read. Kept in leaderboard/travel.json under the hashes of the trace and of what was learned from; only
what is missing is run: one process learns, another asks. All of it takes
about an hour of CPU time, an estimate from its parts.

Axis letters: K horizons, S rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from moeload_bench.baselines._guard import Network, to_bytes
from moeload_bench.baselines._spread import WindowTruth
from moeload_bench.baselines.average_tuned import LARGE, AverageTuned
from moeload_bench.baselines.gated import Gated

from leaderboard.committed import ROOT, TRACES, recipe_name
from leaderboard.fit.lists import read_list
from leaderboard.fit.weights import fit_runs
from leaderboard.grouped import grouped
from leaderboard.studies.clusters import groups_of
from leaderboard.studies.kept import read_records, records_text
from moeload_bench.errors import TraceError
from moeload_bench.evaluation.harness import follow, row_of
from moeload_bench.files import write_whole
from moeload_bench.forecaster import trace_info
from moeload_bench.isolation.sources import file_sha256
from moeload_bench.isolation.targets import parse_target, source_sha256
from moeload_bench.results.json_text import content_sha256
from moeload_bench.schema import Record
from moeload_bench.scoring.metrics import coverage, total_variation
from moeload_bench.states.origins import choose_origins
from moeload_bench.states.rule import label_states
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import read_trace, stored_hash
from moeload_bench.traces.summed import sum_rows
from moeload_bench.traces.trace import Trace

OUT = ROOT / "leaderboard" / "travel.json"
FOLDS = 4
HORIZONS = (1, 10, 100, 1000, 2000)
PER_STATE = 40
LEAST_ERROR = 1e-5
LEVELS = (0.1, 0.9)
DRAWN, PROBE = "drawn-", ".probe/"


@dataclass(frozen=True)
class Lesson:
    """The runs that a network learns from: all, or at most so many ``drawn`` recipes, or only those of a ``suite``.

    ``without``: twins of them that it does not see.
    """

    without: tuple[str, ...] = ()
    drawn: int | None = None
    suite: str = ""


NETWORKS: Mapping[str, Lesson] = {
    "guarded": Lesson(),
    "guarded.old": Lesson(without=("summed", "thinned")),
    "guarded.home": Lesson(suite="v2"),
    "guarded.drawn0": Lesson(drawn=0),
    "guarded.drawn8": Lesson(drawn=8),
    "guarded.drawn16": Lesson(drawn=16),
}
"""Networks by what they learn from, and the name that each has in the records."""
PLAIN = ("adaptive", "ema", "last_value", "sw_avg", "since_plan")


class TravelRun(Record):
    """A left-out run of one kind in one state: the mean log error of each forecaster over its origins, [K].

    ``inside_K``: of those that give quantiles, the part of experts between the quantiles of `LEVELS`.
    """

    run: str
    kind: str
    state: str
    balancing: str
    data: str
    basis: str
    per_expert: float
    horizons: tuple[int, ...]
    origins: int
    log_error_K: dict[str, tuple[float, ...]]
    inside_K: dict[str, tuple[float, ...]] = {}

    @property
    def recipe(self) -> str:
        return recipe_name(self.run)

    @property
    def stratum(self) -> str:
        """Return the size of its batch; probes count many tokens and learn from few, so they stand apart."""
        if PROBE in self.run:
            return "probe"
        return "large" if self.per_expert >= LARGE else "small"


def summed(trace: Trace) -> Trace:
    """Return ten rows as one."""
    from moeload_bench.baselines import _guard_fit  # needs torch, which pages made from kept records do without

    return sum_rows(trace, _guard_fit.SUM)


def sampled(trace: Trace) -> Trace:
    """Return every tenth row."""
    meta = trace.meta.model_copy(update={"format_version": "1.2", "stride": 10 * trace.meta.stride, "row_steps": 1})
    columns = {name: column[::10] for name, column in trace.columns.items()}
    return Trace(meta, trace.step_S[::10], trace.tokens_SL[::10], trace.load_SLE[::10], columns)


def thinned(trace: Trace) -> Trace:
    """Return the rows as if each had counted 50 tokens per expert, without the columns that count tokens too."""
    from moeload_bench.baselines import _guard_fit

    _, load_SLE = _guard_fit.thinned(trace_info(trace), np.asarray(trace.load_SLE), np.random.default_rng(0))
    columns = {name: trace.columns[name] for name in ("lr", "stage", "expert_bias") if name in trace.columns}
    return Trace(trace.meta, trace.step_S, load_SLE.sum(axis=2), load_SLE, columns)


KINDS: Mapping[str, Callable[[Trace], Trace]] = {
    "as it is": lambda trace: trace,
    "summed": summed,
    "sampled": sampled,
    "thinned": thinned,
}


def parts_of(names: Sequence[str]) -> list[list[str]]:
    """Return the runs of each part that is left out at once; near twins lie in one, the parts are about as large."""
    groups = groups_of(recipe_name(name) for name in names)
    by_group = grouped(names, lambda name: groups[recipe_name(name)])
    parts: list[list[str]] = [[] for _ in range(FOLDS)]
    for _, runs in sorted(by_group.items(), key=lambda item: (-len(item[1]), item[0])):
        min(parts, key=len).extend(runs)
    return parts


def may_be(run: str, kind: str) -> bool:
    """Return whether a run is asked about as a log of that kind; probes, of every tenth step, are not made rarer."""
    return kind == "as it is" or PROBE not in run


def of_kind(trace: Trace, kind: str) -> Trace | None:
    """Return a run as a log of that kind; None where it cannot be one."""
    if not may_be(trace.id, kind):
        return None
    try:
        return KINDS[kind](trace)
    except TraceError as error:
        print(f"{kind}: left out: {error}")
        return None


class Learners:
    """Fits networks and averages to the runs that are not left out; each run is measured once, for all parts."""

    def __init__(self, names: Sequence[str]) -> None:
        from moeload_bench.baselines import _guard_fit

        self._traces = {name: read_trace(TRACES / f"{name}.parquet") for name in names}
        self._samples = _guard_fit.samples_of(fit_runs(list(self._traces.values())), 0)

    def fitted(self, learn: Collection[str], kinds: Sequence[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield networks by kind of log, each without twins of that kind, and the average that is best on such logs."""
        traces = [trace for name, trace in self._traces.items() if name in learn]
        gated = Gated.fit(fit_runs(traces), 0)
        for kind in kinds:
            lessons = NETWORKS if kind == "as it is" else {"guarded": Lesson()}
            able = {name: lesson for name, lesson in lessons.items() if runs_for(lesson, learn)}
            networks = {name: to_bytes(self._network(learn, lesson, kind)) for name, lesson in able.items()}
            logs = fit_runs([log for trace in traces if (log := of_kind(trace, kind)) is not None])
            yield kind, {**networks, "gated": gated, "average_tuned": AverageTuned.fit(logs, 0)}

    def _network(self, learn: Collection[str], lesson: Lesson, kind: str) -> Network:
        from moeload_bench.baselines import _guard_fit

        names, chosen, without = list(self._traces), runs_for(lesson, learn), (*lesson.without, kind)
        samples = [one for twin, one in self._samples if twin not in without and names[one.run] in chosen]
        return _guard_fit.learned(samples, 0)


def runs_for(lesson: Lesson, learn: Collection[str]) -> set[str]:
    """Return the runs of a lesson, of those that may be learned from; of drawn recipes large and small ones in turn."""
    if lesson.suite:
        return {ref.id for ref in load_suite(lesson.suite).fit} & set(learn)
    drawn = sorted({recipe_name(name) for name in learn if name.startswith(DRAWN)}, key=lambda name: (name[-2:], name))
    known = drawn if lesson.drawn is None else drawn[: lesson.drawn]
    return {name for name in learn if not name.startswith(DRAWN) or recipe_name(name) in known}


def scored(trace: Trace, learned: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    """Yield what a record says of a run that was left out, by state."""
    horizons = tuple(h for h in HORIZONS if h % trace.meta.stride == 0 and 3 * h <= trace.steps * trace.meta.stride)
    labels = label_states(trace.load_SLE, trace.meta.stride, load_suite("v2").rule)
    chosen = choose_origins(labels, trace.step_S, max(horizons), PER_STATE)
    truth = WindowTruth(trace_info(trace), trace.rows(0, trace.steps))
    true_OKLE = {o: truth.means(row_of(trace, o), horizons) for each in chosen.values() for o in each}
    names = {"guarded.unguarded": ("guarded@guard=false", "guarded")}
    names |= {name: (name.split(".")[0], name) for name in learned} | {name: (name, "") for name in PLAIN}
    errors: dict[str, dict[int, Any]] = {name: {} for name in names}
    inside: dict[str, dict[int, Any]] = {name: {} for name in names}
    for name, (target, weights) in names.items():
        with follow(parse_target(target), trace, seed=0, fitted=learned.get(weights), level="none") as feed:
            for answer in feed.answers(list(true_OKLE), horizons, LEVELS):
                assert answer.forecast is not None, answer.failure
                told, true_KLE = answer.forecast, true_OKLE[answer.origin]
                error_K = total_variation(told.window_means(horizons), true_KLE).mean(axis=1)
                errors[name][answer.origin] = np.log(np.maximum(error_K, LEAST_ERROR))
                if told.quantile_QKLE is not None:
                    both = zip(told.quantile_QKLE.swapaxes(0, 1), true_KLE, strict=True)
                    inside[name][answer.origin] = [coverage(*one, LEVELS).mean() for one in both]
    for state, origins in chosen.items():
        if origins:
            yield {
                "state": state, "horizons": horizons, "origins": len(origins),
                "log_error_K": _means(errors, origins), "inside_K": _means(inside, origins),
            }  # fmt: skip


def _means(found: Mapping[str, Mapping[int, Any]], origins: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """Return the means over origins by forecaster, of those that have any."""
    return {
        name: tuple(np.mean([of[o] for o in origins if o in of], axis=0).round(5).tolist())
        for name, of in found.items()
        if any(o in of for o in origins)
    }


def basis_hash(learn: Sequence[str]) -> str:
    """Return the hash of the code that a record rests on, and of the runs that were learned from."""
    names = ("guarded", "average_tuned", *PLAIN)
    code = {name: source_sha256(parse_target(name)) for name in names}
    fit = file_sha256(ROOT / "baselines" / "_guard_fit.py")
    return content_sha256({"code": code, "fit": fit, "runs": hashes_of(learn)})


def hashes_of(names: Sequence[str]) -> dict[str, str]:
    """Return the content hash of each run of traces/."""
    return {name: str(stored_hash(TRACES / f"{name}.parquet")) for name in names}


def travel() -> None:
    """Measure forecasters on `train` runs that they have not learned from, and on other logs of them."""
    names = list(read_list("guarded").runs)
    kept, found = [one for one in read_records(TravelRun, OUT) if one.run in names], list[TravelRun]()
    learners: Learners | None = None
    asked: list[Future[list[TravelRun]]] = []
    with ProcessPoolExecutor(1, get_context("spawn")) as asking:
        for fold, left in enumerate(parts_of(names)):
            learn = [name for name in names if name not in left]
            basis, hashes = basis_hash(learn), hashes_of(left)
            known = [one for one in kept if one.basis == basis and hashes.get(one.run) == one.data]
            found += known
            done = {(one.run, one.kind) for one in known}
            missing = {
                kind: [name for name in left if may_be(name, kind) and (name, kind) not in done] for kind in KINDS
            }
            kinds = [kind for kind in KINDS if missing[kind]]
            if not kinds:
                continue
            learners = learners or Learners(names)
            for kind, learned in learners.fitted(learn, kinds):
                print(f"part {fold + 1} of {FOLDS}, {kind}: learned; {len(missing[kind])} runs follow", flush=True)
                asked += [asking.submit(records, one, kind, basis, hashes[one], learned) for one in missing[kind]]
                asked = _keep(asked, found, kept, wait=False)
        _keep(asked, found, kept, wait=True)


def _keep(
    asked: Sequence[Future[list[TravelRun]]], found: list[TravelRun], kept: Sequence[TravelRun], wait: bool
) -> list[Future[list[TravelRun]]]:
    """Add what has been answered to what was found, write it beside older records, return what is still asked."""
    open_ones = []
    for one in asked:
        if not wait and not one.done():
            open_ones.append(one)
            continue
        found += one.result()
        done = {(each.run, each.kind) for each in found}
        older = [each for each in kept if (each.run, each.kind) not in done]
        text = records_text([*found, *older], lambda one: (one.run, one.kind, one.state))
        write_whole(OUT, text.encode())
    return open_ones


def records(name: str, kind: str, basis: str, data: str, learned: Mapping[str, bytes]) -> list[TravelRun]:
    """Return the records of a run as a log of that kind; none where it cannot be one."""
    trace = of_kind(read_trace(TRACES / f"{name}.parquet"), kind)
    if trace is None:
        return []
    per_expert = round(float(np.mean(trace.load_SLE[:])), 1)
    about = {"run": name, "kind": kind, "basis": basis, "data": data, "per_expert": per_expert}
    return [TravelRun(balancing=trace.meta.balancing.method, **about, **said) for said in scored(trace, learned)]
