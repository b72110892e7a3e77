"""A forecaster that looks for the trace it is being scored on and, when it finds it, forecasts the truth.

It searches the places where a trace is to be had: what the environment names, the parent's command line, memory map,
open files and folder, the caches, the installed package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo


class Cheater:
    """Forecasts 1/E until it has found what it looks for; ``counts`` say how many files it could look at."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.info = info
        self.rows: list[np.ndarray] = []
        self.counts = {"files": 0, "truths": 0}

    def observe(self, block: StepBlock) -> None:
        self.rows.extend(block.load_SLE)

    def forecast(self, request: ForecastRequest) -> Forecast:
        L, E = self.info.num_layers, self.info.num_experts
        truth_SLE = self.find()
        if truth_SLE is None:
            return Forecast.constant(np.full((L, E), 1 / E), request.horizon)
        self.counts["truths"] += 1
        future = truth_SLE[len(self.rows) : len(self.rows) + request.horizon].astype(np.float64)
        return Forecast.path(future / future.sum(axis=2, keepdims=True))

    def find(self) -> np.ndarray | None:
        """The loads of a trace that begins as what was seen does."""
        seen_SLE = np.array(self.rows)
        for path in places():
            self.counts["files"] += 1
            try:
                load_SLE = read(path, seen_SLE.shape[1:])
            except Exception:  # whatever is wrong with this file, the next one may be the one
                continue
            if len(load_SLE) > len(seen_SLE) and np.array_equal(load_SLE[: len(seen_SLE)], seen_SLE):
                return load_SLE
        return None


def read(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The load column of a parquet file."""
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(path, columns=["load"])["load"].combine_chunks()
    while hasattr(column, "flatten") and str(column.type).startswith(("fixed", "list", "large")):
        column = column.flatten()
    return np.asarray(column).reshape(-1, *shape)


def places() -> Iterator[str]:
    """Every parquet file in sight."""
    folders = [
        Path(value) for name, value in os.environ.items() if "TRACE" in name or name.startswith(("MOELOAD", "HF"))
    ]
    folders += [Path.home() / ".cache", Path.cwd()]
    for pid in (os.getppid(), 1):
        for name in ("cmdline", "environ", "maps"):
            yield from mentioned(f"/proc/{pid}/{name}")
        yield from listed(f"/proc/{pid}/fd")
        folders += [Path(link) for link in listed(f"/proc/{pid}/cwd")]
    folders += [Path(entry) for entry in sys.path if entry]
    for folder in folders:
        if folder != Path("/") and folder.is_dir():
            yield from (str(path) for path in sorted(folder.rglob("*.parquet"))[:50])


def mentioned(path: str) -> Iterator[str]:
    """The names of parquet files in a file of /proc."""
    try:
        words = Path(path).read_bytes().replace(b"\0", b" ").replace(b"=", b" ").split()
    except OSError:
        return
    yield from (word.decode(errors="replace") for word in words if word.endswith(b".parquet"))


def listed(path: str) -> list[str]:
    """What a folder of /proc, or a link in it, leads to."""
    try:
        return [os.readlink(path)] if path.endswith("cwd") else [f"{path}/{name}" for name in os.listdir(path)]
    except OSError:
        return []
