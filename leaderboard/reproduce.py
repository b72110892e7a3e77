"""`python -m leaderboard reproduce`: the committed results of a suite run again and compared."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.committed import RESULTS, ROOT, SUBMISSIONS, submission_of, suite_problems, target_of
from leaderboard.rerun import same_machine, scratch_cache, tolerances_of
from leaderboard.verifying.agreement import EXACTLY, differences
from moeload_bench.cli.options import Jobs
from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.environment import BLAS_KERNELS, environment
from moeload_bench.errors import ResultError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.isolation.hosts import Level, parse_level
from moeload_bench.isolation.targets import Target, is_baseline
from moeload_bench.publishing.requirements import install_packages
from moeload_bench.publishing.submit import require_level
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results, joined, load_results
from moeload_bench.suites.suite import Suite, load_suite

MAX_LINES = 20
"""Differences printed of each result; the rest is counted."""


def local_changes() -> list[str]:
    """Tracked files that differ from the commit, [] outside a git checkout."""
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line[3:] for line in asked.stdout.splitlines()]


def prepared(entry: Entry, submissions: Path = SUBMISSIONS) -> tuple[Target, Level]:
    """Return what to run again, and where: a baseline at the level of its result, anybody's code in the sandbox only.

    What a result says of its level is its author's word. Raises `IsolationError` where there is no sandbox, and
    `SubmissionError` when the packages that a submission requires do not install.
    """
    target = target_of(entry, submissions)
    if is_baseline(target):
        return target, parse_level(entry.isolation)
    require_level("sandbox", f"{entry.name} is not a baseline of the package; leave it out with --only")
    folder = submission_of(entry, submissions)
    packages = install_packages(() if folder is None else folder.requirements)
    return dataclasses.replace(target, packages=packages), "sandbox"


def run_again(entries: Iterable[Entry], suite: Suite, jobs: int) -> Results:
    """Return every entry run once more, with a cache of its own that is thrown away."""
    levels: dict[Level, list[Target]] = {}
    for entry in entries:
        target, level = prepared(entry)
        levels.setdefault(level, []).append(target)
    with scratch_cache(), pair_progress() as progress:
        return joined(
            [
                evaluate(targets, suite, level=level, jobs=jobs, fresh=True, progress=progress)
                for level, targets in levels.items()
            ]
        )


def report(committed: Results, fresh: Results, exact: bool | None) -> tuple[str, list[str]]:
    """Return how an entry was compared, and what differs; ``exact`` None: exactly where it was made on such a machine.

    A result that does not name the kernels it was made with may come from this machine or from another with a processor
    of the same name: it is compared exactly if that holds, else within tolerances.
    """
    (entry,), (again,) = committed.entries.values(), fresh.entries.values()
    elsewhere = same_machine(entry.environment, again.environment)
    demanded = elsewhere is None if exact is None else exact
    if demanded or (exact is None and BLAS_KERNELS not in entry.environment.versions):
        wrong = differences(fresh, committed, EXACTLY)
        if demanded or not wrong:
            return "exactly", wrong
    tolerances = tolerances_of(entry)
    how = "within tolerances" if tolerances.over_runs is None else "by its means, as fitted again"
    return f"{how} ({elsewhere or 'asked for'})", differences(fresh, committed, tolerances)


def compare_suite(suite: str, folder: Path, only: Sequence[str] | None, jobs: int, exact: bool | None) -> int:
    """Run, compare, print; return the number of entries that differ."""
    started = time.perf_counter()
    tasks = load_suite(suite)
    committed = load_results(folder / tasks.name, layers=True).select(only or None)
    parts = {name: committed.select([name]) for name in committed.names}
    problems = [f"{name}: {line}" for name, part in parts.items() for line in suite_problems(part, tasks)]
    if problems:
        raise ResultError("\n".join(problems))
    changed = local_changes()
    if changed:
        say(f"local changes, so the code is not that of any commit: {', '.join(changed)}")
    fresh, failed = run_again(committed.entries.values(), tasks, jobs), 0
    for name, part in parts.items():
        how, lines = report(part, fresh.select([name]), exact)
        failed += bool(lines)
        say(f"{name}: compared {how}: {'differs' if lines else 'agrees'}")
        for line in lines[:MAX_LINES]:
            say(f"  {name}: {line}")
        if len(lines) > MAX_LINES:
            say(f"  {name}: and {len(lines) - MAX_LINES} more")
    agreeing = f"{len(committed) - failed} of {len(committed)} results agree"
    say(f"suite {tasks.name}: {agreeing}; {time.perf_counter() - started:.0f} s on {environment().hardware}")
    return failed


def reproduce(
    suite: Annotated[str, typer.Argument(help="A suite's name, or its TOML file.")] = "mini",
    results: Annotated[
        Path, typer.Option(help="The folder with SUITE/NAME.parquet.", show_default="leaderboard/results")
    ] = RESULTS,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A forecaster to run again; give it once for each.")
    ] = None,
    jobs: Jobs = 1,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--tolerant", help="As on the recording machine, or as on another one.", show_default="by machine"
        ),
    ] = None,
) -> None:
    """Run the committed results of a suite again and compare.

    On the machine where a result was made (same processor, same kernels of the numerical libraries, same versions of
    Python and of them) every score, floor and forecast must be the same, as far as files hold its digits. Elsewhere
    scores must agree within leaderboard/tolerances.toml, which says how far and why for each forecaster; a network that
    was fitted again, by its means over each run and over the suite. Commit, hardware and measured costs are not
    compared. Nothing is written, and finished work from the cache is not used. Today's code runs; a checkout of the
    commit that a result names runs the code that made it. The code of a submission runs in the sandbox, with the
    packages that it requires.

    Exit status 0 when everything agrees, 1 when something differs (printed with trace, state, horizon, metric, got and
    committed), 2 when it cannot be asked.

    \b
    python -m leaderboard reproduce v3 --only sw_avg --only arima --jobs 2
    """
    if compare_suite(suite, results, only, jobs, exact):
        raise typer.Exit(1)
