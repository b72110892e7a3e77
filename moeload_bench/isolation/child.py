"""Levels `process` and `sandbox`: a host whose forecaster lives in a child process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from moeload_bench.arrays import Array
from moeload_bench.errors import ForecastError, TargetError
from moeload_bench.forecaster import (
    FORECAST_RULES,
    Forecast,
    ForecastRequest,
    StepBlock,
    TraceInfo,
    check_forecast,
)
from moeload_bench.isolation import bubblewrap, frames
from moeload_bench.isolation.frames import Header, Rules
from moeload_bench.isolation.levels import MAX_COUNTS, Cost, Host, Level, Limits, is_count
from moeload_bench.isolation.local import one_line
from moeload_bench.isolation.process import Process
from moeload_bench.isolation.targets import FileTarget, StoredTarget, is_baseline

NO_RULES: Rules = {}


class ChildHost(Host):
    """A forecaster in a child process, which is gone when it is stopped."""

    def __init__(self, target: StoredTarget, level: Level, limits: Limits, numba_cache: Path | None = None) -> None:
        self._target, self._level, self._limits = target, level, limits
        self._counts: dict[str, int] = {}
        self._began, self._cost = time.perf_counter(), Cost()
        self._process = Process(target, level, limits, numba_cache)

    def start(self, info: TraceInfo, seed: int, fitted: bytes | None) -> None:
        self._info = info
        self._load(seed, info, fitted)
        self._process.cpu_since()  # until now it was start-up

    def fit(self, runs: Sequence[tuple[TraceInfo, StepBlock]], seed: int) -> bytes | None:
        if self._load(seed, None, None).get("has_fit") is not True:
            return None
        for info, block in runs:
            self._call({"op": "run", "info": frames.info_header(info)}, frames.block_arrays(block))
            self._cost = self._cost.with_rows(len(block))
        self._process.cpu_since()
        most = self._limits.fitted_bytes
        header, rules = {"op": "fit", "most": most}, frames.fitted_rules(most)
        _, out = self._call(header, {}, rules, self._limits.fit_wall_s, charge="observe")
        return frames.fitted_from(out)

    def observe(self, block: StepBlock) -> None:
        self._call({"op": "observe"}, frames.block_arrays(block), charge="observe")
        self._cost = self._cost.with_rows(len(block))

    def forecast(self, request: ForecastRequest) -> Forecast:
        header, arrays = frames.request_frame(request)
        rules = frames.forecast_rules(request, self._info)
        reply, out = self._call({"op": "forecast", **header}, arrays, rules, charge="forecast")
        counts = reply.get("counts")
        if isinstance(counts, dict) and len(counts) <= MAX_COUNTS and all(map(is_count, counts, counts.values())):
            self._counts = counts
        return check_forecast(frames.forecast_from(out), request, self._info)

    def counts(self) -> dict[str, int]:
        return dict(self._counts)

    def cost(self) -> Cost:
        return replace(self._cost, peak_memory_bytes=self._process.watch.peak_memory_bytes())

    def stop(self) -> None:
        self._process.close()

    def _load(self, seed: int, info: TraceInfo | None, fitted: bytes | None) -> Header:
        """Load the class, and construct the forecaster when ``info`` is given."""
        path = bubblewrap.FORECASTER_PATH if self._level == "sandbox" else None
        header = {
            "op": "init",
            "seed": seed,
            "trail": self._level != "sandbox" or self._limits.traceback,
            "target": frames.target_header(self._target, path),
            "info": None if info is None else frames.info_header(info),
        }
        reply, _ = self._call(header, frames.fitted_array(fitted), wall_s=self._limits.startup_wall_s)
        self._cost = replace(self._cost, startup_wall_s=time.perf_counter() - self._began)
        return reply

    def _call(
        self,
        header: Header,
        arrays: Mapping[str, Array],
        rules: Rules = NO_RULES,
        wall_s: float | None = None,
        charge: str | None = None,
    ) -> tuple[Header, dict[str, Array]]:
        """Send one request; raise what the worker says that the forecaster raised.

        ``charge`` names the call whose cost is this wall time, and all CPU time used since the last one.
        """
        began = time.perf_counter()
        try:
            reply, out = self._process.call(header, arrays, rules, wall_s)
        finally:
            if charge is not None:
                self._cost = self._cost.with_call(charge, time.perf_counter() - began, self._process.cpu_since())
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
