"""Scoring a season: every entry on every run, at once, after the hashes of all traces were published.

A forecaster is asked at the origins of the forks in the same replay, once; its one answer is scored against the
recorded future and against the forks.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaderboard.season_tools import records
from leaderboard.season_tools.closing import entry_changes, entry_of, entry_target, season_suite
from leaderboard.season_tools.drawing import all_drawn
from leaderboard.season_tools.drawn import drawn_plan
from leaderboard.season_tools.folder import SeasonFolder, logged_attempt, published_at, read_record
from leaderboard.season_tools.forks import ForkTest, permutation_test, share_distance
from leaderboard.season_tools.futures import RunForks, fork_floors, futures, run_forks
from leaderboard.season_tools.recording import fork_path, recorded_futures
from moeload_bench.errors import SeasonError
from moeload_bench.evaluation.evaluate import make_result
from moeload_bench.evaluation.harness import Answer
from moeload_bench.evaluation.pairs import Pair, Setting, fit_forecaster, replay_and_score, run_pair
from moeload_bench.evaluation.workers import workers
from moeload_bench.isolation.hosts import Level, Limits
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.isolation.targets import Target
from moeload_bench.results.record import RunResult
from moeload_bench.scoring.run_facts import run_facts
from moeload_bench.states.origins import choose_origins
from moeload_bench.states.rule import LABELS, label_states
from moeload_bench.suites.suite import ORIGINS_PER_STATE, Suite, SuiteTrace
from moeload_bench.traces.store import open_source, read_trace
from moeload_bench.traces.trace import Trace

LEAST_ORIGINS = 10
"""Of a state, in a season of drawn recipes."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Scored:
    """What the scoring of one run by one entry gave."""

    result: RunResult
    forks: tuple[records.ForkLoss, ...]


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

    A scoring that was broken off goes on: fits and runs that the cache has are not made again, those that fork are.
    ``published`` says where the hashes stand when it is not a commit of this repository; ``paths`` gives files of the
    open runs by id. Raises `SeasonError` for a run without hashes, hashes that are not published, a trace or an entry
    that has changed, and a season that is revealed.
    """
    plan, commitment = drawn_plan(folder), folder.commitment()
    with logged_attempt(folder, "score", f"{len(commitment.entries)} entries at level {level}"):
        draw, runs, place = _ready(folder, plan, published)
        _unchanged(folder, commitment, find_links, no_index)
        for left in (folder.results, folder.forks):  # by a scoring that was killed, on another machine perhaps
            shutil.rmtree(left, ignore_errors=True)
        (folder.path / "fork_floors.json").unlink(missing_ok=True)
        cut = {(run.recipe, run.run) for run in runs if run.diverged is not None}  # before their forks
        drawn = all_drawn(plan, folder.secret(), draw.value)
        values = tuple(one for one in drawn if (one.recipe, one.run) not in cut)
        suite = frozen_suite(plan, season_suite(plan), runs, folder.recordings)
        count = recorded_futures(runs, plan)
        forks = {entry.id: RunForks(0) for entry in suite.traces} | {
            f"{one.recipe}/{plan.split}/seed{one.run}": run_forks(folder.recordings, plan, one, suite, count)
            for one in values
        }
        files = {entry.id: folder.recordings / f"{entry.id}.parquet" for entry in suite.traces}
        files |= {entry.id: (paths or {}).get(entry.id) or suite.file_of(entry.id) for entry in suite.fit}
        targets = [
            entry_target(folder.entries / entry.name, entry, find_links=find_links, no_index=no_index)
            for entry in commitment.entries
        ]
        setting = Setting(suite, level, limits or Limits(), suite.seed, fresh=False)
        results, losses = _results(folder, plan, setting, targets, files, forks, jobs, progress)
        floors = fork_floors(folder, plan, suite, values, count)
        (folder.path / "suite.json").write_text(suite.model_dump_json(indent=1) + "\n")
        made = records.Scores(
            season=plan.name,
            published_sha256=records.published_sha256(runs),
            published_at=place,
            suite_sha256=suite.sha256(),
            level=level,
            results=results,
            forks=losses,
            fork_floors=None if floors is None else floors.sha256(),
        )
        folder.write(made, "scores.json")
    return made


def _ready(
    folder: SeasonFolder, plan: records.Plan, published: str | None
) -> tuple[records.Draw, list[records.RunHashes], str]:
    """Return the draw, the hashes of all runs, and where they were published; raise `SeasonError` when it is too
    early.
    """
    if folder.reveal() is not None:
        raise SeasonError(
            f"season {plan.name} is revealed: a later score is a public one; `moeload-bench run --suite` makes it"
        )
    if folder.scores() is not None:
        raise SeasonError(f"season {plan.name} is scored already: all entries are scored at once, and once")
    draw, runs = folder.draw(), folder.runs()
    missing = [one for one in plan.wanted() if one not in {(run.recipe, run.run) for run in runs}]
    if draw is None:
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
        for fork in run.forks:
            path = fork_path(folder.recordings, plan, run.recipe, run.run, fork.origin_number, fork.future)
            read_trace(path, expected_sha256=fork.data_sha256)
    return draw, runs, place


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
    plan: records.Plan,
    setting: Setting,
    targets: Sequence[Target],
    files: Mapping[str, Path],
    forks: Mapping[str, RunForks],
    jobs: int,
    progress: Progress,
) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of the results and of the fork losses of every entry, which are written."""
    results: dict[str, str] = {}
    losses: dict[str, str] = {}
    total, done = len(targets) * len(setting.suite.traces), 0
    horizons = next((one.horizons for one in forks.values() if one.origins), ())
    with workers(jobs=jobs) as run:
        fits = list(run([functools.partial(fit_forecaster, setting, files, target) for target in targets]))
        calls = [
            functools.partial(score_run, Pair(setting, entry, files[entry.id], target, fitted), forks[entry.id])
            for target, fitted in zip(targets, fits, strict=True)
            for entry in setting.suite.traces
        ]
        outputs = run(calls)
        for target, fitted in zip(targets, fits, strict=True):
            name, scored = target.label, list[Scored]()
            for entry in setting.suite.traces:
                scored.append(next(outputs))
                done += 1
                progress(done, total, f"{name} on {entry.id}")
            made = make_result(setting, target, fitted, [one.result for one in scored])
            results[name] = bytes_sha256(made.save(folder.results / f"{name}.json"))
            tasks = tuple(loss for one in scored for loss in one.forks)
            if tasks:
                lost = records.EntryForks(season=plan.name, entry=name, horizons=horizons, tasks=tasks)
                folder.write(lost, f"forks/{name}.json")
                losses[name] = lost.sha256()
    return results, losses


