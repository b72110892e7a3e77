"""`moeload-bench record`."""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moeload_bench.cli.progress import say, terminal_bar
from moeload_bench.errors import InterruptedRecordingError, MissingExtraError, RecordingError
from moeload_bench.generator.recipe import list_recipes, load_recipe
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import StepProgress, finish_parts
from moeload_bench.traces.lookup import PARTS, Place, find_run
from moeload_bench.traces.routing import MAX_STEPS

if TYPE_CHECKING:
    from moeload_bench.generator.futures import Fork
    from moeload_bench.generator.training import Job

LINE_EVERY_STEPS = 100
SHARD_STEPS = 250
FUTURES = 4


def record(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe's name or .toml file. Or an unfinished recording (a seedN.parts folder or one above it "
            "alone): it goes on with --resume, else it becomes a trace that is marked as cut short."
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and data order; it also names the file.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps; the recipe's own number by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for OUT/RECIPE/SPLIT/seedN.parquet.")] = Path("recordings"),
    split: Annotated[str, typer.Option(help="train (open for fitting forecasters) or test (scored).")] = "test",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an unfinished recording; start if there is none.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete an unfinished recording, and start from the beginning.")
    ] = False,
    shard_steps: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints on disk.")] = SHARD_STEPS,
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: cut model and optimizer over the processes (FSDP2).")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(help="A dataset repository ORG/NAME on the Hugging Face Hub: shards go there while it records."),
    ] = None,
    fork: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="STEP",
            help="Record several futures from this step on, each with the text in another order; --steps is then the "
            "number of steps of each. Their split is SPLIT_seedS_forkSTEP.",
            show_default=False,
        ),
    ] = None,
    routing_steps: Annotated[
        str | None,
        typer.Option(
            metavar="A,B-C",
            help="Steps of which each token's experts and their weights are kept too, in the folder seedN.routing "
            "beside the trace: 0,40,1299-1301.",
            show_default=False,
        ),
    ] = None,
    futures: Annotated[int, typer.Option(min=1, help="With --fork: how many futures.")] = FUTURES,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="With --fork: a recipe key that the futures have otherwise, as optimizer.lr=0.03. May be repeated.",
        ),
    ] = None,
) -> None:
    """Train a recipe and record the load of every expert in every step.

    \b
    moeload-bench record qwen3moe-tiny-8e --seed 2
      about 17 minutes of one core
    moeload-bench record qwen3moe-tiny-8e --seed 2 --resume
      continues after an interruption

    \b
    torchrun --nproc-per-node 2 -m moeload_bench record qwen3moe-tiny-8e
      two processes share each step

    \b
    moeload-bench record qwen3moe-tiny-8e --fork 1000 --futures 4 --steps 500
      four futures of one past

    \b
    moeload-bench record qwen3moe-tiny-8e --fork 1000 --set optimizer.lr=0.03
      futures with a learning rate 30 times as high

    Ctrl-C (or SIGTERM) ends it after the step: all steps and a checkpoint are on disk then. Before that they are every
    --shard-steps steps. On one machine a resumed recording equals an uninterrupted one in every count.
    """
    if resume and fresh:
        raise RecordingError("got --resume and --fresh, expected one of them")
    if (place := _recording_named(recipe)) is not None:
        if not resume:
            say(str(_cut_short(place)))
            return
        recipe, split, seed, out = _whose(place)
    loaded = load_recipe(recipe)
    try:
        from moeload_bench.generator.futures import Fork
        from moeload_bench.generator.processes import torchrun_ranks
        from moeload_bench.generator.training import Job, record_recipe
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "record", "recording a recipe") from None
    if fork is not None:
        if routing_steps is not None:
            raise RecordingError("--routing-steps is for a run, and not for --fork")
        if fresh or shard or push is not None or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RecordingError("--fork is for one process, and not for --fresh, --shard or --push")
        job = Job(loaded, seed, split, loaded.steps, out, shard_steps)
        planned = Fork(job, fork, steps or loaded.steps - fork, tuple(settings or ()))
        _record_futures(recipe, planned, [] if steps is None else ["--steps", str(steps)], futures)
        return
    if settings:
        raise RecordingError("--set is for --fork: change a recipe's file to record another one from the beginning")
    kept = steps_named(routing_steps or "", steps or loaded.steps)
    job = Job(loaded, seed, split, steps or loaded.steps, out, shard_steps, shard, routing_steps=kept)
    with torchrun_ranks() as ranks:
        train = functools.partial(record_recipe, job, resume=resume, fresh=fresh, ranks=ranks)
        if ranks.leads:
            if job.steps <= loaded.schedule.warmup:
                say(_within_the_warm_up(job), err=True)
            if loaded.data.pretraining is not None and not resume:
                say(f"{loaded.data.pretraining.steps} steps that are not recorded come first", err=True)
            with (
                _advising(_going_on(recipe, job, push)) as stop,
                step_progress(job.steps) as (progress, tell),
                pushed(push, job.target, progress) as report,
            ):
                path = train(progress=report, stop=stop, say=tell)
            say(str(path))
            say(f"Next: moeload-bench inspect {shlex.quote(str(path))}", err=True)
        else:
            train()
    if ranks.count > 1:
        _leave()


