"""A forecaster has one thread on every machine, and torch computes without denormal numbers in a child."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.harness.replay import follow
from moeload_bench.harness.workers import run_spread
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import class_target, parse_target
from moeload_bench.traces.trace import Trace


def threads() -> set[int]:
    """Over all numerical libraries that are loaded."""
    np.ones((2, 2)) @ np.ones((2, 2))
    return {int(pool["num_threads"]) for pool in threadpool_info()}


class Counts:
    """Keeps how many threads it had in each of its calls."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.counts = {"constructor": max(threads())}

    def observe(self, block: StepBlock) -> None:
        self.counts["observe"] = max(threads())

    def forecast(self, request: ForecastRequest) -> Forecast:
        self.counts["forecast"] = max(threads())
        return Forecast.constant([[1.0]], request.horizon)


def test_a_forecaster_at_level_none_has_one_thread_as_in_a_child() -> None:
    """In each of its calls; between them, and afterwards, libraries are as they were."""
    trace = Trace.from_arrays([[[4]]] * 3, 4, 1)
    with threadpool_limits(2):
        before = threads()
        with follow(class_target(Counts), trace, seed=0, level="none") as feed:
            feed.at(2, (1,))
            assert threads() == before
            assert feed.host.counts() == {"constructor": 1, "observe": 1, "forecast": 1}
        assert threads() == before


TINY = """
import numpy as np
import torch


class Tiny:
    def __init__(self, info, seed):
        pass

    def observe(self, block):
        pass

    def forecast(self, request):
        tiny = bool(torch.tensor([torch.finfo(torch.float32).tiny]) * 0.5 > 0)
        return np.array([[float(tiny), float(not tiny)]])
"""
"""Forecasts all load on expert 0 where half of the smallest normal number is a number, else on expert 1."""


@pytest.mark.parametrize(("level", "expert"), [("none", 0), ("process", 1)])
def test_torch_flushes_denormals_in_a_process_of_its_own_only(level: Level, expert: int, tmp_path: Path) -> None:
    """From the call after the one that loaded it; this process, which others use too, stays as it was."""
    file = tmp_path / "tiny.py"
    file.write_text(TINY)
    trace = Trace.from_arrays([[[4, 4]]] * 4, 8, 1)
    with follow(parse_target(f"{file}:Tiny"), trace, seed=0, level=level) as feed:
        assert feed.at(2, (1,)).window_means((1,))[0, 0].argmax() == expert


def test_work_in_this_process_has_one_thread_and_the_caller_keeps_his() -> None:
    """`evaluate` in a notebook is pinned as the command line is; afterwards libraries are as they were."""
    with threadpool_limits(2):
        before = threads()
        assert max(before) == 2
        assert list(run_spread([threads, threads])) == [{1}, {1}]
        assert threads() == before
