"""Is a season what it says? Hashes, seeds and recipes are derived, and entries are scored again from their copies.

Hashes show that nothing was changed alone. A re-run shows that a number is the entry's, whatever hashes say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from leaderboard.reproduce import tolerances_of
from leaderboard.season.drawing import Recipes, check_value, drawn_runs, released_value, season_recipes, unfit_recipes
from leaderboard.season.entries import check_imports, read_entry
from leaderboard.season.folder import RECORDINGS, SeasonFolder, file_hashes, recordings_sha256, season_sha256
from leaderboard.season.records import Recording, Scores, file_sha256, read_record
from leaderboard.season.scored import load_table
from leaderboard.season.scoring import run_entry, season_setting, season_suite, trace_file
from leaderboard.verifying.agreement import differences
from moeload_bench.errors import MoeloadError, SeasonError, SubmissionError
from moeload_bench.generator.recipe import Recipe
from moeload_bench.harness.pairs import Fitted, Pair
from moeload_bench.isolation.hosts import Level, level_available
from moeload_bench.results.columns import Row, run_costs
from moeload_bench.results.results import Results, results_of
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace

RUNS = 3
"""Runs of an entry that are scored again, and runs that a stranger is asked to record again."""
DEAR_S = 20.0
"""Seconds of a run above which only a check of everything scores it again."""
RECORDS = ("season.toml", "draw.json", RECORDINGS, "scores.json", "suite.json")
Note = Callable[[str], None]


def check_season(folder: SeasonFolder, everything: bool = False, note: Note = lambda line: None) -> list[str]:
    """Return everything that is wrong with a scored season, in words; [] when it is what it says.

    The candidate and one more entry are scored again on three runs each, or ``everything`` is. What cannot be read is a
    line with its reason. ``note`` is called with what was scored again, and with what this machine cannot compare.
    Raises `SeasonError` for a season that is not scored, or a record of it that cannot be read.
    """
    if not folder.path.is_dir():
        raise SeasonError(f"{folder.path}: no such season")
    season, draw, recordings, scores = folder.season, folder.draw, folder.recordings, folder.scores
    if scores is None:
        raise SeasonError(f"season {season.name} is not scored yet: `season check` is for scored ones")
    recipes: Recipes = {}
    try:
        recipes = season_recipes(folder, draw.value)
        wrong = list(draw_problems(folder, recipes))
    except MoeloadError as error:
        wrong = [f"nothing can be drawn: {error}"]
    by_name = {name: one for of_set in recipes.values() for name, one in of_set.items()}
    wrong += readable(file_problems(folder, recordings, scores))
    for name in draw.runs:
        wrong += readable(trace_problems(folder, name, recordings.get(name), by_name.get(name)))
    wrong += readable(table_problems(folder, recordings, scores))
    return [*wrong, *readable(scored_again(folder, everything, note))]


def readable(lines: Iterator[str]) -> Iterator[str]:
    """Yield what is wrong, and why something cannot be read where it cannot."""
    try:
        yield from lines
    except MoeloadError as error:
        yield str(error)


def draw_problems(folder: SeasonFolder, recipes: Recipes) -> Iterator[str]:
    """Say where the draw is not what the public value gives, or is not as new as season.toml says."""
    season, draw = folder.season, folder.draw
    if draw.season_sha256 != season_sha256(folder):
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


def file_problems(folder: SeasonFolder, recordings: Mapping[str, Recording], scores: Scores) -> Iterator[str]:
    """Say which file was left out, has changed, or is no part of the season."""
    traces = [f"traces/{folder.trace_id(name)}.parquet" for name, one in recordings.items() if one.data_sha256]
    expected, change = {**folder.season.files, **scores.files}, " is not what it was, or not what was drawn"
    yield from changed_files(folder, expected, {*RECORDS, *traces}, change)


def changed_files(
    folder: SeasonFolder, expected: Mapping[str, str], known: Collection[str], change: str
) -> Iterator[str]:
    """Say which file was left out, has another hash than is expected, in the words of ``change``, or is not ``known``.

    Raise `SubmissionError` for an entry that imports more of this project than it may.
    """
    found = file_hashes(folder.path, ".")
    for path, sha256 in expected.items():
        if path not in found:
            yield f"{path}: left out: it is not there"
        elif found[path] != sha256:
            yield f"{path}{change}: its hash is {found[path][:12]}, not {sha256[:12]}"
    for path in sorted(found.keys() - expected.keys() - {*known}):
        yield f"{path}: no part of the season"
    check_imports(folder.entries)


def trace_problems(
    folder: SeasonFolder, name: str, recording: Recording | None, recipe: Recipe | None
) -> Iterator[str]:
    """Say how a run's trace differs from its recording, from what was drawn for it, and from its recipe."""
    if recording is None:
        yield f"{name}: left out: it has no recording"
        return
    if recording.draw_sha256 != file_sha256(folder.path / "draw.json"):
        yield f"recording of {name}: recorded for another draw"
    if recording.data_sha256 is None:
        return
    path = folder.trace(name)
    if not path.is_file():
        yield f"trace {name}: left out: its file is not there"
        return
    trace = read_trace(path)
    if data_sha256(trace) != recording.data_sha256:
        yield f"trace {name}: its data have changed since it was recorded"
    if trace.meta.sha256() != recording.meta_sha256:
        yield f"trace {name}: its metadata have changed since it was recorded"
    if trace.meta.seed != folder.draw.runs[name].seed:
        yield f"trace {name}: recorded from seed {trace.meta.seed}, drawn was {folder.draw.runs[name].seed}"
    odd = None if recipe is None else departure(trace, recipe)
    if odd is not None:
        yield f"trace {name}: {odd}"


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
            at = int(differs_S.argmax())
            return f"{name} at step {trace.step_S[at]} is {trace.columns[name][at]}, the recipe says {plan_S[at]}"
    return None


