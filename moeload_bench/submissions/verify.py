"""Verify a submission: run it again in the sandbox, compare, and try to catch memorising.

Nothing of the submission runs outside the chosen level of isolation. Reference forecasters are this package's own.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import secrets
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.environment import environment
from moeload_bench.errors import MoeloadError, TargetError, printable
from moeload_bench.evaluation.evaluate import Progress
from moeload_bench.evaluation.pairs import Fitted, Pair, Setting, fit, run_pair
from moeload_bench.evaluation.workers import spread
from moeload_bench.isolation.hosts import Level, Limits
from moeload_bench.isolation.targets import Target, parse_target, preflight
from moeload_bench.results.agreement import MEAN_TOLERANCE, OVERALL_TOLERANCE, TOLERANCE, Tolerance, differences
from moeload_bench.results.record import Result, RunResult
from moeload_bench.submissions.altered_traces import TRACKER, Altered, Altering, fresh_runs, relative_loss, splices
from moeload_bench.submissions.check import check_submission, require_level
from moeload_bench.submissions.folder import VERIFICATION, Folder
from moeload_bench.submissions.record import Verification, status_of
from moeload_bench.submissions.requirements import install_packages
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import find_trace, list_traces

# By how much a forecaster's loss relative to that of TRACKER may grow on traces that were altered or are fresh.
MAX_GROWTH = {"permuted_and_shifted": 0.25, "future_altered": 1.0, "fresh_runs": 0.5}
MAX_REASONS, MAX_REASON = 50, 600  # a reason may quote what a stranger's code raised


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
    jobs: int = 1
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
    costs: dict[str, Any] = {}
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
            rerun = _Rerun(request, replace(request.folder.target(), packages=packages))
            reasons = rerun.reasons(findings)
            costs = rerun.costs()
    here = environment()
    return Verification(
        verified=not reasons,
        status=status_of(not reasons, request.sample),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=here.commit,
        level=request.level,
        hardware=here.hardware,
        tolerance=_stated(TOLERANCE) | _stated(MEAN_TOLERANCE, "mean ") | _stated(OVERALL_TOLERANCE, "overall "),
        sample=request.sample,
        result_sha256=request.result.content_sha256,
        reasons=[printable(reason)[:MAX_REASON] for reason in reasons[:MAX_REASONS]],
        findings={name: float(f"{value:.4g}") for name, value in findings.items()},
        **costs,
    )


def keep(made: Verification, folder: Folder, result: Result, place: Path) -> None:
    """Write what was found: verification.json into the folder, and the status into the result at ``place``."""
    (folder.path / VERIFICATION).write_text(made.to_json())
    result.model_copy(update={"status": "verified" if made.verified else "claimed"}).save(place)


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
        self.again: list[RunResult] = []
        self.done = self.total = 0

    def reasons(self, findings: dict[str, float]) -> list[str]:
        """Why it fails, [] when it does not; stops at the first kind of failure."""
        chosen = self._sampled()
        self.total = self._expected(chosen)
        wrong = self._compare(chosen)
        if wrong:
            return wrong
        with tempfile.TemporaryDirectory(prefix="moeload-verify-") as scratch:
            make = Altering(self.request.suite, self.request.paths, self.rng, Path(scratch))
            asked = [altered for test in (make.permuted, make.futures) for entry in chosen for altered in test(entry)]
            fresh = [] if self.request.traces is None else fresh_runs(self.request.suite, self.request.traces)
            findings |= self._growths([*asked, *fresh])
        return [
            f"{name}: its loss relative to {TRACKER} grows by {100 * growth:.0f} % on such traces "
            f"(at most {100 * MAX_GROWTH[name]:.0f} % is accepted): it knows the suite's traces"
            for name, growth in findings.items()
            if growth > MAX_GROWTH.get(name, math.inf)
        ]

    def costs(self) -> dict[str, Any]:
        """What it cost here: the claim's costs are its author's word."""
        if not self.again:
            return {}
        per_forecast_s = float(np.mean([run.cost.per_forecast_s for run in self.again]))
        peaks = [run.cost.peak_memory_bytes for run in self.again if run.cost.peak_memory_bytes is not None]
        return {"ms_per_forecast": float(f"{1e3 * per_forecast_s:.4g}"), "peak_memory_bytes": max(peaks, default=None)}

    def _sampled(self) -> list[SuiteTrace]:
        entries = self.request.suite.traces
        count = max(1, math.ceil(self.request.sample * len(entries)))
        return [entries[i] for i in sorted(self.rng.choice(len(entries), size=count, replace=False))]

    def _expected(self, chosen: Sequence[SuiteTrace]) -> int:
        """How many runs and fits there will be when all goes well: what progress counts to."""
        both = 2 * sum(2 + splices(entry) for entry in chosen)
        fits = 2 if self.request.suite.fit else 0
        if self.request.traces is None:
            return both + fits
        return both + fits + len(self.request.suite.traces) - len(chosen) + 2 * len(list_traces(self.request.traces))

    def _report(self, what: str) -> None:
        self.done += 1
        self.request.progress(self.done, max(self.done, self.total), what)

    def _runs(self, work: Sequence[tuple[Target, SuiteTrace, Path]]) -> Generator[RunResult, None, None]:
        """The runs in their order, as they are ready; first what their forecasters learn."""
        unfit = {target.text: target for target, _, _ in work if target.text not in self.fits}
        fits = [functools.partial(fit, self.setting, self.request.paths, target) for target in unfit.values()]
        for text, fitted in zip(unfit, spread(fits, jobs=self.request.jobs), strict=True):
            self.fits[text] = fitted
            if self.request.suite.fit:
                self._report(f"the fit of {text}")
        calls = [functools.partial(run_pair, self._pair(*one)) for one in work]
        for (target, entry, _), run in zip(work, spread(calls, jobs=self.request.jobs), strict=True):
            self._report(f"{target.text} on {entry.id}")
            yield run

    def _pair(self, target: Target, entry: SuiteTrace, path: Path) -> Pair:
        """One run. The suite holds the entry, so that finished work is never taken for that of other origins."""
        suite = self.request.suite
        if entry not in suite.traces:
            others = tuple(other for other in suite.traces if other.id != entry.id)
            suite = suite.model_copy(update={"traces": (*others, entry)})
        return Pair(replace(self.setting, suite=suite), entry, path, target, self.fits[target.text])

    def _compare(self, chosen: Sequence[SuiteTrace]) -> list[str]:
        """Differences of the first re-run that differs from the claim; a second one tells chance from other numbers."""
        work = [(self.target, entry, self.request.paths[entry.id]) for entry in chosen]
        with contextlib.closing(self._runs(work)) as runs:
            for one, again in zip(work, runs, strict=True):
                self.again.append(again)
                wrong = list(differences(self.claimed[one[1].id], again, self.request.suite.horizons))
                if wrong:
                    break
            else:
                return []
        self.fits.pop(self.target.text)
        (once_more,) = self._runs([one])
        other = next(differences(again, once_more, self.request.suite.horizons), None)
        if other is not None:
            return [f"{one[1].id}: not deterministic: two re-runs with one seed differ: {other}"]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return [f"{one[1].id}: the claim is not what the code gives here, twice: {wrong[0]}{more}"]

    def _growths(self, asked: Sequence[Altered]) -> dict[str, float]:
        """By test, how much larger the relative loss is on the altered traces than on what they are compared with."""
        known = {entry.id: entry for one in asked for entry in one.before}
        before = [(self.reference, entry, self.request.paths[entry.id]) for entry in known.values()]
        after = [(target, one.entry, one.path) for one in asked for target in (self.target, self.reference)]
        runs = self._runs([*before, *after])
        self.references = {name: next(runs) for name in known}
        pairs: dict[str, list[tuple[float, float]]] = {}
        for one in asked:
            mine, theirs = next(runs), next(runs)
            logs = [math.log(self._relative(entry, one.origins)) for entry in one.before]
            pairs.setdefault(one.test, []).append(
                (float(np.exp(np.mean(logs))), relative_loss(mine.tasks, theirs.tasks))
            )
        return {name: _growth(found) for name, found in pairs.items()}

    def _relative(self, entry: SuiteTrace, wanted: Sequence[int] | None) -> float:
        """The claim's loss over the reference's on a run of the suite, over all or some origins."""
        kept = set(wanted if wanted is not None else [origin for origin, _ in entry.origins()])
        mine, theirs = (
            [task for task in run.tasks if task.origin in kept]
            for run in (self.claimed[entry.id], self.references[entry.id])
        )
        return relative_loss(mine, theirs)


def _growth(pairs: Sequence[tuple[float, float]]) -> float:
    """How much larger the second of each pair is on (geometric) average: 0.5 means half as much again."""
    return float(np.exp(np.mean([math.log(after / before) for before, after in pairs]))) - 1
