"""Recording a season: every run with its drawn seed, committed as it is done."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Collection

from leaderboard.season.drawing import season_recipes
from leaderboard.season.folder import RECORDINGS, SeasonFolder, git, require_committed, season_sha256, uncommitted
from leaderboard.season.records import Draw, Recording, Recordings, canonical_json, file_sha256
from moeload_bench.errors import DivergedError, SeasonError
from moeload_bench.files import write_whole
from moeload_bench.generator.recipe import Recipe
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import finish_parts
from moeload_bench.traces.store import data_sha256, read_trace


def record_season(
    folder: SeasonFolder,
    *,
    only: Collection[str] = (),
    note: Callable[[str], None] = lambda line: None,
) -> None:
    """Record and commit what is not recorded yet, of all recipes or ``only`` of some; ``note`` is called for each run.

    Goes on where an earlier call was broken off; several processes may each record some recipes. Raises `SeasonError`
    for a draw that is not that of season.toml, and `RecordingError`.
    """
    draw = folder.draw
    if draw.season_sha256 != season_sha256(folder):
        raise SeasonError("season.toml has changed since the draw")
    require_committed(folder, "season.toml", "draw.json")
    recipes = dict(pair for of_set in season_recipes(folder, draw.value).values() for pair in of_set.items())
    unknown = sorted({*only} - {*draw.runs})
    if unknown:
        raise SeasonError(f"no recipe {unknown[0]!r} is drawn in season {folder.season.name}")
    for name in only or draw.runs:
        if name not in folder.recordings:
            made = record_run(folder, draw, recipes[name])
            note(f"{name}: {made.ended or made.data_sha256}")
        commit_run(folder, name)


def record_run(folder: SeasonFolder, draw: Draw, recipe: Recipe) -> Recording:
    """Record a run and write its hashes; a training that diverges is kept up to there."""
    from moeload_bench.generator.training import Job, record_recipe

    path = folder.trace(recipe.name)
    job = Job(recipe, draw.runs[recipe.name].seed, folder.season.split, recipe.steps, folder.path / "traces", run=0)
    ended = None
    try:
        if not path.is_file():
            record_recipe(job, resume=True)
    except DivergedError as error:
        ended = str(error)
        parts = Parts(path)
        parts.reopen()
        if parts.has_shards:
            finish_parts(parts, complete=False)
    trace = read_trace(path) if path.is_file() else None
    if ended is None and trace is not None and not trace.meta.complete:
        ended = f"training diverged after step {trace.step_S[-1]}"
    made = Recording(
        draw_sha256=file_sha256(folder.path / "draw.json"),
        data_sha256=None if trace is None else data_sha256(trace),
        meta_sha256=None if trace is None else trace.meta.sha256(),
        ended=ended,
    )
    keep_recording(folder, recipe.name, made)
    return made


def keep_recording(folder: SeasonFolder, recipe: str, made: Recording) -> None:
    """Write a run's hashes beside those of the others, also of processes that record at the same time."""
    with (folder.path / "draw.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_so_far = Recordings(runs={**folder.recordings, recipe: made})
        write_whole(folder.path / RECORDINGS, canonical_json(made_so_far).encode())


def commit_run(folder: SeasonFolder, recipe: str) -> None:
    """Commit a run's trace and hashes, alone; nothing where they are committed."""
    paths = [path.resolve() for path in (folder.path / RECORDINGS, folder.trace(recipe))]
    there = [path for path in paths if path.is_file()]
    if uncommitted(folder.path, there):
        git(folder.path, "add", "--", *map(str, there))
        git(
            folder.path, "commit", "-q", "-m", f"Season {folder.season.name}: recorded {recipe}", "--", *map(str, there)
        )
