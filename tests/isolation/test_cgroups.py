"""Control groups of version 2: what can be tried without one that has controllers.

A machine whose controllers belong to version 1 can still mount version 2, whose groups there count CPU time and end
their processes; memory and processes are limited by files, which are compared with cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moeload_bench.isolation import cgroups
from moeload_bench.isolation.cgroups import Group

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
left = group._members()
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
    cgroups._limit(group, 2**30, 64)
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
