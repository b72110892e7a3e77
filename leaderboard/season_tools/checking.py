"""Is a season what it committed to? Everything a stranger can check from its folder, and which run to record again."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from leaderboard.season_tools import records
from leaderboard.season_tools.closing import add_packages, entry_changes, planned_recipe, read_entry, season_suite
from leaderboard.season_tools.drawing import all_drawn, secret_sha256, varied_recipe
from leaderboard.season_tools.drawn import draw_problems, drawn_plan
from leaderboard.season_tools.folder import NO_LINE, SeasonFolder, is_shallow, read_record, stated_time
from leaderboard.season_tools.public_value import (
    KEYRING,
    RELEASE,
    RELEASE_BEFORE,
    order_sentence,
    signature_problem,
    value_problems,
    witness_problems,
)
from leaderboard.season_tools.recording import run_job, same_training
from leaderboard.season_tools.scoring import frozen_suite
from moeload_bench.environment import Environment, environment
from moeload_bench.errors import MoeloadError, SeasonError, SubmissionError
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.recipes.recipe import Recipe
from moeload_bench.results.record import load_result
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace


@dataclass(frozen=True)
class Season:
    """The records of a season, as published, and the folder with what they are about."""

    folder: SeasonFolder
    plan: records.Plan
    commitment: records.Commitment
    draw: records.Draw
    runs: Sequence[records.RunHashes]
    scores: records.Scores
    reveal: records.Reveal


def check_season(
    folder: SeasonFolder,
    *,
    find_links: Path | None = None,
    no_index: bool = False,
    keyring: Path = KEYRING,
    note: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Return everything wrong with a revealed season, in words; [] when it is what it committed to.

    What cannot be read is a line with its reason, and hides nothing else that is wrong. ``note`` is called with what
    this machine or this clone cannot show. ``keyring`` holds the keys of Debian's archive. Raises `SeasonError` for a
    season that is not revealed, or a record of it that cannot be read.
    """
    if not folder.path.is_dir():
        raise SeasonError(f"{folder.path}: no such season")
    draw, scores, reveal = folder.draw(), folder.scores(), folder.reveal()
    if draw is None or scores is None or reveal is None:
        raise SeasonError(f"{folder.path}: not revealed yet: `season check` is for what is public")
    season = Season(folder, folder.plan(), folder.commitment(), draw, folder.runs(), scores, reveal)
    if is_shallow(folder.path):
        note(
            "this clone is shallow: it cannot show when the hashes were published (git log names one commit for all "
            "files); git fetch --unshallow"
        )
    lost: list[str] = []
    try:
        season = replace(season, plan=drawn_plan(folder))
    except MoeloadError as error:
        lost.append(f"{error}; recipes and runs are not checked")
    drawn = {(one.recipe, one.run): one for one in all_drawn(season.plan, reveal.secret, draw.value)}
    return [
        *lost,
        *_bound(season),
        *_used_before(season),
        *_dates(season, folder.lines()),
        *_logged(folder.lines(), season.plan.draws is not None),
        *_numbered(season),
        *_public_value(season, keyring, note),
        *([] if lost else _draws(season, note)),
        *_anchored(season, folder.lines()),
        *_drawn(drawn, reveal),
        *_entries(season, partial(_with_packages, find_links=find_links, no_index=no_index, note=note)),
        *folder.misnamed_runs(),
        *([] if lost else _runs(season, drawn)),
        *_scores(season),
    ]


def _reading(path: Path, lines: Iterator[str]) -> Iterator[str]:
    """Yield what is wrong with a file, and why it cannot be read where it cannot."""
    try:
        yield from lines
    except MoeloadError as error:
        text = str(error)
        yield text if path.name in text else f"{path}: {text}"


