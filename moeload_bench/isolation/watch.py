"""The watch: a process of its own that looks at forecasters ten times a second and ends those that use too much.

One process watches all forecasters of a harness, started with the first (`Watcher`, the harness's side). It is told on
standard input whom to watch, one JSON object a line, and writes what it sees into memory that it shares with the
harness (`Slot`): so neither a busy harness holds it up, nor does a call wait for it. When its input ends, because the
harness is gone, whatever it still watches is ended, and it ends too (`main`, its own side). It starts with the standard
library alone. Without Linux's /proc it sees nothing: there the limits per process and the harness's clock are left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import mmap
import os
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moeload_bench.errors import IsolationError
from moeload_bench.isolation.system import (
    Usage,
    children,
    descend,
    end_tree,
    handle,
    high_water_bytes,
    kill_all,
    own_cpu_s,
    sockets,
    usage,
)

if TYPE_CHECKING:
    from moeload_bench.isolation.levels import Limits

EVERY_S = 0.1
MIB = 2**20
SOCKET_BYTES = 2 * 212_992
"""What a unix socket's queue may hold at most by default: memory of no process."""
RUN = "import sys; sys.path.append(sys.argv[1]); from moeload_bench.isolation.watch import main; main(int(sys.argv[2]))"
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


class Slot(NamedTuple):
    """What the watch saw of one forecaster, at a place of the shared memory.

    ``others_cpu_s``: CPU seconds of all but the forecaster's process; ``verdict``: why it was ended, "" for it was not.
    """

    peak_bytes: int
    others_cpu_s: float
    verdict: str


SLOT = struct.Struct("<QdI")
SLOT_BYTES = 512
SLOTS = 256


def read_slot(shared: mmap.mmap, number: int) -> Slot:
    """Return what the watch saw of one forecaster: the harness's side."""
    offset = number * SLOT_BYTES
    peak_bytes, others_cpu_s, length = SLOT.unpack_from(shared, offset)
    text = shared[offset + SLOT.size : offset + SLOT.size + length]
    return Slot(peak_bytes, others_cpu_s, text.decode())


def write_slot(shared: mmap.mmap, number: int, slot: Slot) -> None:
    """Write the text first: its length says that it is there."""
    offset, text = number * SLOT_BYTES, slot.verdict.encode()[: SLOT_BYTES - SLOT.size]
    shared[offset + SLOT.size : offset + SLOT.size + len(text)] = text
    SLOT.pack_into(shared, offset, slot.peak_bytes, slot.others_cpu_s, len(text))


def over_limits(
    limits: dict[str, float], memory_bytes: int, cpu_s: float, processes: int, files: int = 0
) -> str | None:
    """Return which limit is exceeded, and by what; None where none is."""
    most = int(limits["memory_bytes"])
    if memory_bytes > most:
        return over_memory(memory_bytes, most)
    if cpu_s > limits["cpu_s"]:
        return f"used {cpu_s:.1f} s of CPU time, allowed are {limits['cpu_s']:g} s"
    if processes > limits["processes"]:
        return f"had {processes} processes, allowed are {limits['processes']}"
    if files > limits["files"]:
        return f"made {files} files, allowed are {limits['files']}"
    return None


def over_memory(used_bytes: int, allowed_bytes: int) -> str:
    """Return the verdict on one that used too much memory."""
    return f"used {used_bytes // MIB} MiB of memory, allowed are {allowed_bytes // MIB} MiB"


# ------------------------------------------------------------------------------------------------ the watch's side


class Watched:
    """One forecaster. ``root`` is its process or, in a sandbox (``inside``), the first one there, whose child it is."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.slot: int = asked["slot"]
        self._root: int = asked["root"]
        self._leader: int = asked["leader"]
        self._inside: bool = asked["inside"]
        self._folders: dict[str, int] = asked["folders"]
        self._limits: dict[str, float] = asked["limits"]
        self._handle = handle(self._root)
        self._peak_bytes = 0
        self._others_cpu_s = 0.0
        self.verdict = ""

    def look(self) -> Slot:
        """See what it uses."""
        worker = next(iter(children(self._root)), None) if self._inside else self._root
        tree = {pid: use for pid in descend(self._root) if (use := usage(pid)) is not None}
        if self._inside:
            tree.pop(self._root, None)
        resident = sum(use.memory_bytes for use in tree.values())
        self._peak_bytes = max(self._peak_bytes, resident)
        cpu = self._cpu_s(tree)
        if worker in tree:
            self._others_cpu_s = max(self._others_cpu_s, cpu - tree[worker].own_cpu_s)
        self.verdict = self.verdict or self._judge(resident, cpu, len(tree)) or ""
        return Slot(self._peak_bytes, self._others_cpu_s, self.verdict)

    def _cpu_s(self, tree: dict[int, Usage]) -> float:
        first = usage(self._root) if self._inside else None
        ended = 0.0 if first is None else first.ended_cpu_s  # of those that lost their parent and were waited for there
        return ended + sum(use.own_cpu_s + use.ended_cpu_s for use in tree.values())

    def _judge(self, resident: int, cpu_s: float, processes: int) -> str | None:
        held_bytes, files = self._in_files()
        queued = SOCKET_BYTES * sockets(self._root) if self._inside else 0
        return over_limits(self._limits, resident + held_bytes + queued, cpu_s, processes, files)

    def _in_files(self) -> tuple[int, int]:
        """Return bytes and number of the files that it holds in memory; nothing where the kernel does not let us look.

        A file system of another size is not the sandbox's: it is not set up yet.
        """
        size_bytes = files = 0
        for name, size in self._folders.items():
            with contextlib.suppress(OSError):
                space = os.statvfs(f"/proc/{self._root}/root{name}")
                if space.f_blocks * space.f_frsize == size:
                    size_bytes += (space.f_blocks - space.f_bfree) * space.f_frsize
                    files += space.f_files - space.f_ffree
        return size_bytes, files

    def end(self) -> None:
        """End it and all that it started; nothing once it has ended: its process id may be another's by then."""
        if self._handle is None or not self._handle.is_running():
            return
        below = [*descend(self._leader)][1:]  # who has lost its parent is below another one
        self._handle.kill()
        end_tree(self._leader)
        kill_all(below)

    def forget(self) -> None:
        """Hold nothing of it any longer."""
        if self._handle is not None:
            self._handle.close()
        self._handle = None


