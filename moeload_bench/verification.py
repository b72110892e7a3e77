"""Verify a submission: run it again in the sandbox, compare, and try to catch memorising.

Nothing of the submission runs outside the chosen level of isolation. Reference forecasters are this package's own.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from moeload_bench.agreement import MEAN_TOLERANCE, OVERALL_TOLERANCE, TOLERANCE, Tolerance, differences
from moeload_bench.environment import environment
from moeload_bench.errors import MoeloadError, SuiteError, TargetError, printable
from moeload_bench.evaluation import Progress
from moeload_bench.harness import row_of
from moeload_bench.isolate import Level, Limits
from moeload_bench.memorising import TRACKER, future_altered, permuted_and_shifted, relative_loss
from moeload_bench.packages import install_packages
from moeload_bench.results import Result, RunResult
from moeload_bench.runs import Fitted, Pair, Setting, fit, run_pair
from moeload_bench.store import data_sha256, find_trace, list_traces, read_trace, write_trace
from moeload_bench.submission import Folder, Verification
from moeload_bench.submission_check import check_submission, claim_sha256, require_level
from moeload_bench.suite import Suite, SuiteTrace, suite_for_trace
from moeload_bench.targets import Target, parse_target, preflight
from moeload_bench.trace import Trace

# By how much a forecaster's loss relative to that of TRACKER may grow on traces that were altered or are fresh.
MAX_GROWTH = {"permuted_and_shifted": 0.25, "future_altered": 1.0, "fresh_runs": 0.5}
MAX_SHIFT_ROWS = 20
MAX_REASONS, MAX_REASON = 50, 600  # a reason may quote what a stranger's code raised
SPLICES_PER_STATE = 2


@dataclass(frozen=True)
class Request:
    """What to verify, and how."""

    folder: Folder
    result: Result
    suite: Suite
    paths: Mapping[str, Path]
    level: Level = "sandbox"
    limits: Limits = field(default_factory=Limits)
    sample: float = 1.0
    traces: Path | None = None
    find_links: Path | None = None
    no_index: bool = False
    seed: int | None = None
    progress: Progress = lambda done, total, what: None


def verify(request: Request) -> Verification:
    """Check, install, re-run, compare and look for memory; what fails is a reason in the record, never an exception.

    Raises `SuiteError`, `TraceError`, `IsolationError` or `MissingExtraError` for what is not the submission's fault.
    """
    require_level(request.level)
    with contextlib.suppress(TargetError):  # arguments that it does not take: a reason, when it is run
        preflight(request.folder.target())
    findings: dict[str, float] = {}
    unverified = replace(request.folder, verification=None)
    reasons = check_submission(unverified, request.result.model_copy(update={"status": "claimed"}), request.suite)
    if not reasons:
        try:
            packages = install_packages(
                request.folder.requirements, find_links=request.find_links, no_index=request.no_index
            )
        except MoeloadError as error:
            reasons = [str(error)]
        else:
            reasons = _Rerun(request, replace(request.folder.target(), packages=packages)).reasons(findings)
    here = environment()
    return Verification(
        verified=not reasons,
        status="failed" if reasons else "verified",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=here.commit,
        level=request.level,
        hardware=here.hardware,
        tolerance=_stated(TOLERANCE) | _stated(MEAN_TOLERANCE, "mean ") | _stated(OVERALL_TOLERANCE, "overall "),
        sample=request.sample,
        result_sha256=claim_sha256(request.result),
        reasons=[printable(reason)[:MAX_REASON] for reason in reasons[:MAX_REASONS]],
        findings={name: float(f"{value:.4g}") for name, value in findings.items()},
    )


def _stated(tolerance: Tolerance, what: str = "") -> dict[str, str]:
    return {f"{what}{name or 'others'}": f"{rel:g} relative or {abs_:g}" for name, (rel, abs_) in tolerance.items()}


def locate(suite: Suite) -> dict[str, Path]:
    """The files of a suite's traces: bundled, local or from the Hub."""
    hub = (suite.hub.repo, suite.hub.revision) if suite.hub else None
    return {entry.id: find_trace(entry.id, hub=hub) for entry in (*suite.traces, *suite.fit)}


