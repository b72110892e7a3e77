"""Verify a submission: run it in the sandbox, and try to catch chance and memorising.

The numbers of that run are the entry's.

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

import numpy as np
from numpy.typing import NDArray

from leaderboard.rerun import unequal_columns
from leaderboard.verifying.screen import Strata, screen_strata, strata_of, summed_by_recipe
from moeload_bench.environment import environment
from moeload_bench.errors import SubmissionError, SuiteError, TargetError, printable
from moeload_bench.files import write_whole
from moeload_bench.harness.evaluate import entry_of
from moeload_bench.harness.pairs import Fitted, Pair, Setting, fit_forecaster, replay_and_score
from moeload_bench.harness.replay import Answer
from moeload_bench.harness.run_rows import failed_rows, scored_rows
from moeload_bench.harness.workers import available_bytes, run_spread
from moeload_bench.isolation.hosts import Level, Limits, share_no_pages
from moeload_bench.isolation.targets import Target, parse_target, preflight
from moeload_bench.publishing.folder import FITTED, VERIFICATION, Folder, folder_problems
from moeload_bench.publishing.requirements import install_packages
from moeload_bench.publishing.submission import Verification
from moeload_bench.publishing.submit import require_level
from moeload_bench.results.columns import Row
from moeload_bench.results.results import Results, results_of
from moeload_bench.results.skill import log_ratio
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import Suite, SuiteTrace, suite_for_trace
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import open_source, read_trace
from moeload_bench.words import FineProgress

TRACKER = "sw_avg@window=10"  # what losses are compared with: a short memory
MAX_GROWTH = {"fresh_runs": 0.5}  # of a forecaster's loss relative to that of TRACKER
MAX_REASONS, MAX_REASON = 50, 600  # a reason may quote what a stranger's code raised


@dataclass(frozen=True)
class Request:
    """What to verify, and how."""

    folder: Folder
    suite: Suite
    paths: Mapping[str, Path]
    level: Level = "sandbox"
    traces: Path | None = None
    find_links: Path | None = None
    no_index: bool = False
    jobs: int = 1
    seed: int | None = None
    progress: FineProgress = lambda done, total, what: None


@dataclass(frozen=True)
class Verified:
    """What a verification found, and where it found nothing wrong, the entry's results.

    ``reasons`` say why it failed, [] for a verified entry. ``fitted`` is what `fit` returned and the result was scored
    with. ``pages_in_memory`` False: a run could tell which pages of shared files an earlier one had read.
    """

    record: Verification
    reasons: list[str]
    results: Results | None = None
    fitted: bytes | None = None
    pages_in_memory: bool | None = None


def verify(request: Request) -> Verified:
    """Check, install, run and look for chance and memory; what fails is a reason, never an exception.

    Raises `SuiteError`, `TraceError`, `IsolationError` or `MissingExtraError` for what is not the submission's fault.
    """
    require_level(request.level)
    with contextlib.suppress(TargetError):  # arguments that it does not take: a reason, when it is run
        preflight(request.folder.target())
    findings: dict[str, float] = {}
    rerun = None
    reasons = list(folder_problems(request.folder, request.suite))
    if not reasons:
        try:
            packages = install_packages(
                request.folder.requirements, find_links=request.find_links, no_index=request.no_index
            )
            rerun = _Rerun(request, replace(request.folder.target(), packages=packages))
            reasons = rerun.reasons(findings)
        except (SubmissionError, TargetError) as error:  # requirements, or arguments that it does not take
            reasons = [str(error)]
    record = Verification(
        status="failed" if reasons else "verified",
        level=request.level,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=environment().commit,
        findings={name: float(f"{value:.4g}") for name, value in findings.items()},
    )
    if reasons or rerun is None:
        return Verified(record, [printable(reason)[:MAX_REASON] for reason in reasons[:MAX_REASONS]])
    return Verified(record, [], rerun.results(), rerun.fits[rerun.target.text].data, rerun.pages_in_memory)


def write_verification(made: Verified, folder: Folder, results: Path) -> None:
    """Write verification.json and the fitted bytes into the folder, and a verified entry's results into ``results``."""
    write_whole(folder.path / VERIFICATION, made.record.to_json().encode())
    if made.fitted is None:
        (folder.path / FITTED).unlink(missing_ok=True)
    else:
        write_whole(folder.path / FITTED, made.fitted)
    if made.results is not None:
        made.results.save(results)


