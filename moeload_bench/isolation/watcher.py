"""The watch: a process of its own that looks at forecasters ten times a second and ends those that use too much.

It is told on standard input whom to watch, one JSON object a line, and writes what it sees into memory that it shares
with the harness (`Slot`): so neither a busy harness holds it up, nor does a call wait for it. When its input ends,
because the harness is gone, whatever it still watches is ended, and it ends too. Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from moeload_bench.isolation.groups import Group, read_proc

EVERY_S = 0.1
MIB = 2**20
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
SOCKET_BYTES = 2 * 212_992
"""What a unix socket's queue may hold at most by default: memory of no process, counted where there is no group."""


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
    at = number * SLOT_BYTES
    peak_bytes, others_cpu_s, length = SLOT.unpack_from(shared, at)
    text = shared[at + SLOT.size : at + SLOT.size + length]
    return Slot(peak_bytes, others_cpu_s, text.decode())


def write_slot(shared: mmap.mmap, number: int, slot: Slot) -> None:
    """Write the text first: its length says that it is there."""
    at, text = number * SLOT_BYTES, slot.verdict.encode()[: SLOT_BYTES - SLOT.size]
    shared[at + SLOT.size : at + SLOT.size + len(text)] = text
    SLOT.pack_into(shared, at, slot.peak_bytes, slot.others_cpu_s, len(text))


class Usage(NamedTuple):
    """What one process uses: CPU seconds of its own, of its children that ended, and resident bytes."""

    own_cpu_s: float
    ended_cpu_s: float
    memory_bytes: int