def _bound(season: Season) -> Iterator[str]:
    plan, commitment, draw, reveal = season.plan, season.commitment, season.draw, season.reveal
    for record in (commitment, draw, season.scores, reveal):
        if record.season != plan.name:
            yield f"{type(record).__name__.lower()}.json is of season {record.season!r}, the plan of {plan.name!r}"
    if commitment.plan_sha256 != season.folder.plan().sha256():
        yield "commitment.json is bound to another plan: plan.json has changed since closing"
    if draw.commitment_sha256 != commitment.sha256():
        yield "draw.json is bound to another commitment: commitment.json has changed since the draw"
    if not plan.is_exact(draw.value):
        yield f"draw.json: the public value {draw.value[:80]!r} is not of the plan's form {plan.value_form}"
    hashed = secret_sha256(reveal.secret)
    if hashed != plan.secret_sha256:
        yield f"the secret's hash is {hashed[:12]}, the plan committed to {plan.secret_sha256[:12]}"
    if plan.secret not in (None, reveal.secret):
        yield "the secret is another than the one that plan.json shows"


def _used_before(season: Season) -> Iterator[str]:
    """Say where another season had the secret or the public value: it was known before the entries closed."""
    for other in season.folder.others():
        if other.secret_sha256 == season.plan.secret_sha256:
            yield f"the secret is that of season {other.name} too, expected one of its own"
        if other.value == season.draw.value:
            yield f"the public value is that of season {other.name} too: it was known before"


def _dates(season: Season, lines: Sequence[records.LogLine]) -> Iterator[str]:
    """Say where a time is earlier than one before it, or no time."""
    stated = {
        "plan.json: opened": season.plan.opened,
        "commitment.json: closed": season.commitment.closed,
        "draw.json: drawn": season.draw.drawn,
    }
    logged = {f"log.jsonl: line {number}": line.at for number, line in enumerate(lines, start=1)}
    for times in (stated, logged):
        before = datetime.min.replace(tzinfo=UTC)
        for what, text in times.items():
            try:
                at = stated_time(text)
            except SeasonError as error:
                yield f"{what}: {error}"
                continue
            if at < before:
                yield f"{what} is {text}, before what comes before it: dates run backwards"
            before = at


def _anchored(season: Season, lines: Sequence[records.LogLine]) -> Iterator[str]:
    """Say where the log is not the one whose head stands in a record: it was rewritten as a whole."""
    if season.commitment.scheme < 2:
        return
    drawn_by = "record" if season.plan.draws is None else "draw"
    for action, record in ((drawn_by, season.draw), ("reveal", season.reveal)):
        name = f"{type(record).__name__.lower()}.json"
        end = next((i for i, line in enumerate(lines) if (line.action, line.outcome) == (action, "done")), len(lines))
        if record.log_sha256 not in {line.sha256() for line in lines[:end]}:
            head = str(record.log_sha256)[:12]
            yield f"log.jsonl: the head that {name} names, {head}, is no line of it before {action}: it was rewritten"


def _numbered(season: Season) -> Iterator[str]:
    """Say where seasons that were opened before are not published: one could have been drawn until it suited."""
    number, found = season.commitment.number, season.folder.number()
    if number != found:
        yield (
            f"commitment.json: this is season number {number}, by those published beside it {found}: a season that was "
            "abandoned is published too"
        )


def _public_value(season: Season, keyring: Path, note: Callable[[str], None]) -> Iterator[str]:
    """Say where the public value or the date of the commitment is not what the plan asks for."""
    folder, draws = season.folder, season.plan.draws
    if draws is None:
        return
    with suppress(SeasonError):  # a time that is none is named by itself
        closed = stated_time(season.commitment.closed)
        if draws.release_after - closed < records.CLOSED_BEFORE:
            yield f"closed {closed}, expected {records.CLOSED_BEFORE} before {draws.release_after}, the plan's time"
    yield from _reading(folder.public_value, value_problems(folder.public_value, draws, season.draw))
    if season.draw.source == "release":
        for name in (RELEASE_BEFORE, RELEASE):
            problem = signature_problem(folder.public_value / name, keyring, note)
            yield from [] if problem is None else [problem]
        note("whether a release came between InRelease.before and InRelease: https://snapshot.debian.org lists all")
    sentence, witness = order_sentence(folder), folder.witness()
    if sentence is not None:
        note(sentence)
    if witness is not None:
        yield from witness_problems(folder, witness)