class _Rerun:
    """One submission being run."""

    def __init__(self, request: Request, target: Target) -> None:
        self.request, self.target = request, target
        self.reference = parse_target(TRACKER)
        self.setting = Setting(request.suite, request.level, Limits(), request.suite.seed, fresh=True)
        self.rng = np.random.default_rng(secrets.randbits(64) if request.seed is None else request.seed)
        self.fits: dict[str, Fitted] = {}
        self.runs: dict[str, list[Row]] = {}
        self.strata: list[Strata] = []
        self.done = self.total = 0
        self.pages_in_memory: bool | None = None

    def reasons(self, findings: dict[str, float]) -> list[str]:
        """Return why it fails, [] when it does not; stops at the first kind of failure."""
        self.pages_in_memory = share_no_pages(self.target, self.request.level, available_bytes())
        self.total = self._expected()
        wrong = self._run_suite()
        if wrong:
            return wrong
        screened = screen_strata(summed_by_recipe(self.strata))
        if screened is not None:
            findings |= screened.findings()
            wrong = list(screened.reasons())
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

    def results(self) -> Results:
        """Return what the runs gave, under the submission's name, with its requirements and no path of this machine."""
        folder, suite = self.request.folder, self.request.suite
        entry = entry_of(self.setting, self.target, self.fits[self.target.text]).model_copy(
            update={
                "name": folder.record.name,
                "target": folder.record.result_target,
                "requirements": folder.requirements,
                "status": "verified",
            }
        )
        return results_of([entry], [[row for run in suite.traces for row in self.runs[run.id]]])

    def _expected(self) -> int:
        """Return how many runs and fits there will be when all goes well: what progress counts to."""
        fits, runs = 1 if self.request.suite.fit else 0, len(self.request.suite.traces) + 1
        if self.request.traces is None:
            return runs + fits
        return runs + 2 * fits + len(self.request.suite.traces) + 2 * len(list_traces(self.request.traces))

    def _report(self, what: str) -> None:
        self.done += 1
        self.request.progress(self.done, max(self.done, self.total), what)

    def _runs(self, work: Sequence[tuple[Target, SuiteTrace, Path]]) -> Generator[ScreenedRun, None, None]:
        """Yield the runs in their order, as they are ready; first what their forecasters learn."""
        unfit = {target.text: target for target, _, _ in work if target.text not in self.fits}
        fit = functools.partial(fit_forecaster, self.setting, self.request.paths)
        fits = run_spread([functools.partial(fit, target) for target in unfit.values()], jobs=self.request.jobs)
        for text, fitted in zip(unfit, fits, strict=True):
            self.fits[text] = fitted
            if self.request.suite.fit:
                self._report(f"the fit of {text}")
        calls = [functools.partial(run_and_screen, self._pair(*item)) for item in work]
        for (target, entry, _), run in zip(work, run_spread(calls, jobs=self.request.jobs), strict=True):
            self._report(f"{target.text} on {entry.id}")
            yield run

    def _pair(self, target: Target, entry: SuiteTrace, path: Path) -> Pair:
        """Return one run. The suite holds the entry, so that finished work is never taken for that of other origins."""
        suite = self.request.suite
        if entry not in suite.traces:
            others = tuple(run for run in suite.traces if run.id != entry.id)
            suite = suite.model_copy(update={"traces": (*others, entry)})
        return Pair(replace(self.setting, suite=suite), entry, path, target, self.fits[target.text])

    def _run_suite(self) -> list[str]:
        """Run every trace of the suite, in an order that nobody knows; return what is wrong, [] for nothing.

        The first run comes twice, from the same fitted bytes, and both must be equal.
        """
        entries = self.request.suite.traces
        shuffled = [entries[i] for i in self.rng.permutation(len(entries))]
        work = [(self.target, entry, self.request.paths[entry.id]) for entry in [shuffled[0], *shuffled]]
        with contextlib.closing(self._runs(work)) as runs:
            once = next(runs).rows
            for entry, scored in zip(shuffled, runs, strict=True):
                unequal = unequal_columns(once, scored.rows) if entry is shuffled[0] else []
                if unequal:
                    what = f"two runs from the same fitted bytes differ in {', '.join(unequal)}"
                    return [f"{entry.id}: not deterministic: {what}"]
                if failed := failed_rows(scored.rows):
                    first, why = failed[0]["origin"], failed[0]["failure"]
                    return [f"{entry.id}: {len(failed)} tasks failed, the first is origin {first}: {why}"]
                self.runs[entry.id] = scored.rows
                self.strata.append(scored.strata)
        if self.request.folder.record.model_type == "statistical" and self.fits[self.target.text].wall_s is not None:
            return ["model_type: got 'statistical', but it was fitted on the suite's train runs: expected 'learned'"]
        return []

    def _growths(self, asked: Sequence[Fresh]) -> dict[str, float]:
        """Return by test how much larger the relative loss is on fresh runs than on what they are compared with."""
        former = {entry.id: entry for fresh in asked for entry in fresh.before}
        before = [(self.reference, entry, self.request.paths[entry.id]) for entry in former.values()]
        after = [(target, fresh.entry, fresh.path) for fresh in asked for target in (self.target, self.reference)]
        runs = (scored.rows for scored in self._runs([*before, *after]))
        references = {name: next(runs) for name in former}
        pairs: dict[str, list[tuple[float, float]]] = {}
        for fresh in asked:
            own, reference = next(runs), next(runs)
            logs = [math.log(relative_loss(self.runs[entry.id], references[entry.id])) for entry in fresh.before]
            losses = float(np.exp(np.mean(logs))), relative_loss(own, reference)
            pairs.setdefault(fresh.test, []).append(losses)
        return {name: _growth(losses) for name, losses in pairs.items()}


