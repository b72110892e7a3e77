"""`python -m leaderboard reproduce`: the committed results of a suite run again and compared."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from leaderboard.committed import (
    RESULTS,
    ROOT,
    SUBMISSIONS,
    in_suite_order,
    load_all,
    result_problems,
    submission_of,
    target_of,
)
from leaderboard.verifying.agreement import (
    EXACT,
    Bounds,
    differences,
    mean_bound,
    refit_differences,
    refit_mean_differences,
    tolerance_of,
    unequal_fields,
    value_bound,
)
from moeload_bench.cli.options import Jobs
from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.environment import BLAS_KERNELS, Environment, environment
from moeload_bench.errors import ResultError, not_found
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.isolation.hosts import Level, parse_level
from moeload_bench.isolation.targets import Target, is_baseline
from moeload_bench.results.record import Result
from moeload_bench.results.run_result import RunResult
from moeload_bench.scoring.catalogue import Bound
from moeload_bench.submissions.check import require_level
from moeload_bench.submissions.requirements import install_packages
from moeload_bench.suites.suite import Suite, load_suite

TOLERANCES = Path(__file__).resolve().parent / "tolerances.toml"
MAX_LINES = 20
"""Differences printed of each result; the rest is counted."""


def same_machine(then: Environment, here: Environment) -> str | None:
    """Return what tells two machines apart, None for nothing: the processor, Python, the numerical libraries."""
    pairs = {
        "hardware": (then.hardware, here.hardware),
        "python": (then.python, here.python),
        **{name: (then.versions.get(name), here.versions.get(name)) for name in {**then.versions, **here.versions}},
    }
    differ = [f"{name} {a} -> {b}" for name, (a, b) in sorted(pairs.items()) if a != b]
    return ", ".join(differ) or None


def _stated(result: Result) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the file says of this result's forecaster, and of networks that are fitted again."""
    stated = tomllib.loads(TOLERANCES.read_text())
    return stated.get(result.forecaster.target.partition("@")[0], {}), stated["refit"]


def bounds_of(result: Result) -> Bounds:
    """Return the bounds of values for re-runs on another machine; the catalogue's where nothing is stated."""
    entry, _ = _stated(result)
    return lambda metric: tuple(entry.get(tolerance_of(metric).kind, value_bound(metric)))


def refit_bounds(result: Result) -> tuple[Bounds, Bounds] | None:
    """Return the bounds of a run's means and of means over runs, None for what was not fitted or ends where it did."""
    entry, refit = _stated(result)
    if result.fit_wall_s is None or not entry.get("refit"):
        return None
    return (
        lambda metric: tuple(refit["run"].get(metric, value_bound(metric))),
        lambda metric: tuple(refit["suite"].get(metric, mean_bound(metric))),
    )


def exactly(metric: str) -> Bound:
    """Return the bound of values on the machine that made them."""
    return EXACT


def compare(committed: Result, again: Result, bounds: Bounds, mean_bounds: Bounds | None = None) -> Iterator[str]:
    """Yield what differs between a committed result and its re-run, in words: trace, state, horizon, metric, values;
    with ``mean_bounds`` by means, as what was fitted again."""
    runs, horizons = {run.trace: run for run in again.runs}, committed.suite.horizons
    yield from (f"{run.trace}: not run again" for run in committed.runs if run.trace not in runs)
    pairs = [(run, runs[run.trace]) for run in committed.runs if run.trace in runs]
    of_run = _of_run if mean_bounds is None else refit_differences
    lines = [f"{run.trace}: {line}" for run, other in pairs for line in of_run(run, other, horizons, bounds)]
    if mean_bounds is not None:
        lines += refit_mean_differences(pairs, horizons, mean_bounds)
    yield from lines


def _of_run(run: RunResult, again: RunResult, horizons: Sequence[int], bounds: Bounds) -> list[str]:
    found = list(differences(run, again, horizons, bounds))
    return found or (list(_otherwise(run, again)) if bounds is exactly else [])


def _otherwise(one: RunResult, other: RunResult) -> Iterator[str]:
    """Fields that are not the same although no score differs."""
    for name in unequal_fields(one, other):
        pair = getattr(one, name), getattr(other, name)
        committed, got = pair if isinstance(pair[0], str | int) else ("another value", "this one")
        yield f"{name}: committed {committed}, got {got}"


def local_changes() -> list[str]:
    """Tracked files that differ from the commit, [] outside a git checkout."""
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line[3:] for line in asked.stdout.splitlines()]


def prepared(result: Result, submissions: Path = SUBMISSIONS) -> tuple[Target, Level]:
    """Return what to run again, and where: a baseline at the level of its result, anybody's code in the sandbox only.

    What a result says of its level is its author's word. Raises `IsolationError` where there is no sandbox, and
    `SubmissionError` when the packages that a submission requires do not install.
    """
    target = target_of(result, submissions)
    if is_baseline(target):
        return target, parse_level(result.isolation)
    require_level("sandbox", f"{result.name} is not a baseline of the package; leave it out with --only")
    folder = submission_of(result, submissions)
    packages = install_packages(() if folder is None else folder.requirements)
    return dataclasses.replace(target, packages=packages), "sandbox"


