"""Recording a season: every run of the plan with its drawn seed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from leaderboard.season_tools.closing import planned_recipe
from leaderboard.season_tools.drawing import draw_run, varied_recipe
from leaderboard.season_tools.drawn import drawn_plan
from leaderboard.season_tools.folder import SeasonFolder, later_than, logged_attempt, published_at, run_record, utc_now
from leaderboard.season_tools.records import Draw, Drawn, Plan, RunHashes, Source
from moeload_bench.errors import DivergedError, SeasonError
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import StepProgress, finish_parts
from moeload_bench.schema import first_problem
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace

if TYPE_CHECKING:
    from moeload_bench.recipes.training import Job

ProgressOf = Callable[[str, int], StepProgress | None]
"""Gives what hears of every step, from what is recorded and its number of steps."""
MEASURED = ("step_time_s",)  # of the machine, not of the training: another in each recording of the same run


def draw_value(
    folder: SeasonFolder,
    value: str | None,
    published: str | None = None,
    source: Source | None = None,
    reason: str | None = None,
) -> Draw:
    """Take the public value; the plan and the entries must be published by then.

    ``published`` says where, when it is not a commit of the repository that the folder lies in. None for ``value`` is
    the one that was taken before. Raises `SeasonError` for another value than before, because nothing is drawn twice,
    and for one too short to say what it is.
    """
    commitment, plan, before = folder.commitment(), folder.plan(), folder.draw()
    if before is None and (value is None or (plan.draws is not None and source is None)):
        how = "season record --value" if plan.draws is None else "season draw"
        raise SeasonError(f"season {plan.name} has no public value yet: `python -m leaderboard {how}` takes it")
    if published is None and published_at([folder.path / "plan.json", folder.path / "commitment.json"]) is None:
        raise SeasonError("plan.json and commitment.json are not committed as they are: publish them before the draw")
    value = None if value is None else plan.exact_value(value)
    if before is not None:
        if value not in (None, before.value):
            raise SeasonError(f"the public value is {before.value!r} already, got {value!r}: nothing is drawn twice")
        return before
    later_than(commitment.closed, "the entries were closed")
    try:
        made = Draw(
            season=commitment.season,
            source=source,
            commitment_sha256=commitment.sha256(),
            value=value or "",
            drawn=utc_now(),
            log_sha256=folder.log_head() if commitment.scheme > 1 else None,
            reason=reason,
        )
    except ValidationError as error:
        raise SeasonError(
            f"the public value, {first_problem(error, 'draw')}; write a short one with its name and day"
        ) from None
    folder.write(made, "draw.json")
    return made


def record_season(
    folder: SeasonFolder,
    value: str | None = None,
    *,
    only: Collection[str] = (),
    published: str | None = None,
    progress: ProgressOf = lambda what, steps: None,
) -> list[RunHashes]:
    """Record what is not recorded yet, of all recipes or ``only`` of some, and write each run's hashes as it is done.

    Goes on where an earlier call stopped; several processes may each record some recipes. ``progress(what, steps)``
    gives what hears of every step. Raises `SeasonError` as `draw_value`, and `RecordingError`.
    """
    plan = drawn_plan(folder)
    if folder.scores() is not None:
        raise SeasonError(f"season {plan.name} is scored: what was not recorded by then is left out")
    unknown = set(only) - {recipe.name for recipe in plan.recipes}
    if unknown:
        raise SeasonError(f"recipes {sorted(unknown)} are not in the plan of season {plan.name}")
    given = "" if value is None else f"value {value[:80]}; "
    with logged_attempt(folder, "record", f"{given}recipes {' '.join(sorted(only)) or 'all'}"):
        draw = draw_value(folder, value, published)
        folder.make_private()
        done = {(run.recipe, run.run) for run in folder.runs()}
        wanted = [one for one in plan.wanted() if one not in done and (not only or one[0] in only)]
        return [_record_run(folder, plan, draw, recipe, run, progress) for recipe, run in wanted]


def _record_run(folder: SeasonFolder, plan: Plan, draw: Draw, recipe: str, run: int, progress: ProgressOf) -> RunHashes:
    from moeload_bench.recipes.training import record_recipe

    values = draw_run(plan, folder.secret(), draw.value, recipe, run)
    job = run_job(folder, plan, values)
    common = {"season": plan.name, "draw_sha256": draw.sha256(), "recipe": recipe, "run": run}
    name = run_record(recipe, run)
    trace_id = f"{recipe}/{plan.split}/seed{run}"
    try:
        if not job.target.is_file():
            record_recipe(job, resume=True, progress=progress(trace_id, job.steps))
    except DivergedError as error:
        made = RunHashes(**common, trace=trace_id, data_sha256=None, failure=str(error))
        parts = Parts(job.target)
        parts.reopen()
        if plan.draws is not None and parts.has_shards:
            cut = read_trace(finish_parts(parts, complete=False))
            hashes = {"data_sha256": data_sha256(cut), "meta_sha256": cut.meta.sha256()}
            made = RunHashes(**common, trace=trace_id, **hashes, diverged=str(error))
        folder.write(made, name)
        return made
    trace = read_trace(job.target)
    made = RunHashes(**common, trace=trace.id, data_sha256=data_sha256(trace), meta_sha256=trace.meta.sha256())
    folder.write(made, name)
    return made


def run_job(folder: SeasonFolder, plan: Plan, values: Drawn, out: Path | None = None) -> Job:
    """Return the recording of one run."""
    from moeload_bench.recipes.training import Job

    planned, place = plan.recipe(values.recipe), out or folder.recordings
    recipe = varied_recipe(planned_recipe(folder, planned), planned, values)
    return Job(recipe, values.seed, plan.split, planned.steps, place, plan.checkpoint_every, run=values.run)


def same_training(one: Trace, other: Trace) -> str | None:
    """Return the first column that differs between two recordings of one run, None when only measured times do."""
    for name in ("load_SLE", "tokens_SL", "step_S"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            return name.partition("_")[0]
    for name in sorted((one.columns.keys() | other.columns.keys()) - set(MEASURED)):
        mine, theirs = one.columns.get(name), other.columns.get(name)
        if mine is None or theirs is None or not np.array_equal(mine, theirs, equal_nan=True):
            return name
    return None