class _Rerun:
    """One submission being run again."""

    def __init__(self, request: Request, target: Target) -> None:
        self.request, self.target = request, target
        self.reference = parse_target(TRACKER)
        self.setting = Setting(request.suite, request.level, request.limits, request.suite.seed, fresh=True)
        self.rng = np.random.default_rng(secrets.randbits(64) if request.seed is None else request.seed)
        self.fits: dict[str, Fitted] = {}
        self.references: dict[str, RunResult] = {}
        self.claimed = {run.trace: run for run in request.result.runs}
        self.done = self.total = 0

    def reasons(self, findings: dict[str, float]) -> list[str]:
        """Why it fails, [] when it does not; stops at the first kind of failure."""
        chosen = self._sampled()
        self.total = self._expected(chosen)
        for entry in chosen:
            wrong = self._compare(entry)
            if wrong:
                return [f"{entry.id}: {line}" for line in wrong]
        with tempfile.TemporaryDirectory(prefix="moeload-verify-") as scratch:
            tests = {"permuted_and_shifted": self._permuted, "future_altered": self._altered}
            for name, test in tests.items():
                pairs = [pair for entry in chosen for pair in test(entry, Path(scratch))]
                findings[name] = _growth(pairs)
            if self.request.traces is not None:
                findings |= self._fresh(self.request.traces)
        return [
            f"{name}: its loss relative to {TRACKER} grows by {100 * growth:.0f} % on such traces "
            f"(at most {100 * MAX_GROWTH[name]:.0f} % is accepted): it knows the suite's traces"
            for name, growth in findings.items()
            if growth > MAX_GROWTH.get(name, math.inf)
        ]

    def _sampled(self) -> list[SuiteTrace]:
        entries = self.request.suite.traces
        count = max(1, math.ceil(self.request.sample * len(entries)))
        return [entries[i] for i in sorted(self.rng.choice(len(entries), size=count, replace=False))]

    def _expected(self, chosen: Sequence[SuiteTrace]) -> int:
        """How many runs and fits there will be when all goes well: what progress counts to."""
        both = 2 * sum(2 + sum(min(SPLICES_PER_STATE, len(o)) for o in _by_state(entry)) for entry in chosen)
        fits = 2 if self.request.suite.fit else 0
        if self.request.traces is None:
            return both + fits
        return both + fits + len(self.request.suite.traces) - len(chosen) + 2 * len(list_traces(self.request.traces))

    def _report(self, what: str) -> None:
        self.done += 1
        self.request.progress(self.done, max(self.done, self.total), what)

    def _run(self, target: Target, entry: SuiteTrace, path: Path) -> RunResult:
        """One run. The suite holds the entry, so that finished work is never taken for that of other origins."""
        suite = self.request.suite
        if entry not in suite.traces:
            others = tuple(other for other in suite.traces if other.id != entry.id)
            suite = suite.model_copy(update={"traces": (*others, entry)})
        if target.text not in self.fits:
            self.fits[target.text] = fit(self.setting, self.request.paths, target)
            if suite.fit:
                self._report(f"the fit of {target.text}")
        run = run_pair(Pair(replace(self.setting, suite=suite), entry, path, target, self.fits[target.text]))
        self._report(f"{target.text} on {entry.id}")
        return run

    def _relative(self, entry: SuiteTrace, wanted: Sequence[int] | None = None) -> float:
        """The claim's loss over the reference's on a run of the suite, over all or some origins."""
        if entry.id not in self.references:
            self.references[entry.id] = self._run(self.reference, entry, self.request.paths[entry.id])
        kept = set(wanted if wanted is not None else [origin for origin, _ in entry.origins()])
        mine, theirs = (
            [task for task in run.tasks if task.origin in kept]
            for run in (self.claimed[entry.id], self.references[entry.id])
        )
        return relative_loss(mine, theirs)

    def _compare(self, entry: SuiteTrace) -> list[str]:
        """Differences of a re-run from the claim; a second re-run tells chance from other numbers."""
        path, claimed = self.request.paths[entry.id], self.claimed[entry.id]
        again = self._run(self.target, entry, path)
        wrong = list(differences(claimed, again, self.request.suite.horizons))
        if not wrong:
            return []
        self.fits.pop(self.target.text)
        once_more = list(differences(again, self._run(self.target, entry, path), self.request.suite.horizons))
        if once_more:
            return [f"not deterministic: two re-runs with one seed differ: {once_more[0]}"]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return [f"the claim is not what the code gives here, twice: {wrong[0]}{more}"]

    def _permuted(self, entry: SuiteTrace, scratch: Path) -> Iterator[tuple[float, float]]:
        trace = read_trace(self.request.paths[entry.id], expected_sha256=entry.data_sha256)
        rows = int(self.rng.integers(MAX_SHIFT_ROWS // 2, MAX_SHIFT_ROWS + 1))
        shift = rows * trace.meta.stride
        first = int(trace.step_S[0]) + shift
        kept = [origin for origin, _ in entry.origins() if origin > first]
        moved = _with_origins(entry, kept, -shift)
        other = permuted_and_shifted(trace, rows, self.rng)
        yield self._relative(entry, kept), self._relative_on(moved, other, scratch)

    def _altered(self, entry: SuiteTrace, scratch: Path) -> Iterator[tuple[float, float]]:
        trace = read_trace(self.request.paths[entry.id], expected_sha256=entry.data_sha256)
        horizon = self.request.suite.horizon // trace.meta.stride
        for origin in self._splices(entry):
            row = row_of(trace, origin)
            other = future_altered(trace, row, row + horizon)
            yield self._relative(entry, [origin]), self._relative_on(_with_origins(entry, [origin]), other, scratch)

    def _splices(self, entry: SuiteTrace) -> list[int]:
        picks = [self.rng.choice(o, size=min(SPLICES_PER_STATE, len(o)), replace=False) for o in _by_state(entry)]
        return sorted(int(origin) for pick in picks for origin in pick)

    def _relative_on(self, entry: SuiteTrace, trace: Trace, scratch: Path) -> float:
        """The relative loss on a trace made from one of the suite's."""
        path = write_trace(trace, scratch / f"{secrets.token_hex(8)}.parquet")
        return self._both(entry.model_copy(update={"data_sha256": data_sha256(trace)}), path)

    def _both(self, entry: SuiteTrace, path: Path) -> float:
        mine, theirs = (self._run(target, entry, path) for target in (self.target, self.reference))
        return relative_loss(mine.tasks, theirs.tasks)

    def _fresh(self, folder: Path) -> dict[str, float]:
        """Growth on the traces of a folder: from the suite's runs of the same recipe, else from all of them.

        How a forecaster compares with another depends on the recipe, so that the second is reported and not judged.
        """
        suite, refs = self.request.suite, list_traces(folder)
        if not refs:
            raise SuiteError(f"{folder}: no traces (RECIPE/SPLIT/seedN.parquet)")
        pairs: dict[str, list[tuple[float, float]]] = {}
        for ref in refs:
            own = suite_for_trace(read_trace(ref.path), horizons=suite.horizons, rule=suite.rule)
            if own.horizons != suite.horizons:
                raise SuiteError(f"{ref.path}: too short for the horizons of suite {suite.name}")
            entry = own.traces[0]
            alike = [one for one in suite.traces if _recipe(one) == _recipe(entry)]
            before = float(np.exp(np.mean([math.log(self._relative(one)) for one in alike or suite.traces])))
            name = "fresh_runs" if alike else "other_recipes"
            pairs.setdefault(name, []).append((before, self._both(entry, ref.path)))
        return {name: _growth(found) for name, found in pairs.items()}


def _growth(pairs: Sequence[tuple[float, float]]) -> float:
    """How much larger the second of each pair is on (geometric) average: 0.5 means half as much again."""
    return float(np.exp(np.mean([math.log(after / before) for before, after in pairs]))) - 1


def _recipe(entry: SuiteTrace) -> str:
    return entry.id.split("/")[0]


def _by_state(entry: SuiteTrace) -> list[tuple[int, ...]]:
    return [origins for origins in (entry.transient, entry.mixed, entry.stable) if origins]


def _with_origins(entry: SuiteTrace, origins: Sequence[int], shift: int = 0) -> SuiteTrace:
    states = {"transient": entry.transient, "mixed": entry.mixed, "stable": entry.stable}
    kept = {state: tuple(o + shift for o in old if o in set(origins)) for state, old in states.items()}
    return entry.model_copy(update=kept)
