"""How `guarded` does away from home: on `train` runs that it has not learned from, as they are and otherwise logged.

    python -m leaderboard studies travel

Clusters of near twins are dealt into `FOLDS` parts. Each part is left out once: everything that can be fitted is fitted
on the `train` runs of the others, and every forecaster follows the runs of the part, as they are and as logs that could
have been kept of them (`KINDS`), which the network that is asked there has not learned from either. No `test` run is
read. Kept in leaderboard/travel.json under the hashes of the trace and of what was learned from; only
what is missing is run. An hour for all.

Axis letters: K horizons, S rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from moeload_bench.baselines._guard import to_bytes
from moeload_bench.baselines._spread import WindowTruth
from moeload_bench.baselines.average_tuned import LARGE, AverageTuned
from moeload_bench.baselines.gated import Gated

from leaderboard.committed import ROOT, TRACES, recipe_name
from leaderboard.fit_weights import fit_runs, runs_of
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
from moeload_bench.scoring.metrics import total_variation
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
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "guarded": (),
    "guarded.old": ("summed", "thinned", "smoothed"),
    "guarded.real": ("smoothed",),
}
"""Networks by what they do not learn from, and the name that each has in the records."""
PLAIN = ("adaptive", "ema", "last_value", "sw_avg", "since_plan")


class TravelRun(Record):
    """A left-out run of one kind in one state: the mean log error of each forecaster over its origins, [K]."""

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

    @property
    def recipe(self) -> str:
        return recipe_name(self.run)

    @property
    def stratum(self) -> str:
        """Return the size of its batch; probes count many tokens and learn from few, so they stand apart."""
        if ".probe/" in self.run:
            return "probe"
        return "large" if self.per_expert >= LARGE else "small"


def as_it_is(trace: Trace) -> Trace:
    """Return the trace."""
    return trace


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
    "as it is": as_it_is,
    "summed": summed,
    "sampled": sampled,
    "thinned": thinned,
}


def parts_of(names: Sequence[str]) -> list[list[str]]:
    """Return the runs of each part that is left out at once; near twins lie in one, the parts are about as large."""
    groups = groups_of(recipe_name(name) for name in names)
    by_group: dict[str, list[str]] = {}
    for name in names:
        by_group.setdefault(groups[recipe_name(name)], []).append(name)
    parts: list[list[str]] = [[] for _ in range(FOLDS)]
    for _, runs in sorted(by_group.items(), key=lambda item: (-len(item[1]), item[0])):
        min(parts, key=len).extend(runs)
    return parts


def of_kind(trace: Trace, kind: str) -> Trace | None:
    """Return a run as a log of that kind; None where it cannot be one."""
    if trace.meta.stride > 1 and kind != "as it is":
        return None
    try:
        return KINDS[kind](trace)
    except TraceError as error:
        print(f"{kind}: left out: {error}")
        return None


class Learners:
    """What learned from the runs of the other parts, by kind of log."""

    def __init__(self, names: Sequence[str]) -> None:
        self._traces = [read_trace(TRACES / f"{name}.parquet") for name in names]
        self._runs = fit_runs(self._traces)
        self._gated = Gated.fit(self._runs, 0)

    def fitted(self, kind: str) -> dict[str, bytes]:
        """Return networks without twins of that kind, and the average that is best on logs of it: a fair opponent."""
        from moeload_bench.baselines._guard_fit import fit_guard

        networks = NETWORKS if kind == "as it is" else {"guarded": ()}
        out = {name: to_bytes(fit_guard(self._runs, 0, (*without, kind))) for name, without in networks.items()}
        logs = fit_runs([log for trace in self._traces if (log := of_kind(trace, kind)) is not None])
        return {**out, "gated": self._gated, "average_tuned": AverageTuned.fit(logs, 0)}


def scored(trace: Trace, learned: Mapping[str, bytes]) -> Iterator[tuple[str, tuple[int, ...], int, dict[str, Any]]]:
    """Yield (state, horizons, origins, mean log errors [K] by forecaster) of a run that was left out."""
    horizons = tuple(h for h in HORIZONS if h % trace.meta.stride == 0 and 3 * h <= trace.steps * trace.meta.stride)
    labels = label_states(trace.load_SLE, trace.meta.stride, load_suite("v2").rule)
    chosen = choose_origins(labels, trace.step_S, max(horizons), PER_STATE)
    truth = WindowTruth(trace_info(trace), trace.rows(0, trace.steps))
    true_OKLE = {o: truth.means(row_of(trace, o), horizons) for each in chosen.values() for o in each}
    names = {"guarded.unguarded": ("guarded@guard=false", "guarded")}
    names |= {name: (name.split(".")[0], name) for name in learned} | {name: (name, "") for name in PLAIN}
    errors: dict[str, dict[int, Any]] = {name: {} for name in names}
    for name, (target, weights) in names.items():
        with follow(parse_target(target), trace, seed=0, fitted=learned.get(weights), level="none") as feed:
            for answer in feed.answers(list(true_OKLE), horizons):
                assert answer.forecast is not None, answer.failure
                told_KLE = answer.forecast.window_means(horizons)
                error_K = total_variation(told_KLE, true_OKLE[answer.origin]).mean(axis=1)
                errors[name][answer.origin] = np.log(np.maximum(error_K, LEAST_ERROR))
    for state, origins in chosen.items():
        if origins:
            means = {name: np.mean([of[o] for o in origins], axis=0) for name, of in errors.items()}
            rounded = {name: tuple(mean_K.round(5).tolist()) for name, mean_K in means.items()}
            yield state, horizons, len(origins), rounded


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
    names = runs_of("guarded")
    kept, found = read_records(TravelRun, OUT), list[TravelRun]()
    for fold, left in enumerate(parts_of(names)):
        learn = [name for name in names if name not in left]
        basis, hashes = basis_hash(learn), hashes_of(left)
        learners: Learners | None = None
        for kind in KINDS:
            known = [one for one in kept if (one.kind, one.basis) == (kind, basis) and hashes.get(one.run) == one.data]
            found += known
            missing = [name for name in left if name not in {one.run for one in known}]
            if not missing:
                continue
            learners = learners or Learners(learn)
            learned = learners.fitted(kind)
            for name in missing:
                found += _records(name, kind, basis, hashes[name], learned)
                print(f"part {fold + 1} of {FOLDS}, {kind}: {name}", flush=True)
            later = [one for one in kept if (one.run, one.kind) not in {(done.run, done.kind) for done in found}]
            write_whole(OUT, records_text(found + later, _order).encode())


def _order(one: TravelRun) -> tuple[str, str, str]:
    return one.run, one.kind, one.state


def _records(name: str, kind: str, basis: str, data: str, learned: Mapping[str, bytes]) -> Iterator[TravelRun]:
    """Yield the records of a run as a log of that kind; none where it cannot be one."""
    trace = of_kind(read_trace(TRACES / f"{name}.parquet"), kind)
    if trace is None:
        return
    per_expert = float(np.mean(trace.load_SLE[:]))
    for state, horizons, origins, log_error_K in scored(trace, learned):
        yield TravelRun(
            run=name,
            kind=kind,
            state=state,
            balancing=trace.meta.balancing.method,
            data=data,
            basis=basis,
            per_expert=round(per_expert, 1),
            horizons=horizons,
            origins=origins,
            log_error_K=log_error_K,
        )
