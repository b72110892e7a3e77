"""`online`: means of windows, a ridge and similar rows, weighted by their errors on this very run.

Learns from no other run but the constants of `Constants`. What it forecasts for the mean of the next h rows, after t
rows, with u = 1/E of living experts and m_w the mean of the newest w rows:

1. Candidates are m_w, (m_w + u) / 2 and u. Each is tried on the newest complete targets of min(h, t/4) and of
   min(h, t/8) rows. Its log error e is the mean of both. Half of an error is the layer's own, half the mean over
   layers. A window whose error on the newest 16 rows exceeds that of the best one has lost the level: `breaks` times
   the excess of squares is added to exp(e)^2. The mixture has the weights exp(-`sharpness` e).
2. A prior says what u gains where no target as long as h is complete: log e_u -= s log(h / min(h, t/2)), with s by
   balancing method, since balanced loads return to 1/E. Halves gain `halves` of that where no controller moves a bias.
3. For h up to 100 a ridge forecasts what the mixture leaves: from lagged rows, windows, u and, under loss-free
   balancing, the signs that move the bias. Layers and experts share its coefficients. For h up to 10, what followed
   the rows most like the newest one is a third rival: it knows any cycle.
4. Mixture, ridge and similar rows get weights by their errors on the newest quarter of targets, with `trust` as
   exponent. The ridge that is tried on these was fitted without them.

Nothing observed: 1/E. Fewer than 5 rows: their mean. Other unusual input: as `gated` says, whose memory this is.

Axis letters: N origins or targets (newest first), W windows, C candidates, F features, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from ._history import SINGLE
from ._measures import LIVE_WINDOWS, STARVED, Memory
from ._pooled import log_errors, pooled_ridge, powers, similar_rows
from ._series import FloatArray, IntArray, row_count, to_simplex, uniform
from ._totals import Totals

FACTS = {"online": {"place": 21, "step_ns": 10, "forecast_us": 90, "own_run": 9, "plan": 4}}
HORIZONS = (1, 10, 100, 1000, 2000)
"""Training steps over which a mean is forecast; between two of them the forecast is constant."""
MIN_ROWS = 5
SHORT = 32
"""Rows of a target up to which the short windows are candidates."""
NEAR, FAR = (1, 2, 4, 8, 16, 32, 64, 128, 512), (16, 32, 64, 128, 256, 512, 1024, 2048)
"""Windows, in rows, for short targets and for longer ones."""
HALVES = (4, 16, 64, 256)
"""Windows whose middle with u is a candidate, too."""
TARGETS = ((4, 6), (320, 2))
"""Below so many rows of a target, how many targets; else one."""
BREAK_ROWS = 16
LAGS = 4
RIDGE_ROWS, SIMILAR_ROWS = 100, 10
"""Rows ahead up to which there is a ridge, and up to which similar rows are looked for."""
RIDGE_TARGETS = ((4, 64, 16.0), (32, 23, 8.0), (1000, 16, 4.0))
"""Below so many rows of a target: how many targets at most, and after how many one counts half."""
RIDGE_CELLS = 1 << 19
"""Of targets, rows x layers x experts: what bounds the time of large models."""


@dataclass(frozen=True)
class Constants:
    """What `online` knows beforehand, chosen on `train` runs (`python -m leaderboard fit online`)."""

    sharpness: float = 8.0
    breaks: float = 0.3
    loss_free: float = 1.5
    quantile: float = 0.5
    aux_loss: float = 0.45
    halves: float = 0.5
    lean: float = 0.15
    """Under loss-free balancing, of u's log error beyond one row, whatever has been seen."""
    trust: float = 16.0
    doubt: float = 0.1
    """Added to the log error of similar rows."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
                raise TargetError(f"online: {name} is {value!r}, expected a number from 0 to 100")


class Online:
    """A mixture of windows, a ridge and similar rows; nothing is computed before a forecast is asked for."""

    def __init__(self, info: TraceInfo, seed: int, **constants: float) -> None:
        unknown = sorted(set(constants) - set(Constants.__dataclass_fields__))
        if unknown:
            raise TargetError(
                f"online: no parameter {unknown[0]}, there is {', '.join(Constants.__dataclass_fields__)}"
            )
        self._constants = Constants(**constants)
        self._memory = Memory(info)

    def observe(self, block: StepBlock) -> None:
        """Keep the newest rows and sums of older ones."""
        self._memory.observe(block)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return a block up to each of `HORIZONS`."""
        return forecast_from(self._memory, self._constants, request.horizon)


