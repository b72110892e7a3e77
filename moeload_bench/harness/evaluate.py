"""`evaluate`: forecasters x suite -> results.

The unit of work is a (forecaster, trace) pair. Pairs are independent, so they are spread by joblib and cached one by
one; the results do not depend on how they were spread.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moeload_bench.bounds import whole_number
from moeload_bench.environment import environment
from moeload_bench.errors import MissingExtraError, MoeloadError, PlacementError, SuiteError, counted, short
from moeload_bench.harness.pairs import Fitted, Pair, Setting, fit_forecaster, run_pair
from moeload_bench.harness.replay import Answer
from moeload_bench.harness.workers import Spread, check_memory, workers
from moeload_bench.isolation.hosts import Level, Limits, parse_level
from moeload_bench.isolation.targets import (
    ClassTarget,
    Target,
    class_target,
    is_baseline,
    load_class,
    parse_target,
    preflight,
    source_sha256,
)
from moeload_bench.names import name_problem
from moeload_bench.placement.plans import SHAPE_NAMES
from moeload_bench.results.checks import entry_problems
from moeload_bench.results.columns import Row
from moeload_bench.results.entry import Entry, SuiteRecord
from moeload_bench.results.results import Results, results_of
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.suites.suite import Suite, as_suite, check_traces, load_suite, season_of, sources_of
from moeload_bench.traces.store import Source
from moeload_bench.traces.trace import Trace
from moeload_bench.words import FineProgress, silent

ForecasterLike = str | type[Any] | Target


def evaluate(
    forecasters: ForecasterLike | Sequence[ForecasterLike] | None = None,
    suite: str | Suite | Trace = "mini",
    *,
    traces: Iterable[Trace] = (),
    paths: Mapping[str, str | Path] | None = None,
    level: Level = "process",
    limits: Limits | None = None,
    seed: int | None = None,
    jobs: int | None = 1,
    fresh: bool | frozenset[str] = False,
    progress: FineProgress | None = None,
    keep: str | Path | None = None,
    shapes: Sequence[str] | None = None,
) -> Results:
    """Score forecasters on a suite, or on a trace of one's own: its origins are those of `suite_for_trace`.

    ``forecasters``: targets (`"sw_avg@window=500"`, `"my.py:Mine"`), classes of this process (level `none` only), or
    None for the suite's baselines. ``traces`` of the suite that are at hand, and ``paths``, files of others by id, are
    used instead of looking them up. ``fresh`` ignores finished work in the cache, of all forecasters or of those named.
    ``progress(done, total, what)`` is called as pairs finish and, with one job, at every origin within them (1.5 of 6:
    half of the second). ``jobs``: the processes on this machine; None spreads the pairs by the joblib backend that the
    caller activated. ``keep``: a folder for the forecasts' window means, from which `rescore` makes other metrics;
    what is not there yet runs again. ``shapes``: the cluster shapes whose plans are scored, by name; all of
    `headline_shapes` by default, none for errors alone. A forecaster's failure is a failed task in its result; what is
    raised (`TargetError`, `SuiteError`, `TraceError`, `IsolationError` for an unknown level, `MoeloadError` for another
    argument) concerns the request.
    """
    parse_level(level)
    jobs = None if jobs is None else whole_number(jobs, "jobs", 1)
    seed = None if seed is None else whole_number(seed, "seed", 0)
    if isinstance(shapes, str) or not set(shapes or ()) <= set(SHAPE_NAMES):
        raise PlacementError(f"shapes are {short(shapes)}, expected some of {', '.join(SHAPE_NAMES)}, as a sequence")
    traces = (suite,) if isinstance(suite, Trace) else tuple(traces)
    tasks = load_suite(suite) if isinstance(suite, str) else as_suite(suite)
    targets = [as_target(forecaster) for forecaster in _listed(forecasters, tasks)]
    _check_request(tasks, targets)
    for target in targets:
        preflight(target)
    if isinstance(suite, str):
        check_traces(tasks, {*(paths or ()), *(trace.id for trace in traces)})
    sources = sources_of(tasks, traces, paths)
    if jobs is not None:
        jobs = min(jobs, len(targets) * len(tasks.traces))  # a process without work would only take memory
        check_memory(sources, jobs)
    with (
        TemporaryDirectory(prefix="moeload-numba-", ignore_cleanup_errors=True) as numba_cache,
        workers(jobs=jobs) as spread,
    ):
        setting = Setting(
            tasks,
            level,
            limits or Limits(),
            tasks.seed if seed is None else seed,
            fresh,
            Path(numba_cache),
            None if keep is None else Path(keep),
            None if shapes is None else tuple(shapes),
        )
        reporter = _Reporter(progress or silent, targets, tasks, within=jobs == 1)
        return _run_all(spread, setting, sources, targets, reporter)


class _Reporter:
    """Report how far a request is; each origin too where pairs are worked on in this process (``within``)."""

    def __init__(self, progress: FineProgress, targets: Sequence[Target], suite: Suite, *, within: bool) -> None:
        self._progress, self._targets, self._suite, self._within = progress, targets, suite, within
        self._done, self._total = 0, len(targets) * len(suite.traces)

    def fits(self, number: int, of: int, target: Target) -> None:
        """Say that a forecaster begins to learn, if it learns: of a stranger's class only its own process knows."""
        if self._within:
            runs = f"{counted(len(self._suite.fit), 'train run')} ({number} of {of})"
            stage = f"fitting {target.label} on {runs}"
            unsure = f"starting {target.label}; if it has a `fit`, it learns from {runs}"
            self._progress(0, self._total, stage if _is_trusted(target) else unsure)

    def finished(self, pair: Pair) -> None:
        """Say that a pair is done."""
        self._done += 1
        self._progress(self._done, self._total, f"{pair.target.label} on {pair.scored_run.id}")

    def call(self, pair: Pair) -> Callable[[], list[Row]]:
        """Return the work of a pair."""
        on_answer = [self._each(pair)] if self._within else []
        return functools.partial(run_pair, pair, *on_answer)

    def _each(self, pair: Pair) -> Callable[[Answer], None]:
        count, of = itertools.count(1), len(pair.scored_run.origins())
        who = f"{pair.target.label}, forecaster {self._targets.index(pair.target) + 1} of {len(self._targets)}"

        def report(answer: Answer) -> None:
            number = next(count)
            self._progress(self._done + number / (of + 1), self._total, f"{who}, origin {number} of {of}")

        return report


