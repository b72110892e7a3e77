"""Forecasters that are asked while a run goes on, and scored once the rows that a forecast is about have come.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.harness.replay import follow
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import class_target, parse_target
from moeload_bench.traces.means import mean_known, ratio_of

MOST_ERRORS = 40
"""Errors that forecasters are compared by."""


class Windows:
    """Mean shares of the windows that forecasts are about, added up once for all forecasters. ``rows``: of a window."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._open: deque[_Window] = deque()

    def open(self) -> None:
        """Begin a window with the next row."""
        self._open.append(_Window())

    def add(self, share_SLE: FloatArray) -> list[FloatArray]:
        """Take in some rows; return the means [L, E] of the windows that are over, NaN in a layer without load."""
        loaded_SL = np.isfinite(share_SLE[:, :, 0])
        total_LE, count_L = np.where(loaded_SL[:, :, None], share_SLE, 0.0).sum(axis=0), loaded_SL.sum(axis=0)
        for window in self._open:
            window.total_LE = window.total_LE + total_LE
            window.count_L = window.count_L + count_L
            window.rows += len(share_SLE)
        means = []
        while self._open and self._open[0].rows >= self._rows:
            window = self._open.popleft()
            means.append(ratio_of(window.total_LE, window.count_L[:, None]))
        return means


@dataclass(eq=False)
class _Window:
    """Shares added up so far, and the rows with load."""

    total_LE: FloatArray = field(default_factory=lambda: np.zeros(()))
    count_L: IntArray = field(default_factory=lambda: np.zeros((), dtype=np.int64))
    rows: int = 0


class Sample:
    """At most so many of the numbers of a run, spread over it: when there are more, every second one is dropped."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self._seen = most, 1, 0
        self.values: list[float] = []

    def add(self, value: float) -> None:
        """Take in the next number."""
        if self._seen % self._every == 0:
            if len(self.values) == self._most:
                self.values, self._every = self.values[::2], 2 * self._every
            if self._seen % self._every == 0:
                self.values.append(value)
        self._seen += 1


class Forecasts:
    """A forecaster, and how much of what it forecast was wrong."""

    def __init__(
        self, info: TraceInfo, forecaster: str | type[Any], horizon: int, *, seed: int, fitted: bytes | None,
        level: Level = "none",
    ) -> None:  # fmt: skip
        self._horizon = horizon
        target = class_target(forecaster) if isinstance(forecaster, type) else parse_target(forecaster)
        self._feed = follow(target, info, seed=seed, fitted=fitted, level=level)
        self._unscored: deque[FloatArray] = deque()
        self.errors = Sample(MOST_ERRORS)
        self._cpu_s, self._asks = 0.0, 0

    @property
    def cpu_ms(self) -> float:
        """Return the CPU milliseconds of a forecast, observing included, in this thread."""
        return 1000 * self._cpu_s / max(1, self._asks)

    @property
    def misplaced(self) -> float:
        """Return the mean part of the tokens that forecasts put with the wrong expert, NaN before one was judged."""
        return mean_known(np.array(self.errors.values))

    def close(self) -> None:
        """End the forecaster's process, where it has one."""
        self._feed.host.stop()

    def ask(self, block: StepBlock, origin: int) -> FloatArray:
        """Show the steps since the last forecast, and return the mean shares [L, E] forecast at a step."""
        request = ForecastRequest(origin, self._horizon, (self._horizon,))
        began = time.thread_time()
        self._feed.rows(block)
        share_LE: FloatArray = self._feed.ask(request).window_means((self._horizon,))[0]
        self._cpu_s += time.thread_time() - began
        self._asks += 1
        self._unscored.append(share_LE)
        return share_LE

    def score(self, truth_LE: FloatArray) -> None:
        """Score the oldest forecast that is not scored yet."""
        self.errors.add(mean_known(misplaced(self._unscored.popleft(), truth_LE)))


def misplaced(share_LE: FloatArray, truth_LE: FloatArray) -> FloatArray:
    """Return the part of each layer's tokens [L] that a forecast puts with the wrong expert."""
    return np.asarray(0.5 * np.abs(share_LE - truth_LE).sum(axis=1))
