"""`average_tuned`: the one average that other runs say is best for this horizon, state and size of batch.

The fair opponent of anything cleverer: one window of 1 to 3,072 steps, or one exponential decay, for each of five
horizons, for layers that move and layers that are still, and for small and large batches. `fit` takes the one with the
least mean logarithm of the total variation between it and the window that follows, over the `train` runs, each recipe
counting once. Where nothing was fitted, `SHIPPED` is used, chosen on the `train` runs of suite v3
(`fit` of this file; a test repeats it); a size of batch that no run had takes what the other had.

- Whether a layer moves is this forecaster's own estimate, from the newest 256 rows (`_spread.moving`); true before.
- Small or large is the mean load of an expert and row seen so far, below or from `LARGE` on: suites have runs of up to
  1,024 tokens per expert, and of 2,048 and more.
- The mean over each horizon of the table is the average chosen for it; between two of them, the step's share is what
  makes both true, with shares below 0 cut. Longer horizons go on as the last part does.
- Nothing observed: 1/E. A window longer than what was seen is what was seen.

Axis letters: S rows, L MoE layers, E experts, N candidates, K horizons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import FitRuns, Forecast, ForecastRequest, StepBlock, TraceInfo

from ._measures import WINDOWS, Memory, rows_of, tv
from ._series import FloatArray, ShareStream, to_simplex, uniform
from ._spread import moving
from .ema import ExponentialAverage

FACTS = {"average_tuned": {"place": 8}}
HORIZONS = (1, 10, 100, 1000, 2000)
DECAYS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Mean age in steps; the gain is one over it."""
CANDIDATES = tuple(f"window {w}" for w in WINDOWS) + tuple(f"decay {d}" for d in DECAYS)
SIZES = ("small", "large")
STATES = ("still", "moving")
LARGE = 1448
"""Tokens per expert and row from which on a batch is large: the geometric middle of 1,024 and 2,048."""
ORIGINS = 60
"""Origins per run that are spread evenly, and as many evenly in the logarithm of the step."""
FIRST_ROWS = 20
LEAST_TV = 2e-4

Table = Mapping[str, tuple[str, ...]]
"""For `SIZE STATE`, the candidate of each of `HORIZONS`."""

SHIPPED: Table = {
    "small still": ("decay 8", "decay 32", "decay 128", "decay 128", "decay 128"),
    "large still": ("decay 4", "decay 16", "decay 32", "decay 32", "decay 32"),
    "small moving": ("window 2", "decay 4", "decay 32", "decay 64", "decay 64"),
    "large moving": ("window 1", "decay 4", "decay 8", "decay 32", "decay 64"),
}


class _Bank:
    """The candidates' averages of a run so far."""

    def __init__(self, info: TraceInfo, candidates: tuple[str, ...]) -> None:
        self.memory = Memory(info)
        self._decays = {
            name: ExponentialAverage(info, 0, 1.0 / int(name.split()[1])) for name in candidates if name[0] == "d"
        }
        self._windows = {name: rows_of(int(name.split()[1]), info.stride) for name in candidates if name[0] == "w"}
        self._loads = 0.0

    def observe(self, block: StepBlock) -> None:
        self._loads += float(block.load_SLE.sum())
        self.memory.observe(block)
        for decay in self._decays.values():
            decay.observe(block)

    @property
    def size(self) -> str:
        info = self.memory.info
        cells = max(1, self.memory.rows) * info.num_layers * info.num_experts
        return SIZES[self._loads / cells >= LARGE]

    def averages(self) -> dict[str, FloatArray]:
        """Every candidate's shares [L, E]; at least one row must have been seen."""
        reach = self.memory.share.reach
        backs = sorted({min(back, reach) for back in self._windows.values()})
        rows_N, sum_NLE = self.memory.share.sums(backs)
        means = dict(zip(backs, sum_NLE / rows_N[:, None, None], strict=True))
        now = ForecastRequest(0, 1, (1,))
        return {
            **{name: means[min(back, reach)] for name, back in self._windows.items()},
            **{name: decay.forecast(now).share_BLE[0] for name, decay in self._decays.items()},
        }


