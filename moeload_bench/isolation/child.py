"""Levels `process` and `sandbox`: a host whose forecaster lives in a child process."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeload_bench.errors import ForecastError, TargetError
from moeload_bench.forecaster import (
    FORECAST_RULES,
    Forecast,
    ForecastRequest,
    StepBlock,
    TraceInfo,
    check_forecast,
)
from moeload_bench.isolation import bubblewrap, messages
from moeload_bench.isolation.frames import Array, Header, Rules
from moeload_bench.isolation.levels import Cost, Host, Level, Limits, Meter
from moeload_bench.isolation.local import MAX_COUNTS, one_line
from moeload_bench.isolation.process import Process
from moeload_bench.isolation.targets import FileTarget, StoredTarget, is_baseline

NOTHING: Rules = {}
_COUNT_NAME = re.compile(r"[A-Za-z_]\w{0,39}", re.ASCII)


class Child:
    """A child process that has loaded a target's class."""

    def __init__(self, target: StoredTarget, level: Level, limits: Limits, numba_cache: Path | None = None) -> None:
        self._target, self._level, self._limits = target, level, limits
        self._process = Process(target, level, limits, numba_cache)
        self.meter = Meter()

    def init(self, seed: int, info: TraceInfo | None, fitted: bytes | None) -> Header:
        """Load the class, and construct the forecaster when ``info`` is given."""
        seen = bubblewrap.FORECASTER_PATH if self._level == "sandbox" else None
        header = {
            "op": "init",
            "seed": seed,
            "trail": self._level != "sandbox" or self._limits.traceback,
            "target": messages.target_header(self._target, seen),
            "info": None if info is None else messages.info_header(info),
        }
        return self.call(header, messages.fitted_array(fitted), NOTHING, self._limits.startup_wall_s)[0]

    def call(
        self, header: Header, arrays: Mapping[str, Array], rules: Rules, wall_s: float | None = None
    ) -> tuple[Header, dict[str, Array]]:
        """One request; raises what the worker says that the forecaster raised."""
        reply, out = self._process.call(header, arrays, rules, wall_s)
        status, text = reply.get("status"), one_line(str(reply.get("text", "")))
        if status == "ok":
            return reply, out
        # A stranger in the sandbox cannot stop the others' work by blaming the request.
        if status == "target_error" and (self._level != "sandbox" or is_baseline(self._target)):
            raise TargetError(text)
        rule = reply.get("rule")
        if self._level == "sandbox" and self._limits.traceback and isinstance(self._target, FileTarget):
            # lines are told of the file that its author knows
            text = text.replace(f"{Path(bubblewrap.FORECASTER_PATH).name}:", f"{self._target.file.name}:")
        raise ForecastError(text or "failed without saying why", rule if rule in FORECAST_RULES else None)

    def timed(self, kind: str, call: Callable[[], Any]) -> Any:
        """Make a call and charge it with its wall time and with all CPU time used since the last one."""
        started = time.perf_counter()
        try:
            return call()
        finally:
            wall = time.perf_counter() - started
            before, now = self._process.cpu_seen, self._process.watch.cpu_s()
            self.meter.add(kind, wall, None if before is None or now is None else max(0.0, now - before))
            self._process.cpu_seen = before if now is None else now

    def start_charging(self) -> None:
        """CPU time used until now was start-up."""
        self._process.cpu_seen = self._process.watch.cpu_s()

    def cost(self) -> Cost:
        """What the calls cost so far."""
        return self.meter.cost(self._process.watch.peak_memory_bytes(), self._process.accounting)

    def close(self) -> None:
        """End the process."""
        self._process.close()


class ChildHost(Host):
    """A forecaster in a child process, which is gone when it is stopped."""

    def __init__(
        self,
        target: StoredTarget,
        info: TraceInfo,
        seed: int,
        fitted: bytes | None,
        level: Level,
        limits: Limits,
        numba_cache: Path | None,
    ) -> None:
        started = time.perf_counter()
        self._info = info
        self._counts: dict[str, int] = {}
        self._child = Child(target, level, limits, numba_cache)
        try:
            self._child.init(seed, info, fitted)
            self._child.start_charging()
        except BaseException:
            self.stop()
            raise
        self._child.meter.startup_wall_s = time.perf_counter() - started

    def observe(self, block: StepBlock) -> None:
        arrays = messages.block_arrays(block)
        self._child.timed("observe", lambda: self._child.call({"op": "observe"}, arrays, NOTHING))
        self._child.meter.rows += len(block)

    def forecast(self, request: ForecastRequest) -> Forecast:
        header, arrays = messages.request_frame(request)
        rules = messages.forecast_rules(request, self._info)
        reply, out = self._child.timed(
            "forecast", lambda: self._child.call({"op": "forecast", **header}, arrays, rules)
        )
        self._counts = _checked_counts(reply.get("counts"), self._counts)
        return check_forecast(messages.forecast_from(out), request, self._info)

    def counts(self) -> dict[str, int]:
        return dict(self._counts)

    def cost(self) -> Cost:
        return self._child.cost()

    def stop(self) -> None:
        self._child.close()


def fit_child(
    target: StoredTarget, runs: Sequence[tuple[TraceInfo, StepBlock]], seed: int, level: Level, limits: Limits
) -> tuple[bytes, Cost] | None:
    """Fit in a process of its own."""
    started = time.perf_counter()
    child = Child(target, level, limits)
    try:
        if child.init(seed, None, None).get("has_fit") is not True:
            return None
        child.meter.startup_wall_s = time.perf_counter() - started
        for info, block in runs:
            child.call({"op": "run", "info": messages.info_header(info)}, messages.block_arrays(block), NOTHING)
            child.meter.rows += len(block)
        child.start_charging()
        header, rules = {"op": "fit", "most": limits.fitted_bytes}, messages.fitted_rules(limits.fitted_bytes)
        _, out = child.timed("observe", lambda: child.call(header, {}, rules, limits.fit_wall_s))
        fitted = messages.fitted_from(out)
        return fitted if fitted is None else (fitted, child.cost())
    finally:
        child.close()


def _checked_counts(found: Any, before: dict[str, int]) -> dict[str, int]:
    if not isinstance(found, dict) or len(found) > MAX_COUNTS:
        return before
    valid = all(
        _COUNT_NAME.fullmatch(name) and type(value) is int and abs(value) < 2**53 for name, value in found.items()
    )
    return found if valid else before