class Watched:
    """One forecaster. ``root`` is its process or, in a sandbox (``inside``), the first one there, whose child it is."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.slot: int = asked["slot"]
        self._root: int = asked["root"]
        self._leader: int = asked["leader"]
        self._inside: bool = asked["inside"]
        self._folders: dict[str, int] = asked["folders"]
        self._limits: dict[str, float] = asked["limits"]
        self._group = None if asked["group"] is None else Group(asked["kind"], asked["group"])
        self._pidfd: int | None = None
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(self._root)
        self._peak_bytes = 0
        self._others_cpu_s = 0.0
        self.verdict = ""

    def look(self) -> Slot:
        """See what it uses."""
        worker = next(iter(children(self._root)), None) if self._inside else self._root
        tree = {pid: usage for pid in descend(self._root) if (usage := usage_of(pid)) is not None}
        if self._inside:
            tree.pop(self._root, None)
        resident = sum(usage.memory_bytes for usage in tree.values())
        self._peak_bytes = max(self._peak_bytes, resident)
        cpu = self._cpu_s(tree)
        if worker in tree:
            self._others_cpu_s = max(self._others_cpu_s, cpu - tree[worker].own_cpu_s)
        self.verdict = self.verdict or self._judge(resident, cpu, len(tree)) or ""
        return Slot(self._peak_bytes, self._others_cpu_s, self.verdict)

    def _cpu_s(self, tree: dict[int, Usage]) -> float:
        charged = None if self._group is None else self._group.cpu_s()
        if charged is not None:
            return charged
        first = usage_of(self._root) if self._inside else None
        ended = 0.0 if first is None else first.ended_cpu_s  # of those that lost their parent and were waited for there
        return ended + sum(usage.own_cpu_s + usage.ended_cpu_s for usage in tree.values())

    def _judge(self, resident: int, cpu_s: float, processes: int) -> str | None:
        held, files = self._in_files()
        memory, most = resident, int(self._limits["memory_bytes"])
        if self._group is None:
            memory += held + (SOCKET_BYTES * sockets(self._root) if self._inside else 0)
        elif self._group.memory_kills():
            memory = max(memory, most + MIB)
        return over_limits(self._limits, memory, cpu_s, processes, files)

    def _in_files(self) -> tuple[int, int]:
        """Return bytes and number of the files that it holds in memory; nothing where the kernel does not let us look.

        A file system of another size is not the sandbox's: it is not set up yet.
        """
        held = files = 0
        for name, size in self._folders.items():
            with contextlib.suppress(OSError):
                found = os.statvfs(f"/proc/{self._root}/root{name}")
                if found.f_blocks * found.f_frsize == size:
                    held += (found.f_blocks - found.f_bfree) * found.f_frsize
                    files += found.f_files - found.f_ffree
        return held, files

    def alive(self) -> bool:
        """Return whether it has not ended: only then is its process id nobody else's."""
        return self._pidfd is not None and not select.select([self._pidfd], [], [], 0)[0]

    def end(self) -> None:
        """End it and all that it started."""
        if not self.alive():
            return
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if self._group is not None:
            self._group.kill()
        end_tree(self._leader)

    def forget(self, remove: bool = False) -> None:
        """Hold nothing of it any longer."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if remove and self._group is not None:
            self._group.remove()


class AnyWatched(Protocol):
    """What `main` asks of a forecaster under watch; `portable` has another."""

    slot: int
    verdict: str

    def look(self) -> Slot: ...
    def end(self) -> None: ...
    def forget(self, remove: bool = False) -> None: ...


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


def signal_name(status: int) -> str | None:
    """Return the signal that ended a process; None where none did. Bubblewrap reports a signal as 128 + its number."""
    number = -status if status < 0 else status - 128
    return signal.Signals(number).name if number in set(signal.Signals) else None


def end_words(status: int) -> str:
    """Return how a process ended: `was ended by SIGSEGV`, `ended with status 1`."""
    name = signal_name(status)
    return f"ended with status {status}" if name is None else f"was ended by {name}"


def over_memory(used_bytes: int, allowed_bytes: int) -> str:
    """Return the verdict on one that used too much memory."""
    return f"used {used_bytes // MIB} MiB of memory, allowed are {allowed_bytes // MIB} MiB"


def main(shared_fd: int, kind: Callable[[dict[str, Any]], AnyWatched] = Watched) -> None:
    """Watch until standard input ends; then end what is left, also groups whose forecaster is gone."""
    shared = mmap.mmap(shared_fd, SLOT_BYTES * SLOTS)
    watched: dict[int, AnyWatched] = {}
    text, due = b"", time.monotonic() + EVERY_S
    while True:
        ready = select.select([0], [], [], max(0.0, due - time.monotonic()) if watched else None)[0]
        if ready:
            more = os.read(0, 65536)
            if not more:
                break
            *lines, text = (text + more).split(b"\n")
            for line in lines:
                _obey(json.loads(line), watched, kind)
        if time.monotonic() >= due:
            for one in list(watched.values()):
                _look(one, shared)
            due = time.monotonic() + EVERY_S
    for one in watched.values():
        one.end()
        one.forget(remove=True)


def _obey(asked: dict[str, Any], watched: dict[int, AnyWatched], kind: Callable[[dict[str, Any]], AnyWatched]) -> None:
    before = watched.pop(asked["slot"], None)
    if before is not None:
        before.forget()
    if "root" in asked:
        watched[asked["slot"]] = kind(asked)


def _look(one: AnyWatched, shared: mmap.mmap) -> None:
    if not one.verdict:
        write_slot(shared, one.slot, one.look())  # before it ends: who sees it ended finds out why
    if one.verdict:
        one.end()


# ------------------------------------------------------------------------------------------------ /proc


def descend(root: int) -> Iterator[int]:
    """Yield a process and all below it."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting.extend(children(pid))


def children(pid: int) -> list[int]:
    """Return the processes that a process's threads have started."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, read_proc(f"/proc/{pid}/task/{thread}/children").split())
    return found


def usage_of(pid: int) -> Usage | None:
    """See proc_pid_stat(5): fields 14 to 17 are CPU ticks, 24 resident pages."""
    try:
        text = read_proc(f"/proc/{pid}/stat", whole=False)
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()
    user, system, ended_user, ended_system = (int(field) * TICK_S for field in fields[11:15])
    return Usage(user + system, ended_user + ended_system, int(fields[21]) * PAGE_BYTES)


def own_cpu_s(pid: int) -> float | None:
    """Return the CPU seconds of a process, without its children's; None when it is gone."""
    try:
        # The CPU clock of another process, see clock_getcpuclockid(3): its id is made of the inverted process id.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def sockets(pid: int) -> int:
    """Return Unix sockets of the network that a process is in."""
    try:
        return max(0, read_proc(f"/proc/{pid}/net/unix").count(b"\n") - 1)
    except OSError:
        return 0


def end_tree(leader: int) -> None:
    """Kill a process group and every descendant of its leader, also those that left for a session of their own."""
    for pid in [*descend(leader)][1:]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
