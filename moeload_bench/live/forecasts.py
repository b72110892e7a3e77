"""Forecasts while the run goes on, scored when what they spoke of has come.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import BoolArray, FloatArray
from moeload_bench.evaluation.harness import follow
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import class_target, parse_target
from moeload_bench.live.history import Kept
from moeload_bench.scoring.noise import MEAN_ABS_NORMAL
from moeload_bench.traces.trace import shares

COVERAGE = 0.8
"""Part of the experts' window means that an interval is made to cover."""
NORMAL_WIDTH = 1.2816
"""Half the width of that interval, in standard deviations of a normal error."""
KEEP = 0.8
"""What an older squared error weighs against the next one: the last five or so decide the interval."""
LEAST_SCORED = 3
"""Finished forecasts before an interval is given."""
LATELY = 4
"""Finished forecasts whose mean error is that of the last window, or of the start."""
MOST_ERRORS = 40
"""Errors that are kept to compare forecasters by."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Mean `window_tv` [L] of the finished forecasts, of `last_value` asked at the same steps, and the batch floor.

    ``floor_L`` is the expected error of an oracle that knows each step's routing probabilities
    (docs/methods/floors.md), NaN without half batches. All NaN before the first is finished.
    """

    finished: int
    forecast_L: FloatArray
    last_value_L: FloatArray
    floor_L: FloatArray


@dataclass(frozen=True, eq=False)
class Outlook:
    """The forecast for the coming ``horizon`` steps: mean shares [L, E], between ``low_LE`` and ``high_LE``.

    The interval is made from the errors of the last finished forecasts (NaN before `LEAST_SCORED` are); ``covered`` is
    the part of experts and windows that lay inside theirs, made to be `COVERAGE`, NaN before there is one. ``scores``
    over the run, ``stable`` and ``transient`` those of forecasts that were made in that state of the layer; ``start``
    and ``lately`` of the first and the last `LATELY` that are finished.
    """

    horizon: int
    share_LE: FloatArray
    low_LE: FloatArray
    high_LE: FloatArray
    covered: float
    scores: Scores
    stable: Scores
    transient: Scores
    start: Scores
    lately: Scores


@dataclass(eq=False)
class _Asked:
    """A forecast that waits for its window: what was said, and what has come so far."""

    share_LE: FloatArray
    last_LE: FloatArray
    low_LE: FloatArray
    high_LE: FloatArray
    transient_L: BoolArray
    total_LE: FloatArray
    count_L: NDArray[np.int64]
    variance_LE: FloatArray
    rows: int = 0


class _Sums:
    """Running means [L] of three errors, over the layers and windows that have them."""

    def __init__(self, layers: int) -> None:
        self._total_3L = np.zeros((3, layers))
        self._count_3L = np.zeros((3, layers), dtype=np.int64)
        self._finished = 0

    def add(self, error_3L: FloatArray, where_L: BoolArray) -> None:
        known = np.isfinite(error_3L) & where_L
        self._total_3L += np.where(known, error_3L, 0.0)
        self._count_3L += known
        self._finished += bool(where_L.any())

    def scores(self) -> Scores:
        mean = np.full(self._total_3L.shape, np.nan)
        np.divide(self._total_3L, self._count_3L, out=mean, where=self._count_3L > 0)
        return Scores(self._finished, *mean)