def run_again(results: Sequence[Result], suite: Suite, jobs: int) -> list[Result]:
    """Return every result once more, with a cache of its own that is thrown away."""
    again: dict[str, Result] = {}
    ready = {result.name: prepared(result) for result in results}
    with tempfile.TemporaryDirectory(prefix="moeload-reproduce-") as scratch, pair_progress() as progress:
        before = os.environ.get("MOELOAD_CACHE")
        os.environ["MOELOAD_CACHE"] = scratch
        try:
            for level in sorted({level for _, level in ready.values()}):
                group = {name: target for name, (target, at) in ready.items() if at == level}
                done = evaluate(list(group.values()), suite, level=level, jobs=jobs, fresh=True, progress=progress)
                again |= dict(zip(group, done, strict=True))
        finally:
            os.environ.pop("MOELOAD_CACHE") if before is None else os.environ.update(MOELOAD_CACHE=before)
    return [again[result.name] for result in results]


def chosen(suite: Suite, folder: Path, only: Sequence[str] | None) -> list[Result]:
    """Return the committed results to run again; raise `ResultError` or `NotFoundError` when there are none."""
    found = {result.name: result for result in in_suite_order(list(load_all(suite, folder).values()), suite)}
    if not found:
        raise ResultError(f"no committed result of suite {suite.name} in {folder}")
    for name in only or ():
        if name not in found:
            raise not_found("committed result", name, list(found))
    return [result for name, result in found.items() if not only or name in only]


def report(committed: Result, again: Result, exact: bool | None) -> tuple[str, list[str]]:
    """Return how a result was compared, and what differs; ``exact`` None: exactly where it was made on such a machine.

    A result that does not name the kernels it was made with may come from this machine or from another with a processor
    of the same name: it is compared exactly if that holds, else within tolerances.
    """
    elsewhere = same_machine(committed.environment, again.environment)
    demanded = elsewhere is None if exact is None else exact
    if demanded or (exact is None and BLAS_KERNELS not in committed.environment.versions):
        found = list(compare(committed, again, exactly))
        if demanded or not found:
            return "exactly", found
    refit = refit_bounds(committed)
    if refit is not None:
        return f"by its means, as fitted again ({elsewhere or 'asked for'})", list(compare(committed, again, *refit))
    return f"within tolerances ({elsewhere or 'asked for'})", list(compare(committed, again, bounds_of(committed)))


def compare_suite(suite: str, folder: Path, only: Sequence[str] | None, jobs: int, exact: bool | None) -> int:
    """Run, compare, print; the number of results that differ or are not of this suite."""
    started = time.perf_counter()
    tasks = load_suite(suite)
    results = chosen(tasks, folder, only)
    changed = local_changes()
    if changed:
        say(f"local changes, so the code is not that of any commit: {', '.join(changed)}")
    wrong = {result.name: list(result_problems(result, tasks)) for result in results}
    runnable = [result for result in results if not wrong[result.name]]
    for committed, again in zip(runnable, run_again(runnable, tasks, jobs), strict=True):
        how, found = report(committed, again, exact)
        wrong[committed.name] += found
        say(f"{committed.name}: compared {how}: {'differs' if wrong[committed.name] else 'agrees'}")
    for name, lines in wrong.items():
        for line in lines[:MAX_LINES]:
            say(f"  {name}: {line}")
        if len(lines) > MAX_LINES:
            say(f"  {name}: and {len(lines) - MAX_LINES} more")
    failed = sum(bool(lines) for lines in wrong.values())
    here = environment()
    say(
        f"suite {tasks.name}: {len(results) - failed} of {len(results)} results agree; "
        f"{time.perf_counter() - started:.0f} s on {here.hardware}"
    )
    return failed


def reproduce(
    suite: Annotated[str, typer.Argument(help="A suite's name, or its TOML file.")] = "mini",
    results: Annotated[
        Path, typer.Option(help="The folder with SUITE/NAME.json.", show_default="leaderboard/results")
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
    Python and of them) every score, floor and forecast must be the same. Elsewhere scores must agree within
    leaderboard/tolerances.toml, which says how far and why for each forecaster; a network that was fitted again, by its
    means over each run and over the suite. Commit, hardware and measured costs are
    not compared. Nothing is written, and finished work from the cache is not used. Today's
    code runs, and only numbers that differ are an error; a checkout of the commit that a result names runs the code
    that made it. The code of a submission runs in the sandbox, with the packages that it requires.

    Exit status 0 when everything agrees, 1 when something differs (printed with trace, state, horizon, metric, got and
    committed), 2 when it cannot be asked.

    [bold]python -m leaderboard reproduce v3 --only sw_avg --only arima --jobs 2[/bold]
    """
    if compare_suite(suite, results, only, jobs, exact):
        raise typer.Exit(1)