def fork_tests(folder: SeasonFolder) -> dict[str, ForkTest]:
    """Return by entry whether the recorded future was nearer to its forecasts than the forks; none where nothing
    forked.
    """
    scores = folder.scores()
    found = {}
    for name in sorted(scores.forks if scores else ()):
        tasks = read_record(records.EntryForks, folder.forks / f"{name}.json").tasks
        losses = [(task.recipe, task.run, np.array(task.loss_JK)) for task in tasks if task.failure is None]
        if losses:
            found[name] = permutation_test(losses)
    return found


def score_run(pair: Pair, forks: RunForks) -> Scored:
    """Score one entry on one run: its result, and the losses of the answers that it gave where the run forks."""
    if not forks.origins:
        return Scored(run_pair(pair), ())
    answers: dict[int, Answer] = {}

    def hear(answer: Answer) -> None:
        if answer.origin in forks.origins:
            answers[answer.origin] = answer

    result = replay_and_score(pair, forks.origins, hear)
    trace = open_source(pair.source, pair.entry.data_sha256)
    losses = [_loss(trace, forks, i, answers.get(origin)) for i, origin in enumerate(forks.origins)]
    return Scored(result, tuple(losses))


def _loss(trace: Trace, forks: RunForks, i: int, answer: Answer | None) -> records.ForkLoss:
    origin = forks.origins[i]
    common = {"trace": trace.id, "recipe": trace.meta.recipe, "run": forks.run, "origin": origin}
    if answer is None or answer.forecast is None:
        reason = answer.failure if answer else None
        return records.ForkLoss(**common, failure=reason or "it was not asked: its process is gone")
    loss_JK = share_distance(futures(trace, forks, i), answer.forecast.window_means(forks.horizons))
    return records.ForkLoss(**common, loss_JK=tuple(tuple(float(f"{x:.9g}") for x in row) for row in loss_JK))
