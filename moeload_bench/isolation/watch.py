"""Watching a process and its descendants from outside: memory, CPU time, number (Linux; elsewhere nothing is known)."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from moeload_bench.isolation.levels import MIB, Limits

EVERY_S = 0.1
LINUX = sys.platform == "linux"
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Usage(NamedTuple):
    """What /proc says of one process: CPU seconds of its own, of its children that ended, and resident bytes."""

    own_cpu_s: float
    ended_cpu_s: float
    memory_bytes: int


class Watch:
    """Looks at a process tree ten times a second and ends it when it uses more than it may.

    ``root`` is the forecaster's process, or, in a sandbox (``inside``), the sandbox's first process whose first child
    is the forecaster's. ``verdict`` says why it was ended.
    """

    def __init__(self, root: int, inside: bool, limits: Limits, kill: Callable[[], None]) -> None:
        self.verdict: str | None = None
        self._root, self._inside, self._limits, self._kill = root, inside, limits, kill
        self._worker = None if inside else root
        self._peak_bytes = 0
        self._others_cpu_s = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="moeload-watch", daemon=True)
        if LINUX:
            self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def cpu_s(self) -> float | None:
        """CPU seconds of the tree so far: the forecaster's process to the nanosecond, its descendants as last seen."""
        worker = self._find_worker()
        if worker is None:
            return None
        try:
            # The CPU clock of another process, see clock_getcpuclockid(3): its id is made of the inverted process id.
            return time.clock_gettime((~worker << 3) | 2) + self._others_cpu_s
        except OSError:
            return None

    def peak_memory_bytes(self) -> int | None:
        """The largest sum of resident memory that was seen, at least the forecaster's process's own peak."""
        worker = self._find_worker()
        if worker is None:
            return self._peak_bytes or None
        return max(self._peak_bytes, _high_water_bytes(worker))

    def _find_worker(self) -> int | None:
        if self._worker is None and LINUX:
            self._worker = next(iter(_children(self._root)), None)
        return self._worker if LINUX else None

    def _run(self) -> None:
        while not self._done.wait(EVERY_S):
            verdict = self._look()
            if verdict is not None:
                self.verdict = verdict
                self._kill()
                return

    def _look(self) -> str | None:
        limits = self._limits
        worker = self._find_worker()
        tree = {pid: usage for pid in _tree(self._root) if (usage := _usage(pid)) is not None}
        memory = sum(usage.memory_bytes for usage in tree.values())
        self._peak_bytes = max(self._peak_bytes, memory)
        cpu = sum(usage.own_cpu_s + usage.ended_cpu_s for usage in tree.values())
        if worker in tree:
            self._others_cpu_s = max(self._others_cpu_s, cpu - tree[worker].own_cpu_s)
        if memory > limits.memory_bytes:
            return f"used {memory // MIB} MiB of memory, allowed are {limits.memory_bytes // MIB} MiB"
        if cpu > limits.cpu_s:
            return f"used {cpu:.1f} s of CPU time, allowed are {limits.cpu_s:g} s"
        if len(tree) - self._inside > limits.processes:
            return f"had {len(tree) - self._inside} processes, allowed are {limits.processes}"
        return None


def _tree(root: int) -> Iterator[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting.extend(_children(pid))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def _usage(pid: int) -> Usage | None:
    """See proc_pid_stat(5): fields 14 to 17 are CPU ticks, 24 resident pages."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    user, system, ended_user, ended_system = (int(field) * TICK_S for field in fields[11:15])
    return Usage(user + system, ended_user + ended_system, int(fields[21]) * PAGE_BYTES)


def _high_water_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
