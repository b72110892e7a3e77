"""The watch where there is no /proc: psutil's view of a forecaster's process and of all below it, at level `process`.

Sandboxes and control groups are Linux's, so that nothing is counted here but processes. Run as `watcher` is.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import psutil

from moeload_bench.isolation import watcher
from moeload_bench.isolation.watcher import Slot, Usage


class PortableWatched:
    """One forecaster, as `watcher.Watched`; psutil tells a process from a later one of its number by when it began."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.slot: int = asked["slot"]
        self._limits: dict[str, float] = asked["limits"]
        self._root: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._root = psutil.Process(asked["root"])
        self._seen = Slot(0, 0.0, "")
        self.verdict = ""

    def look(self) -> Slot:
        """See what it uses."""
        tree = [] if self._root is None else [self._root, *descendants(self._root)]
        found = [usage for process in tree if (usage := usage_of(process)) is not None]
        resident = sum(usage.memory_bytes for usage in found)
        cpu = sum(usage.own_cpu_s + usage.ended_cpu_s for usage in found)
        others = cpu - found[0].own_cpu_s if found else 0.0
        self.verdict = self.verdict or watcher.over_limits(self._limits, resident, cpu, len(found)) or ""
        self._seen = Slot(max(self._seen.peak_bytes, resident), max(self._seen.others_cpu_s, others), self.verdict)
        return self._seen

    def end(self) -> None:
        """End it and all that it started."""
        if self._root is not None and self._root.is_running():
            end_tree(self._root.pid)

    def forget(self, remove: bool = False) -> None:
        """Hold nothing of it any longer; there is no group to ``remove``."""
        self._root = None


def descendants(root: psutil.Process) -> list[psutil.Process]:
    """Return all below a process; none when it is gone."""
    try:
        found: list[psutil.Process] = root.children(recursive=True)
    except psutil.Error:
        return []
    return found


def usage_of(process: psutil.Process) -> Usage | None:
    """Return what a process uses; None when it is gone."""
    try:
        cpu, memory = process.cpu_times(), process.memory_info()
    except psutil.Error:
        return None
    ended = getattr(cpu, "children_user", 0.0) + getattr(cpu, "children_system", 0.0)
    return Usage(cpu.user + cpu.system, ended, memory.rss)


def own_cpu_s(pid: int) -> float | None:
    """Return CPU seconds of a process, without its children's; None when it is gone."""
    with contextlib.suppress(psutil.Error):
        usage = usage_of(psutil.Process(pid))
        return None if usage is None else usage.own_cpu_s
    return None


def end_tree(leader: int) -> None:
    """Kill a tree as `watcher.end_tree` does."""
    with contextlib.suppress(psutil.Error):
        for process in descendants(psutil.Process(leader)):
            with contextlib.suppress(psutil.Error):
                process.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def main(shared_fd: int) -> None:
    """Watch as `watcher.main` does."""
    watcher.main(shared_fd, PortableWatched)