def steps_named(text: str, steps: int) -> tuple[int, ...]:
    """Return the steps that "0,40,1299-1301" names; raise `RecordingError` for other text, and for a step too late."""
    named: list[int] = []
    for word in text.split(",") if text else ():
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", word.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < steps or last - first >= MAX_STEPS:
            raise RecordingError(
                f"--routing-steps {text[:80]}: got {word[:40]!r}, expected steps from 0 to {steps - 1} as "
                f"0,40,1299-1301, {MAX_STEPS} at most"
            )
        named.extend(range(first, last + 1))
    return tuple(named)


def _within_the_warm_up(job: Job) -> str:
    """Warn that so short a trial has no steady learning rate. It is not refused: its trace is marked as cut short."""
    return (
        f"--steps {job.steps} ends within the warm-up of {job.recipe.schedule.warmup} steps: the learning rate only "
        "rises, and the trace is marked as cut short"
    )


def _recording_named(name: str) -> Place | None:
    """Return where the recording lies that a name stands for, None for the name of a recipe."""
    if name.endswith(".toml") or name in list_recipes():
        return None
    return find_run(name) if "/" in name or Path(name).suffix or Path(name).is_dir() else None


def _whose(place: Place) -> tuple[str, str, int, Path]:
    """Return recipe, split, seed and output folder of a recording, as its place says them."""
    *_, recipe, split, name = place.parts.absolute().parts
    seed = re.fullmatch(rf"seed(\d+){PARTS}", name)
    if seed is None or recipe not in list_recipes():
        raise RecordingError(
            f"{place.parts}: {recipe!r} is no recipe of this package, expected the one that it was begun with: "
            "moeload-bench record RECIPE.toml --seed N --out FOLDER --resume"
        )
    return recipe, split, int(seed[1]), place.parts.absolute().parents[2]


def _cut_short(place: Place) -> Path:
    """Return the trace of an unfinished recording."""
    parts = Parts(place.trace)
    parts.reopen()
    return finish_parts(parts, complete=False)


def _record_futures(recipe: str, fork: Fork, steps: Sequence[str], futures: int) -> None:
    """Record ``futures`` of a run and print their files. ``steps``: the words that the user gave their length in."""
    from moeload_bench.generator.futures import record_futures

    words = ["--fork", str(fork.step), "--futures", str(futures), *steps]
    words += [word for setting in fork.settings for word in ("--set", setting)]
    total = fork.step + futures * fork.steps
    with _advising(_going_on(recipe, fork.job, None, words)) as stop, step_progress(total) as (progress, tell):
        paths = record_futures(fork, futures, progress=progress, stop=stop, say=tell)
    for path in paths:
        say(str(path))