def _run_all(
    spread: Spread, setting: Setting, sources: Mapping[str, Source], targets: Sequence[Target], reporter: _Reporter
) -> Results:
    """Run every forecaster on every trace. Runs of one that learns wait for all fits, the others' for nothing."""
    learners = [i for i, target in enumerate(targets) if setting.suite.fit and _may_learn(target)]
    fitting = spread([functools.partial(fit_forecaster, setting, sources, targets[i]) for i in learners])
    at_once = [(i, pair) for i, pair in _pairs(setting, sources, targets, {}) if i not in learners]
    unfitted = _begin(spread, at_once, reporter)
    fits: dict[int, Fitted] = {}
    for number, i in enumerate(learners, start=1):
        reporter.fits(number, len(learners), targets[i])
        fits[i] = next(fitting)  # the other runs go on meanwhile
    waiting = [(i, pair) for i, pair in _pairs(setting, sources, targets, fits) if i in learners]
    fitted = _begin(spread, waiting, reporter)
    done: dict[int, list[Row]] = defaultdict(list)
    for i, pair, rows in itertools.chain(unfitted, fitted):
        done[i] += rows
        reporter.finished(pair)
    entries = [entry_of(setting, target, fits.get(i, Fitted())) for i, target in enumerate(targets)]
    return results_of(entries, [done[i] for i in range(len(entries))])


