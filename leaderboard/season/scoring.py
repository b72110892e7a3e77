"""Scoring a season: every entry, from its copy and its fitted bytes, on every run that was recorded."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from pydantic import PrivateAttr

from leaderboard.season.contrast import write_contrast
from leaderboard.season.entries import copies_on_path, read_entry
from leaderboard.season.folder import (
    FACTS,
    PAIRED,
    SeasonFolder,
    file_hashes,
    recordings_sha256,
    remove_leftovers,
    require_committed,
    utc_now,
)
from leaderboard.season.records import Recording, Scores, file_sha256, write_manifest
from moeload_bench.errors import SeasonError
from moeload_bench.files import replacing, write_whole
from moeload_bench.harness.evaluate import entry_of
from moeload_bench.harness.pairs import Fitted, Pair, Setting, run_pair
from moeload_bench.harness.workers import workers
from moeload_bench.isolation.hosts import Level, Limits
from moeload_bench.results.columns import Row
from moeload_bench.results.results import Results, results_of
from moeload_bench.scoring.description import run_facts
from moeload_bench.states.origins import choose_origins
from moeload_bench.states.rule import label_states
from moeload_bench.suites.suite import ORIGINS_PER_STATE, Suite, SuiteTrace
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from moeload_bench.words import Progress, silent

LEAST_ORIGINS = 10
"""A run without a state of so many origins is not scored."""


class SeasonSuite(Suite):
    """A suite whose scored recipes are of no group that was open for fitting, and of numbers like any other suite's."""

    _fitted: frozenset[int] = PrivateAttr(default=frozenset())

    @classmethod
    def of(cls, suite: Suite, base: Suite) -> SeasonSuite:
        """Return a season's suite; ``base`` is the one that its entries were fitted on."""
        made = cls.model_validate(suite.model_dump())
        made._fitted = frozenset(base.group_of(entry.id) for entry in base.fit)
        return made

    def group_of(self, trace_id: str) -> int:
        """Return the opaque number of a recipe: the least ones that no run had that an entry could be fitted on."""
        recipes = sorted({trace.id.split("/")[0] for trace in self.traces})
        free = (number for number in count() if number not in self._fitted)
        return next(islice(free, recipes.index(trace_id.split("/")[0]), None))


def season_suite(folder: SeasonFolder, recordings: dict[str, Recording]) -> Suite:
    """Return the task list: on every run the origins that the base suite's rule gives, by state."""
    traced = ((name, recording.data_sha256) for name, recording in sorted(recordings.items()))
    asked = (scored_run_of(folder, name, sha256, read_trace(folder.trace(name))) for name, sha256 in traced if sha256)
    return suite_of(folder, [scored_run for scored_run in asked if scored_run is not None])


def suite_of(folder: SeasonFolder, scored_runs: Sequence[SuiteTrace]) -> Suite:
    """Return the task list of a season's runs; raise `SeasonError` where no run can be scored."""
    season, base = folder.season, folder.base
    if not scored_runs:
        raise SeasonError(f"season {season.name}: no run can be scored")
    update = {"name": f"season-{season.name}", "description": f"Season {season.name}", "traces": tuple(scored_runs)}
    return base.model_copy(update={**update, "hub": None})


def scored_run_of(folder: SeasonFolder, recipe: str, sha256: str, trace: Trace) -> SuiteTrace | None:
    """Return what a run is asked, None for one that cannot be scored.

    It is asked for the season's horizon; one that is cut short for the largest at which a state has enough origins.
    """
    base = folder.base
    labels = label_states(trace.load_SLE, stride=trace.meta.stride, rule=base.rule)
    for horizon in sorted((h for h in base.horizons if h <= folder.season.horizon), reverse=True):
        chosen = choose_origins(labels, trace.step_S, horizon, ORIGINS_PER_STATE)
        enough = {state: tuple(origins) for state, origins in chosen.items() if len(origins) >= LEAST_ORIGINS}
        if enough:
            return SuiteTrace.model_validate({
                "id": folder.trace_id(recipe),
                "data_sha256": sha256,
                "horizon": None if horizon == base.horizon else horizon,
                "expert_tokens": round(run_facts(trace).expert_tokens, 1),
                **enough,
            })  # fmt: skip
    return None


