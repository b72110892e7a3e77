"""The harness's side of the watch (`watcher`): one process for all forecasters of this process, started with the first.

On Linux it reads /proc with the standard library alone; elsewhere psutil knows the processes (`portable`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moeload_bench.errors import IsolationError
from moeload_bench.isolation import watcher
from moeload_bench.isolation.groups import Group
from moeload_bench.isolation.levels import Limits
from moeload_bench.isolation.watcher import SLOT_BYTES, SLOTS, Slot, children, read_slot, write_slot

LINUX = sys.platform == "linux"
RUN = (
    "import os, sys; sys.path += sys.argv[1].split(os.pathsep); "
    "from moeload_bench.isolation.{} import main; main(int(sys.argv[2]))"
)
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


class Watcher:
    """The process that watches, and the memory that it writes to."""

    def __init__(self) -> None:
        fd = _memory()
        os.ftruncate(fd, SLOT_BYTES * SLOTS)
        self.shared = mmap.mmap(fd, SLOT_BYTES * SLOTS)
        self._free = deque(range(SLOTS))  # the one that is free for longest first: what is late for it has come by then
        self._lock = threading.Lock()
        # -S and -I: what is installed here is not read, which takes longer than all the rest of its start.
        argv = [sys.executable, "-I", "-S", "-c", RUN.format("watcher" if LINUX else "portable"), _paths(), str(fd)]
        self._popen = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=(fd,), env={}, start_new_session=True)
        os.close(fd)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, slot: int, **what: object) -> None:
        """Tell it whom to watch, or, without ``what``, to forget."""
        assert self._popen.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):  # the next call finds out that it is gone
            self._popen.stdin.write(json.dumps({"slot": slot, **what}).encode() + b"\n")
            self._popen.stdin.flush()

    def take(self) -> int:
        """Return a free place of the shared memory; raise `IsolationError` when there is none."""
        with self._lock:
            if not self._free:
                raise IsolationError(f"{SLOTS} forecasters' processes at a time are watched, not one more")
            slot = self._free.popleft()
        write_slot(self.shared, slot, Slot(0, 0.0, ""))
        return slot

    def give(self, slot: int) -> None:
        """Take a place back: it is free again."""
        with self._lock:
            self._free.append(slot)


class ProcessWatch:
    """One forecaster's process tree under watch; ended when it uses more than it may, and ``verdict`` says why.

    ``leader`` is the process that was started. ``root`` is the same or, in a sandbox, its first process, whose first
    child is the forecaster's; ``folders`` are the file systems in memory that a sandbox writes to, with their sizes.
    """

    def __init__(
        self, leader: int, root: int, folders: Mapping[str, int] | None, limits: Limits, group: Group | None
    ) -> None:
        inside = folders is not None
        self._root, self._group = root, group
        self._worker = None if inside else root
        self._watcher = _watcher(os.getpid())
        self._slot: int | None = self._watcher.take()
        tree = {"leader": leader, "root": root, "inside": inside, "folders": dict(folders or {})}
        grouped = {"kind": group and group.kind, "group": group and dict(group.folders)}
        self._watcher.ask(self._slot, **tree, **grouped, limits=dataclasses.asdict(limits))
        self._last = Slot(0, 0.0, "")

    @property
    def verdict(self) -> str | None:
        """Return why the watch ended it; None while it did not."""
        return self._seen().verdict or None

    def check(self) -> None:
        """Raise `IsolationError` when nobody watches."""
        if self._slot is not None and not self._watcher.alive:
            raise IsolationError("the watch over it has ended")

    def stop(self) -> None:
        """End the watch; what it saw stays known."""
        if self._slot is not None:
            self._last = self._seen()
            self._watcher.ask(self._slot)
            self._watcher.give(self._slot)
            self._slot = None

    def cpu_s(self) -> float | None:
        """Return CPU seconds of the tree so far: as the kernel charged them to its group, else the forecaster's process
        to the nanosecond and its descendants as last seen.
        """
        charged = None if self._group is None else self._group.cpu_s()
        if charged is not None:
            return charged
        worker = self.worker
        if worker is None:
            return None
        own: float | None = _system().own_cpu_s(worker)
        return None if own is None else own + self._seen().others_cpu_s

    def peak_memory_bytes(self) -> int | None:
        """Return the largest sum of resident memory that was seen, at least the forecaster's process's own peak."""
        worker, seen = self.worker, self._seen().peak_bytes
        return (seen or None) if worker is None else max(seen, _high_water_bytes(worker))

    @property
    def worker(self) -> int | None:
        """Return the process id of the forecaster's process, None where it is not known."""
        if self._worker is None:
            self._worker = next(iter(children(self._root)), None)
        return self._worker

    def _seen(self) -> Slot:
        return self._last if self._slot is None else read_slot(self._watcher.shared, self._slot)


def _watcher(pid: int) -> Watcher:
    """Return the watcher of this process (``pid``: a forked process has none yet), started again when it is gone."""
    found = _started(pid)
    if not found.alive:
        _started.cache_clear()
        found = _started(pid)
    return found


@functools.lru_cache(maxsize=1)
def _started(pid: int) -> Watcher:
    return Watcher()


def _memory() -> int:
    """Return a file that no name leads to: in memory where the system has such files."""
    if LINUX:
        return os.memfd_create("moeload-watch")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _paths() -> str:
    """Return where the watcher finds what it imports; psutil is installed where -S does not look."""
    if LINUX:
        return PACKAGE_PARENT
    import psutil

    return os.pathsep.join([PACKAGE_PARENT, str(Path(psutil.__file__).resolve().parents[1])])


def _system() -> Any:
    """Return the module that knows this system's processes: by /proc, or by psutil."""
    if LINUX:
        return watcher
    from moeload_bench.isolation import portable

    return portable


def end_tree(leader: int) -> None:
    """Kill a process group and every descendant of its leader, also those that left for a session of their own."""
    _system().end_tree(leader)


def _high_water_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
