"""What the operating system says of processes: the files of /proc, and psutil where there are none.

Only the standard library is imported: the watch (`watch.main`) starts with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moeload_bench.isolation.cgroups import read_proc

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Usage(NamedTuple):
    """What one process uses: CPU seconds of its own, of its children that ended, and resident bytes."""

    own_cpu_s: float
    ended_cpu_s: float
    memory_bytes: int


class ProcFiles:
    """Linux: the files of /proc."""

    @staticmethod
    def children(pid: int) -> list[int]:
        """Return the processes that a process's threads have started."""
        found: list[int] = []
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    found += map(int, read_proc(f"/proc/{pid}/task/{thread}/children").split())
        return found

    @staticmethod
    def usage(pid: int) -> Usage | None:
        """Return what a process uses; None when it is gone.

        See proc_pid_stat(5): fields 14 to 17 are CPU ticks, 24 resident pages.
        """
        try:
            text = read_proc(f"/proc/{pid}/stat", one_line=True)
        except OSError:
            return None
        fields = text.rpartition(b")")[2].split()
        user, system, ended_user, ended_system = (int(field) * TICK_S for field in fields[11:15])
        return Usage(user + system, ended_user + ended_system, int(fields[21]) * PAGE_BYTES)

    @staticmethod
    def own_cpu_s(pid: int) -> float | None:
        """Return the CPU seconds of a process, without its children's; None when it is gone.

        The kernel's CPU clock of a process counts nanoseconds, see clock_getcpuclockid(3).
        """
        try:
            return time.clock_gettime((~pid << 3) | 2)  # the clock's id is made of the inverted process id
        except OSError:
            return None

    @staticmethod
    def handle(pid: int) -> Any:
        """Return what tells a process from a later one of its number; None when it is gone."""
        with contextlib.suppress(OSError):
            return Pidfd(pid)
        return None


class Psutil(ProcFiles):
    """Elsewhere: psutil. Sandboxes and control groups are Linux's, so that nothing is counted there but processes."""

    @staticmethod
    def children(pid: int) -> list[int]:
        import psutil

        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children()]
        return []

    @staticmethod
    def usage(pid: int) -> Usage | None:
        import psutil

        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            cpu, memory = process.cpu_times(), process.memory_info()
            ended = getattr(cpu, "children_user", 0.0) + getattr(cpu, "children_system", 0.0)
            return Usage(cpu.user + cpu.system, ended, memory.rss)
        return None

    @staticmethod
    def own_cpu_s(pid: int) -> float | None:
        usage = Psutil.usage(pid)
        return None if usage is None else usage.own_cpu_s

    @staticmethod
    def handle(pid: int) -> Any:
        import psutil

        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid)
        return None


SYSTEMS = {"linux": ProcFiles, "other": Psutil}
SYSTEM = "linux" if sys.platform == "linux" else "other"


class Pidfd:
    """A process of Linux by a descriptor, which no later process of its number has; raise `OSError` if it is gone."""

    def __init__(self, pid: int) -> None:
        self._fd: int | None = os.pidfd_open(pid)

    def is_running(self) -> bool:
        return self._fd is not None and not select.select([self._fd], [], [], 0)[0]

    def kill(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def close(self, wait_s: float = 0.0) -> None:
        """Close the descriptor, after at most ``wait_s`` seconds of waiting for the process to end."""
        if self._fd is not None:
            select.select([self._fd], [], [], wait_s)
            os.close(self._fd)
            self._fd = None


def descend(system: type[ProcFiles], root: int) -> Iterator[int]:
    """Yield a process and all below it."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting.extend(system.children(pid))


def end_tree(leader: int, system: type[ProcFiles] | None = None) -> None:
    """Kill a process group and every descendant of its leader, also those that left for a session of their own."""
    kill_all([*descend(system or SYSTEMS[SYSTEM], leader)][1:])
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes, as far as they are there and this user's."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def sockets(pid: int) -> int:
    """Return the number of Unix sockets of the network that a process is in."""
    try:
        return max(0, read_proc(f"/proc/{pid}/net/unix").count(b"\n") - 1)
    except OSError:
        return 0


def high_water_bytes(pid: int) -> int:
    """Return a process's own peak of resident memory; 0 where no file of /proc says it."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
