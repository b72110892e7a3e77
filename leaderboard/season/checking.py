"""Is a season what it says? Hashes, seeds and recipes are derived, and entries are scored again from their copies.

Hashes show that nothing was changed alone. A re-run shows that a number is the entry's, whatever hashes say.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from leaderboard.season.drawing import Recipes, check_value, drawn_runs, released_value, season_recipes, unfit_recipes
from leaderboard.season.entries import check_imports
from leaderboard.season.folder import FACTS, RECORDINGS, SeasonFolder, file_hashes, recordings_sha256, utc_now
from leaderboard.season.history import SLACK, history_problems, missing_history
from leaderboard.season.records import Recording, Scores
from leaderboard.season.rescoring import Findings, chosen, contrast_again, score_again
from leaderboard.season.scored import ScoredSeason, load_table
from leaderboard.season.scoring import scored_run_of, suite_of
from moeload_bench.errors import MoeloadError, SeasonError, short
from moeload_bench.generator.recipe import Recipe
from moeload_bench.suites.suite import SuiteTrace
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace
from moeload_bench.words import Progress, silent

RUNS = 3
"""Whole runs that a stranger is asked to record again."""
MINUTES = 15.0
"""Minutes after which no run of an entry that no test names is waited for."""
RECORDS = ("season.toml", "draw.json", RECORDINGS, "scores.json", "suite.json")
COSTS = "costs are as measured then: no re-run shows them"
_STEP = re.compile(r"(?:step |after step )(\d{1,9})")
Note = Callable[[str], None]


@dataclass
class Checked(Findings):
    """What is ``wrong`` with a season, and what could not be checked here; the season itself where it can be read."""

    scored: ScoredSeason | None = None
    to_record: list[str] = field(default_factory=list)


def check_season(
    folder: SeasonFolder,
    *,
    everything: bool = False,
    seed: int | None = None,
    jobs: int = 1,
    minutes: float = MINUTES,
    note: Note = lambda line: None,
    progress: Progress = silent,
) -> Checked:
    """Return everything that is wrong with a scored season, in words, and what was not checked.

    ``seed`` chooses what is scored again (`rescoring.chosen`), a random one if none is given; ``everything``: all runs.
    What cannot be read is a line with its reason. ``note`` is called with what is chosen. Raises `SeasonError` for a
    season that is not scored, or a record of it that cannot be read.
    """
    if not folder.path.is_dir():
        raise SeasonError(f"{folder.path}: no such season")
    season, draw, recordings, scores = folder.season, folder.draw, folder.recordings, folder.scores
    if scores is None:
        raise SeasonError(f"season {season.name} is not scored yet: `season check` is for scored ones")
    seed = secrets.randbits(32) if seed is None else seed
    recipes: Recipes = {}
    checked, hashes = Checked(), file_hashes(folder.path, ".", unread=folder.recorded_traces(recordings))
    try:
        recipes = season_recipes(folder, draw.value)
        checked.wrong += draw_problems(folder, recipes, hashes.get("season.toml"))
    except MoeloadError as error:
        checked.wrong.append(f"nothing can be drawn: {error}")
    by_name = {name: recipe for of_set in recipes.values() for name, recipe in of_set.items()}
    checked.wrong += readable(file_problems(folder, hashes, recordings, scores))
    scored_runs: list[SuiteTrace] = []
    for name in sorted(draw.runs):
        wrong, scored_run = check_run(folder, name, recordings.get(name), by_name.get(name), hashes)
        checked.wrong += wrong
        scored_runs += [] if scored_run is None else [scored_run]
    checked.wrong += readable(table_problems(folder, recordings, scores, scored_runs))
    checked.wrong += time_problems(folder, scores)
    missing = missing_history(folder)
    if missing is None:
        checked.wrong += readable(history_problems(folder, recordings, scores))
    else:
        checked.unchecked.append(f"the order of the steps, and whether terms changed since: {missing}")
    try:
        checked.scored = ScoredSeason(folder, load_table(folder, layers=True), recipes or None)
        checked.wrong += row_problems(checked.scored, scores)
        plan = chosen(checked.scored, seed, everything)
        limit = None if everything else minutes
        note(f"seed {seed}: {plan.words(limit)}; {COSTS}")
        again = score_again(checked.scored, plan, jobs=jobs, minutes=limit, progress=progress)
        for part in (again, contrast_again(checked.scored, plan)):
            checked.wrong += part.wrong
            checked.unchecked += part.unchecked
    except MoeloadError as error:
        checked.wrong.append(str(error))
    checked.to_record = runs_to_record_again(recordings, seed)
    return checked


def readable(lines: Iterator[str]) -> Iterator[str]:
    """Yield what is wrong, and why something cannot be read where it cannot."""
    try:
        yield from lines
    except MoeloadError as error:
        yield str(error)


def draw_problems(folder: SeasonFolder, recipes: Recipes, terms_sha256: str | None) -> Iterator[str]:
    """Say where the draw is not what the public value gives, or is not as new as season.toml says."""
    season, draw = folder.season, folder.draw
    if draw.season_sha256 != terms_sha256:
        yield "season.toml has changed since the draw"
    if draw.public:
        check_value(season, draw.value)
    if season.value_project and released_value(season, draw.extract) != (draw.value, draw.where, draw.extract):
        yield f"draw.json: the value is not the hash of the first release of {season.value_project} in its extract"
    if draw.drawn < season.value_after:
        yield f"draw.json: drawn at {draw.drawn}, before the public value could be known, {season.value_after}"
    derived = drawn_runs(season, recipes, draw.value)
    for name in sorted(derived.keys() | draw.runs.keys()):
        wanted, got = derived.get(name), draw.runs.get(name)
        if wanted is None or got is None:
            yield f"draw.json: {name} is {'not drawn' if wanted is None else 'left out'}"
        elif got.seed != wanted.seed:
            yield f"draw.json: the seed of {name} is {got.seed}, the derived one {wanted.seed}"
        elif got != wanted:
            yield f"draw.json: the recipe of {name} is not what the value draws"
    yield from unfit_recipes(season, recipes)


def file_problems(
    folder: SeasonFolder, hashes: Mapping[str, str], recordings: Mapping[str, Recording], scores: Scores
) -> Iterator[str]:
    """Say which file was left out, has changed, or is no part of the season."""
    traces = folder.recorded_traces(recordings)
    expected, change = {**folder.season.files, **scores.files}, " is not what it was, or not what was drawn"
    yield from changed_files(folder, hashes, expected, {*RECORDS, *traces}, change)


def changed_files(
    folder: SeasonFolder, hashes: Mapping[str, str], expected: Mapping[str, str], others: Collection[str], change: str
) -> Iterator[str]:
    """Say which file was left out, is of another hash than is expected (``change`` says so), or is not of ``others``.

    Raise `SeasonError` for an entry that imports more of this project than it may.
    """
    for path, sha256 in expected.items():
        if path not in hashes:
            yield f"{path}: left out: it is not there"
        elif hashes[path] != sha256:
            yield f"{path}{change}: its hash is {hashes[path][:12]}, not {sha256[:12]}"
    for path in sorted(hashes.keys() - expected.keys() - {*others}):
        yield f"{path}: no part of the season"
    check_imports(folder.entries)


def check_run(
    folder: SeasonFolder, name: str, recording: Recording | None, recipe: Recipe | None, hashes: Mapping[str, str]
) -> tuple[list[str], SuiteTrace | None]:
    """Return what is wrong with a run, and what it is asked if it can be scored; its trace is read once."""
    if recording is None:
        return [f"{name}: left out: it has no recording"], None
    wrong, path, sha256 = list[str](), folder.trace(name), recording.data_sha256
    if recording.draw_sha256 != hashes.get("draw.json"):
        wrong.append(f"recording of {name}: recorded for another draw")
    if sha256 is None:
        return [*wrong, *end_problems(name, recording, None)], None
    if not path.is_file():
        return [*wrong, f"trace {name}: left out: its file is not there"], None
    try:
        trace = read_trace(path)
        wrong += trace_problems(folder, name, recording, recipe, trace)
        return wrong, scored_run_of(folder, name, sha256, trace)
    except MoeloadError as error:
        return [*wrong, str(error)], None


def trace_problems(
    folder: SeasonFolder, name: str, recording: Recording, recipe: Recipe | None, trace: Trace
) -> Iterator[str]:
    """Say how a run's trace differs from its recording, from what was drawn for it, and from its recipe."""
    yield from end_problems(name, recording, trace)
    if data_sha256(trace) != recording.data_sha256:
        yield f"trace {name}: its data have changed since it was recorded"
    if trace.meta.sha256() != recording.meta_sha256:
        yield f"trace {name}: its metadata have changed since it was recorded"
    if trace.meta.seed != folder.draw.runs[name].seed:
        yield f"trace {name}: recorded from seed {trace.meta.seed}, drawn was {folder.draw.runs[name].seed}"
    odd = None if recipe is None else departure(trace, recipe)
    if odd is not None:
        yield f"trace {name}: {odd}"


