"""Verify a submission: run it again in the sandbox, compare, and try to catch memorising.

Nothing of the submission runs outside the chosen level of isolation. Reference forecasters are this package's own.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import secrets
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leaderboard.verifying.agreement import differences, refit_differences, refit_mean_differences, unequal_fields
from leaderboard.verifying.fresh_runs import TRACKER, Fresh, fresh_runs, relative_loss
from leaderboard.verifying.screen import Strata, screen_strata, strata_of, summed_by_recipe
from moeload_bench.environment import environment
from moeload_bench.errors import MoeloadError, TargetError, printable
from moeload_bench.evaluation.evaluate import make_result
from moeload_bench.evaluation.harness import Answer
from moeload_bench.evaluation.pairs import Fitted, Pair, Setting, fit_forecaster, replay_and_score
from moeload_bench.evaluation.workers import available_bytes, run_spread
from moeload_bench.files import write_whole
from moeload_bench.isolation.hosts import Level, Limits, share_no_pages
from moeload_bench.isolation.targets import Target, parse_target, preflight
from moeload_bench.results.record import Result, RunResult
from moeload_bench.scoring.catalogue import METRICS
from moeload_bench.submissions.check import check_submission, require_level
from moeload_bench.submissions.folder import FITTED, VERIFICATION, Folder
from moeload_bench.submissions.record import Verification, status_of
from moeload_bench.submissions.requirements import install_packages
from moeload_bench.submissions.submit import as_submitted
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import list_traces, open_source
from moeload_bench.words import FineProgress

MAX_GROWTH = {"fresh_runs": 0.5}  # of a forecaster's loss relative to that of TRACKER
MAX_REASONS, MAX_REASON = 50, 600  # a reason may quote what a stranger's code raised
SHIP_WEIGHTS = (
    "it was fitted, and a fit may end elsewhere on another processor: submit its weights as a file beside the code"
)


@dataclass(frozen=True)
class Request:
    """What to verify, and how."""

    folder: Folder
    result: Result
    suite: Suite
    paths: Mapping[str, Path]
    level: Level = "sandbox"
    sample: float = 1.0
    traces: Path | None = None
    find_links: Path | None = None
    no_index: bool = False
    jobs: int = 1
    seed: int | None = None
    progress: FineProgress = lambda done, total, what: None


@dataclass(frozen=True)
class Verified:
    """What a verification found, the result that is published after it, and the bytes that all of it was scored with.

    Where it is verified, the numbers of ``result`` are the re-run's (with a sample, those of the runs in it); else it
    is the claim. ``fitted`` is what `fit` returned; None unless all runs are the re-run's.
    """

    record: Verification
    result: Result
    fitted: bytes | None = None


def verify(request: Request) -> Verified:
    """Check, install, re-run, compare and look for memory; what fails is a reason in the record, never an exception.

    Raises `SuiteError`, `TraceError`, `IsolationError` or `MissingExtraError` for what is not the submission's fault.
    """
    require_level(request.level)
    with contextlib.suppress(TargetError):  # arguments that it does not take: a reason, when it is run
        preflight(request.folder.target())
    findings: dict[str, float] = {}
    costs: dict[str, Any] = {}
    fitted: bytes | None = None
    published = claim = request.result.model_copy(update={"status": "claimed"})
    reasons = check_submission(replace(request.folder, verification=None), claim, request.suite)
    if not reasons:
        try:
            packages = install_packages(
                request.folder.requirements, find_links=request.find_links, no_index=request.no_index
            )
        except MoeloadError as error:
            reasons = [str(error)]
        else:
            rerun = _Rerun(request, replace(request.folder.target(), packages=packages))
            try:
                reasons = rerun.reasons(findings)
            except TargetError as error:  # arguments that it does not take
                reasons = [str(error)]
            costs = rerun.costs()
            if not reasons:
                published, fitted = rerun.published(), rerun.fits[rerun.target.text].data
    here = environment()
    record = Verification(
        verified=not reasons,
        status=status_of(not reasons, request.sample),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=here.commit,
        level=request.level,
        hardware=here.hardware,
        tolerance=_stated("value") | _stated("mean") | _stated("overall"),
        sample=request.sample,
        result_sha256=published.content_sha256,
        claim_sha256=claim.content_sha256,
        reasons=[printable(reason)[:MAX_REASON] for reason in reasons[:MAX_REASONS]],
        findings={name: float(f"{value:.4g}") for name, value in findings.items()},
        **costs,
    )
    return Verified(record, published, fitted if record.status == "verified" else None)


def write_verification(made: Verified, folder: Folder, place: Path) -> None:
    """Write verification.json and the fitted bytes into the folder, and what is published to ``place``."""
    write_whole(folder.path / VERIFICATION, made.record.to_json().encode())
    if made.fitted is None:
        (folder.path / FITTED).unlink(missing_ok=True)
    else:
        write_whole(folder.path / FITTED, made.fitted)
    made.result.save(place)


def _stated(level: Literal["value", "mean", "overall"]) -> dict[str, str]:
    """Return the tolerances that a verification applied, in words, by metric."""
    bounds = {metric.label: getattr(metric.tolerance, level) for metric in METRICS.values()}
    what = "" if level == "value" else f"{level} "
    return {f"{what}{name}": f"{bound[0]:g} relative or {bound[1]:g}" for name, bound in bounds.items() if bound}


class _Rerun:
    """One submission being run again."""

    def __init__(self, request: Request, target: Target) -> None:
        self.request, self.target = request, target
        self.reference = parse_target(TRACKER)
        self.setting = Setting(request.suite, request.level, Limits(), request.suite.seed, fresh=True)
        self.rng = np.random.default_rng(secrets.randbits(64) if request.seed is None else request.seed)
        self.fits: dict[str, Fitted] = {}
        self.claimed = {run.trace: run for run in request.result.runs}
        self.fitted = request.result.fit_wall_s is not None
        self.again: list[Heard] = []
        self.done = self.total = 0
        self.pages_in_memory: bool | None = None

    def reasons(self, findings: dict[str, float]) -> list[str]:
        """Return why it fails, [] when it does not; stops at the first kind of failure."""
        self.pages_in_memory = share_no_pages(self.target, self.request.level, available_bytes())
        chosen = self._drawn()
        self.total = self._expected(chosen)
        wrong = self._compare(chosen)
        if wrong:
            return wrong
        found = screen_strata(summed_by_recipe([one.strata for one in self.again]))
        if found is not None:
            findings |= found.findings()
            wrong = list(found.reasons())
        if wrong or self.request.traces is None:
            return wrong
        growths = self._growths(fresh_runs(self.request.suite, self.request.traces))
        findings |= growths
        return [
            f"{name}: its loss relative to {TRACKER} grows by {100 * growth:.0f} % on such traces "
            f"(at most {100 * MAX_GROWTH[name]:.0f} % is accepted): it knows the suite's traces"
            for name, growth in growths.items()
            if growth > MAX_GROWTH.get(name, math.inf)
        ]

    def published(self) -> Result:
        """Return what the re-run gave, under the submission's name; of runs outside the sample, the claim,
        which then is checked and not verified."""
        again = {one.result.trace: one.result for one in self.again}
        runs = [again.get(run.trace, run) for run in self.request.result.runs]
        if len(again) < len(runs):
            return self.request.result.model_copy(update={"status": "checked", "runs": tuple(runs)})
        made = make_result(self.setting, self.target, self.fits[self.target.text], runs)
        notes = {"status": "verified", "notes": self.request.result.notes}
        return as_submitted(made, self.request.folder).model_copy(update=notes)

    def costs(self) -> dict[str, Any]:
        """Return what it cost here, for the claim's costs are its author's word; and whether its runs shared pages."""
        if not self.again:
            return {}
        costs = [one.result.cost for one in self.again]
        per_forecast_s = float(np.mean([cost.per_forecast_s for cost in costs]))
        peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
        return {
            "ms_per_forecast": float(f"{1e3 * per_forecast_s:.4g}"),
            "peak_memory_bytes": max(peaks, default=None),
            "pages_in_memory": self.pages_in_memory,
        }

    def _drawn(self) -> list[SuiteTrace]:
        """Return the sample, all runs by default, in an order that nobody knows: no run can tell which ones were
        before.
        """
        entries = self.request.suite.traces
        count = max(1, math.ceil(self.request.sample * len(entries)))
        return [entries[i] for i in self.rng.permutation(len(entries))[:count]]

    def _expected(self, chosen: Sequence[SuiteTrace]) -> int:
        """Return how many runs and fits there will be when all goes well: what progress counts to."""
        fits, runs = 1 if self.request.suite.fit else 0, len(chosen) + self.fitted
        if self.request.traces is None:
            return runs + fits
        return runs + 2 * fits + len(self.request.suite.traces) + 2 * len(list_traces(self.request.traces))

    def _report(self, what: str) -> None:
        self.done += 1
        self.request.progress(self.done, max(self.done, self.total), what)

    def _runs(self, work: Sequence[tuple[Target, SuiteTrace, Path]]) -> Generator[Heard, None, None]:
        """Yield the runs in their order, as they are ready; first what their forecasters learn."""
        unfit = {target.text: target for target, _, _ in work if target.text not in self.fits}
        fit = functools.partial(fit_forecaster, self.setting, self.request.paths)
        fits = run_spread([functools.partial(fit, target) for target in unfit.values()], jobs=self.request.jobs)
        for text, fitted in zip(unfit, fits, strict=True):
            self.fits[text] = fitted
            if self.request.suite.fit:
                self._report(f"the fit of {text}")
        calls = [functools.partial(run_and_hear, self._pair(*one)) for one in work]
        for (target, entry, _), run in zip(work, run_spread(calls, jobs=self.request.jobs), strict=True):
            self._report(f"{target.text} on {entry.id}")
            yield run

    def _pair(self, target: Target, entry: SuiteTrace, path: Path) -> Pair:
        """Return one run. The suite holds the entry, so that finished work is never taken for that of other origins."""
        suite = self.request.suite
        if entry not in suite.traces:
            others = tuple(other for other in suite.traces if other.id != entry.id)
            suite = suite.model_copy(update={"traces": (*others, entry)})
        return Pair(replace(self.setting, suite=suite), entry, path, target, self.fits[target.text])

    def _compare(self, chosen: Sequence[SuiteTrace]) -> list[str]:
        """Return the differences of the first re-run that differs from the claim; another one tells whether by chance.

        A fitted entry is compared by means, which hide noise. So its first run comes twice, from the same fitted bytes,
        and both must be equal.
        """
        work = [(self.target, entry, self.request.paths[entry.id]) for entry in chosen]
        horizons = self.request.suite.horizons
        differing = refit_differences if self.fitted else differences
        with contextlib.closing(self._runs([*work[: self.fitted], *work])) as runs:
            once = next(runs).result if self.fitted else None
            for one, again in zip(work, runs, strict=True):
                unequal = [] if once is None else unequal_fields(once, again.result)
                if unequal:
                    what = f"two runs from the same fitted bytes differ in {', '.join(unequal)}"
                    return [f"{one[1].id}: not deterministic: {what}"]
                once = None
                self.again.append(again)
                wrong = list(differing(self.claimed[one[1].id], again.result, horizons))
                if wrong:
                    break
            else:
                pairs = [(self.claimed[one.result.trace], one.result) for one in self.again] if self.fitted else []
                return self._fit_differs() or list(refit_mean_differences(pairs, horizons))
        self.fits.pop(self.target.text)
        (once_more,) = self._runs([one])
        other = next(differences(again.result, once_more.result, horizons), None)
        if other is not None:
            return [f"{one[1].id}: not deterministic: two re-runs with one seed differ: {other}"]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        hint = f"; {SHIP_WEIGHTS}" if self.fitted else ""
        return [f"{one[1].id}: the claim is not what the code gives here, twice: {wrong[0]}{more}{hint}"]

    def _fit_differs(self) -> list[str]:
        """Say where the claim is wrong about whether it learned from the open runs: entries are listed by that."""
        found = self.fits[self.target.text].wall_s is not None
        if self.fitted == found:
            return []
        said, seen = ("fitted" if one else "not fitted" for one in (self.fitted, found))
        return [f"fit_wall_s: the claim says that it was {said}, here it was {seen}: run `moeload-bench submit` again"]

    def _growths(self, asked: Sequence[Fresh]) -> dict[str, float]:
        """Return by test how much larger the relative loss is on fresh runs than on what they are compared with."""
        known = {entry.id: entry for one in asked for entry in one.before}
        before = [(self.reference, entry, self.request.paths[entry.id]) for entry in known.values()]
        after = [(target, one.entry, one.path) for one in asked for target in (self.target, self.reference)]
        runs = (heard.result for heard in self._runs([*before, *after]))
        references = {name: next(runs) for name in known}
        pairs: dict[str, list[tuple[float, float]]] = {}
        for one in asked:
            mine, theirs = next(runs), next(runs)
            logs = [
                math.log(relative_loss(self.claimed[entry.id].tasks, references[entry.id].tasks))
                for entry in one.before
            ]
            found = float(np.exp(np.mean(logs))), relative_loss(mine.tasks, theirs.tasks)
            pairs.setdefault(one.test, []).append(found)
        return {name: _growth(found) for name, found in pairs.items()}


def _growth(pairs: Sequence[tuple[float, float]]) -> float:
    """Return how much larger the second of each pair is on (geometric) average: 0.5 means half as much again."""
    return float(np.exp(np.mean([math.log(after / before) for before, after in pairs]))) - 1


@dataclass(frozen=True)
class Heard:
    """A re-run, and what its forecasts have in common with the future beyond what the past says to anybody."""

    result: RunResult
    strata: Strata


def run_and_hear(pair: Pair) -> Heard:
    """Replay one run, score its forecasts, and look at the same forecasts for memory."""
    means: list[NDArray[np.float64]] = []
    horizons = pair.entry.asked(pair.setting.suite.horizons)

    def hear(answer: Answer) -> None:
        if answer.forecast is not None:
            means.append(answer.forecast.window_means(horizons))

    result = replay_and_score(pair, heard=hear)
    if len(means) < len(result.tasks):
        return Heard(result, {})
    trace = open_source(pair.source, pair.entry.data_sha256)
    return Heard(result, strata_of(trace, pair.entry, np.stack(means), horizons))
