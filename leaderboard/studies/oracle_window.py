"""`oracle.window`: the best fixed window in hindsight, a yardstick and no forecaster.

For every run, state and horizon the window mean that scores best on that very run's tasks, of the windows of `gated`'s
bank (1 to 3,072 steps) and 1/E. No forecaster can know which that is, so it is shown beside the entries in italics and
never ranked; what a forecaster gains over it, no choice of a window can give. Writes leaderboard/oracle_window.json.

Axis letters: S steps, L MoE layers, E experts, O origins, K suite horizons, W windows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer
from moeload_bench.baselines._measures import WINDOWS

from leaderboard.committed import ROOT
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ResultError
from moeload_bench.results.comparison import Errors
from moeload_bench.scoring.metrics import total_variation
from moeload_bench.suites.suite import Suite, load_suite
from moeload_bench.traces.store import find_trace, read_trace
from moeload_bench.traces.trace import Trace, shares

OUT = ROOT / "leaderboard" / "oracle_window.json"
NAME = "oracle.window"


def window_errors(trace: Trace, origins: Sequence[int], horizons: Sequence[int]) -> FloatArray:
    """[O, K, W]: `window_tv`, mean over layers, of every window's mean held over the horizon; last the even share.

    A layer-step without load repeats the layer's last shares, as it does for `sw_avg`, and is left out of the truth's
    mean only where the whole window has none.
    """
    share_SLE = shares(trace.load_SLE)
    known_SL1 = np.asarray(np.isfinite(share_SLE).all(axis=2, keepdims=True))
    sum_SLE = _running(np.asarray(np.where(known_SL1, share_SLE, 0.0)))
    count_SL1 = _running(known_SL1.astype(np.float64))
    first, stride = int(trace.step_S[0]), trace.meta.stride
    out = np.empty((len(origins), len(horizons), len(WINDOWS) + 1))
    for o, origin in enumerate(origins):
        row = (origin - first) // stride
        back = [max(0, row - max(1, round(w / stride))) for w in WINDOWS]
        told_WLE = _between(sum_SLE, count_SL1, back, [row] * len(back))
        told_WLE = np.concatenate([told_WLE, np.full((1, *told_WLE.shape[1:]), 1.0 / trace.num_experts)])
        true_KLE = _between(sum_SLE, count_SL1, [row] * len(horizons), [row + h // stride for h in horizons])
        out[o] = np.nanmean(total_variation(told_WLE[None], true_KLE[:, None]), axis=-1)
    return out


def _running(value_SLX: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((1, *value_SLX.shape[1:])), np.cumsum(value_SLX, axis=0)])


def _between(sum_SLE: FloatArray, count_SL1: FloatArray, start: Sequence[int], stop: Sequence[int]) -> FloatArray:
    """Mean shares of the rows start .. stop-1; NaN for a layer without any load there."""
    total, count = sum_SLE[list(stop)] - sum_SLE[list(start)], count_SL1[list(stop)] - count_SL1[list(start)]
    out = np.full(total.shape, np.nan)
    np.divide(total, count, out=out, where=np.broadcast_to(count > 0, total.shape))
    return out


def best_in_hindsight(error_OKW: FloatArray, state_O: Sequence[str]) -> FloatArray:
    """[O, K]: at every horizon the errors of the window with the least mean logarithm over the state's origins."""
    out = np.empty(error_OKW.shape[:2])
    for state in set(state_O):
        here = [o for o, s in enumerate(state_O) if s == state]
        log_KW = np.log(np.maximum(error_OKW[here], 1e-12)).mean(axis=0)
        for k, w in enumerate(log_KW.argmin(axis=-1)):
            out[here, k] = error_OKW[here, k, w]
    return out


def measured(suite: Suite) -> dict[str, dict[str, list[float | None]]]:
    """Trace id to origin to the errors [K] of the yardstick, None at horizons that the run is not asked for."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for entry in suite.traces:
        trace = read_trace(find_trace(entry.id), expected_sha256=entry.data_sha256)
        origins, states = zip(*entry.origins(), strict=True)
        asked = entry.asked(suite.horizons)
        best_OK = best_in_hindsight(window_errors(trace, origins, asked), states)
        lacking = [None] * (len(suite.horizons) - len(asked))
        rows = ([float(f"{v:.6g}") for v in row] for row in best_OK)
        found[entry.id] = {str(o): [*row, *lacking] for o, row in zip(origins, rows, strict=True)}
    return found


def with_yardstick(errors: Errors, name: str) -> Errors:
    """Return the errors of tasks of a suite with the yardstick beside the forecasters; unchanged where none was
    measured.

    ``errors`` must hold every task of its runs. Raises `ResultError` when they, or the file, are of other tasks.
    """
    kept = json.loads(OUT.read_text()).get(name) if OUT.is_file() else None
    if kept is None:
        return errors
    suite = load_suite(name)
    if kept["sha256"] != suite.sha256():
        raise ResultError(
            f"{OUT.name}: measured on suite {suite.name} {kept['sha256'][:12]}, expected {suite.sha256()[:12]}; "
            f"measure it again: python -m leaderboard studies oracle-window {suite.name}"
        )
    runs = set(errors.tasks.run_T)
    entries = [entry for entry in suite.traces if entry.id in runs]
    tasks = [(entry.id, v) for entry in entries for o, _ in entry.origins() for v in kept["traces"][entry.id][str(o)]]
    if [run for run, _ in tasks] != list(errors.tasks.run_T):
        raise ResultError(
            f"{NAME} needs the tasks of suite {name} in their order, got {len(errors.tasks.run_T)} others"
        )
    value_T = [np.nan if value is None else value for _, value in tasks]
    return Errors(**{**vars(errors), "by_forecaster": {**errors.by_forecaster, NAME: np.array(value_T)}})


def oracle_window(suite: Annotated[str, typer.Argument(help="A suite's name.")]) -> None:
    """Measure the best fixed window in hindsight, a yardstick that no forecaster can know.

    Written into leaderboard/oracle_window.json.
    """
    tasks = load_suite(suite)
    known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    known[tasks.name] = {"sha256": tasks.sha256(), "traces": measured(tasks)}
    lines = json.dumps(known, indent=1, sort_keys=True).replace("\n     ", " ").replace("\n    ]", "]")
    OUT.write_text(lines + "\n")
