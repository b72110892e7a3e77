"""Level `none`: the forecaster lives in this process. Shared with the worker: how a class is built and called."""

from __future__ import annotations

import inspect
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from moeload_bench.errors import ForecastError, MissingExtraError, TargetError, printable
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo, check_forecast
from moeload_bench.isolation.levels import MAX_COUNTS, Cost, Host, Limits, is_count
from moeload_bench.isolation.targets import Target, check_kwargs, load_class

MAX_TEXT = 300
MAX_TRAIL = 4
REFUSALS = (TargetError, MissingExtraError)
_HERE = os.path.dirname(os.path.abspath(__file__))


def error_text(error: BaseException, *, trail: bool = True) -> str:
    """Return type and text of an exception on one bounded line; with ``trail`` the lines that led to it."""
    try:
        text = str(error)
    except Exception:  # a stranger's __str__ may raise anything
        text = "(its text cannot be read)"
    line = one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return f"{line}{trail_of(error)}" if trail else line


def trail_of(error: BaseException) -> str:
    """Return the lines that led to an exception, from the forecaster's own on: ` (at my.py:12 in forecast, my.py:30 in
    mean)`.

    Of a long way the first and the last ones; empty where it began in none of the forecaster's files.
    """
    frames = [(frame.f_code, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    positions = (i for i, (code, _) in enumerate(frames) if not code.co_filename.startswith((_HERE, "<frozen")))
    first = next(positions, len(frames))
    lines = [f"{os.path.basename(code.co_filename)}:{number} in {code.co_name}" for code, number in frames[first:]]
    if len(lines) > MAX_TRAIL:
        lines = [lines[0], "...", *lines[2 - MAX_TRAIL :]]
    return f" ({one_line('at ' + ', '.join(lines))})" if lines else ""


def one_line(text: str) -> str:
    """Return one bounded line without control characters: a stranger's text may end up on a terminal or in a record."""
    line = printable(" ".join(text[: 4 * MAX_TEXT].split()))
    return line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}..."


class Loaded:
    """A target's class, imported into this process: whatever a stranger's code raises becomes a `ForecastError`.

    ``trail``: whether errors say which lines led to them. A `TargetError` of the module, of its arguments or of the
    constructor (an argument that makes no sense) passes unchanged, and so does a `MissingExtraError`.
    """

    def __init__(self, target: Target, *, trail: bool = True) -> None:
        self.target, self._trail = target, trail
        self.cls: type[Any] = self.call(self._import, "import", passing=REFUSALS)

    def _import(self) -> type[Any]:
        cls = load_class(self.target)
        check_kwargs(self.target, cls)
        return cls

    def call(self, function: Callable[[], Any], action: str, passing: tuple[type[Exception], ...] = ()) -> Any:
        """Call a stranger's code; errors of the types in ``passing`` stay what they are, `SystemExit` does not."""
        try:
            return function()
        except passing:
            raise
        except (Exception, SystemExit) as error:
            raise ForecastError(f"{action} raised {error_text(error, trail=self._trail)}") from error

    def construct(self, info: TraceInfo, seed: int, fitted: bytes | None) -> Any:
        """Return the forecaster; ``fitted`` is passed only when there is one."""
        extra = {} if fitted is None else {"fitted": fitted}
        return self.call(
            lambda: self.cls(info, seed, **extra, **self.target.kwargs), "the constructor", passing=REFUSALS
        )

    @property
    def has_fit(self) -> bool:
        """Return whether the class learns from the `train` split."""
        return callable(getattr(self.cls, "fit", None))

    def fit(self, runs: Sequence[tuple[TraceInfo, StepBlock]], seed: int, most: int) -> bytes:
        """Call `fit` with those of the target's arguments that it takes, and insist on at most so many bytes."""
        takes = inspect.signature(self.cls.fit).parameters
        kwargs = {name: value for name, value in self.target.kwargs.items() if name in takes}
        out = self.call(lambda: self.cls.fit(list(runs), seed, **kwargs), "fit")
        if not isinstance(out, bytes):
            raise ForecastError(f"fit returned {type(out).__name__}, expected bytes")
        if len(out) > most:
            raise ForecastError(f"fit returned {len(out)} bytes, at most {most} are kept")
        return out


def read_counts(forecaster: Any) -> dict[str, int]:
    """Return the forecaster's ``counts`` as plain numbers; what is not a count is left out."""
    try:
        attribute = dict(getattr(forecaster, "counts", None) or {})
    except Exception:  # a stranger's attribute may raise anything
        return {}
    counts = {}
    for name, value in list(attribute.items())[:MAX_COUNTS]:
        number = int(value) if isinstance(value, int) or hasattr(value, "__index__") else None
        if number is not None and is_count(name, number):
            counts[name] = number
    return counts


def own_copy(block: StepBlock) -> StepBlock:
    """Return arrays of its own: a view's ``base`` would hand a forecaster the whole trace, future included."""
    return StepBlock(
        block.step_S.copy(),
        block.load_SLE.copy(),
        block.tokens_SL.copy(),
        {name: column.copy() for name, column in block.covariates.items()},
    )


class LocalHost(Host):
    """A forecaster in this process: no protection, no limits.

    Its calls have one thread, as in a child: another number of threads may change the last bits of a sum.
    """

    def __init__(self, target: Target, limits: Limits) -> None:
        self._target, self._limits = target, limits
        self._began, self._cost = time.perf_counter(), Cost()
        self._find_threads()

    def start(self, info: TraceInfo, seed: int, fitted: bytes | None) -> None:
        self._info = info
        with self._threads.limit(limits=1):
            self._loaded = Loaded(self._target)
            self._forecaster = self._loaded.construct(info, seed, fitted)
        self._find_threads()
        self._cost = replace(self._cost, startup_wall_s=time.perf_counter() - self._began)

    def fit(self, runs: Sequence[tuple[TraceInfo, StepBlock]], seed: int) -> bytes | None:
        loaded = Loaded(self._target)
        if not loaded.has_fit:
            return None
        self._find_threads()
        copies = [(info, own_copy(block)) for info, block in runs]
        self._cost = self._cost.with_rows(sum(len(block) for _, block in runs))
        fitted: bytes = self._timed("observe", lambda: loaded.fit(copies, seed, self._limits.fitted_bytes))
        return fitted

    def observe(self, block: StepBlock) -> None:
        block = own_copy(block)
        self._timed("observe", lambda: self._loaded.call(lambda: self._forecaster.observe(block), "observe"))
        self._cost = self._cost.with_rows(len(block))

    def forecast(self, request: ForecastRequest) -> Forecast:
        call = self._loaded.call
        answer = self._timed("forecast", lambda: call(lambda: self._forecaster.forecast(request), "forecast"))
        return check_forecast(answer, request, self._info)

    def counts(self) -> dict[str, int]:
        return read_counts(self._forecaster)

    def cost(self) -> Cost:
        return self._cost

    def stop(self) -> None:
        pass

    def _find_threads(self) -> None:
        """Find the threads of all libraries that are loaded by now."""
        from threadpoolctl import ThreadpoolController  # not in a child, whose environment it changes

        self._threads = ThreadpoolController()

    def _timed(self, kind: str, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with self._threads.limit(limits=1):
                return call()
        finally:
            self._cost = self._cost.with_call(kind, time.perf_counter() - wall, time.process_time() - cpu)
