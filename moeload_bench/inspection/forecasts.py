"""Forecasts while the run goes on, scored when what they spoke of has come.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.evaluation.harness import follow
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.inspection.past import Kept
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import class_target, parse_target
from moeload_bench.scoring.noise import MEAN_ABS_NORMAL, batch_noise
from moeload_bench.traces.means import mean_known, ratio_of

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


class WindowTruth(NamedTuple):
    """What came in a window: mean shares [L, E], NaN in a layer without load, and the batch floor [L]."""

    share_LE: FloatArray
    floor_L: FloatArray


@dataclass(eq=False)
class _Window:
    """What has come so far in a window: shares added up, and the squared noise of each."""

    total_LE: FloatArray
    count_L: IntArray
    variance_LE: FloatArray
    rows: int = 0

    def truth(self) -> WindowTruth:
        deviation_LE = np.sqrt(self.variance_LE / self.rows / self.rows)
        floor_L = np.where(self.count_L > 0, 0.5 * MEAN_ABS_NORMAL * deviation_LE.sum(axis=1), np.nan)
        return WindowTruth(ratio_of(self.total_LE, self.count_L[:, None]), floor_L)


class Windows:
    """What comes in the windows that forecasts speak of, added up once for all forecasters."""

    def __init__(self, info: TraceInfo, horizon: int) -> None:
        L, E = info.num_layers, info.num_experts
        self._horizon, self._stride = horizon, info.stride
        self._open: deque[_Window] = deque()
        self.last_LE = np.full((L, E), 1.0 / E)
        """The newest shares of each layer with load."""

    def open(self) -> None:
        """Begin a window with the next row."""
        L, E = self.last_LE.shape
        self._open.append(_Window(np.zeros((L, E)), np.zeros(L, dtype=np.int64), np.zeros((L, E))))

    def add(self, block: StepBlock, share_SLE: FloatArray, rows: int) -> list[WindowTruth]:
        """Take in whole blocks of so many rows; return what came in the windows that are over."""
        blocks, (_, L, E) = len(block) // rows, share_SLE.shape
        known_SL1 = np.isfinite(share_SLE[:, :, :1])
        total_NLE = np.where(known_SL1, share_SLE, 0.0).reshape(blocks, rows, L, E).sum(axis=1)
        count_NL = known_SL1.reshape(blocks, rows, L).sum(axis=1)
        newest_L = len(block) - 1 - known_SL1[::-1, :, 0].argmax(axis=0)
        newest_LE = share_SLE[newest_L, np.arange(len(newest_L))]
        self.last_LE = np.where(known_SL1.any(axis=0), newest_LE, self.last_LE)
        variance_NLE = _batch_variance(block, rows)
        over = []
        for total_LE, count_L, variance_LE in zip(total_NLE, count_NL, variance_NLE, strict=True):
            for one in self._open:
                one.total_LE += total_LE
                one.count_L += count_L
                one.variance_LE += variance_LE
                one.rows += rows
            while self._open and self._open[0].rows * self._stride >= self._horizon:
                over.append(self._open.popleft().truth())
        return over


class _Sums:
    """Running means [L] of three errors, over the layers and windows that have them."""

    def __init__(self, layers: int) -> None:
        self._total_3L = np.zeros((3, layers))
        self._count_3L = np.zeros((3, layers), dtype=np.int64)
        self._finished = 0

    def add(self, error_3L: FloatArray, where_L: BoolArray | Literal[True] = True) -> None:
        known = np.isfinite(error_3L) & where_L
        self._total_3L += np.where(known, error_3L, 0.0)
        self._count_3L += known
        self._finished += bool(np.any(where_L))

    def scores(self) -> Scores:
        return Scores(self._finished, *ratio_of(self._total_3L, self._count_3L))


class Forecasts:
    """The forecaster in this process, what it said, and how much of that was wrong."""

    def __init__(
        self, info: TraceInfo, forecaster: str | type[Any], horizon: int, *, seed: int, fitted: bytes | None,
        level: Level = "none",
    ) -> None:  # fmt: skip
        self._horizon = horizon
        target = class_target(forecaster) if isinstance(forecaster, type) else parse_target(forecaster)
        self._feed = follow(target, info, seed=seed, fitted=fitted, level=level)
        self._said: deque[FloatArray] = deque()
        self.errors = Kept(MOST_ERRORS)
        self._cpu_s, self._asks = 0.0, 0

    @property
    def cpu_ms(self) -> float:
        """Return the CPU milliseconds of a forecast, observing included, in this thread."""
        return 1000 * self._cpu_s / max(1, self._asks)

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
        self._said.append(share_LE)
        return share_LE

    def score(self, truth_LE: FloatArray) -> None:
        """Score the oldest forecast that is not scored yet."""
        self.errors.add(mean_known(misplaced(self._said.popleft(), truth_LE)))


@dataclass(eq=False)
class _Asked:
    """A forecast that waits for its window."""

    share_LE: FloatArray
    last_LE: FloatArray
    low_LE: FloatArray
    high_LE: FloatArray
    transient_L: BoolArray


class TrackRecord:
    """How good the forecasts of one forecaster were, and the interval of the next: what is shown."""

    def __init__(self, info: TraceInfo, horizon: int) -> None:
        L, E = info.num_layers, info.num_experts
        self._horizon = horizon
        self._asked: deque[_Asked] = deque()
        self._square_LE = np.full((L, E), np.nan)
        self._scored = 0
        self._inside, self._judged = 0, 0
        self._all, self._stable, self._transient, self._start = (_Sums(L) for _ in range(4))
        self._lately: deque[FloatArray] = deque(maxlen=LATELY)

    def add(self, share_LE: FloatArray, last_LE: FloatArray, transient_L: BoolArray) -> Outlook:
        """Take in a forecast and what `last_value` would say, kept until its window has come."""
        half = NORMAL_WIDTH * np.sqrt(self._square_LE) if self._scored >= LEAST_SCORED else self._square_LE * np.nan
        low_LE, high_LE = np.clip(share_LE - half, 0.0, 1.0), np.clip(share_LE + half, 0.0, 1.0)
        self._asked.append(_Asked(share_LE, last_LE, low_LE, high_LE, transient_L.copy()))
        covered = self._inside / self._judged if self._judged else float("nan")
        lately = _Sums(len(share_LE))
        for error_3L in self._lately:
            lately.add(error_3L)
        scores = [sums.scores() for sums in (self._all, self._stable, self._transient, self._start, lately)]
        return Outlook(self._horizon, share_LE, low_LE, high_LE, covered, *scores)

    def score(self, truth: WindowTruth) -> None:
        """Score the oldest forecast that is not scored yet."""
        asked, truth_LE = self._asked.popleft(), truth.share_LE
        error_3L = np.stack([misplaced(asked.share_LE, truth_LE), misplaced(asked.last_LE, truth_LE), truth.floor_L])
        self._all.add(error_3L)
        self._stable.add(error_3L, ~asked.transient_L)
        self._transient.add(error_3L, asked.transient_L)
        if self._scored < LATELY:
            self._start.add(error_3L)
        self._lately.append(error_3L)
        self._take_error(asked, truth_LE, (asked.share_LE - truth_LE) ** 2)

    def _take_error(self, asked: _Asked, truth_LE: FloatArray, square_LE: FloatArray) -> None:
        judged = np.isfinite(asked.low_LE) & np.isfinite(truth_LE)
        self._judged += int(judged.sum())
        self._inside += int((judged & (asked.low_LE <= truth_LE) & (truth_LE <= asked.high_LE)).sum())
        mixed = KEEP * self._square_LE + (1 - KEEP) * square_LE
        fresh = np.where(np.isnan(self._square_LE), square_LE, mixed)
        self._square_LE = np.where(np.isfinite(square_LE), fresh, self._square_LE)
        self._scored += 1


def misplaced(share_LE: FloatArray, truth_LE: FloatArray) -> FloatArray:
    """Return the part of each layer's tokens [L] that a forecast puts with the wrong expert."""
    return np.asarray(0.5 * np.abs(share_LE - truth_LE).sum(axis=1))


def _batch_variance(block: StepBlock, rows: int) -> FloatArray:
    """Sum over every so many rows [N, L, E] of the squared noise of each share, by `batch_noise`.

    NaN without half batches.
    """
    if "load_half" not in block.covariates:
        return np.full((len(block) // rows, *block.load_SLE.shape[1:]), np.nan)
    square_SLE = np.nan_to_num(batch_noise(block.load_SLE, block.covariates["load_half"]).terms[0])
    return np.asarray(square_SLE.reshape(-1, rows, *square_SLE.shape[1:]).sum(axis=1))
