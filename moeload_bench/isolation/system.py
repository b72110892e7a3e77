"""What Linux says of processes, in the files of /proc; elsewhere nothing is known of them.

Only the standard library is imported: the watch (`watch.main`) starts with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Usage(NamedTuple):
    """What one process uses: CPU seconds of its own, of its children that ended, and resident bytes."""

    own_cpu_s: float
    ended_cpu_s: float
    memory_bytes: int


def children(pid: int) -> list[int]:
    """Return the processes that a process's threads have started."""
    pids: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                pids += map(int, read_proc(f"/proc/{pid}/task/{thread}/children").split())
    return pids


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


def own_cpu_s(pid: int) -> float | None:
    """Return the CPU seconds of a process, without its children's; None when it is gone.

    The kernel's CPU clock of a process counts nanoseconds, see clock_getcpuclockid(3).
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock's id is made of the inverted process id
    except OSError:
        return None


def handle(pid: int) -> Pidfd | None:
    """Return what tells a process from a later one of its number; None when it is gone, and where it is not Linux's."""
    with contextlib.suppress(OSError, AttributeError):
        return Pidfd(pid)
    return None


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


def descend(root: int) -> Iterator[int]:
    """Yield a process and all below it."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting.extend(children(pid))


def end_tree(leader: int) -> None:
    """Kill a process group and every descendant of its leader, also those that left for a session of their own."""
    kill_all([*descend(leader)][1:])
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


def read_proc(path: str, one_line: bool = False) -> bytes:
    """Return a file of /proc; many are read at every look, and `open` takes three times as long.

    A list comes a page at a time and ends when a read gives nothing; ``one_line`` needs no second read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(fd, 1 << 16)]
        while not one_line and parts[-1]:
            parts.append(os.read(fd, 1 << 16))
        return b"".join(parts)
    finally:
        os.close(fd)
