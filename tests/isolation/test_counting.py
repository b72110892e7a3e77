"""A forecaster's processes are counted and limited together, and all of them are ended."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from moeload_bench.errors import IsolationError
from moeload_bench.forecaster import ForecastRequest, step_block, trace_info
from moeload_bench.isolation.hosts import MIB, Limits, open_host
from moeload_bench.isolation.targets import Target, parse_target
from tests.conftest import synthetic_trace

TRACE = synthetic_trace(40)
INFO = trace_info(TRACE)
FORECASTER = '''
import pathlib, subprocess, sys, time
from moeload_bench.forecaster import Forecast

CHILD = """
import os, sys, time
os.setsid()
held = b"x" * (int(sys.argv[1]) << 20)
open(sys.argv[2] + str(os.getpid()), "w").close()
time.sleep(60)
"""

class WithChildren:
    def __init__(self, info, seed, children=1, mib=1, pids="."):
        for _ in range(children):
            subprocess.Popen([sys.executable, "-S", "-c", CHILD, str(mib), pids + "/"])
        while len(list(pathlib.Path(pids).glob("[0-9]*"))) < children:
            time.sleep(0.05)

    def observe(self, block):
        time.sleep(1)  # ten looks of the watch

    def forecast(self, request):
        return Forecast.constant([[0.25] * 4] * 2, request.horizon)
'''


def target(folder: Path, arguments: str) -> Target:
    (folder / "mine.py").write_text(FORECASTER)
    return parse_target(f"{folder}/mine.py:WithChildren@pids='{folder}',{arguments}")


def run(folder: Path, arguments: str, limits: Limits) -> None:
    """Construct, observe and forecast."""
    with open_host(target(folder, arguments), INFO, seed=0, level="process", limits=limits) as host:
        host.observe(step_block(TRACE, 0, 40))
        host.forecast(ForecastRequest(40, 5, (5,)))


def children_of(folder: Path) -> list[int]:
    """Those that the forecaster started, each in a session of its own."""
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def still_running(pids: list[int]) -> list[int]:
    """Those that are not gone after ten seconds; one that nobody has waited for yet is."""
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)
    return [one.pid for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_memory_of_a_tree_is_limited_and_all_of_it_is_ended(tmp_path: Path) -> None:
    """Also of children that left for a session of their own."""
    with pytest.raises(IsolationError, match=r"used \d+ MiB of memory, allowed are 300 MiB"):
        run(tmp_path, "children=4,mib=100", Limits(memory_bytes=300 * MIB))
    assert still_running(children_of(tmp_path)) == []


def test_the_number_of_processes_is_limited(tmp_path: Path) -> None:
    """The forecaster's own is one of them."""
    with pytest.raises(IsolationError, match="had 4 processes, allowed are 3"):
        run(tmp_path, "children=3", Limits(processes=3))


def test_cost_counts_children_and_nothing_is_left(tmp_path: Path) -> None:
    """Their memory; at the end those in sessions of their own are gone too."""
    with open_host(target(tmp_path, "mib=200"), INFO, seed=0, level="process") as host:
        end = time.monotonic() + 30
        while (cost := host.cost()).peak_memory_bytes is None or cost.peak_memory_bytes < 200 * MIB:
            assert time.monotonic() < end, cost
            host.observe(step_block(TRACE, 0, 40))
        children = children_of(tmp_path)
        assert len(children) == 1
    assert still_running(children) == []