class Forecasts:
    """The forecaster in this process, what it said, and how that turned out."""

    def __init__(
        self, info: TraceInfo, forecaster: str | type[Any], horizon: int, *, seed: int, fitted: bytes | None,
        level: Level = "none",
    ) -> None:  # fmt: skip
        L, E = info.num_layers, info.num_experts
        self._info = info
        self._horizon = horizon
        target = class_target(forecaster) if isinstance(forecaster, type) else parse_target(forecaster)
        self._feed = follow(target, info, seed=seed, fitted=fitted, level=level)
        self._asked: deque[_Asked] = deque()
        self._last_LE = np.full((L, E), 1.0 / E)
        self._square_LE = np.full((L, E), np.nan)
        self._scored = 0
        self._inside, self._judged = 0, 0
        self._all, self._stable, self._transient, self._start = (_Sums(L) for _ in range(4))
        self._lately: deque[FloatArray] = deque(maxlen=LATELY)
        self.errors = Kept(MOST_ERRORS)
        self._cpu_s, self._asks = 0.0, 0

    @property
    def cpu_ms(self) -> float:
        """Return the CPU milliseconds of a forecast, observing included, in this thread."""
        return 1000 * self._cpu_s / max(1, self._asks)

    def close(self) -> None:
        """End the forecaster's process, where it has one."""
        self._feed.host.stop()

    def add(self, block: StepBlock, share_SLE: FloatArray) -> None:
        """Show a block of steps to the forecaster, and score the forecasts that were about it."""
        began = time.thread_time()
        self._feed.rows(block)
        self._cpu_s += time.thread_time() - began
        known_SL1 = np.isfinite(share_SLE[:, :, :1])
        filled_SLE = np.where(known_SL1, share_SLE, 0.0)
        total_LE, count_L = filled_SLE.sum(axis=0), known_SL1.sum(axis=(0, 2))
        variance_LE = _batch_variance(block)
        for asked in self._asked:
            asked.total_LE += total_LE
            asked.count_L += count_L
            asked.variance_LE += variance_LE
            asked.rows += len(block)
        while self._asked and self._asked[0].rows * self._info.stride >= self._horizon:
            self._score(self._asked.popleft())
        newest_L = len(block) - 1 - known_SL1[::-1, :, 0].argmax(axis=0)
        newest_LE = share_SLE[newest_L, np.arange(len(newest_L))]
        self._last_LE = np.where(known_SL1.any(axis=0), newest_LE, self._last_LE)

    def ask(self, origin: int, transient_L: BoolArray) -> Outlook:
        """The forecast at a step, kept until its window has come."""
        request = ForecastRequest(origin, self._horizon, (self._horizon,))
        began = time.thread_time()
        share_LE = self._feed.ask(request).window_means((self._horizon,))[0]
        self._cpu_s += time.thread_time() - began
        self._asks += 1
        half = NORMAL_WIDTH * np.sqrt(self._square_LE) if self._scored >= LEAST_SCORED else self._square_LE * np.nan
        low_LE, high_LE = np.clip(share_LE - half, 0.0, 1.0), np.clip(share_LE + half, 0.0, 1.0)
        zeros = np.zeros_like(share_LE)
        self._asked.append(
            _Asked(
                share_LE, self._last_LE, low_LE, high_LE, transient_L.copy(),
                zeros, np.zeros(len(share_LE), dtype=np.int64), zeros.copy(),
            )
        )  # fmt: skip
        covered = self._inside / self._judged if self._judged else float("nan")
        lately, everywhere_L = _Sums(len(share_LE)), np.ones(len(share_LE), dtype=np.bool_)
        for error_3L in self._lately:
            lately.add(error_3L, everywhere_L)
        scores = [sums.scores() for sums in (self._all, self._stable, self._transient, self._start, lately)]
        return Outlook(self._horizon, share_LE, low_LE, high_LE, covered, *scores)

    def _score(self, asked: _Asked) -> None:
        known_L = asked.count_L > 0
        truth_LE = np.where(known_L[:, None], asked.total_LE / np.maximum(asked.count_L, 1)[:, None], np.nan)
        error_LE = asked.share_LE - truth_LE
        errors = [0.5 * np.abs(each_LE - truth_LE).sum(axis=1) for each_LE in (asked.share_LE, asked.last_LE)]
        deviation_LE = np.sqrt(asked.variance_LE / asked.rows / asked.rows)
        floor_L = np.where(known_L, 0.5 * MEAN_ABS_NORMAL * deviation_LE.sum(axis=1), np.nan)
        error_3L = np.stack([*errors, floor_L])
        everywhere_L = np.ones(len(known_L), dtype=np.bool_)
        for sums, where_L in (
            (self._all, everywhere_L), (self._stable, ~asked.transient_L), (self._transient, asked.transient_L)
        ):  # fmt: skip
            sums.add(error_3L, where_L)
        if self._scored < LATELY:
            self._start.add(error_3L, everywhere_L)
        self._lately.append(error_3L)
        self.errors.add(mean_known(error_3L[0]))
        self._take_error(asked, truth_LE, error_LE**2)

    def _take_error(self, asked: _Asked, truth_LE: FloatArray, square_LE: FloatArray) -> None:
        judged = np.isfinite(asked.low_LE) & np.isfinite(truth_LE)
        self._judged += int(judged.sum())
        self._inside += int((judged & (asked.low_LE <= truth_LE) & (truth_LE <= asked.high_LE)).sum())
        mixed = KEEP * self._square_LE + (1 - KEEP) * square_LE
        fresh = np.where(np.isnan(self._square_LE), square_LE, mixed)
        self._square_LE = np.where(np.isfinite(square_LE), fresh, self._square_LE)
        self._scored += 1


def mean_known(values_L: FloatArray) -> float:
    """Return the mean of what is known, NaN if nothing is."""
    known = values_L[np.isfinite(values_L)]
    return float(known.mean()) if known.size else float("nan")


def _batch_variance(block: StepBlock) -> FloatArray:
    """Sum over the block's rows of the squared noise of each share, from its two half batches; NaN without them.

    The estimate of `moeload_bench.scoring.noise.batch_noise`, row by row.
    """
    if "load_half" not in block.covariates:
        return np.full(block.load_SLE.shape[1:], np.nan)
    half_SLE = block.covariates["load_half"]
    other_SLE = block.load_SLE - half_SLE
    a_SL, b_SL = (part.sum(axis=2).astype(np.float64) for part in (half_SLE, other_SLE))
    weight_SL = np.zeros(a_SL.shape)
    np.divide(np.sqrt(a_SL * b_SL), a_SL + b_SL, out=weight_SL, where=a_SL + b_SL > 0)
    deviation_SLE = (shares(half_SLE) - shares(other_SLE)) * weight_SL[:, :, None]
    return np.asarray(np.nan_to_num(deviation_SLE**2).sum(axis=0))
