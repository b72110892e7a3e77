"""What counts a forecaster's processes: psutil where there is no /proc, made to serve on Linux too; control groups."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from moeload_bench.errors import IsolationError
from moeload_bench.forecaster import ForecastRequest, step_block, trace_info
from moeload_bench.isolation import cgroups, process, system, watch
from moeload_bench.isolation.cgroups import Group
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


@pytest.fixture
def psutil_system(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on another system: neither /proc nor control groups."""
    for module in (system, watch):
        monkeypatch.setattr(module, "SYSTEM", "other")
    monkeypatch.setattr(process, "new_group", lambda *_: None)
    watch._started.cache_clear()
    yield
    watch._started.cache_clear()  # its input is closed with it, so that it ends


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


@pytest.mark.usefixtures("psutil_system")
def test_memory_of_a_tree_is_limited_and_all_of_it_is_ended(tmp_path: Path) -> None:
    """Also of children that left for a session of their own."""
    with pytest.raises(IsolationError, match=r"used \d+ MiB of memory, allowed are 300 MiB"):
        run(tmp_path, "children=4,mib=100", Limits(memory_bytes=300 * MIB))
    assert still_running(children_of(tmp_path)) == []


@pytest.mark.usefixtures("psutil_system")
def test_the_number_of_processes_is_limited(tmp_path: Path) -> None:
    """The forecaster's own is one of them."""
    with pytest.raises(IsolationError, match="had 4 processes, allowed are 3"):
        run(tmp_path, "children=3", Limits(processes=3))


@pytest.mark.usefixtures("psutil_system")
def test_cost_counts_children_and_nothing_is_left(tmp_path: Path) -> None:
    """Their memory; at the end those in sessions of their own are gone too."""
    with open_host(target(tmp_path, "mib=200"), INFO, seed=0, level="process") as host:
        end = time.monotonic() + 30
        while (cost := host.cost()).peak_memory_bytes is None or cost.peak_memory_bytes < 200 * MIB:
            assert time.monotonic() < end, cost
            host.observe(step_block(TRACE, 0, 40))
        children = children_of(tmp_path)
        assert len(children) == 1
    assert cost.accounting == "processes"
    assert still_running(children) == []


# ---------------------------------------------------------------- control groups of version 2


HERE = Path(__file__).resolve()
LIVE = """
import os, subprocess, sys, time
from moeload_bench.isolation.cgroups import Group
group = Group("cgroup v2", {"": sys.argv[1] + "/moeload-test"})
os.mkdir(group.folders[""])
before = group.cpu_s()
burn = ("import os, time\\nif os.fork() == 0:\\n    os.setsid()\\n    if os.fork() == 0:\\n        time.sleep(60)\\n"
        "    os._exit(0)\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass\\n")
subprocess.run(group.command([sys.executable, "-S", "-c", burn]), check=True)
left = group.members()
print(before, round(group.cpu_s(), 1) >= 0.3, len(left), group.memory_kills())
group.remove()
def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
print(os.path.exists(group.folders[""]), [pid for pid in left if alive(pid)])
"""


def test_a_real_group_of_version_2_counts_ends_and_goes(tmp_path: Path) -> None:
    """CPU time of all that ran in it; a daemon with a session of its own ends with the group."""
    shell = 'mount -t cgroup2 none "$1" || exit 99; exec "$2" -c "$3" "$1"'
    argv = ["unshare", "--mount", "sh", "-c", shell, "sh", str(tmp_path), sys.executable, LIVE]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip(f"not tested: no right to mount control groups here: {done.stderr.strip()[:200]}")
    assert done.stdout.splitlines() == ["0.0 True 1 0", "False []"], done.stderr


def test_limits_of_version_2_are_written_and_its_events_read(tmp_path: Path) -> None:
    """No swap beside the memory; an end for want of memory is counted from memory.events."""
    group = Group("cgroup v2", {"": str(tmp_path)})
    group.limit(2**30, 64)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "memory.max": str(2**30),
        "memory.swap.max": "0",
        "pids.max": "64",
    }
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    assert (group.memory_kills(), group.cpu_s()) == (3, 1.5)
    group.kill()
    assert (tmp_path / "cgroup.kill").read_text() == "1"


@pytest.mark.parametrize(("enabled", "expected"), [("cpu memory pids", "user/session"), ("", "user")])
def test_the_nearest_group_whose_children_can_be_limited_is_taken(
    enabled: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that holds processes cannot hand its controllers down (EBUSY): then the one above it is asked."""
    own = tmp_path / "user" / "session"
    own.mkdir(parents=True)
    for folder, on in ((tmp_path, "memory pids"), (tmp_path / "user", "memory pids"), (own, enabled)):
        (folder / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (folder / "cgroup.subtree_control").write_text(on)

    def refused(path: str, text: str) -> None:
        raise OSError(16, "Device or resource busy", path)

    monkeypatch.setattr(cgroups, "_write", refused)
    monkeypatch.setattr(cgroups, "_mounts", lambda: {"cgroup2": ("/", str(tmp_path))})
    monkeypatch.setattr(cgroups, "_own_groups", lambda: {"": "/user/session"})
    first = next(cgroups._candidates())
    assert (first.kind, first.folders) == ("cgroup v2", {"": str(tmp_path / expected)})
