"""Control groups: what the kernel charges to a forecaster's processes together, whoever of them is still alive.

A group holds what no process does: memory of sockets and of files in memory, CPU time of children that nobody waited
for, processes that left their session. There is one per forecaster where this process may make one: as root, or in the
part of the tree that systemd hands to a user; version 2, or the version 1 controllers memory, pids and cpuacct. It is
made below this process's own group, so that a container's limits hold for it too.

Only the standard library is imported here: the watch starts with it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Accounting = Literal["cgroup v2", "cgroup v1"]

V1_CONTROLLERS = ("memory", "pids", "cpuacct")
MEMORY_LIMITS: Mapping[Accounting, tuple[str, str, int | None]] = {
    "cgroup v1": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", None),
    "cgroup v2": ("memory.max", "memory.swap.max", 0),
}
"""Files that limit memory and swap, and what the second holds: version 1 limits their sum, version 2 each."""
PREFIX = "moeload-"
END_S = 5.0
# Joins the groups named before the first --, then becomes the program after it; 0 stands for the process that writes.
JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 97; shift; done; shift; exec "$@"'

_numbers = itertools.count()


@dataclass(frozen=True)
class Group:
    """The folders of one group by controller; version 2 has one folder, under ``""``."""

    kind: Accounting
    folders: Mapping[str, str]

    def command(self, argv: list[str]) -> list[str]:
        """Return the command that runs ``argv`` in the group."""
        joins = [f"{folder}/cgroup.procs" for folder in self.folders.values()]
        return ["/bin/sh", "-c", JOIN, "sh", *joins, "--", *argv]

    def cpu_s(self) -> float | None:
        """Return CPU seconds of all that was ever in the group."""
        if self.kind == "cgroup v1":
            text = _read(self.file("cpuacct", "cpuacct.usage"))
            return int(text) / 1e9 if text else None
        usage = dict(line.split() for line in _read(self.file("cpu", "cpu.stat")).splitlines())
        return int(usage["usage_usec"]) / 1e6 if "usage_usec" in usage else None

    def memory_kills(self) -> int:
        """Return how often the kernel ended a process of the group because the group had no memory left."""
        name = "memory.oom_control" if self.kind == "cgroup v1" else "memory.events"
        lines = _read(self.file("memory", name)).splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def kill(self) -> None:
        """End every process of the group, whatever session it is in."""
        if self.kind == "cgroup v2":
            with contextlib.suppress(OSError):
                _write(self.file("", "cgroup.kill"), "1")
                return
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """End what is in it until nothing is, and take the folders away."""
        deadline = time.monotonic() + END_S
        for folder in self.folders.values():
            while True:
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        return  # a process that no signal ends; the next harness tries again
                    self.kill()
                    time.sleep(0.002)

    def members(self) -> list[int]:
        """Return the processes in the group."""
        return [int(pid) for pid in _read(self.file("pids", "cgroup.procs")).split()]

    def limit(self, memory_bytes: int, processes: int | None) -> None:
        """Set the limits of the group: no swap in addition to the memory."""
        limit, swap, swap_bytes = MEMORY_LIMITS[self.kind]
        _write(self.file("memory", limit), str(memory_bytes))
        with contextlib.suppress(OSError):  # not there without swap accounting
            _write(self.file("memory", swap), str(memory_bytes if swap_bytes is None else swap_bytes))
        if processes is not None:
            _write(self.file("pids", "pids.max"), str(processes))

    def file(self, controller: str, name: str) -> str:
        """Return a file in the group's folder for a controller; version 2 has one folder for all."""
        return f"{self.folders.get(controller) or self.folders['']}/{name}"


