"""`python -m leaderboard forks`: forecasters and the floor against the same futures of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leaderboard.forks import AVERAGES, BEST, FLOOR, HORIZONS, fork_errors, forked_runs, mean_errors
from moeload_bench.errors import ResultError
from moeload_bench.scoring.forks import floor_fork, horizon_means
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace

ORIGIN = 200
BASE = synthetic_trace(ORIGIN + HORIZONS[-1], seed=0)


def future(seed: int, steps: int) -> Trace:
    """Return steps from ORIGIN on that another seed gives."""
    other = synthetic_trace(steps, seed=seed)
    return replace(other, step_S=other.step_S + ORIGIN)


def test_all_are_asked_once_and_measured_against_every_future() -> None:
    """The floor is that of the run's own future and the others; an even share is as far as their mean from 1 / E."""
    others = [future(seed, HORIZONS[-1]) for seed in (1, 2)]
    rows = pd.DataFrame(fork_errors(BASE, {ORIGIN: others})).set_index("horizon")
    loads = [BASE.load_SLE[ORIGIN:], *(one.load_SLE for one in others)]
    future_JKLE = np.stack([horizon_means(load_SLE, HORIZONS) for load_SLE in loads])
    even_K = 0.5 * np.abs(future_JKLE - 1 / BASE.meta.experts).sum(axis=3).mean(axis=(0, 2))
    assert list(rows.index) == list(HORIZONS)
    assert set(rows["futures"]) == {3}
    assert rows[FLOOR].to_numpy() == pytest.approx(floor_fork(future_JKLE)[0])
    assert rows["uniform"].to_numpy() == pytest.approx(even_K)


def test_a_horizon_beyond_the_shortest_future_is_left_out() -> None:
    """Rather than measured over fewer steps."""
    rows = list(fork_errors(BASE, {ORIGIN: [future(1, HORIZONS[-1]), future(2, 300)]}))
    assert [row["horizon"] for row in rows] == [h for h in HORIZONS if h <= 300]


def test_the_best_average_is_chosen_after_runs_are_averaged() -> None:
    """Every run weighs the same, whatever its origins; one average is best in each cell."""
    rows = [("a", 1, 0.1, 0.4), ("a", 2, 0.3, 0.4), ("b", 1, 0.6, 0.1)]
    errors = pd.DataFrame(rows, columns=["run", "origin", "ema", "uniform"]).assign(state="stable", horizon=1)
    errors[[name for name in (*AVERAGES, "online", FLOOR) if name not in errors]] = 1.0
    assert mean_errors(errors)[BEST].item() == pytest.approx(0.25)


def test_futures_are_found_beside_their_run(tmp_path: Path) -> None:
    """By the origin at which they begin; a folder without any is refused."""
    write_trace(BASE, tmp_path / "old" / "own" / "s1" / "seed0.parquet")
    for seed in (1, 2):
        write_trace(future(seed, 30), tmp_path / "old" / "own" / "s1_forks" / f"seed{seed}.parquet")
    ((base, futures),) = forked_runs(tmp_path)
    assert base.id == BASE.id
    assert {origin: len(found) for origin, found in futures.items()} == {ORIGIN: 2}
    with pytest.raises(ResultError, match="no RECIPE/SPLIT_forks"):
        next(forked_runs(tmp_path / "old" / "own" / "s1_forks"))