@contextmanager
def _advising(go_on: str) -> Iterator[Stop]:
    """Yield a request to stop; when it has ended a recording, print the command that goes on, and exit."""
    with stop_on_signal() as stop:
        try:
            yield stop
        except InterruptedRecordingError as ended:
            say(f"{ended}. To go on: {go_on}", err=True)
            raise typer.Exit(128 + (stop.asked or 0)) from None


def _going_on(recipe: str, job: Job, push: str | None, fork: Sequence[str] = ()) -> str:
    """Return the same command with --resume (with --fork, as it is), without options that have their default."""
    words = ["moeload-bench", "record", recipe, "--seed", str(job.seed)]
    words += [] if job.split == "test" else ["--split", job.split]
    words += [] if job.steps == job.recipe.steps else ["--steps", str(job.steps)]
    words += ["--out", str(job.out)]
    words += [] if job.shard_steps == SHARD_STEPS else ["--shard-steps", str(job.shard_steps)]
    words += ["--shard"] if job.sharded else []
    words += ["--routing-steps", ",".join(map(str, job.routing_steps))] if job.routing_steps else []
    words += [] if push is None else ["--push", push]
    return shlex.join([*words, *(fork or ["--resume"])])


class Stop:
    """A request to stop, checked after each step; ``asked`` is the number of the signal, None before."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.stepping = False

    def __call__(self) -> bool:
        self.stepping = True
        return self.asked is not None


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Turn the first signal into a request to stop after the step; a second, or one before any step, stops at once."""
    stop = Stop()

    def ask(number: int, frame: Any) -> None:
        if stop.asked is not None or not stop.stepping:
            raise KeyboardInterrupt
        stop.asked = number
        say("stopping after this step; once more to stop at once", err=True)

    named = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
    before = {number: signal.getsignal(number) for number in named if number is not None}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number in caught:
            signal.signal(number, before[number])


def _leave() -> None:
    """End this process now that its work is on disk, without the interpreter's teardown.

    Threads that gloo leaves behind can abort the teardown ("terminate called without an active exception"), and
    torchrun would then report a finished recording as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def pushed(repo: str | None, target: Path, report: StepProgress) -> Iterator[StepProgress]:
    """Yield a ``report`` that also sends the shards closed so far; the trace follows at the end, unless an error
    occurs.
    """
    if repo is None:
        yield report
        return
    from moeload_bench.publishing.push import RecordingPush  # loads the Hub's client

    push = RecordingPush(repo, target)

    def report_and_send(step: int, row: dict[str, Any]) -> None:
        report(step, row)
        push.scan()

    try:
        yield report_and_send
    except BaseException:
        push.close()
        raise
    push.finish()


@contextmanager
def step_progress(steps: int) -> Iterator[tuple[StepProgress, Callable[[str], None]]]:
    """Yield ``report(step, row)`` and ``say(stage)``, for what comes before the first step.

    They move a bar with an estimate on a terminal; elsewhere there is a line for each 100 steps, and for each stage.
    """
    if not sys.stderr.isatty():
        stages: set[str] = set()
        yield lambda step, row: _line(step, steps, row), lambda stage: _say_once(stages, stage)
        return

    with terminal_bar(transient=False) as show:
        yield lambda step, row: show(step + 1, steps, _describe(row)), lambda stage: show(0, steps, stage)


def _say_once(stages: set[str], stage: str) -> None:
    """Print a stage without its numbers, and only the first time: a log needs no line for each step."""
    name = stage.partition(",")[0]
    if name not in stages:
        stages.add(name)
        say(name, err=True)


def _line(step: int, steps: int, row: dict[str, Any]) -> None:
    if (step + 1) % LINE_EVERY_STEPS == 0 or step + 1 == steps:
        say(f"{step + 1}/{steps} steps, {_describe(row)}", err=True)


def _describe(row: dict[str, Any]) -> str:
    worst = (row["load"].max(axis=1) / row["load"].mean(axis=1)).max()
    return f"loss {row['loss']:.3f}, worst layer's max/mean {worst:.2f}, {row['step_time_s']:.2f} s per step"