def _begin(
    spread: Spread, pairs: Sequence[tuple[int, Pair]], reporter: _Reporter
) -> Iterator[tuple[int, Pair, list[Row]]]:
    """Begin pairs, not waiting for any; they come with their results, in order."""
    results = spread([reporter.call(pair) for _, pair in pairs])
    return ((i, pair, result) for (i, pair), result in zip(pairs, results, strict=True))


def _pairs(
    setting: Setting, sources: Mapping[str, Source], targets: Sequence[Target], fits: Mapping[int, Fitted]
) -> Iterator[tuple[int, Pair]]:
    """Yield all pairs, trace by trace, each with its target's number."""
    for scored_run in setting.suite.traces:
        for i, target in enumerate(targets):
            yield i, Pair(setting, scored_run, sources[scored_run.id], target, fits.get(i, Fitted()))


def _may_learn(target: Target) -> bool:
    """Return whether the class may have a `fit`, for which its runs wait. No stranger's code is imported for that."""
    return not _is_trusted(target) or hasattr(load_class(target), "fit")


def _is_trusted(target: Target) -> bool:
    """Return whether the class may be imported into this process."""
    return isinstance(target, ClassTarget) or is_baseline(target)


def as_target(forecaster: ForecasterLike) -> Target:
    """Return a target from its text, from a class of this process, or as it is."""
    if isinstance(forecaster, Target):
        return forecaster
    if not isinstance(forecaster, str):
        return class_target(forecaster)
    return parse_target(forecaster)


def installed(forecasters: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return those whose packages are installed, and what is missing for each of the others."""
    usable, missing = [], []
    for name in forecasters:
        try:
            preflight(parse_target(name))
        except MissingExtraError as error:
            missing.append(str(error))
        else:
            usable.append(name)
    return usable, missing


def suite_baselines(suite: Suite) -> Sequence[str]:
    """Return the forecasters that a suite names, all baselines of this package: who runs the suite did not name them.

    Raises `SuiteError` for another one, an installed package's too.
    """
    for name in suite.baselines:
        if not is_baseline(parse_target(name)):
            raise SuiteError(f"suite {suite.name} names {name[:80]!r}, expected a baseline of this package")
    return suite.baselines


def _listed(forecasters: ForecasterLike | Sequence[ForecasterLike] | None, suite: Suite) -> Sequence[ForecasterLike]:
    if forecasters is None:
        if not suite.baselines:
            raise SuiteError(f"suite {suite.name} names no baselines: say which forecasters to run")
        return suite_baselines(suite)
    listed = [forecasters] if isinstance(forecasters, str | type | Target) else list(forecasters)
    if not listed:
        raise MoeloadError("forecasters is an empty list, expected at least one; None runs the suite's baselines")
    return listed


def _check_request(suite: Suite, targets: Sequence[Target]) -> None:
    if not suite.traces:
        raise SuiteError(f"suite {suite.name} has no traces to score forecasters on, expected one or more")
    for problem in entry_problems([target.label for target in targets]):
        raise MoeloadError(problem)
    for trace in suite.traces:
        if (wrong := name_problem("trace", trace.id)) is not None:
            raise SuiteError(wrong)


def entry_of(setting: Setting, target: Target, fitted: Fitted) -> Entry:
    """Return what describes a forecaster's run over the suite."""
    suite, sha256 = setting.suite, setting.suite.sha256()
    return Entry(
        name=target.label,
        target=target.text,
        source_sha256=source_sha256(target),
        kwargs=dict(target.kwargs),
        suite=SuiteRecord(name=suite.name, sha256=sha256, horizons=suite.horizons, reference=suite.reference),
        scoring_version=SCORING_VERSION,
        isolation=setting.level,
        seed=setting.seed,
        fit_wall_s=fitted.wall_s,
        environment=environment(),
        after_close=season_of(suite.name, sha256) is not None,
    )