def _draws(season: Season, note: Callable[[str], None]) -> Iterator[str]:
    try:
        yield from draw_problems(season.folder, season.draw.value, season_suite(season.folder.plan()), note)
    except MoeloadError as error:
        yield str(error)


def _logged(lines: Sequence[records.LogLine], drawn: bool = False) -> Iterator[str]:
    """Say where the log is not whole, or its order is not that of a season; ``drawn``: of one that draws recipes."""
    order = _ORDER if drawn else tuple(action for action in _ORDER if action != "draw")
    before = NO_LINE
    for number, line in enumerate(lines):
        if (line.number, line.before) != (number, before):
            yield f"log.jsonl: line {number + 1} does not follow the one before: a line was changed or left out"
            return
        before = line.sha256()
    ends: dict[str, list[int]] = {action: [] for action in _ORDER}
    for line in lines:
        if line.outcome == "done" and line.action in ends:
            ends[line.action].append(line.number)
    for line in reversed(lines):  # a kill between a record and its line: the record is there, as this check has seen
        if line.outcome == "begun" and not ends.get(line.action, [line.number]):
            ends[line.action].append(line.number)
    for action in order:
        if not ends[action]:
            yield f"log.jsonl: no {action} is done in it"
        elif action != "record" and len(ends[action]) > 1:
            yield f"log.jsonl: {action} is done {len(ends[action])} times, expected once"
    for first, then in itertools.pairwise(order):
        if ends[first] and ends[then] and max(ends[first]) > min(ends[then]):
            yield f"log.jsonl: {then} is done before {first} is"


_ORDER = ("new", "close", "draw", "record", "score", "reveal")


def _drawn(expected: Mapping[tuple[str, int], records.Drawn], reveal: records.Reveal) -> Iterator[str]:
    said = {(one.recipe, one.run): one for one in reveal.runs}
    for (recipe, run), wanted in expected.items():
        got = said.get((recipe, run))
        if got is None:
            yield f"{recipe} run {run}: left out of reveal.json"
        elif got.seed != wanted.seed:
            yield f"{recipe} run {run}: seed {got.seed} is not the derived one, {wanted.seed}"
        elif got != wanted:
            yield f"{recipe} run {run}: what was drawn is not what the derivation gives"


def _entries(
    season: Season, with_packages: Callable[[records.Entry, records.Entry, str | None], records.Entry]
) -> Iterator[str]:
    closed, folder = {entry.name: entry for entry in season.commitment.entries}, season.folder.entries
    there = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    for name, entry in closed.items():
        if name in there:
            yield from _reading(folder / name, _entry(season, entry, with_packages))
        else:
            yield f"entry {name} is gone; the entries were closed at commit {season.commitment.commit}"
    for name in sorted(there - closed.keys()):
        yield f"entry {name} was not there at closing"


def _entry(
    season: Season,
    was: records.Entry,
    with_packages: Callable[[records.Entry, records.Entry, str | None], records.Entry],
) -> Iterator[str]:
    folder = season.folder
    now = read_entry(folder.entries / was.name)
    if now.requirements:
        made_on = None
        with suppress(MoeloadError):  # a result that is missing or broken is named by itself
            made_on = _machine(load_result(folder.results / f"{was.name}.json").environment)
        now = with_packages(now, was, made_on)
    change = entry_changes(was, now)
    if change is not None:
        yield f"{change}; the entries were closed at commit {season.commitment.commit}"


def _with_packages(
    now: records.Entry,
    was: records.Entry,
    made_on: str | None,
    *,
    find_links: Path | None,
    no_index: bool,
    note: Callable[[str], None],
) -> records.Entry:
    """Return the entry with the hash of its wheels; where they cannot be compared, with that of closing and a note."""
    here = _machine(environment())
    why = None if made_on in (None, here) else f"they are wheels for {made_on}, this is {here}"
    if why is None:
        try:
            return add_packages(now, was, find_links, no_index)
        except SubmissionError as error:
            why = str(error)
    note(f"entry {now.name}: packages not compared: {why}")
    return now.model_copy(update={"packages_sha256": was.packages_sha256, "wheels": was.wheels})