def end_problems(name: str, recording: Recording, trace: Trace | None) -> Iterator[str]:
    """Say where a run ends early without a reason, or is said to have diverged and its recording does not show it.

    The steps before the one that diverged are recorded: only a training that diverges at once has no trace.
    """
    last = None if trace is None else int(trace.step_S[-1])
    if recording.ended is None:
        if trace is None:
            yield f"{name}: left out: it has no trace, and no reason is given"
        elif not trace.meta.complete:
            yield f"trace {name}: it ends after step {last}, and no reason is given"
        return
    step = _STEP.search(recording.ended)
    if step is None:
        yield f"{name}: left out: said to have ended early, without the step: {short(recording.ended)}"
        return
    diverged = int(step[1]) + recording.ended.startswith("training diverged after")
    if trace is None and diverged > 0:
        yield f"{name}: left out: said to have diverged at step {diverged}, without a recording of the steps before"
    elif trace is not None and (trace.meta.complete or last != diverged - trace.meta.stride):
        ends = "is whole" if trace.meta.complete else f"ends after step {last}"
        yield f"trace {name}: said to have diverged at step {diverged}, and it {ends}"


def departure(trace: Trace, recipe: Recipe) -> str | None:
    """Say where a trace's planned columns are not its recipe's: the learning rate or the data stage of a step."""
    steps = [int(step) for step in trace.step_S]
    planned = {
        "lr": [recipe.lr_at(step) for step in steps],
        "stage": [float(recipe.stage_at(step)) for step in steps],
    }
    for name, plan_S in planned.items():
        if name not in trace.columns:
            return f"there is no column {name}, which its recorder writes"
        differs_S = ~np.isclose(trace.columns[name], plan_S, rtol=1e-5, atol=0)
        if differs_S.any():
            row = int(differs_S.argmax())
            return f"{name} at step {trace.step_S[row]} is {trace.columns[name][row]}, the recipe says {plan_S[row]}"
    return None


