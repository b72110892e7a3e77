"""Where a monitor's numbers (`ops.live.dashboard`) and events go.

What raises or blocks never stops training: a thread of its own calls it.

A sink is a path that ends in `.jsonl`, or in `.prom` for Prometheus' text, a `SummaryWriter` (anything with
`add_scalar`), a module or run with `log(dict, step=...)` (trackio, wandb), or any function `log(dict, step)`.
"""

from __future__ import annotations

import contextvars
import errno
import json
import os
import queue
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from moeload_bench.errors import RecordingError, printable
from moeload_bench.files import write_whole
from moeload_bench.ops.facts.events import Event
from moeload_bench.ops.live.dashboard import PREFIX, SERIES, LayerNumbers
from moeload_bench.recording.writer import RecordingWarning

Log = Callable[[dict[str, float], int], Any]
Numbers = Callable[[LayerNumbers, int], dict[str, float]]
"""What is logged of the layers at a step."""

WAITING = 64
"""Snapshots that wait for a sink at most; when it is slower, newer ones are dropped."""
EVENTS_WAITING = 1024
"""Events that wait for `on_event` at most: many experts may die at the same step."""
FAILURES = 3
"""Errors in a row after which a sink is given up."""
CLOSE_S = 5.0
"""How long the end of training waits for what still waits."""


class Caller:
    """A function called in a thread of its own; it may raise, block, exit or fork.

    ``name``: what a warning calls it, and ``things``: what it takes. ``waiting``: calls that wait for it at most.
    ``dropped``: calls that did not reach it; ``failed``: why it was given up.
    """

    def __init__(
        self, name: str, things: str, call: Callable[..., Any], close: Callable[[], Any] | None = None,
        waiting: int = WAITING,
    ) -> None:  # fmt: skip
        self.name, self._things = printable(name), things
        self._call, self._close = call, close
        self.dropped = 0
        self.failed: str | None = None
        self._in_a_row = 0
        self._queue: queue.Queue[tuple[Any, ...] | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None

    def put(self, *arguments: Any) -> None:
        """Hand over and return at once; never raises."""
        if self.failed is not None:
            self.dropped += 1
            return
        if self._thread is None:  # now, in the training's context: loggers keep their run in a context variable
            run = contextvars.copy_context().run
            self._thread = threading.Thread(target=run, args=(self._work,), name=self.name, daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(arguments)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Wait for what is on its way, no longer than `CLOSE_S`; warn when something did not arrive."""
        if self._thread is None:
            self._end()
            return
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self.dropped += 1
        self._thread.join(CLOSE_S)
        if self.failed is not None:
            self._warn(f"was given up: {self.failed}")
        elif self._thread.is_alive():
            self._warn(f"did not take all in {CLOSE_S:g} s: it blocks")
        elif self.dropped:
            self._warn(f"lost {self.dropped} {self._things}: it failed or was too slow")

    def _warn(self, what: str) -> None:
        warnings.warn(f"{self.name} {what}", RecordingWarning, stacklevel=3)

    def _work(self) -> None:
        process = os.getpid()
        while (item := self._queue.get()) is not None:
            if self.failed is not None:
                self.dropped += 1
                continue
            self._guarded(lambda item=item: self._call(*item))  # type: ignore[misc]
            if os.getpid() != process:  # the function forked, and returned in the child: a second training process
                os._exit(0)
        if self.failed is None:
            self._end()

    def _end(self) -> None:
        if self._close is not None:
            self._guarded(self._close)

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
            self._in_a_row = 0
        except BaseException as error:  # anybody's code, which may call exit
            if self._thread is None and not isinstance(error, Exception):
                raise  # Ctrl-C, in the thread of the training
            self._in_a_row += 1
            self.dropped += 1
            if self._in_a_row >= FAILURES:
                self.failed = _reason(error)


def _reason(error: BaseException) -> str:
    """Return the type and the text of an error whose text may raise, too."""
    try:
        return printable(f"{type(error).__name__}: {error}")
    except Exception:
        return printable(type(error).__name__)


def sink(given: Any, numbers: Numbers) -> Caller:
    """Return the caller that logs the ``numbers`` of layers to a sink; they are made in its own thread.

    Raise `RecordingError` for what is none of the things a sink can be.
    """
    name, log = getattr(given, "__name__", type(given).__name__), given
    close: Callable[[], Any] | None = None
    if isinstance(given, str | Path):
        name, (log, close) = str(given), _file(Path(given))
    elif hasattr(given, "add_scalar"):
        log, close = partial(_add_scalars, given), given.flush
    elif callable(getattr(given, "log", None)):
        log = partial(_log_at_step, given)
    elif not callable(given):
        raise RecordingError(
            f"a sink is {name}, expected a path to a .jsonl or .prom file, a SummaryWriter, something with "
            "log(dict, step=...) or a function log(dict, step)"
        )
    return Caller(f"sink {name}", "snapshots", lambda layers, step: log(numbers(layers, step), step), close)


def event_caller(on_event: Callable[[Event], object]) -> Caller:
    """Return the caller that calls a function with each event."""
    return Caller("on_event", "events", on_event, waiting=EVENTS_WAITING)


def _file(path: Path) -> tuple[Log, Callable[[], Any] | None]:
    """Return what writes the numbers to a file, by its name's ending, and what closes it."""
    if path.suffix == ".prom":
        return partial(_replace_text, path), None
    if path.suffix != ".jsonl":
        raise RecordingError(f"a sink's file is {path}, expected a name that ends in .jsonl or .prom")
    return _json_lines(path)


def _replace_text(path: Path, values: dict[str, float], step: int) -> None:
    """Replace a file in Prometheus' text format, as its node exporter's textfile collector reads it."""
    step_name, lines = f"{PREFIX}/step", []
    about = {f"{PREFIX}/{name}": words for name, words in SERIES.items()} | {step_name: "the first step not seen"}
    for name, value in {step_name: float(step), **values}.items():
        metric = name.replace("/", "_")
        lines += [f"# HELP {metric} {about[name]}", f"# TYPE {metric} gauge", f"{metric} {value!r}"]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def _json_lines(path: Path) -> tuple[Log, Callable[[], Any]]:
    """Return what appends one JSON object a line to a file, `step` and the numbers, and what closes it."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "a folder, pipe or device, expected a file", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise RecordingError(f"a sink's file is {path}, which cannot be written: {error.strerror}") from None

    def log(values: dict[str, float], step: int) -> None:
        file.write(json.dumps({"step": step, **values}) + "\n")
        file.flush()

    return log, file.close


def _log_at_step(logger: Any, values: dict[str, float], step: int) -> None:
    logger.log(values, step=step)


def _add_scalars(writer: Any, values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)