def _growth(pairs: Sequence[tuple[float, float]]) -> float:
    """Return how much larger the second of each pair is on (geometric) average: 0.5 means half as much again."""
    return float(np.exp(np.mean([math.log(after / before) for before, after in pairs]))) - 1


@dataclass(frozen=True)
class ScreenedRun:
    """A run, and what its forecasts have in common with the future beyond what the past says to anybody."""

    rows: list[Row]
    strata: Strata


def run_and_screen(pair: Pair) -> ScreenedRun:
    """Replay one run, score its forecasts, and look at the same forecasts for memory."""
    means: list[NDArray[np.float64]] = []
    horizons = pair.scored_run.asked(pair.setting.suite.horizons)

    def keep_means(answer: Answer) -> None:
        if answer.forecast is not None:
            means.append(answer.forecast.window_means(horizons))

    rows = replay_and_score(pair, on_answer=keep_means)
    if len(means) < len(pair.scored_run.origins()):
        return ScreenedRun(rows, {})
    trace = open_source(pair.source, pair.scored_run.data_sha256)
    return ScreenedRun(rows, strata_of(trace, pair.scored_run, np.stack(means), horizons))


# ---------------------------------------------------------------- unseen runs


@dataclass(frozen=True)
class Fresh:
    """A run that is not the suite's, and the runs of the suite that a forecaster's loss on it is compared with.

    An honest forecaster's loss relative to that of `TRACKER` is about what it is on the suite; a memoriser's grows.
    """

    test: str
    before: Sequence[SuiteTrace]
    entry: SuiteTrace
    path: Path


def fresh_runs(suite: Suite, folder: Path) -> list[Fresh]:
    """Return the traces of a folder, compared with the suite's runs of the same recipe, else with all of them.

    How a forecaster compares with another depends on the recipe, so that the second is reported and not judged.
    Raises `SuiteError` for a folder without traces and for a trace that is too short for the suite's horizons.
    """
    refs = list_traces(folder)
    if not refs:
        raise SuiteError(f"{folder}: no traces (RECIPE/SPLIT/seedN.parquet)")
    fresh = []
    for ref in refs:
        own = suite_for_trace(read_trace(ref.path), horizons=suite.horizons, rule=suite.rule)
        if own.horizons != suite.horizons:
            raise SuiteError(f"{ref.path}: too short for the horizons of suite {suite.name}")
        entry = own.traces[0]
        same_recipe = [run for run in suite.traces if run.id.split("/")[0] == entry.id.split("/")[0]]
        test = "fresh_runs" if same_recipe else "other_recipes"
        fresh.append(Fresh(test, same_recipe or suite.traces, entry, ref.path))
    return fresh


def relative_loss(rows: Sequence[Row], reference: Sequence[Row]) -> float:
    """Return the geometric mean of the loss over the reference's, over tasks and horizons, clipped as in the skill."""
    error_W, reference_W = (
        np.array([row[PRIMARY] for row in scored_rows(each)], dtype=np.float64) for each in (rows, reference)
    )
    ratio_W = log_ratio(error_W, reference_W)
    finite_W = ratio_W[np.isfinite(ratio_W)]
    return float(np.exp(finite_W.mean())) if len(finite_W) else 1.0