def table_problems(folder: SeasonFolder, recordings: dict[str, Recording], scores: Scores) -> Iterator[str]:
    """Say where the table is of other recordings, or the task list not what the rule of the suite gives."""
    if scores.recordings_sha256 != recordings_sha256(recordings):
        yield "scores.json: made from other recordings than those of recordings.json"
    for name in folder.season.entries:
        if f"results/{name}.parquet" not in scores.files:
            yield f"entry {name} was left out: it has no result"
    suites = {
        "suite.json": read_record(Suite, folder.path / "suite.json"),
        "the traces": season_suite(folder, recordings),
    }
    for place, suite in suites.items():
        if suite.sha256() != scores.suite_sha256:
            yield f"the task list of {place} is {suite.sha256()[:12]}, scored was {scores.suite_sha256[:12]}"


def scored_again(folder: SeasonFolder, everything: bool, note: Note) -> Iterator[str]:
    """Score entries again, and yield each number that the re-run contradicts."""
    suite = read_record(Suite, folder.path / "suite.json")
    draw = random.Random(file_sha256(folder.path / "scores.json"))
    candidate, compared = folder.season.candidate, 0
    others = [name for name in folder.season.entries if name != candidate]
    for name in [candidate, *draw.sample(others, len(others))]:
        if compared < 2 or everything:
            try:
                yield from entry_again(folder, name, suite, len(suite.traces) if everything else RUNS, draw, note)
                compared += 1
            except SubmissionError as error:
                note(f"entry {name}: not scored again, its packages need an index: {error}")


def entry_again(
    folder: SeasonFolder, name: str, suite: Suite, most: int, draw: random.Random, note: Note
) -> Iterator[str]:
    """Score an entry again on drawn runs, ``most`` at most, and yield each number that differs."""
    results, entry = load_table(folder).select([name]), read_entry(folder.entries / name)
    costs, runs = run_costs(results.table).set_index("trace"), len(suite.traces)
    seconds = (costs["observe_wall_s"] + costs["forecast_wall_s"]).to_dict()
    cheap = [task for task in suite.traces if most == runs or seconds[task.id] < DEAR_S]
    tasks = draw.sample(cheap, min(most, len(cheap)))
    setting = replace(season_setting(suite, folder.base, rerun_level(entry.record.has_code)), fresh=True)
    target, fitted = entry.target(), Fitted(entry.fitted)
    for task in tasks:
        again = run_entry(folder, Pair(setting, task, trace_file(folder, task), target, fitted))
        yield from (f"entry {name}: {line}" for line in rerun_differences(results, again))
    dear = f"; {runs - len(cheap)} runs take over {DEAR_S:g} s and are left to --all" if len(cheap) < runs else ""
    note(f"entry {name}: scored again on {len(tasks)} of {runs} runs{dear}")


def rerun_differences(results: Results, again: Sequence[Row]) -> list[str]:
    """Return each number of an entry's run that its re-run contradicts, within the tolerances of `reproduce`.

    ``results``: of that entry alone.
    """
    (entry,) = results.entries.values()
    fresh = results_of([entry], [again])
    return differences(fresh, results.select(traces=fresh.traces), tolerances_of(entry, refit=False), whole=False)


def rerun_level(own_code: bool) -> Level:
    """Return where an entry runs: in the sandbox if there is one, code of others only there; raise `SeasonError`."""
    missing = level_available("sandbox")
    if missing is not None and own_code:
        raise SeasonError(f"its code is run in the sandbox only: {missing}")
    return "process" if missing else "sandbox"


def runs_to_record_again(folder: SeasonFolder) -> list[str]:
    """Return the recipes that a stranger records again, drawn from the hashes of all traces."""
    recordings = folder.recordings
    complete = sorted(name for name, one in recordings.items() if one.ended is None)
    return random.Random(recordings_sha256(recordings)).sample(complete, min(RUNS, len(complete)))
