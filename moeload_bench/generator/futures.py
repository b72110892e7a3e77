"""Record several futures of one past: train a run to a step, then go on from there with the text in another order.

All futures have the weights, the optimizer, the past and the plan of the run; only the order of the text to come is
another. They show how much of a future can be known at a step: `moeload_bench.scoring.forks.floor_fork`. With settings,
as another learning rate, they show what a change does to a run: its past is the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from moeload_bench.errors import InterruptedRecordingError, RecipeError, RecordingError
from moeload_bench.files import replacing
from moeload_bench.generator.processes import Ranks
from moeload_bench.generator.provenance import recipe_payload
from moeload_bench.generator.recipe import Recipe, with_settings
from moeload_bench.generator.training import Job, TrainingRun, record_recipe
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import Row, StepProgress, TraceWriter, trace_target
from moeload_bench.traces.store import read_trace

CHANGEABLE = (
    *("balancing", "schedule", "optimizer.lr", "optimizer.clip"),
    *("data.stages", "data.sequences", "data.micro_batches", "data.ramp"),
)
"""Recipe keys that a future may have otherwise: all else is in the checkpoint, or was done before the fork."""


@dataclass(frozen=True)
class Fork:
    """A step at which the run of a job forks, and how many steps each future has from there on.

    Future J of the run `RECIPE/SPLIT/seedS` is the trace `RECIPE/SPLIT_seedS_forkSTEP/seedJ`. ``settings``: `KEY=VALUE`
    of recipe keys that the futures have otherwise; their split then ends in `_set` and a hash of them.
    """

    job: Job
    step: int
    steps: int
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise `RecordingError` for futures that do not lie within the recipe's steps, or settings that it refuses."""
        if not 0 < self.step < self.step + self.steps <= self.job.recipe.steps:
            raise RecordingError(
                f"futures of {self.steps} steps from step {self.step} on do not fit recipe {self.job.recipe.name}: "
                f"it has {self.job.recipe.steps} steps, and a run can fork from step 1 on"
            )
        for setting in self.settings:
            key = setting.partition("=")[0].strip()
            if not any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE):
                raise RecipeError(f"{setting!r}: a fork cannot change {key}, expected one of {', '.join(CHANGEABLE)}")
        _ = self.recipe

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the futures."""
        return with_settings(self.job.recipe, self.settings)

    @property
    def split(self) -> str:
        """Return the split of the futures' traces."""
        change = hashlib.sha256("\n".join(self.settings).encode()).hexdigest()[:8]
        return f"{self.job.split}_seed{self.job.number}_fork{self.step}{f'_set{change}' if self.settings else ''}"

    def target(self, future: int) -> Path:
        """Return the trace's file of a future."""
        return trace_target(self.job.out, self.job.recipe.name, self.split, future)

    @property
    def checkpoint(self) -> Path:
        """Return where the checkpoint is kept; another recipe of the same name has another file."""
        text = json.dumps(recipe_payload(self.job.recipe), sort_keys=True)
        return self.target(0).with_name(f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.checkpoint")

    def order_seed(self, future: int) -> int:
        """Return the seed of the text's order in a future; it does not depend on how many futures there are."""
        digest = hashlib.sha256(f"{self.job.seed}/fork/{self.step}/{future}".encode()).digest()
        return int.from_bytes(digest[:7], "big")


def record_futures(
    fork: Fork,
    count: int,
    *,
    progress: StepProgress = lambda number, row: None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda stage: None,
) -> list[Path]:
    """Record ``count`` futures of a run and return their files. The same call again skips those that are finished.

    ``progress`` hears of every step: first of the run's up to the fork, then of each future's. ``stop`` is called after
    every step: if it returns True, `InterruptedRecordingError` is raised; the past continues where it stopped, and an
    unfinished future starts again. Raise `RecordingError` if another trace is at a future's place, or as
    `record_recipe`.
    """
    finished = [_is_finished(fork, future) for future in range(count)]
    if not all(finished):
        _train_past(fork, progress, stop, say)
    for future, is_there in enumerate(finished):
        if not is_there:
            say(f"future {future + 1} of {count}")
            _record_future(fork, future, progress, stop)
    return [fork.target(future) for future in range(count)]


def _is_finished(fork: Fork, future: int) -> bool:
    target, recipe = fork.target(future), fork.job.recipe
    if not target.is_file():
        return False
    trace = read_trace(target)
    content = (trace.meta.recipe_version, int(trace.step_S[0]), trace.steps)
    if content != (recipe.version, fork.step, fork.steps):
        version, first, steps = content
        raise RecordingError(
            f"{target}: has {steps} steps from step {first} on, of version {version} of the recipe; expected "
            f"{fork.steps} from step {fork.step} on, of version {recipe.version}; choose another --out or remove it"
        )
    return True


def _train_past(fork: Fork, progress: StepProgress, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Record the run up to the fork, and keep the checkpoint there; it remains an unfinished recording.

    A run that is past this step no longer has a checkpoint there: its past is trained again, in a folder of its own.
    """
    if fork.checkpoint.is_file():
        return
    again = fork.target(0).with_name("past")
    is_past = fork.job.target.is_file() or _next_step(fork.job) > fork.step
    job = replace(fork.job, out=again) if is_past else fork.job
    reached = 0

    def hear(number: int, row: Row) -> None:
        nonlocal reached
        reached = number + 1
        progress(number, row)

    try:
        if _next_step(job) < fork.step:
            record_recipe(job, resume=True, progress=hear, stop=lambda: stop() or reached == fork.step, say=say)
    except InterruptedRecordingError:
        if reached < fork.step:
            raise
    parts = Parts(job.target)
    parts.look()
    if parts.checkpoint is None:
        raise RecordingError(f"{parts.folder}: no checkpoint at step {fork.step} to fork from; choose another --out")
    fork.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with replacing(fork.checkpoint) as scratch:
        shutil.copyfile(parts.checkpoint, scratch)
    shutil.rmtree(again, ignore_errors=True)


def _next_step(job: Job) -> int:
    """Return the step with which an unfinished recording goes on, 0 if there is none; nothing is changed there."""
    parts = Parts(job.target)
    if (parts.folder / "manifest.json").is_file():
        parts.look()
    return parts.next_step


def _record_future(fork: Fork, future: int, progress: StepProgress, stop: Callable[[], bool]) -> Path:
    """Go on from the checkpoint with the text in another order, and record these steps as a trace of their own."""
    target, job, seed = fork.target(future), fork.job, fork.order_seed(future)
    parts = Parts(target)
    parts.remove()
    run = TrainingRun(replace(job, recipe=fork.recipe), Ranks())
    run.restore(fork.checkpoint)
    run.order = run.order.reordered(seed)
    fields = {"split": fork.split, "run": future}
    writer = TraceWriter(parts, lambda: run.meta().model_copy(update=fields), shard_steps=job.shard_steps)
    parts.start(False)
    before = fork.step + future * fork.steps
    for number in range(fork.steps):
        row = run.step(fork.step + number)
        writer.add(row)
        progress(before + number, row)
        if stop() and number + 1 < fork.steps:
            raise InterruptedRecordingError(f"{parts.folder}: stopped; {future} futures are finished")
    note = (
        f"fork of {job.recipe.name}/{job.split}/seed{job.number} from step {fork.step} on: the text in another order, "
        f"drawn from seed {seed}{''.join(f', {setting}' for setting in fork.settings)}"
    )
    return writer.finish(True, (note,))