def _machine(where: Environment) -> str:
    """Return what decides which wheels are taken: Python's version without its last number, and the platform."""
    return f"Python {where.python.rpartition('.')[0]} on {where.hardware.partition(',')[0]}"


def _runs(season: Season, drawn: Mapping[tuple[str, int], records.Drawn]) -> Iterator[str]:
    plan, folder = season.plan, season.folder
    recorded = {(run.recipe, run.run) for run in season.runs}
    for recipe, number in plan.wanted():
        if (recipe, number) not in recorded:
            yield f"{recipe} run {number}: left out: it has no hashes"
    for run in season.runs:
        what = f"{run.recipe} run {run.run}"
        if (run.recipe, run.run) not in plan.wanted():
            yield f"{what}: not in the plan"
        if run.draw_sha256 != season.draw.sha256():
            yield f"{what}: its hashes are bound to another draw"
        if run.failure is None:
            path = folder.traces / f"{run.trace}.parquet"
            yield from _reading(path, _trace(season, run, path, drawn.get((run.recipe, run.run))))
            yield from _forks(season, run)


def _trace(season: Season, run: records.RunHashes, path: Path, drawn: records.Drawn | None) -> Iterator[str]:
    """Say how a run's trace differs from what was published of it, and from what was drawn for it."""
    if not path.is_file():
        yield f"trace {run.trace}: left out: its file is not there"
        return
    trace = read_trace(path)
    yield from _changed(f"trace {run.trace}", run.data_sha256, trace)
    if run.meta_sha256 not in (None, trace.meta.sha256()):
        yield f"trace {run.trace}: its metadata have changed since its hashes were published"
    if drawn is not None and trace.meta.seed != drawn.seed:
        yield f"trace {run.trace}: recorded from seed {trace.meta.seed}, the derived one is {drawn.seed}"
    elif drawn is not None:
        try:
            planned = season.plan.recipe(drawn.recipe)
            odd = departs(trace, varied_recipe(planned_recipe(season.folder, planned), planned, drawn))
        except MoeloadError as error:
            odd = str(error)
        if odd is not None:
            yield f"trace {run.trace}: {odd}"


def _forks(season: Season, run: records.RunHashes) -> Iterator[str]:
    forks = None if run.diverged is not None else season.plan.forks_of(run.recipe)
    wanted = set() if forks is None else set(itertools.product(range(forks.origins), range(forks.futures)))
    missing = wanted - {(fork.origin_number, fork.future) for fork in run.forks}
    if missing:
        yield f"{run.recipe} run {run.run}: {len(missing)} forks left out: they have no hashes"
    for fork in run.forks:
        what = f"fork {fork.future} of origin {fork.origin_number} of {run.recipe} run {run.run}"
        number = (run.run * season.plan.forks.origins + fork.origin_number) * season.plan.forks.futures + fork.future
        path = season.folder.traces / run.recipe / f"{season.plan.split}_forks" / f"seed{number}.parquet"
        yield from _reading(path, _fork(what, fork.data_sha256, path))


def _fork(what: str, published: str, path: Path) -> Iterator[str]:
    if path.is_file():
        yield from _changed(what, published, read_trace(path))
    else:
        yield f"{what}: left out: its file is not there"


def _changed(what: str, published: str | None, trace: Trace) -> Iterator[str]:
    found = data_sha256(trace)
    if found != published:
        yield f"{what} has changed: its hash is {found[:12]}, published was {str(published)[:12]}"


def _scores(season: Season) -> Iterator[str]:
    scores, folder = season.scores, season.folder
    if scores.published_sha256 != records.published_sha256(season.runs):
        yield "scores.json: made from other hashes than those of runs/: a score before the hashes, or runs changed"
    for entry in season.commitment.entries:
        path = folder.results / f"{entry.name}.json"
        if path.is_file() and entry.name in scores.results:
            yield from _reading(path, _result(season, entry, path))
        else:
            yield f"entry {entry.name} was left out: it has no result"
    yield from _scored_forks(folder, scores)
    path = folder.path / "suite.json"
    yield from _reading(path, _suite("suite.json", lambda: read_record(Suite, path), scores))
    with suppress(MoeloadError):  # a trace that is missing or another, a suite that changed: each is named by itself
        base = season_suite(season.plan)
        yield from _suite("the traces", lambda: frozen_suite(season.plan, base, season.runs, folder.traces), scores)


