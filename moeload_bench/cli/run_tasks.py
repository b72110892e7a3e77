"""What `moeload-bench run` scores: a suite, or a run of one's own; and its origins, where others are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moeload_bench.baseline_facts import ordered
from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.progress import say
from moeload_bench.errors import SuiteError, counted
from moeload_bench.harness.evaluate import installed, suite_baselines
from moeload_bench.harness.sizing import sized
from moeload_bench.results.strata import nearest_words
from moeload_bench.suites.suite import (
    SMALL_SUITE,
    Suite,
    check_traces,
    default_suite,
    load_suite,
    sliding_suite,
    sources_of,
    suite_for_trace,
)
from moeload_bench.traces.store import open_source
from moeload_bench.traces.trace import Trace

UNIFORM = "uniform"


@dataclass(frozen=True)
class Tasks:
    """What is scored: a suite, the forecasters, and one's own run, if it is that.

    ``left_out``: what of a large run is not looked at, in words. ``compare_with``: which runs of a suite are as noisy.
    ``steps``: training steps of one's own run.
    """

    suite: Suite
    targets: tuple[str, ...]
    traces: tuple[Trace, ...] = ()
    left_out: str | None = None
    compare_with: str = ""
    steps: int | None = None


def suite_tasks(name: str | None, targets: Sequence[str]) -> Tasks:
    """Return the tasks of a suite, `mini` by default: for these forecasters, or for the suite's baselines."""
    suite = checked_suite(name or SMALL_SUITE)
    return Tasks(suite, _with_uniform(targets or installed_baselines(suite_baselines(suite))))


def checked_suite(name: str) -> Suite:
    """Return a suite whose traces are there; raise `SuiteError` where they are not."""
    suite = load_suite(name)
    check_traces(suite)
    return suite


def own_tasks(source: str, targets: Sequence[str]) -> Tasks:
    """Return the tasks of one's own run; without ``targets``, of as much of it as a minute allows."""
    trace = open_trace(source)
    compare_with, steps = nearest_words(trace, load_suite(default_suite())), trace.steps * trace.meta.stride
    trace, defaults, left_out = (trace, (), None) if targets else sized(trace, ordered("own_run"), source)
    names = _with_uniform(targets or installed_baselines(defaults))
    return Tasks(suite_for_trace(trace), names, (trace,), left_out, compare_with, steps)


def with_origins(tasks: Tasks, sliding: int | None, blocks: int | None) -> Tasks:
    """Return the tasks, with origins every so many steps where that was asked for."""
    if sliding is not None and blocks is not None:
        raise SuiteError("--sliding and --blocks exclude each other: windows overlap or they do not")
    every, suite = sliding or blocks, tasks.suite
    if every is None:
        return tasks
    sources = sources_of(suite, tasks.traces, fit=False)
    traces = [open_source(sources[entry.id], entry.data_sha256) for entry in suite.traces]
    horizons = (blocks,) if blocks else suite.horizons
    changed = sliding_suite(suite, {trace.id: trace for trace in traces}, every, horizons)
    if missing := len(suite.traces) - len(changed.traces):
        say(f"left out: {counted(missing, 'run')}, asked for fewer than {min(horizons):,} steps", err=True)
    return replace(tasks, suite=changed)


def installed_baselines(names: Sequence[str]) -> list[str]:
    """Return the forecasters whose packages are installed; say on standard error which are left out."""
    baselines, missing = installed(names)
    for reason in missing:
        say(f"left out: {reason}", err=True)
    return baselines


def _with_uniform(targets: Sequence[str]) -> tuple[str, ...]:
    """Return the targets with the even share among them, at the front unless it was asked for."""
    return tuple(targets) if UNIFORM in targets else (UNIFORM, *targets)