def main(shared_fd: int) -> None:
    """Watch until standard input ends; then end what is left."""
    shared = mmap.mmap(shared_fd, SLOT_BYTES * SLOTS)
    watched: dict[int, Watched] = {}
    text, due = b"", time.monotonic() + EVERY_S
    while True:
        ready = select.select([0], [], [], max(0.0, due - time.monotonic()) if watched else None)[0]
        if ready:
            more = os.read(0, 65536)
            if not more:
                break
            *lines, text = (text + more).split(b"\n")
            for line in lines:
                _obey(json.loads(line), watched)
        if time.monotonic() >= due:
            for process in list(watched.values()):
                _look(process, shared)
            due = time.monotonic() + EVERY_S
    for process in watched.values():
        process.end()
        process.forget()


def _obey(asked: dict[str, Any], watched: dict[int, Watched]) -> None:
    before = watched.pop(asked["slot"], None)
    if before is not None:
        before.forget()
    if "root" in asked:
        watched[asked["slot"]] = Watched(asked)


def _look(process: Watched, shared: mmap.mmap) -> None:
    if not process.verdict:
        write_slot(shared, process.slot, process.look())  # before it ends: who sees it ended finds out why
    if process.verdict:
        process.end()


# ------------------------------------------------------------------------------------------------ the harness's side


class Watcher:
    """The process that watches, and the memory that it writes to."""

    def __init__(self) -> None:
        fd = _memory()
        os.ftruncate(fd, SLOT_BYTES * SLOTS)
        self.shared = mmap.mmap(fd, SLOT_BYTES * SLOTS)
        self._free = deque(range(SLOTS))  # the one that is free for longest first: what is late for it has come by then
        self._lock = threading.Lock()
        # -S and -I: what is installed here is not read, which takes longer than all the rest of its start.
        argv = [sys.executable, "-I", "-S", "-c", RUN, PACKAGE_PARENT, str(fd)]
        self._popen = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=(fd,), env={}, start_new_session=True)
        os.close(fd)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, slot: int, **fields: object) -> None:
        """Tell it whom to watch, or, without ``fields``, to forget."""
        assert self._popen.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):  # the next call finds out that it is gone
            self._popen.stdin.write(json.dumps({"slot": slot, **fields}).encode() + b"\n")
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

    def __init__(self, leader: int, root: int, folders: Mapping[str, int] | None, limits: Limits) -> None:
        inside = folders is not None
        self._root = root
        self._worker = None if inside else root
        self._watcher = _watcher(os.getpid())
        self._slot: int | None = self._watcher.take()
        tree = {"leader": leader, "root": root, "inside": inside, "folders": dict(folders or {})}
        self._watcher.ask(self._slot, **tree, limits=dataclasses.asdict(limits))
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
        """Return CPU seconds of the tree so far: of the forecaster's process to the nanosecond, of its descendants as
        last seen.
        """
        worker_s = None if self.worker is None else own_cpu_s(self.worker)
        return None if worker_s is None else worker_s + self._seen().others_cpu_s

    def peak_memory_bytes(self) -> int | None:
        """Return the largest sum of resident memory that was seen, at least the forecaster's process's own peak."""
        worker, peak_bytes = self.worker, self._seen().peak_bytes
        return max(peak_bytes, 0 if worker is None else high_water_bytes(worker)) or None

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
    watcher = _started(pid)
    if not watcher.alive:
        _started.cache_clear()
        watcher = _started(pid)
    return watcher


@functools.lru_cache(maxsize=1)
def _started(pid: int) -> Watcher:
    return Watcher()


def _memory() -> int:
    """Return a file that no name leads to: in memory where the system has such files."""
    if sys.platform == "linux":
        return os.memfd_create("moeload-watch")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