def _result(season: Season, entry: records.Entry, path: Path) -> Iterator[str]:
    made, what = load_result(path), f"results/{entry.name}.json"
    if bytes_sha256(path) != season.scores.results[entry.name]:
        yield f"{what} has changed since it was scored"
    if made.forecaster.source_sha256 != entry.source_sha256:
        yield f"{what}: made from code {made.forecaster.source_sha256[:12]}, not the closed entry's"
    if made.suite.sha256 != season.scores.suite_sha256:
        yield f"{what} is on another task list than the season's"
    traces: dict[str, str | None] = {run.trace: run.data_sha256 for run in season.runs if run.failure is None}
    if season.plan.draws is not None:  # a run cut short is unscored, and imported logs are scored: by the task list
        suite = read_record(Suite, season.folder.path / "suite.json")
        traces = {entry.id: entry.data_sha256 for entry in suite.traces}
    if {run.trace: run.data_sha256 for run in made.runs} != traces:
        yield f"{what}: its runs are not those of the season: a run was left out or changed"


def _scored_forks(folder: SeasonFolder, scores: records.Scores) -> Iterator[str]:
    """Say which losses on forks, or floors of them, are not those that the season was scored with."""
    for name, sha256 in scores.forks.items():
        path = folder.forks / f"{name}.json"
        if not path.is_file() or bytes_sha256(path) != sha256:
            yield f"forks/{name}.json has changed since it was scored"
    path = folder.path / "fork_floors.json"
    yield from _reading(path, _floors(path, scores.fork_floors))


def _floors(path: Path, scored: str | None) -> Iterator[str]:
    if (read_record(records.ForkFloors, path).sha256() if path.is_file() else None) != scored:
        yield "fork_floors.json has changed since it was scored"


def _suite(place: str, find: Callable[[], Suite], scores: records.Scores) -> Iterator[str]:
    """Say where a task list is not what was scored: as it lies there, or as the base suite's rule makes it again."""
    got = find().sha256()
    if got != scores.suite_sha256:
        yield f"the task list of {place} is {got[:12]}, scores were made on {scores.suite_sha256[:12]}"


def departs(trace: Trace, recipe: Recipe) -> str | None:
    """Say where a trace's planned columns are not its recipe's: the learning rate or the data stage of a step."""
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


def runs_to_record_again(plan: records.Plan, runs: Sequence[records.RunHashes]) -> list[tuple[str, int]]:
    """Return the runs that a checker records whole, drawn from the published hashes: nobody could choose them later."""
    recorded = sorted((run.recipe, run.run) for run in runs if run.failure is None and run.diverged is None)
    if not recorded:
        raise SeasonError(f"season {plan.name}: no run was recorded")
    published, found = records.published_sha256(runs), []
    for i in range(min(plan.again, len(recorded))):
        text = f"{published} {i}" if i else published
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        found.append(recorded.pop(number % len(recorded)))
    return found


def record_again(folder: SeasonFolder, out: Path) -> list[str]:
    """Record the drawn runs again; return a line for each that differs in more than measured times."""
    from moeload_bench.recipes.training import record_recipe

    plan, reveal = drawn_plan(folder), folder.reveal()
    if reveal is None:
        raise SeasonError(f"season {plan.name} is not revealed yet")
    wrong = []
    for recipe, run in runs_to_record_again(plan, folder.runs()):
        values = next(d for d in reveal.runs if (d.recipe, d.run) == (recipe, run))
        path = record_recipe(run_job(folder, plan, values, out), resume=True)
        first = read_trace(folder.traces / f"{recipe}/{plan.split}/seed{run}.parquet")
        column = same_training(first, read_trace(path))
        if column is not None:
            wrong.append(f"{recipe} run {run} recorded again: {column} is another")
    return wrong
