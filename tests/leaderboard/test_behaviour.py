"""A committed number is bound by behaviour: its entry, run again from the bytes that it scored with, gives it again.

Nothing is fitted here; `make reproduce` fits again. The hash of the code that a result names is provenance: it only
draws, with the entry's name, which runs are compared, so that other code is compared on other runs.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from leaderboard.committed import RESULTS, SUBMISSIONS, committed_result
from leaderboard.reproduce import bounds_of, exactly, prepared, same_machine
from leaderboard.verifying.agreement import value_differences
from moeload_bench.environment import environment
from moeload_bench.errors import MissingExtraError
from moeload_bench.evaluation.pairs import Fitted, Pair, Setting, replay_and_score
from moeload_bench.isolation.hosts import Level, Limits, level_available
from moeload_bench.isolation.targets import Target, load_class
from moeload_bench.results.record import Result
from moeload_bench.submissions.folder import Folder, read_folder
from moeload_bench.suites.suite import SuiteTrace, default_suite, load_suite, locate_traces
from tests.support.committed import by_result

RUNS, ORIGINS = 2, 3
DEAR_S = 20.0
"""Seconds of a committed run above which only `ORIGINS` are compared: all entries take ten minutes of CPU together."""
ENTRIES = sorted((RESULTS / default_suite()).glob("*.json"))


def some_origins(entry: SuiteTrace, draw: random.Random) -> SuiteTrace:
    """Return the run with three of its origins."""
    kept = {origin for origin, _ in draw.sample(entry.origins(), ORIGINS)}
    states = {state: tuple(one for one in getattr(entry, state) if one in kept) for state in ("transient", "stable")}
    return entry.model_copy(update=states)


def runnable(result: Result, folder: Folder) -> tuple[Target, Level]:
    """Return what runs and where: the package's code in the sandbox if there is one, anybody else's only there.

    Raises `MissingExtraError` where what the package's code needs is not installed.
    """
    if folder.record.has_code:
        return prepared(result)
    load_class(folder.target())
    return folder.target(), "sandbox" if level_available("sandbox") is None else "process"


@pytest.mark.slow
@pytest.mark.parametrize("path", by_result(ENTRIES))
def test_an_entry_run_from_its_committed_bytes_gives_its_committed_numbers(path: Path) -> None:
    """Two runs of each entry. On the machine that made the result, forecasts and scores are equal; elsewhere each task
    is within leaderboard/tolerances.toml, never within what a network may move by that is fitted again.
    """
    result, suite = committed_result(path), load_suite(default_suite())
    folder, entries = read_folder(SUBMISSIONS / result.name), {entry.id: entry for entry in suite.traces}
    try:
        target, level = runnable(result, folder)
    except MissingExtraError as error:
        pytest.skip(str(error))
    setting, fitted = Setting(suite, level, Limits(), suite.seed, fresh=True), Fitted(folder.fitted())
    same = same_machine(result.environment, environment()) is None
    sources, draw = locate_traces(suite), random.Random(f"{result.name} {folder.source_sha256}")
    for run in draw.sample(result.runs, RUNS):
        dear = run.cost.observe_wall_s + run.cost.forecast_wall_s > DEAR_S
        entry = some_origins(entries[run.trace], draw) if dear else entries[run.trace]
        found = replay_and_score(Pair(setting, entry, sources[run.trace], target, fitted))
        if dear:
            origins = {origin for origin, _ in entry.origins()}
            run = run.model_copy(update={"tasks": tuple(task for task in run.tasks if task.origin in origins)})
            found = run.model_copy(update={"tasks": found.tasks})
        bounds = exactly if same else bounds_of(result)
        assert list(value_differences(run, found, suite.horizons, bounds)) == [], run.trace
        assert not same or found.forecasts_sha256 == run.forecasts_sha256, run.trace


def test_the_bytes_of_every_fitted_entry_are_committed() -> None:
    """Beside its submission, and of no other entry."""
    fitted = {path.stem for path in ENTRIES if committed_result(path).fit_wall_s is not None}
    assert fitted == {path.parent.name for path in SUBMISSIONS.glob("*/fitted.bin")}
    assert {"lstm", "gated", "guarded"} <= fitted