def new_group(memory_bytes: int, processes: int | None) -> Group | None:
    """Return an empty group with these limits; None where this process may make none."""
    place = _place(os.getpid())
    if place is None:
        return None
    name = f"{PREFIX}{os.getpid()}-{next(_numbers)}-{secrets.token_hex(4)}"
    group = Group(place.kind, {key: f"{folder}/{name}" for key, folder in place.folders.items()})
    try:
        for folder in group.folders.values():
            os.mkdir(folder)
        group.limit(memory_bytes, processes)
    except OSError:
        group.remove()
        return None
    return group


@functools.lru_cache(maxsize=2)
def _place(pid: int) -> Group | None:
    """Return where groups can be made, tried once per process (``pid``); remove what dead harnesses left there."""
    for place in _candidates():
        probe = Group(place.kind, {key: f"{folder}/{PREFIX}{pid}-try" for key, folder in place.folders.items()})
        try:
            for folder in probe.folders.values():
                os.mkdir(folder)
            probe.limit(2**30, 64)
            tried = subprocess.run(probe.command(["/bin/true"]), capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        finally:
            probe.remove()
        if tried.returncode == 0:
            _sweep(place)
            return place
    return None


def _candidates() -> Iterator[Group]:
    """Yield version 2 from this process's group upwards, then version 1."""
    mounts, own = _mounts(), _own_groups()
    folder = _folder(mounts.get("cgroup2"), own.get(""))
    top = mounts["cgroup2"][1] if folder else ""
    while folder and folder.startswith(top):
        if os.access(folder, os.W_OK) and _enabled(folder):
            yield Group("cgroup v2", {"": folder})
        folder = os.path.dirname(folder) if folder != top else ""
    found = {name: _folder(mounts.get(name), own.get(name)) for name in V1_CONTROLLERS}
    folders = {name: place for name, place in found.items() if place is not None}
    if len(folders) == len(V1_CONTROLLERS):
        yield Group("cgroup v1", folders)


def _enabled(folder: str) -> bool:
    """Return whether the groups below a folder can limit memory and processes; turned on where that is allowed."""
    if not {"memory", "pids"} <= set(_read(f"{folder}/cgroup.controllers").split()):
        return False
    with contextlib.suppress(OSError):
        if not {"memory", "pids"} <= set(_read(f"{folder}/cgroup.subtree_control").split()):
            _write(f"{folder}/cgroup.subtree_control", "+memory +pids")
    return {"memory", "pids"} <= set(_read(f"{folder}/cgroup.subtree_control").split())


def _mounts() -> dict[str, tuple[str, str]]:
    """Return (root, mount point) of ``cgroup2`` and of each version 1 controller, see proc_pid_mountinfo(5)."""
    found: dict[str, tuple[str, str]] = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = [*right.split(), "", "", ""][:3]
        names = ["cgroup2"] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []
        for name in names:
            found.setdefault(name, (root, point))
    return found


def _own_groups() -> dict[str, str]:
    """Return this process's group by controller, ``""`` for version 2, see cgroups(7)."""
    found: dict[str, str] = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        found.update(dict.fromkeys(names.split(","), path))
    return found


def _folder(mount: tuple[str, str] | None, path: str | None) -> str | None:
    """Return a group's folder, where its mount shows it."""
    if mount is None or path is None:
        return None
    root, point = mount
    inside = os.path.relpath(path, root)
    folder = point if inside == "." else f"{point}/{inside}"
    return folder if not inside.startswith("..") and os.path.isdir(folder) else None


def _sweep(place: Group) -> None:
    """Take away what harnesses left that were killed together with their watch: empty groups of dead processes."""
    for folder in place.folders.values():
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                if name.startswith(PREFIX) and not os.path.exists(f"/proc/{name.split('-')[1]}"):
                    with contextlib.suppress(OSError):
                        os.rmdir(f"{folder}/{name}")


def read_proc(path: str, one_line: bool = False) -> bytes:
    """Return a file of /proc or of a group; many are read at every look, and `open` takes three times as long.

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


def _read(path: str) -> str:
    """Return a file's text, "" where it cannot be read."""
    try:
        return read_proc(path).decode()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
