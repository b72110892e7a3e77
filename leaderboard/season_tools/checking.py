"""Is a season what it committed to? Everything a stranger can check from its folder, and which run to record again."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from leaderboard.frozen_code import code_sha256
from leaderboard.season_tools.closing import entry_changes, planned_recipe, read_entry, season_suite, unpacked_sha256
from leaderboard.season_tools.drawing import all_drawn, secret_sha256, varied_recipe
from leaderboard.season_tools.folder import NO_LINE, SeasonFolder, file_sha256, is_shallow, read_record
from leaderboard.season_tools.recording import fork_path, run_job, same_training
from leaderboard.season_tools.records import (
    Commitment,
    Draw,
    Drawn,
    Entry,
    ForkFloors,
    LogLine,
    Plan,
    Reveal,
    RunHashes,
    Scores,
    published_sha256,
)
from leaderboard.season_tools.scoring import frozen_suite
from moeload_bench.environment import Environment, environment
from moeload_bench.errors import MoeloadError, SeasonError, SubmissionError
from moeload_bench.recipes.recipe import Recipe
from moeload_bench.results.record import load_result
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace


@dataclass(frozen=True)
class Season:
    """The records of a season, as published."""

    plan: Plan
    commitment: Commitment
    draw: Draw
    runs: Sequence[RunHashes]
    scores: Scores
    reveal: Reveal
    lines: Sequence[LogLine]


@dataclass(frozen=True)
class FoundTrace:
    """What a file holds: its hash, the seed in its metadata, and how it departs from its recipe's plan."""

    data_sha256: str
    seed: int | None
    odd: str | None = None
    meta_sha256: str | None = None


@dataclass(frozen=True)
class FoundResult:
    """What a result says: its hash, from which code it was made, on which suite, on which data by trace, and where."""

    sha256: str
    source_sha256: str
    suite_sha256: str
    traces: Mapping[str, str]
    made_on: str


@dataclass(frozen=True)
class Found:
    """What lies beside the records: measured, not claimed. Traces by id; forks by (recipe, run, origin, future)."""

    entries: Mapping[str, Entry]
    traces: Mapping[str, FoundTrace]
    forks: Mapping[tuple[str, int, int, int], FoundTrace]
    results: Mapping[str, FoundResult]
    fork_losses: Mapping[str, str]
    fork_floors: str | None = None
    suites: Mapping[str, str] = field(default_factory=dict)
    """The hash of the task list by where it was found: `suite.json`, and `the traces`, which it is made from again."""
    unread: Sequence[str] = ()
    """What could not be read, each with its reason: the rest is looked at all the same."""