def table_problems(
    folder: SeasonFolder, recordings: dict[str, Recording], scores: Scores, scored_runs: Sequence[SuiteTrace]
) -> Iterator[str]:
    """Say where the table is of other recordings, or the task list not what the rule of the suite gives."""
    if scores.recordings_sha256 != recordings_sha256(recordings):
        yield "scores.json: made from other recordings than those of recordings.json"
    for name in folder.season.entries:
        if f"results/{name}.parquet" not in scores.files:
            yield f"entry {name} was left out: it has no result"
    for place, suite in {"suite.json": folder.suite, "the traces": suite_of(folder, scored_runs)}.items():
        if suite.sha256() != scores.suite_sha256:
            yield f"the task list of {place} is {suite.sha256()[:12]}, scored was {scores.suite_sha256[:12]}"


def row_problems(scored: ScoredSeason, scores: Scores) -> Iterator[str]:
    """Say which entry has rows of other tasks than the task list, or another level, and which floors are lacking."""
    suite, table = scored.suite, scored.table.table
    tasks = {
        (run.id, origin, state, horizon)
        for run in suite.traces
        for origin, state in run.origins()
        for horizon in suite.horizons
    }
    keys = ["trace", "origin", "state", "horizon"]
    for name, entry in scored.table.entries.items():
        rows = {*table.loc[table["forecaster"] == name, keys].itertuples(index=False, name=None)}
        if rows != tasks:
            first = min(rows ^ tasks)
            kind = "lacks" if first in tasks else "has"
            yield f"entry {name}: its result {kind} {first[0]}, origin {first[1]}, {first[2]}, horizon {first[3]}"
        if entry.isolation != scores.level:
            yield f"entry {name}: its result says isolation {entry.isolation}, scores.json {scores.level}"
    if scored.table.layers is None:
        yield "results/layers: left out: no entry has means by layer"
    floors = {*scored.table.facts["trace"]}
    yield from (f"{FACTS}: it has no floors of {run.id}" for run in suite.traces if run.id not in floors)


def time_problems(folder: SeasonFolder, scores: Scores) -> Iterator[str]:
    """Say which date is not in the order of the steps, or has not come yet."""
    moments = {
        "season.toml: opened": folder.season.opened,
        "draw.json: drawn": folder.draw.drawn,
        "scores.json: scored": scores.scored,
        "now": utc_now() + SLACK,
    }
    for (name, moment), (next_name, next_moment) in pairwise(moments.items()):
        if moment > next_moment:
            yield f"{name} {moment:%Y-%m-%d %H:%M}, expected a time before {next_name} {next_moment:%Y-%m-%d %H:%M}"


def runs_to_record_again(recordings: Mapping[str, Recording], seed: int) -> list[str]:
    """Return the recipes that a stranger records again: those that ended early, and some that a seed chooses."""
    early = sorted(name for name, recording in recordings.items() if recording.ended is not None)
    whole = sorted(recordings.keys() - early)
    return [*early, *random.Random(seed).sample(whole, min(RUNS, len(whole)))]
