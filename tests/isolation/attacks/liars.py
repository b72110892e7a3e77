"""Forecasters that attack the protocol: they take over the worker's pipe and write frames of their own."""

from __future__ import annotations

import gc
import json
import os
import pickle
import struct
import sys
import time
from typing import Any

import numpy as np

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation import frames, local


class Liar:
    """Honest until `lie` is called at the first forecast."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.info = info
        self.worker: Any = next(one for one in gc.get_objects() if type(one).__name__ == "Worker")
        self.pipe: int = self.worker._write_fd
        self.number = 0
        self.listen()

    def observe(self, block: StepBlock) -> None:
        pass

    def forecast(self, request: ForecastRequest) -> Any:
        self.lie(request)
        return self.honest(request)

    def honest(self, request: ForecastRequest) -> Forecast:
        share = np.full((self.info.num_layers, self.info.num_experts), 1 / self.info.num_experts)
        return Forecast.constant(share, request.horizon)

    def lie(self, request: ForecastRequest) -> None:
        """What it sends instead of, or before, an answer."""

    def listen(self) -> None:
        """Learn the number that an answer must carry."""
        real = frames.read_frame

        def read_frame(*args: Any, **kwargs: Any) -> Any:
            header, arrays = real(*args, **kwargs)
            self.number = header["seq"]
            return header, arrays

        frames.read_frame = read_frame

    def send(self, specs: list[Any], payload: bytes = b"", **fields: Any) -> None:
        """A frame that names these arrays, whatever follows."""
        self.send_header(json.dumps({"seq": self.number, "status": "ok", "arrays": specs, **fields}).encode(), payload)

    def send_header(self, text: bytes, payload: bytes = b"", length: int | None = None) -> None:
        self.write(struct.pack("<4sI", b"MLB1", len(text) if length is None else length) + text + payload)

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.pipe, data) :]

    def shape(self) -> list[int]:
        return [1, self.info.num_layers, self.info.num_experts]

    def edges(self, request: ForecastRequest) -> bytes:
        return struct.pack("<q", request.horizon)

    def send_shares(self, request: ForecastRequest, share: np.ndarray) -> None:
        specs = [["share_BLE", share.dtype.str, list(share.shape)], ["edges_B", "<i8", [1]]]
        self.send(specs, share.tobytes() + self.edges(request))


class ExitsMidFrame(Liar):
    def lie(self, request: ForecastRequest) -> None:
        self.send([["share_BLE", "<f8", self.shape()], ["edges_B", "<i8", [1]]], b"\0" * 9)
        os._exit(0)


class Terabyte(Liar):
    def lie(self, request: ForecastRequest) -> None:
        self.send([["share_BLE", "<f8", [1, 370_000, 370_000]], ["edges_B", "<i8", [1]]])


class PickleInstead(Liar):
    def lie(self, request: ForecastRequest) -> None:
        self.write(pickle.dumps(Bomb()) * 8)


class Bomb:
    """What it would do to whoever unpickles it."""

    def __reduce__(self) -> Any:
        return (os.system, ("echo unpickled > /tmp/moeload-unpickled",))


class PromisesMore(Liar):
    """A shape that is allowed but is not what follows: the reader would wait for ever."""

    def lie(self, request: ForecastRequest) -> None:
        L, E = self.info.num_layers, self.info.num_experts
        self.send([["share_BLE", "<f8", [request.horizon, L, E]], ["edges_B", "<i8", [1]]], b"\0" * 64)
        time.sleep(30)


class SendsMore(Liar):
    """A shape that is allowed, and more bytes than it says."""

    def lie(self, request: ForecastRequest) -> None:
        self.send_shares(request, np.full(self.shape(), 1 / self.info.num_experts))
        self.write(b"\0" * 4096)


class NoArrays(Liar):
    def lie(self, request: ForecastRequest) -> None:
        self.send([])


class DeepJson(Liar):
    def lie(self, request: ForecastRequest) -> None:
        self.send_header(b"[" * 10_000 + b"]" * 10_000)


class NotANumber(Liar):
    def lie(self, request: ForecastRequest) -> None:
        self.send_shares(request, np.full(self.shape(), np.nan))


class AnswersTwice(Liar):
    """A second answer, to be taken for the one to a request that comes later."""

    def lie(self, request: ForecastRequest) -> None:
        self.send_shares(request, np.full(self.shape(), 1 / self.info.num_experts))


class SpeaksUnasked(Liar):
    """An answer to an observation that nobody has made yet, from a thread."""

    def observe(self, block: StepBlock) -> None:
        self.send([])


class OtherNumber(Liar):
    def lie(self, request: ForecastRequest) -> None:
        self.number += 1
        self.send_shares(request, np.full(self.shape(), 1 / self.info.num_experts))


class Drips(Liar):
    """A byte at a time, each in time by itself."""

    def lie(self, request: ForecastRequest) -> None:
        for _ in range(60):
            self.write(b"M")
            time.sleep(0.5)


class Floods(Liar):
    """At most 64 MiB of noise."""

    def lie(self, request: ForecastRequest) -> None:
        for _ in range(64):
            self.write(b"\xff" * 2**20)


class PatchesWorker(Liar):
    """Replaces what the worker checks and measures with, to have a forecast that is none accepted."""

    def lie(self, request: ForecastRequest) -> None:
        import moeload_bench.forecaster as contract

        contract.check_forecast = lambda forecast, request, info: forecast
        local.Loaded.call = lambda self, function, what, passing=(): function()
        time.perf_counter = time.monotonic = time.process_time = lambda: 0.0

    def honest(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(np.full(self.shape()[1:], 0.5), request.horizon)


class HugeCounts(Liar):
    """Answers like an honest forecaster, with counts that would fill a record."""

    def lie(self, request: ForecastRequest) -> None:
        self.counts = {f"count_{i}": 2**200 for i in range(1000)} | {"\x1b[2J": 1, "honest": 3}


class BlamesRequest(Liar):
    """Says that the request itself is wrong, which would end everyone's run."""

    def lie(self, request: ForecastRequest) -> None:
        self.send([], status="target_error", text="nobody may run")


class PrintsNoise(Liar):
    """Prints, by every way there is, what would spoil the protocol if it reached it."""

    def lie(self, request: ForecastRequest) -> None:
        for _ in range(2000):
            print("noise" * 20)
            print("noise" * 20, file=sys.stderr)
            print("noise" * 20, file=sys.__stdout__, flush=True)
        os.write(1, b"noise\n" * 20_000)
        os.write(2, b"noise\n" * 20_000)
