"""Scoring a season: every entry on every run, at once, after the hashes of all traces were published."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from leaderboard.season_tools import records
from leaderboard.season_tools.closing import entry_changes, entry_of, entry_target, season_suite
from leaderboard.season_tools.drawn import drawn_plan
from leaderboard.season_tools.folder import SeasonFolder, logged_attempt, published_at
from moeload_bench.errors import SeasonError
from moeload_bench.evaluation.evaluate import make_result
from moeload_bench.evaluation.pairs import Pair, Setting, fit_forecaster, run_pair
from moeload_bench.evaluation.workers import workers
from moeload_bench.isolation.hosts import Level, Limits
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.isolation.targets import Target
from moeload_bench.results.run_result import RunResult
from moeload_bench.scoring.run_facts import run_facts
from moeload_bench.states.origins import choose_origins
from moeload_bench.states.rule import LABELS, label_states
from moeload_bench.suites.suite import ORIGINS_PER_STATE, Suite, SuiteTrace
from moeload_bench.traces.store import read_trace

LEAST_ORIGINS = 10
"""Of a state, in a season of drawn recipes."""
Progress = Callable[[int, int, str], None]


def score_season(
    folder: SeasonFolder,
    *,
    level: Level = "sandbox",
    limits: Limits | None = None,
    jobs: int = 1,
    published: str | None = None,
    paths: Mapping[str, Path] | None = None,
    find_links: Path | None = None,
    no_index: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> records.Scores:
    """Run all entries on all runs and write their results.

    A scoring that was broken off goes on: fits and runs that the cache has are not made again.
    ``published`` says where the hashes stand when it is not a commit of this repository; ``paths`` gives files of the
    open runs by id. Raises `SeasonError` for a run without hashes, hashes that are not published, a trace or an entry
    that has changed, and a season that is revealed.
    """
    plan, commitment = drawn_plan(folder), folder.commitment()
    with logged_attempt(folder, "score", f"{len(commitment.entries)} entries at level {level}"):
        runs, place = _ready(folder, plan, published)
        _unchanged(folder, commitment, find_links, no_index)
        shutil.rmtree(folder.results, ignore_errors=True)  # of a scoring that was killed, on another machine perhaps
        suite = frozen_suite(plan, season_suite(plan), runs, folder.recordings)
        files = {entry.id: folder.recordings / f"{entry.id}.parquet" for entry in suite.traces}
        files |= {entry.id: (paths or {}).get(entry.id) or suite.file_of(entry.id) for entry in suite.fit}
        targets = [
            entry_target(folder.entries / entry.name, entry, find_links=find_links, no_index=no_index)
            for entry in commitment.entries
        ]
        setting = Setting(suite, level, limits or Limits(), suite.seed, fresh=False)
        results = _results(folder, setting, targets, files, jobs, progress)
        (folder.path / "suite.json").write_text(suite.model_dump_json(indent=1) + "\n")
        made = records.Scores(
            season=plan.name,
            published_sha256=records.published_sha256(runs),
            published_at=place,
            suite_sha256=suite.sha256(),
            level=level,
            results=results,
        )
        folder.write(made, "scores.json")
    return made


def _ready(folder: SeasonFolder, plan: records.Plan, published: str | None) -> tuple[list[records.RunHashes], str]:
    """Return the hashes of all runs, and where they were published; raise `SeasonError` when it is too early."""
    if folder.reveal() is not None:
        raise SeasonError(
            f"season {plan.name} is revealed: a later score is a public one; `moeload-bench run --suite` makes it"
        )
    if folder.scores() is not None:
        raise SeasonError(f"season {plan.name} is scored already: all entries are scored at once, and once")
    runs = folder.runs()
    missing = [one for one in plan.wanted() if one not in {(run.recipe, run.run) for run in runs}]
    if folder.draw() is None:
        raise SeasonError(f"{folder.path / 'draw.json'} is not there: no score before the hashes of every run")
    if missing:
        what = f"{len(missing)} runs have no hashes yet, the first is {missing[0][0]} run {missing[0][1]}"
        raise SeasonError(f"{what}: no score before the hashes of every run")
    for misnamed in folder.misnamed_runs():
        raise SeasonError(f"{misnamed}: a run has one trace")
    paths = [folder.path / "draw.json", *sorted((folder.path / "runs").glob("*.json"))]
    place = published or published_at(paths)
    if place is None:
        raise SeasonError("the hashes of the runs are not committed as they are: no score before they are published")
    for run in runs:
        if run.data_sha256 is not None:
            read_trace(folder.recordings / f"{run.trace}.parquet", expected_sha256=run.data_sha256)
    return runs, place


def _unchanged(folder: SeasonFolder, commitment: records.Commitment, find_links: Path | None, no_index: bool) -> None:
    for entry in commitment.entries:
        now = entry_of(folder.entries / entry.name, entry, find_links=find_links, no_index=no_index)
        change = entry_changes(entry, now)
        if change is not None:
            raise SeasonError(f"{change}; the entries were closed at commit {commitment.commit}")


def frozen_suite(plan: records.Plan, base: Suite, runs: Sequence[records.RunHashes], root: Path) -> Suite:
    """Return the season's task list: on every run the origins that the base suite's rule gives, by state.

    A state with fewer than `ORIGINS_PER_STATE` origins is left out, unless a run has no state with as many. Where
    recipes were drawn, each state of `LEAST_ORIGINS` counts, and a run without one is unscored (`_drawn_entries`).
    """
    entries = [] if plan.draws is None else list(_drawn_entries(plan.draws, base, runs, root))
    for run in runs:
        if run.data_sha256 is None or plan.draws is not None:
            continue
        trace = read_trace(root / f"{run.trace}.parquet")
        labels = label_states(trace.load_SLE, stride=trace.meta.stride, rule=base.rule)
        chosen = choose_origins(labels, trace.step_S, base.horizon, ORIGINS_PER_STATE)
        whole = {state: found for state, found in chosen.items() if len(found) >= ORIGINS_PER_STATE} or chosen
        origins = {state: tuple(found) for state, found in whole.items() if state in LABELS}
        entries.append(SuiteTrace.model_validate({"id": run.trace, "data_sha256": run.data_sha256, **origins}))
    if not entries:
        raise SeasonError(f"season {plan.name}: no run was recorded")
    update = {"name": f"season-{plan.name}", "description": f"Season {plan.name}", "traces": tuple(entries)}
    return base.model_copy(update={**update, "hub": None})


def _drawn_entries(
    draws: records.DrawPlan, base: Suite, runs: Sequence[records.RunHashes], root: Path
) -> Iterator[SuiteTrace]:
    """Yield the entry of every run that can be scored, and of every imported log.

    A run is asked for the plan's horizon; one that is cut short for the largest at which a state has enough origins.
    """
    recorded = {run.trace: run.data_sha256 for run in runs if run.data_sha256 is not None}
    for name, hashed in (recorded | {log.trace: log.data_sha256 for log in draws.imported}).items():
        trace = read_trace(root / f"{name}.parquet")
        labels = label_states(trace.load_SLE, stride=trace.meta.stride, rule=base.rule)
        for horizon in sorted((h for h in base.horizons if h <= draws.horizon), reverse=True):
            chosen = choose_origins(labels, trace.step_S, horizon, ORIGINS_PER_STATE)
            enough = {state: tuple(found) for state, found in chosen.items() if len(found) >= LEAST_ORIGINS}
            if enough:
                tokens, asked = round(run_facts(trace).expert_tokens, 1), None if horizon == base.horizon else horizon
                more = {"horizon": asked, "expert_tokens": tokens}
                yield SuiteTrace.model_validate({"id": name, "data_sha256": hashed, **enough, **more})
                break


def _results(
    folder: SeasonFolder,
    setting: Setting,
    targets: Sequence[Target],
    files: Mapping[str, Path],
    jobs: int,
    progress: Progress,
) -> dict[str, str]:
    """Write the result of every entry; return their hashes."""
    results: dict[str, str] = {}
    total, done = len(targets) * len(setting.suite.traces), 0
    with workers(jobs=jobs) as run:
        fits = list(run([functools.partial(fit_forecaster, setting, files, target) for target in targets]))
        calls = [
            functools.partial(run_pair, Pair(setting, entry, files[entry.id], target, fitted))
            for target, fitted in zip(targets, fits, strict=True)
            for entry in setting.suite.traces
        ]
        outputs = run(calls)
        for target, fitted in zip(targets, fits, strict=True):
            name, scored = target.label, list[RunResult]()
            for entry in setting.suite.traces:
                scored.append(next(outputs))
                done += 1
                progress(done, total, f"{name} on {entry.id}")
            made = make_result(setting, target, fitted, scored)
            results[name] = bytes_sha256(made.save(folder.results / f"{name}.json"))
    return results
