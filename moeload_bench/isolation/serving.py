"""The worker's answers: reads frames from one pipe, asks the forecaster, writes frames to another.

It lives in the forecaster's own process: nothing of it is trusted by the harness.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from moeload_bench.arrays import Array
from moeload_bench.errors import ForecastError, IsolationError, MissingExtraError, TargetError
from moeload_bench.forecaster import StepBlock, TraceInfo, check_forecast
from moeload_bench.isolation import frames
from moeload_bench.isolation.frames import Header
from moeload_bench.isolation.local import Loaded, read_counts

Reply = tuple[Header, dict[str, Array]]


class Worker:
    """Answers one request at a time; the first is `init`, which the harness may send again for another run."""

    _info: TraceInfo
    _seed: int

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._forecaster: Any = None
        self._loaded: Any = None
        self._runs: list[tuple[TraceInfo, StepBlock]] = []

    def serve(self) -> int:
        """Answer until a pipe closes; return the exit status."""
        while True:
            try:
                self._serve_one()
            except (EOFError, BrokenPipeError):
                return 0
            except IsolationError:
                return 3

    def _serve_one(self) -> None:
        """Read a request, do it, answer with the same number."""
        header, arrays = frames.read_frame(self._read_into, None)
        reply: Header = {"seq": header["seq"]}
        out: dict[str, Array] = {}
        _flush_denormals()
        try:
            extra, out = getattr(self, f"_do_{header['op']}")(header, arrays)
            reply |= {"status": "ok", **extra}
        except ForecastError as error:
            reply |= {"status": "forecast_error", "text": str(error), "rule": error.rule}
        except (TargetError, MissingExtraError) as error:
            reply |= {"status": "target_error", "text": str(error)}
        self._write(frames.encode_frame(reply, out))

    def _do_init(self, header: Header, arrays: Mapping[str, Array]) -> Reply:
        os.dup2(0, 2)  # from here on warnings go nowhere: nobody reads them, and a full pipe would hang it
        self._loaded = self._loaded or Loaded(frames.target_from(header["target"]), trail=header["trail"])
        self._seed = header["seed"]
        if header["info"] is None:
            return {"has_fit": self._loaded.has_fit}, {}
        self._info = frames.info_from(header["info"])
        self._forecaster = self._loaded.construct(self._info, self._seed, frames.fitted_from(arrays))
        return {}, {}

    def _do_observe(self, header: Header, arrays: Mapping[str, Array]) -> Reply:
        block = frames.block_from(arrays)
        self._loaded.call(lambda: self._forecaster.observe(block), "observe")
        return {}, {}

    def _do_forecast(self, header: Header, arrays: Mapping[str, Array]) -> Reply:
        request = frames.request_from(header, arrays)
        answer = self._loaded.call(lambda: self._forecaster.forecast(request), "forecast")
        out = frames.forecast_arrays(check_forecast(answer, request, self._info))
        return {"counts": read_counts(self._forecaster)}, out

    def _do_run(self, header: Header, arrays: Mapping[str, Array]) -> Reply:
        self._runs.append((frames.info_from(header["info"]), frames.block_from(arrays)))
        return {}, {}

    def _do_fit(self, header: Header, arrays: Mapping[str, Array]) -> Reply:
        return {}, frames.fitted_array(self._loaded.fit(self._runs, self._seed, header["most"]))

    def _read_into(self, view: memoryview) -> None:
        while len(view):
            count = os.readv(self._read_fd, [view])
            if not count:
                raise EOFError
            view = view[count:]

    def _write(self, buffers: list[memoryview]) -> None:
        for buffer in buffers:
            while len(buffer):
                buffer = buffer[os.write(self._write_fd, buffer) :]


def _flush_denormals() -> None:
    """Let numbers below 1e-38 be zero once the forecaster has loaded torch: they slow an LSTM on Intel's processors."""
    flush = getattr(sys.modules.get("torch"), "set_flush_denormal", None)
    if flush is not None:
        flush(True)
