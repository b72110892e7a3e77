"""What a monitor logs, few series with stable names (docs/guide/live.md), and where its numbers and events go.

What raises or blocks never stops training: a thread of its own calls it.

A sink is a path that ends in `.jsonl`, a `SummaryWriter` (anything with `add_scalar`), a module or run with
`log(dict, step=...)` (trackio, wandb), or any function `log(dict, step)`.
"""

from __future__ import annotations

import contextvars
import errno
import json
import math
import os
import queue
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.errors import RecordingError, printable
from moeload_bench.ops.facts.events import Event
from moeload_bench.ops.facts.inspector import Inspection
from moeload_bench.recording.writer import RecordingWarning
from moeload_bench.traces.means import mean_known

Log = Callable[[dict[str, float], int], Any]

WAITING = 64
"""Snapshots that wait for a sink at most; when it is slower, newer ones are dropped."""
EVENTS_WAITING = 1024
"""Events that wait for `on_event` at most: many experts may die at the same step."""
FAILURES = 3
"""Errors in a row after which a sink is given up."""
CLOSE_S = 5.0
"""How long the end of training waits for what still waits."""
PREFIX = "moe"
SERIES: Mapping[str, str] = {
    "max_violation": "violation {:.2f} in the worst layer",
    "mean_violation": "{:.2f} on average",
    "dead": "{:,.0f} experts dead",
    "drift": "drift {:.1%} of tokens",
    "events": "{:,.0f} events",
}
"""Each series, and what a console says of it. Violation: the busiest expert's load over the mean, less 1."""


def series_of(found: Inspection) -> dict[str, float]:
    """Return `moe/NAME` of each of `SERIES`; what is not known is left out."""
    violation_L = found.busiest_L - 1
    values = {"drift": math.nan if found.states is None else mean_known(found.states.drift_L)}
    if np.isfinite(violation_L).any():
        values |= {
            "max_violation": float(np.nanmax(violation_L)),
            "mean_violation": mean_known(violation_L),
            "dead": float(found.dead_LE.sum()),
            "events": float(found.events.total),
        }
    return {f"{PREFIX}/{name}": values[name] for name in SERIES if math.isfinite(values.get(name, math.nan))}


def console_line(values: Mapping[str, float], step: int) -> str:
    """Return what a console says of a step: `moe, step 500: violation 1.58 in the worst layer, 3 experts dead, ...`."""
    known = [words.format(values[key]) for name, words in SERIES.items() if (key := f"{PREFIX}/{name}") in values]
    return f"{PREFIX}, step {step:,}: {', '.join(known) or 'no load'}"


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


def sink(given: Any) -> Caller:
    """Return the caller of a sink; raise `RecordingError` for what is none of the things a sink can be."""
    name, log = getattr(given, "__name__", type(given).__name__), given
    close: Callable[[], Any] | None = None
    if isinstance(given, str | Path):
        name, (log, close) = str(given), _json_lines(Path(given))
    elif hasattr(given, "add_scalar"):
        log, close = partial(_add_scalars, given), given.flush
    elif callable(getattr(given, "log", None)):
        log = partial(_log_at_step, given)
    elif not callable(given):
        raise RecordingError(
            f"a sink is {name}, expected a path to a .jsonl file, a SummaryWriter, something with "
            "log(dict, step=...) or a function log(dict, step)"
        )
    return Caller(f"sink {name}", "snapshots", log, close)


def event_caller(on_event: Callable[[Event], object]) -> Caller:
    """Return the caller that calls a function with each event."""
    return Caller("on_event", "events", on_event, waiting=EVENTS_WAITING)


def _json_lines(path: Path) -> tuple[Log, Callable[[], Any]]:
    """Return what appends one JSON object a line to a file, `step` and the numbers, and what closes it."""
    if path.suffix != ".jsonl":
        raise RecordingError(f"a sink's file is {path}, expected a name that ends in .jsonl")
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