def score_season(
    folder: SeasonFolder,
    *,
    level: Level = "sandbox",
    jobs: int = 1,
    progress: Progress = silent,
) -> Scores:
    """Run all entries on all runs and write the table and its hashes.

    One that was broken off goes on: finished runs are in the cache. Raises `SeasonError` for runs that are not recorded
    or not committed, a changed trace or entry, and a season that is scored.
    """
    season, recordings = folder.season, folder.recordings
    if folder.scores is not None:
        raise SeasonError(f"season {season.name} is scored already: all entries are scored at once, and once")
    missing = sorted(folder.draw.runs.keys() - recordings.keys())
    if missing:
        raise SeasonError(f"{len(missing)} runs are not recorded yet, the first is {missing[0]}")
    remove_leftovers(folder)
    require_committed(folder)
    check_fixed(folder, recordings)
    suite = season_suite(folder, recordings)
    entries = [read_entry(folder.entries / name) for name in season.entries]
    targets = [entry.target() for entry in entries]
    setting = season_setting(suite, folder.base, level)
    work = [
        Pair(setting, scored_run, trace_file(folder, scored_run), target, Fitted(entry.fitted))
        for entry, target in zip(entries, targets, strict=True)
        for scored_run in suite.traces
    ]
    rows: dict[str, list[Row]] = {name: [] for name in season.entries}
    with workers(jobs=jobs) as spread:
        outputs = spread([functools.partial(run_entry, folder, pair) for pair in work])
        for number, (pair, of_run) in enumerate(zip(work, outputs, strict=True), start=1):
            rows[pair.target.label] += of_run
            progress(number, len(work), f"{pair.target.label} on {pair.scored_run.id}")
    with copies_on_path(folder.entries):
        described = [
            entry_of(setting, target, Fitted()).model_copy(update={"requirements": entry.requirements})
            for entry, target in zip(entries, targets, strict=True)
        ]
    save_table(folder, results_of(described, list(rows.values())))
    write_contrast(folder, setting)
    write_whole(folder.path / "suite.json", (suite.model_dump_json(indent=1) + "\n").encode())
    made = Scores(
        recordings_sha256=recordings_sha256(recordings),
        suite_sha256=suite.sha256(),
        level=level,
        scored=utc_now(),
        files=file_hashes(folder.path, "results", FACTS, *([PAIRED] if season.paired else [])),
    )
    write_manifest(made, folder.path / "scores.json")
    return made


def check_fixed(folder: SeasonFolder, recordings: dict[str, Recording]) -> None:
    """Raise `SeasonError` or `TraceError` where an entry or a trace is another than was fixed or recorded."""
    for path, sha256 in folder.season.files.items():
        if file_sha256(folder.path / path) != sha256:
            raise SeasonError(f"{path} has changed since the season was opened")
    for name, recording in recordings.items():
        if recording.data_sha256 is not None:
            read_trace(folder.trace(name), expected_sha256=recording.data_sha256)


def season_setting(suite: Suite, base: Suite, level: Level) -> Setting:
    """Return how a season's entries run; ``base`` is the suite that they were fitted on."""
    return Setting(SeasonSuite.of(suite, base), level, Limits(), suite.seed, fresh=False)


def trace_file(folder: SeasonFolder, scored_run: SuiteTrace) -> Path:
    """Return the file of a scored run."""
    return folder.path / "traces" / f"{scored_run.id}.parquet"


def run_entry(folder: SeasonFolder, pair: Pair) -> list[Row]:
    """Run a copied entry on one run; from the cache where that was done before."""
    with copies_on_path(folder.entries):
        return run_pair(pair)


def save_table(folder: SeasonFolder, results: Results) -> None:
    """Write the table into `results/`, and the facts of its traces into one file in place of one for each entry."""
    replace(results, facts=results.facts.iloc[:0]).save(folder.results)
    with replacing(folder.path / FACTS) as scratch:
        results.facts.to_parquet(scratch, compression="zstd", index=False)