def forecast_from(memory: Memory, constants: Constants, horizon: int) -> Forecast:
    """Return a block up to each of `HORIZONS`, with the mean that is forecast up to there."""
    info = memory.info
    if memory.rows < MIN_ROWS:
        rows_SLE = memory.share.newest(MIN_ROWS)
        return Forecast.constant(rows_SLE.mean(axis=0) if len(rows_SLE) else uniform(info), horizon)
    past = Past(memory, constants)
    share_BLE: list[FloatArray] = []
    edges: list[int] = []
    start, sum_LE = 0, np.zeros_like(uniform(info))
    for rows in sorted({row_count(h, info.stride) for h in HORIZONS}):
        mean_LE = past.mean_of_next(rows)
        share_LE = to_simplex((rows * mean_LE - sum_LE) / (rows - start), mean_LE)
        start, sum_LE = rows, sum_LE + (rows - start) * share_LE
        share_BLE.append(share_LE)
        edges.append(rows * info.stride)
        if edges[-1] >= horizon:
            break
    edges[-1] = horizon
    return Forecast(np.stack(share_BLE), np.array(edges, dtype=np.int64))


class Past:
    """A run's memory at one step, and what it says of the rows to come; an origin is so many rows before that step."""

    def __init__(self, memory: Memory, constants: Constants) -> None:
        self._memory, self._constants = memory, constants
        self._shares = Totals(memory.share)
        self._signs = None if memory.sign is None else Totals(memory.sign)
        self._seen = self._shares.reach
        self._errors: dict[tuple[int, tuple[int, ...]], FloatArray] = {}

    def mean_of_next(self, rows: int) -> FloatArray:
        """[L, E]: the mean share of the next rows."""
        lengths = sorted({max(1, min(rows, self._seen // part)) for part in (4, 8)})
        windows = NEAR if lengths[-1] <= SHORT else FAR
        mixture_WL = self._mixture(rows, lengths, windows)
        if rows > RIDGE_ROWS or self._seen < 4 * rows + 16:
            return np.asarray(self._mixed(mixture_WL, np.zeros(1, dtype=np.int64), windows)[0])
        return self._best_of_rivals(rows, mixture_WL, windows)

    @cached_property
    def _even_LE(self) -> FloatArray:
        """u: equal shares for experts that are alive; all are under a controller, which wakes every one up."""
        if self._memory.controlled:
            return uniform(self._memory.info)
        most_LE = self._shares.windows([0], LIVE_WINDOWS)[0].max(axis=0)
        alive_LE = np.minimum(most_LE * (most_LE.shape[1] / STARVED), 1.0)
        return np.asarray(alive_LE / alive_LE.sum(axis=1, keepdims=True))

    def _mixture(self, rows: int, lengths: Sequence[int], windows: tuple[int, ...]) -> FloatArray:
        """[W + 1, L]: how much each window and, last, u counts for a horizon, by errors on targets of these lengths."""
        constants, W = self._constants, len(windows)
        log_CL = np.mean([self._log_errors(length, windows) for length in lengths], axis=0)
        if lengths[-1] >= 4 * BREAK_ROWS:
            now_WL = np.exp(2 * self._log_errors(BREAK_ROWS, windows)[:W])
            squared_WL = np.exp(2 * log_CL[:W]) + constants.breaks * (now_WL - now_WL.min(axis=0))
            log_CL[:W] = 0.5 * np.log(squared_WL)
        gain = self._prior(rows)
        log_CL[-1] -= gain + (constants.lean if self._memory.controlled and rows > 1 else 0.0)
        log_CL[W:-1] -= 0.0 if self._memory.controlled else constants.halves * gain
        weight_CL = powers(log_CL, constants.sharpness)
        mixture_WL = np.concatenate([weight_CL[:W], weight_CL[-1:]])
        mixture_WL[_halved(windows)] += 0.5 * weight_CL[W:-1]
        mixture_WL[-1] += 0.5 * weight_CL[W:-1].sum(axis=0)
        return np.asarray(mixture_WL)

    def _prior(self, rows: int) -> float:
        """How much less the log error of u is over so many rows than over the longest target, in a balanced run."""
        constants = self._constants
        methods = {
            "loss_free_bias": constants.loss_free,
            "quantile": constants.quantile,
            "aux_loss": constants.aux_loss,
        }
        return float(methods.get(self._memory.info.balancing, 0.0) * np.log(rows / min(rows, self._seen / 2)))

    def _log_errors(self, rows: int, windows: tuple[int, ...]) -> FloatArray:
        """[C, L]: of windows, halves and u, on the newest targets of so many rows."""
        if (rows, windows) not in self._errors:
            self._errors[rows, windows] = self._tried(rows, windows)
        return self._errors[rows, windows]

    def _tried(self, rows: int, windows: tuple[int, ...]) -> FloatArray:
        targets = next((count for below, count in TARGETS if rows < below), 1)
        origin_N = rows + max(1, rows // 2) * np.arange(targets)
        origin_N = origin_N[origin_N < self._seen]
        window_NWLE = self._shares.windows(origin_N, windows)
        half_NCLE = 0.5 * (window_NWLE[:, _halved(windows)] + self._even_LE)
        even_NLE = np.broadcast_to(self._even_LE, (len(origin_N), 1, *self._even_LE.shape))
        tried_NCLE = np.concatenate([window_NWLE, half_NCLE, even_NLE], axis=1)
        return log_errors(tried_NCLE, self._shares.means(origin_N - rows, origin_N))

    def _mixed(self, mixture_WL: FloatArray, origin_N: IntArray, windows: tuple[int, ...]) -> FloatArray:
        """[N, L, E]: today's mixture of what each origin had seen."""
        mixed_NLE = mixture_WL[-1][:, None] * np.broadcast_to(self._even_LE, (len(origin_N), *self._even_LE.shape))
        for weight_L, window in zip(mixture_WL, windows, strict=False):
            mixed_NLE += weight_L[:, None] * self._shares.means(origin_N, origin_N + window)
        return np.asarray(mixed_NLE)

    def _best_of_rivals(self, rows: int, mixture_WL: FloatArray, windows: tuple[int, ...]) -> FloatArray:
        """[L, E]: mixture, ridge and similar rows, weighted by their errors on the newest quarter of targets."""
        most, half = next((most, half) for below, most, half in RIDGE_TARGETS if rows < below)
        step = max(1, rows // 2)
        room = (self._seen - BREAK_ROWS - rows) // step
        if rows <= SIMILAR_ROWS:
            room = min(room, (SINGLE - LAGS - rows) // step)
        count = min(most, room, max(16, RIDGE_CELLS // self._even_LE.size))
        newest = max(1, count // 4)
        origin_N = np.append(0, rows + step * np.arange(count))  # the first of them is now
        target_NLE = self._shares.means(origin_N[1:] - rows, origin_N[1:])
        base_NLE = self._mixed(mixture_WL, origin_N, windows)
        feature_NFLE = self._features(rows, origin_N, base_NLE)
        past = feature_NFLE[1:], target_NLE - base_NLE[1:], 0.5 ** (np.arange(count) / half)
        coefficient_NF = np.stack([pooled_ridge(*past), *[pooled_ridge(*(part[newest:] for part in past))] * newest])
        moved_NLE = base_NLE[: 1 + newest] + np.einsum("nf,nfle->nle", coefficient_NF, feature_NFLE[: 1 + newest])
        rivals = [base_NLE[: 1 + newest], to_simplex(moved_NLE, base_NLE[: 1 + newest])]
        doubt_C1 = np.zeros((2, 1))
        if rows <= SIMILAR_ROWS:
            rivals.append(self._similar(rows, origin_N[: 1 + newest]))
            doubt_C1 = np.append(doubt_C1, [[self._constants.doubt]], axis=0)
        rival_NCLE = np.stack(rivals, axis=1)
        log_CL = log_errors(rival_NCLE[1:], target_NLE[:newest]) + doubt_C1
        return np.asarray(np.einsum("cl,cle->le", powers(log_CL, self._constants.trust), rival_NCLE[0]))

    def _features(self, rows: int, origin_N: IntArray, base_NLE: FloatArray) -> FloatArray:
        """[N, F, L, E]: each sums to 0 over the experts of a layer."""
        base_N1LE, short = base_NLE[:, None], rows <= SIMILAR_ROWS
        parts = [self._shares.windows(origin_N, (8, 32, 512) if short else (16, 64, 512)) - base_N1LE]
        if short:
            lag_NF = origin_N[:, None] + np.arange(LAGS)
            parts.append(self._shares.means(lag_NF, lag_NF + 1) - base_N1LE)
        parts.append(self._even_LE - self._shares.windows(origin_N, (128,)))
        if self._signs is not None:
            sign_NFLE = self._signs.windows(origin_N, (1, 4, 16, 64) if short else (16, 64))
            parts.append((sign_NFLE - sign_NFLE.mean(axis=3, keepdims=True)) / sign_NFLE.shape[3])
        return np.concatenate(parts, axis=1)

    def _similar(self, rows: int, origin_N: IntArray) -> FloatArray:
        """[N, L, E]: the mean of what followed the rows most like the newest one of each origin."""
        row_JLE = self._memory.share.newest(SINGLE)[::-1]
        nearest_NKL, weight_NKL = similar_rows(row_JLE, origin_N, rows)
        begin_J = np.maximum(np.arange(len(row_JLE)) - rows, 0)
        followed_JLE = self._shares.means(begin_J, begin_J + rows)
        share_NKLE = followed_JLE[nearest_NKL, np.arange(row_JLE.shape[1])]
        return np.asarray(np.einsum("nkl,nkle->nle", weight_NKL, share_NKLE))


def _halved(windows: tuple[int, ...]) -> list[int]:
    return [windows.index(w) for w in HALVES if w in windows]