def check_season(
    folder: SeasonFolder,
    *,
    find_links: Path | None = None,
    no_index: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Everything wrong with a revealed season, in words; [] when it is what it committed to.

    ``note`` is called with what this machine or this clone cannot show. Raises `SeasonError` for one that is not
    revealed, or a record of the season itself that cannot be read.
    """
    draw, scores, reveal = folder.draw(), folder.scores(), folder.reveal()
    if draw is None or scores is None or reveal is None:
        raise SeasonError(f"{folder.path}: not revealed yet: `season check` is for what is public")
    season = Season(folder.plan(), folder.commitment(), draw, folder.runs(), scores, reveal, folder.lines())
    if is_shallow(folder.path):
        note(
            "this clone is shallow: it cannot show when the hashes were published (git log names one commit for all "
            "files); git fetch --unshallow"
        )
    return list(season_problems(season, _found(folder, season, find_links, no_index, note)))


def season_problems(season: Season, found: Found) -> Iterator[str]:
    """Where the records contradict each other, or what was found beside them. Pure."""
    yield from found.unread
    yield from _bound(season)
    yield from _logged(season.lines)
    yield from _drawn(season, found)
    yield from _entries(season, found)
    yield from _runs(season, found)
    yield from _scores(season, found)


def _bound(season: Season) -> Iterator[str]:
    plan, commitment, draw, reveal = season.plan, season.commitment, season.draw, season.reveal
    for record in (commitment, draw, season.scores, reveal):
        if record.season != plan.name:
            yield f"{type(record).__name__.lower()}.json is of season {record.season!r}, the plan of {plan.name!r}"
    if commitment.plan_sha256 != plan.sha256():
        yield "commitment.json is bound to another plan: plan.json has changed since closing"
    if draw.commitment_sha256 != commitment.sha256():
        yield "draw.json is bound to another commitment: commitment.json has changed since the draw"
    hashed = secret_sha256(reveal.secret)
    if hashed != plan.secret_sha256:
        yield f"the secret's hash is {hashed[:12]}, the plan committed to {plan.secret_sha256[:12]}"
    if plan.secret not in (None, reveal.secret):
        yield "the secret is another than the one that plan.json shows"


def _logged(lines: Sequence[LogLine]) -> Iterator[str]:
    """The log is whole, and its order is that of the season."""
    before = NO_LINE
    for number, line in enumerate(lines):
        if (line.number, line.before) != (number, before):
            yield f"log.jsonl: line {number + 1} does not follow the one before: a line was changed or left out"
            return
        before = line.sha256()
    done = [(line.action, line.number) for line in lines if line.outcome == "done"]
    ends = {action: [number for found, number in done if found == action] for action in _ORDER}
    for action in _ORDER:
        if not ends[action]:
            yield f"log.jsonl: no {action} is done in it"
        elif action != "record" and len(ends[action]) > 1:
            yield f"log.jsonl: {action} is done {len(ends[action])} times, expected once"
    for first, then in itertools.pairwise(_ORDER):
        if ends[first] and ends[then] and max(ends[first]) > min(ends[then]):
            yield f"log.jsonl: {then} is done before {first} is"


_ORDER = ("new", "close", "record", "score", "reveal")


def _drawn(season: Season, found: Found) -> Iterator[str]:
    expected = {(d.recipe, d.run): d for d in all_drawn(season.plan, season.reveal.secret, season.draw.value)}
    said = {(d.recipe, d.run): d for d in season.reveal.runs}
    for (recipe, run), wanted in expected.items():
        got = said.get((recipe, run))
        if got is None:
            yield f"{recipe} run {run}: left out of reveal.json"
        elif got.seed != wanted.seed:
            yield f"{recipe} run {run}: seed {got.seed} is not the derived one, {wanted.seed}"
        elif got != wanted:
            yield f"{recipe} run {run}: what was drawn is not what the derivation gives"
    for hashes in season.runs:
        wanted_here, trace = expected.get((hashes.recipe, hashes.run)), found.traces.get(hashes.trace)
        if wanted_here is not None and trace is not None:
            if trace.seed != wanted_here.seed:
                yield f"trace {hashes.trace}: recorded from seed {trace.seed}, the derived one is {wanted_here.seed}"
            elif trace.odd is not None:
                yield f"trace {hashes.trace}: {trace.odd}"


def _entries(season: Season, found: Found) -> Iterator[str]:
    for entry in season.commitment.entries:
        now = found.entries.get(entry.name)
        change = f"entry {entry.name} is gone" if now is None else entry_changes(entry, now)
        if change is not None:
            yield f"{change}; the entries were closed at commit {season.commitment.commit}"
    for name in sorted(found.entries.keys() - {entry.name for entry in season.commitment.entries}):
        yield f"entry {name} was not there at closing"


def _runs(season: Season, found: Found) -> Iterator[str]:
    plan, draw = season.plan, season.draw
    recorded = {(run.recipe, run.run): run for run in season.runs}
    for recipe, run in plan.wanted():
        if (recipe, run) not in recorded:
            yield f"{recipe} run {run}: left out: it has no hashes"
    for run_ in season.runs:
        if (run_.recipe, run_.run) not in plan.wanted():
            yield f"{run_.recipe} run {run_.run}: not in the plan"
        if run_.draw_sha256 != draw.sha256():
            yield f"{run_.recipe} run {run_.run}: its hashes are bound to another draw"
        if run_.failure is None:
            trace = found.traces.get(run_.trace)
            yield from _same(f"trace {run_.trace}", run_.data_sha256, trace)
            if trace is not None and run_.meta_sha256 not in (None, trace.meta_sha256):
                yield f"trace {run_.trace}: its metadata have changed since its hashes were published"
            yield from _forks(plan, run_, found)


def _forks(plan: Plan, run: RunHashes, found: Found) -> Iterator[str]:
    forks = plan.forks_of(run.recipe)
    wanted = set() if forks is None else set(itertools.product(range(forks.origins), range(forks.futures)))
    missing = wanted - {(fork.origin_number, fork.future) for fork in run.forks}
    if missing:
        yield f"{run.recipe} run {run.run}: {len(missing)} forks left out: they have no hashes"
    for fork in run.forks:
        what = f"fork {fork.future} of origin {fork.origin_number} of {run.recipe} run {run.run}"
        key = (run.recipe, run.run, fork.origin_number, fork.future)
        yield from _same(what, fork.data_sha256, found.forks.get(key))


def _same(what: str, published: str | None, trace: FoundTrace | None) -> Iterator[str]:
    if trace is None:
        yield f"{what}: left out: its file is not there"
    elif trace.data_sha256 != published:
        yield f"{what} has changed: its hash is {trace.data_sha256[:12]}, published was {str(published)[:12]}"


def _scores(season: Season, found: Found) -> Iterator[str]:
    scores = season.scores
    if scores.published_sha256 != published_sha256(season.runs):
        yield "scores.json: made from other hashes than those of runs/: a score before the hashes, or runs changed"
    traces = {run.trace: run.data_sha256 for run in season.runs if run.failure is None}
    for entry in season.commitment.entries:
        result = found.results.get(entry.name)
        if result is None or entry.name not in scores.results:
            yield f"entry {entry.name} was left out: it has no result"
            continue
        if result.sha256 != scores.results[entry.name]:
            yield f"results/{entry.name}.json has changed since it was scored"
        if result.source_sha256 != entry.source_sha256:
            yield f"results/{entry.name}.json: made from code {result.source_sha256[:12]}, not the closed entry's"
        if result.suite_sha256 != scores.suite_sha256:
            yield f"results/{entry.name}.json is on another task list than the season's"
        if dict(result.traces) != traces:
            yield f"results/{entry.name}.json: its runs are not those of the season: a run was left out or changed"
    for name, sha256 in scores.forks.items():
        if found.fork_losses.get(name) != sha256:
            yield f"forks/{name}.json has changed since it was scored"
    if found.fork_floors != scores.fork_floors:
        yield "fork_floors.json has changed since it was scored"
    for place, got in found.suites.items():
        if got != scores.suite_sha256:
            yield f"the task list of {place} is {got[:12]}, scores were made on {scores.suite_sha256[:12]}"


def _found(
    folder: SeasonFolder, season: Season, find_links: Path | None, no_index: bool, note: Callable[[str], None]
) -> Found:
    plan = season.plan
    unread: list[str] = []
    entries: dict[str, Entry] = {}
    traces: dict[str, FoundTrace] = {}
    forks: dict[tuple[str, int, int, int], FoundTrace] = {}
    results: dict[str, FoundResult] = {}
    for path in sorted(folder.results.glob("*.json")):
        with _named(unread, path):
            results[path.stem] = _result(path)
    closed = {entry.name: entry for entry in season.commitment.entries}
    for path in sorted(folder.entries.iterdir()) if folder.entries.is_dir() else ():
        with _named(unread, path):
            if path.is_dir():
                was, result = closed.get(path.name), results.get(path.name)
                code_of = partial(code_sha256, made_from=was.source_sha256 if was else "", store=folder.frozen)
                now = read_entry(path, code_of)
                if was is not None and now.requirements:
                    made_on = None if result is None else result.made_on
                    now = _with_packages(now, was, made_on, find_links, no_index, note)
                entries[path.name] = now
    by_run = {(d.recipe, d.run): d for d in season.reveal.runs}
    for run in season.runs:
        path = folder.traces / f"{run.trace}.parquet"
        with _named(unread, path):
            if path.is_file():
                traces[run.trace] = _read(folder, plan, path, by_run.get((run.recipe, run.run)))
        for fork in run.forks:
            place = fork_path(folder.traces, plan, run.recipe, run.run, fork.origin_number, fork.future)
            with _named(unread, place):
                if place.is_file():
                    trace = read_trace(place)
                    key = (run.recipe, run.run, fork.origin_number, fork.future)
                    forks[key] = FoundTrace(data_sha256(trace), trace.meta.seed)
    losses = {path.stem: file_sha256(path) for path in sorted(folder.forks.glob("*.json"))}
    floors, suites = _floors(folder, unread), _suites(folder, season, unread)
    return Found(entries, traces, forks, results, losses, floors, suites, unread)


def _with_packages(
    now: Entry, was: Entry, made_on: str | None, find_links: Path | None, no_index: bool, note: Callable[[str], None]
) -> Entry:
    """The entry with the hash of its wheels; where they cannot be compared, with that of closing and a note why."""
    here, packages = _machine(environment()), was.packages_sha256
    why = None if made_on in (None, here) else f"they are wheels for {made_on}, this is {here}"
    if why is None:
        try:
            packages = unpacked_sha256(now.requirements, find_links, no_index)
        except SubmissionError as error:
            why = str(error)
    if why is not None:
        note(f"entry {now.name}: packages not compared: {why}")
    return now.model_copy(update={"packages_sha256": packages})


def _machine(where: Environment) -> str:
    """What decides which wheels are taken: Python's version without its last number, and the platform."""
    return f"Python {where.python.rpartition('.')[0]} on {where.hardware.partition(',')[0]}"


@contextmanager
def _named(unread: list[str], path: Path) -> Iterator[None]:
    """What cannot be read is kept with its reason, so that it hides nothing else that is wrong."""
    try:
        yield
    except MoeloadError as error:
        text = str(error)
        unread.append(text if path.name in text else f"{path}: {text}")


def _floors(folder: SeasonFolder, unread: list[str]) -> str | None:
    path = folder.path / "fork_floors.json"
    with _named(unread, path):
        return read_record(ForkFloors, path).sha256() if path.is_file() else None
    return None


def _suites(folder: SeasonFolder, season: Season, unread: list[str]) -> dict[str, str]:
    """What the season's task list is, as it lies there and as the base suite's rule makes it from the traces."""
    suites: dict[str, Suite] = {}
    with _named(unread, folder.path / "suite.json"):
        suites["suite.json"] = read_record(Suite, folder.path / "suite.json")
    with suppress(MoeloadError):  # a trace that is missing or another, a suite that changed: each is named by itself
        suites["the traces"] = frozen_suite(season.plan, season_suite(season.plan), season.runs, folder.traces)
    return {place: suite.sha256() for place, suite in suites.items()}


def _read(folder: SeasonFolder, plan: Plan, path: Path, values: Drawn | None) -> FoundTrace:
    trace = read_trace(path)
    odd = None
    if values is not None:
        try:
            planned = plan.recipe(values.recipe)
            odd = departs(trace, varied_recipe(planned_recipe(folder, planned), planned, values))
        except MoeloadError as error:
            odd = str(error)
    return FoundTrace(data_sha256(trace), trace.meta.seed, odd, trace.meta.sha256())


def departs(trace: Trace, recipe: Recipe) -> str | None:
    """Where a trace's planned columns are not its recipe's: the learning rate or the data stage of a step."""
    steps = [int(step) for step in trace.step_S]
    wanted: dict[str, list[float]] = {
        "lr": [recipe.lr_at(step) for step in steps],
        "stage": [float(recipe.stage_at(step)) for step in steps],
    }
    for name, plan_S in wanted.items():
        if name not in trace.columns:
            return f"there is no column {name}, which its recorder writes"
        differs_S = ~np.isclose(trace.columns[name], plan_S, rtol=1e-5, atol=0)
        if differs_S.any():
            at = int(differs_S.argmax())
            return f"{name} at step {trace.step_S[at]} is {trace.columns[name][at]}, the recipe says {plan_S[at]}"
    return None


def _result(path: Path) -> FoundResult:
    made = load_result(path)
    traces = {run.trace: run.data_sha256 for run in made.runs}
    made_on = _machine(made.environment)
    return FoundResult(file_sha256(path), made.forecaster.source_sha256, made.suite.sha256, traces, made_on)


def run_to_record_again(plan: Plan, runs: Sequence[RunHashes]) -> tuple[str, int]:
    """The run that a checker records whole: drawn from the published hashes, which nobody could choose afterwards."""
    recorded = sorted((run.recipe, run.run) for run in runs if run.failure is None)
    if not recorded:
        raise SeasonError(f"season {plan.name}: no run was recorded")
    number = int.from_bytes(hashlib.sha256(published_sha256(runs).encode()).digest()[:8], "big")
    return recorded[number % len(recorded)]


def record_again(folder: SeasonFolder, out: Path) -> str | None:
    """Record the drawn run anew; the first column that differs, None when it is the same but for measured times."""
    from moeload_bench.recipes.training import record_recipe

    plan, reveal = folder.plan(), folder.reveal()
    if reveal is None:
        raise SeasonError(f"season {plan.name} is not revealed yet")
    recipe, run = run_to_record_again(plan, folder.runs())
    values = next(d for d in reveal.runs if (d.recipe, d.run) == (recipe, run))
    job = run_job(folder, plan, values, out)
    path = record_recipe(job, resume=True)
    return same_training(read_trace(folder.traces / f"{recipe}/{plan.split}/seed{run}.parquet"), read_trace(path))
