"""Committed `window_tv` recomputed from the traces' token counts, with numpy and pyarrow alone.

Three entries are simple enough to forecast again here: an even share, the newest share, and the moving average over
100 steps that takes its own forecasts in. Nothing of the project is imported: a mistake in reading, replaying, scoring
or storing cannot hide in both.

Axis letters: S steps, L layers, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "leaderboard" / "results"
FOLDERS = (ROOT / "traces", ROOT / "moeload_bench" / "data")
RUNS = [
    ("mini", "qwen3moe-tiny-8e/test/seed1"),
    ("mini", "qwen3moe-tiny-8e-aux0/test/seed1"),
    ("v3", "deepseekv3-16e-large-lossfree/test/seed203"),
]
WINDOW = 100
Shares = NDArray[np.float64]


def shares_of(run: str) -> tuple[NDArray[np.int64], Shares, int]:
    """Return steps [S], shares [S, L, E] and the steps between two rows, from a trace's file."""
    paths = [path for folder in FOLDERS if (path := folder / f"{run}.parquet").is_file()]
    if not paths:
        pytest.skip(f"this checkout has no {run}")
    table = pq.read_table(paths[0], columns=["step", "load"])
    stride = json.loads(table.schema.metadata[b"moeload"])["stride"]
    load = table["load"].combine_chunks()
    shape = len(table), load.type.list_size, load.type.value_type.list_size
    load_SLE = load.flatten().flatten().to_numpy().reshape(shape)
    total_SL = load_SLE.sum(axis=2, keepdims=True)
    assert (total_SL > 0).all(), "a layer without load needs rules that are not repeated here"
    return table["step"].to_numpy(), load_SLE / total_SL, stride


def uniform(past_SLE: Shares, rows: int, stride: int) -> Shares:
    """Return 1/E for each row."""
    return np.full((rows, *past_SLE.shape[1:]), 1 / past_SLE.shape[2])


def last_value(past_SLE: Shares, rows: int, stride: int) -> Shares:
    """Return the newest shares for each row."""
    return np.repeat(past_SLE[-1:], rows, axis=0)


def sw_avg(past_SLE: Shares, rows: int, stride: int) -> Shares:
    """Return means of the last 100 steps, of which each next one takes in the forecast before."""
    window_SLE = past_SLE[-(WINDOW // stride) :]
    width = len(window_SLE)
    path_SLE = np.concatenate([window_SLE, np.empty((rows, *window_SLE.shape[1:]))])
    for row in range(width, width + rows):
        path_SLE[row] = path_SLE[row - width : row].mean(axis=0)
    return path_SLE[width:]


@pytest.mark.parametrize(("suite", "run"), RUNS)
@pytest.mark.parametrize("forecast", [uniform, last_value, sw_avg])
def test_committed_errors_are_those_of_the_token_counts(
    suite: str, run: str, forecast: Callable[[Shares, int, int], Shares]
) -> None:
    """Each origin and horizon: half the sum over experts of |mean forecast - mean truth|, mean over layers."""
    name = forecast.__name__
    file = RESULTS / suite / f"{name}.parquet"
    rows = pq.read_table(file, columns=["origin", "horizon", "window_tv"], filters=[("trace", "=", run)]).to_pylist()
    committed = {(row["origin"], row["horizon"]): row["window_tv"] for row in rows}
    assert len(committed) == len(rows) > 100
    step_S, share_SLE, stride = shares_of(run)
    found = {}
    for origin in sorted({origin for origin, _ in committed}):
        row = int(np.searchsorted(step_S, origin))
        assert step_S[row] == origin
        horizons = [horizon for at, horizon in committed if at == origin and committed[at, horizon] is not None]
        path_SLE = forecast(share_SLE[:row], max(horizons) // stride, stride)
        for horizon in horizons:
            count = horizon // stride
            gap_LE = path_SLE[:count].mean(axis=0) - share_SLE[row : row + count].mean(axis=0)
            found[origin, horizon] = 0.5 * np.abs(gap_LE).sum(axis=1).mean()
    known = {task: error for task, error in committed.items() if error is not None}
    assert found.keys() == known.keys()
    np.testing.assert_allclose([found[task] for task in known], list(known.values()), rtol=6e-9, atol=1e-12)