class AverageTuned:
    """The average that is best on other runs for each horizon, state and size of batch."""

    def __init__(self, info: TraceInfo, seed: int, fitted: bytes | None = None) -> None:
        self._table = _read(bytes(fitted)) if fitted else SHIPPED
        self._bank = _Bank(info, tuple(sorted({name for row in self._table.values() for name in row})))

    @classmethod
    def fit(cls, runs: FitRuns, seed: int) -> bytes:
        """Return the table as JSON; empty without runs."""
        return json.dumps(best_averages(runs)).encode() if runs else b""

    def observe(self, block: StepBlock) -> None:
        """Keep the newest rows, sums of older ones, and the decays that the table names."""
        self._bank.observe(block)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Blocks between the horizons of the table."""
        info = self._bank.memory.info
        if not self._bank.memory.rows:
            return Forecast.constant(uniform(info), request.horizon)
        averages = self._bank.averages()
        moves_L1 = moving(self._bank.memory)[:, None]
        still, moves = (self._table[f"{self._bank.size} {state}"] for state in STATES)
        mean_K = [np.where(moves_L1, averages[m], averages[s]) for s, m in zip(still, moves, strict=True)]
        end_K = [max(1, round(h / info.stride)) for h in HORIZONS]
        share_BLE: list[FloatArray] = []
        edges: list[int] = []
        start, done_LE = 0, np.zeros_like(mean_K[0])
        for end, mean_LE in zip(end_K, mean_K, strict=True):
            if end > start and (start == 0 or edges[-1] < request.horizon):
                share_LE = to_simplex((end * mean_LE - done_LE) / (end - start), mean_LE)
                done_LE = done_LE + (end - start) * share_LE
                share_BLE.append(share_LE)
                edges.append(min(end * info.stride, request.horizon))
                start = end
        edges[-1] = request.horizon
        return Forecast(np.stack(share_BLE), np.array(edges, dtype=np.int64))


def best_averages(runs: FitRuns) -> dict[str, tuple[str, ...]]:
    """Return the candidate with the least mean log error for each size of batch, state and horizon of the table.

    `SHIPPED` where every run is too short to try anything on.
    """
    cells: dict[str, dict[int, list[FloatArray]]] = {}
    for info, block in runs:
        for cell, error_KN in _errors(info, block).items():
            cells.setdefault(cell, {}).setdefault(info.group, []).append(error_KN)
    means = {cell: _mean([_mean(errors) for errors in groups.values()]) for cell, groups in cells.items()}
    if not means:
        return dict(SHIPPED)
    chosen = {}
    for state in STATES:
        for size, fallback in (SIZES, SIZES[::-1]):
            cells_tried = (f"{s} {of}" for of in (state, *STATES) for s in (size, fallback))
            error_KN = next(means[cell] for cell in cells_tried if cell in means)
            filled = np.where(np.isnan(error_KN), np.inf, error_KN)
            chosen[f"{size} {state}"] = tuple(CANDIDATES[n] for n in filled.argmin(axis=1))
    return chosen


def _mean(errors: Sequence[FloatArray]) -> FloatArray:
    """Return the mean over those that are known, NaN where none is."""
    stacked = np.stack(errors)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(stacked, axis=0) / (~np.isnan(stacked)).sum(axis=0))


def _errors(info: TraceInfo, block: StepBlock) -> dict[str, FloatArray]:
    """Return, by `SIZE STATE`, the mean log error [K, N] over origins and layers of that state; NaN without any."""
    share_SLE = np.concatenate(list(ShareStream(info).chunks(block.load_SLE)))
    total_SLE = np.concatenate([np.zeros_like(share_SLE[:1]), np.cumsum(share_SLE, axis=0)])
    ahead_K = [max(1, round(h / info.stride)) for h in HORIZONS]
    bank, rows = _Bank(info, CANDIDATES), len(share_SLE)
    origins = np.concatenate([np.linspace(FIRST_ROWS, rows - 1, ORIGINS), np.geomspace(FIRST_ROWS, rows - 1, ORIGINS)])
    sums: dict[str, Any] = {}
    seen = 0
    for origin in np.unique(origins.astype(np.int64)) if rows > FIRST_ROWS else ():
        bank.observe(block.rows(seen, int(origin)))
        seen = int(origin)
        at_NLE = np.stack(list(bank.averages().values()))
        moves_L = moving(bank.memory)
        for k, ahead in enumerate(ahead_K):
            if origin + ahead > rows:
                break
            target_LE = (total_SLE[origin + ahead] - total_SLE[origin]) / ahead
            log_NL = np.log(np.maximum(tv(at_NLE, target_LE), LEAST_TV))
            for state, in_L in zip(STATES, (~moves_L, moves_L), strict=True):
                total_KN, many_K1 = sums.setdefault(
                    f"{bank.size} {state}", (np.zeros((len(HORIZONS), len(CANDIDATES))), np.zeros((len(HORIZONS), 1)))
                )
                total_KN[k] += log_NL[:, in_L].sum(axis=1)
                many_K1[k] += in_L.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return {cell: total_KN / many_K1 for cell, (total_KN, many_K1) in sums.items()}


def _read(text: bytes) -> Table:
    try:
        table = {str(cell): tuple(map(str, row)) for cell, row in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError):
        raise TargetError("average_tuned: what was fitted is not the table that `fit` returns") from None
    cells = [f"{size} {state}" for size in SIZES for state in STATES]
    if sorted(table) != sorted(cells) or any(
        len(r) != len(HORIZONS) or set(r) - set(CANDIDATES) for r in table.values()
    ):
        raise TargetError(f"average_tuned: got a table of {sorted(table)}, expected averages for {cells}")
    return table
