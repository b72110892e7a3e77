"""A committed number is bound by behaviour: its entry, run again from the bytes that it scored with, gives it again.

Nothing is fitted here; `make reproduce` fits again. The hash of the code that a result names is provenance: it only
draws, with the entry's name, which runs are compared, so that other code is compared on other runs.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from leaderboard.committed import RESULTS, SUBMISSIONS
from leaderboard.reproduce import prepared
from leaderboard.rerun import same_machine, tolerances_of
from leaderboard.verifying.agreement import EXACTLY, differences
from moeload_bench.environment import environment
from moeload_bench.errors import MissingExtraError
from moeload_bench.harness.pairs import Fitted, Pair, Setting, replay_and_score
from moeload_bench.isolation.hosts import Level, Limits
from moeload_bench.isolation.targets import Target, load_class
from moeload_bench.publishing.folder import CODE, Folder, read_folder
from moeload_bench.results.columns import run_costs
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results, load_results, results_of
from moeload_bench.results.storage import COSTS
from moeload_bench.suites.suite import SuiteTrace, default_suite, load_suite, locate_traces

RUNS, ORIGINS = 2, 3
DEAR_S = 20.0
"""Seconds of a committed run above which only `ORIGINS` are compared: all entries take ten minutes of CPU together."""
ENTRIES = sorted(path for path in (RESULTS / default_suite()).glob("*.parquet") if path.name != COSTS)


def some_origins(entry: SuiteTrace, draw: random.Random) -> SuiteTrace:
    """Return the run with three of its origins."""
    chosen = {origin for origin, _ in draw.sample(entry.origins(), ORIGINS)}
    states = {state: tuple(one for one in getattr(entry, state) if one in chosen) for state in ("transient", "stable")}
    return entry.model_copy(update=states)


def tasks_of(results: Results, entry: SuiteTrace) -> Results:
    """Return the rows of a run's origins alone."""
    table = results.table[results.table["origin"].isin([origin for origin, _ in entry.origins()])]
    return dataclasses.replace(results, table=table)


def runnable(entry: Entry, folder: Folder) -> tuple[Target, Level]:
    """Return what runs and where: the package's code in a process, anybody else's in the sandbox only.

    Raises `MissingExtraError` where what the package's code needs is not installed.
    """
    if folder.record.has_code:
        return prepared(entry)
    load_class(folder.target())
    return folder.target(), "process"


def marked(path: Path) -> object:
    """Return the parameter of a result, which says if it needs the sandbox."""
    has_code = (SUBMISSIONS / path.stem / CODE).exists()
    return pytest.param(path, id=path.stem, marks=pytest.mark.sandbox if has_code else ())


@pytest.mark.slow
@pytest.mark.parametrize("path", [marked(path) for path in ENTRIES])
def test_an_entry_run_from_its_committed_bytes_gives_its_committed_numbers(path: Path) -> None:
    """Two runs of each entry. On the machine that made the result, forecasts and scores are equal; elsewhere each task
    is within leaderboard/tolerances.toml, never within what a network may move by that is fitted again.
    """
    committed, suite = load_results(path, layers=True), load_suite(default_suite())
    entry, folder = committed.entries[path.stem], read_folder(SUBMISSIONS / path.stem)
    try:
        target, level = runnable(entry, folder)
    except MissingExtraError as error:
        pytest.skip(str(error))
    setting, fitted = Setting(suite, level, Limits(), suite.seed, fresh=True), Fitted(folder.fitted())
    same = same_machine(entry.environment, environment()) is None
    tolerances = EXACTLY if same else dataclasses.replace(tolerances_of(entry, refit=False), means=False)
    sources, draw = locate_traces(suite), random.Random(f"{entry.name} {folder.source_sha256}")
    costs = run_costs(committed.table).set_index("trace")[["observe_wall_s", "forecast_wall_s"]].sum(axis=1)
    for run in draw.sample(suite.traces, RUNS):
        dear = costs[run.id] > DEAR_S
        asked = some_origins(run, draw) if dear else run
        found = replay_and_score(Pair(setting, asked, sources[run.id], target, fitted))
        fresh, expected = results_of([entry], [found]), committed.select(traces=[run.id])
        if dear:
            fresh, expected = tasks_of(fresh, asked), tasks_of(expected, asked)
        assert differences(fresh, expected, tolerances, whole=not dear) == [], run.id


def test_the_bytes_of_every_fitted_entry_are_committed() -> None:
    """Beside its submission, and of no other entry."""
    fitted = {path.stem for path in ENTRIES if load_results(path).entries[path.stem].fit_wall_s is not None}
    assert fitted == {path.parent.name for path in SUBMISSIONS.glob("*/fitted.bin")}
    assert {"lstm", "gated", "guarded"} <= fitted
