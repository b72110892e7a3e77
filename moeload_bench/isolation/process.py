"""A forecaster's process as the harness sees it: starting it, talking to it with deadlines, watching and ending it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moeload_bench.arrays import Array
from moeload_bench.errors import IsolationError
from moeload_bench.isolation import bubblewrap, frames
from moeload_bench.isolation.frames import Header, Rules
from moeload_bench.isolation.levels import Level, Limits, end_words, signal_name
from moeload_bench.isolation.local import one_line
from moeload_bench.isolation.system import end_tree, handle
from moeload_bench.isolation.targets import StoredTarget, is_baseline
from moeload_bench.isolation.watch import ProcessWatch

WORKER = str(Path(__file__).resolve().with_name("worker.py"))
MAX_REPLY_HEADER_BYTES = 2**16
PIPE_BYTES = 2**20
END_S = 10.0
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
# Without a fixed seed the order of a set of strings, and with it a forecast, may differ from run to run.
ENVIRONMENT = {**dict.fromkeys(ONE_THREAD, "1"), "PYTHONHASHSEED": "0"}


class Process:
    """One child process; after the first thing that goes wrong every call raises the same `IsolationError`."""

    def __init__(self, target: StoredTarget, level: Level, limits: Limits, numba_cache: Path | None = None) -> None:
        self._limits = limits
        self._broken: str | None = None
        self._waited_s = 0.0
        self._cpu_seen: float | None = 0.0  # CPU time that its calls were charged with, or that was start-up
        self._folder = tempfile.mkdtemp(prefix="moeload-") if level == "process" else None
        try:
            self._popen, leader = _start(target, level, limits, self._folder, numba_cache)
        except BaseException:
            self._tidy()
            raise
        self._in, self._out = _pipe(self._popen.stdin), _pipe(self._popen.stdout)
        self._leader = None if leader is None else handle(leader)
        root = self._popen.pid if leader is None else leader
        folders = None if leader is None else bubblewrap.WRITABLE
        self.watch = ProcessWatch(self._popen.pid, root, folders, limits)

    def call(
        self, header: Header, arrays: Mapping[str, Array], rules: Rules, wall_s: float | None = None
    ) -> tuple[Header, dict[str, Array]]:
        """Send a request and return the answer; raise `IsolationError` after ``wall_s`` seconds at the latest."""
        if self._broken is not None:
            raise IsolationError(self._broken)
        allowed = self._limits.wall_s_per_call if wall_s is None else wall_s
        left = self._limits.run_wall_s - self._waited_s if wall_s is None else allowed
        began = time.monotonic()
        deadline = began + min(allowed, left)
        number = secrets.randbits(53)
        try:
            self.watch.check()
            self._write(frames.encode_frame({**header, "seq": number}, arrays), deadline)
            reply, out = frames.read_frame(
                lambda view: self._read_into(view, deadline), rules, max_header_bytes=MAX_REPLY_HEADER_BYTES
            )
            if reply.get("seq") != number:
                raise IsolationError("it answered another request than the one that was asked")
            missing = [name for name, rule in rules.items() if rule.required and name not in out]
            if missing and reply.get("status") == "ok":
                raise IsolationError(f"its answer lacks {missing}")
        except TimeoutError:
            if left < allowed:
                self._fail(f"its calls took more than {self._limits.run_wall_s:g} s of wall time in this run")
            self._fail(f"{header['op']} took more than {allowed:g} s of wall time{self._idle_words(allowed)}")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._fail(self._how_it_ended())
        except IsolationError as error:
            self._fail(f"broke the protocol: {error}")
        if wall_s is None:
            self._waited_s += time.monotonic() - began
        return reply, out

    def _idle_words(self, wall_s: float) -> str:
        """Return why a call took too long that hardly computed; empty where it did compute, or where nobody knows."""
        cpu_s = self.watch.cpu_s()
        if cpu_s is None or self._cpu_seen is None or cpu_s - self._cpu_seen > wall_s / 2:
            return ""
        return (
            f" and only {cpu_s - self._cpu_seen:.1f} s of CPU time: it waits for something, or the machine is busy; "
            "the same command tries again, and finished runs are kept"
        )

    def cpu_since(self) -> float | None:
        """Return the CPU seconds used since this was last asked; None where they are not known."""
        before, cpu_s = self._cpu_seen, self.watch.cpu_s()
        self._cpu_seen = before if cpu_s is None else cpu_s
        return None if before is None or cpu_s is None else max(0.0, cpu_s - before)

    def kill(self) -> None:
        """End the process and all its descendants at once."""
        if self._leader is not None:
            self._leader.kill()  # the sandbox's first process: with it the kernel ends everything else in there
        if self._popen.poll() is None:  # else its number may be another's by now
            end_tree(self._popen.pid)

    def close(self) -> None:
        """Leave nothing behind: no process, no descriptor, no folder."""
        self.watch.stop()
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(END_S)
        if self._leader is not None:
            self._leader.close(wait_s=END_S)
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        self._tidy()
        if self._broken is None:
            self._broken = "the host is closed"

    def _tidy(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _fail(self, reason: str) -> None:
        self._broken = one_line(f"the forecaster's process: {self.watch.verdict or reason}")
        self.kill()
        raise IsolationError(self._broken) from None

    def _how_it_ended(self) -> str:
        try:
            status = self._popen.wait(END_S)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        name = signal_name(status)
        if name == "SIGXCPU":
            return f"{end_words(status)} after {self._limits.cpu_s:g} s of CPU time"
        words = _last_words(self._popen) if name is None else ""
        return f"{end_words(status)}{f': {words}' if words else ''}"

    def _write(self, buffers: list[memoryview], deadline: float) -> None:
        poll = select.poll()
        poll.register(self._in, select.POLLOUT)
        poll.register(self._out, select.POLLIN)
        for buffer in buffers:
            while len(buffer):
                ready = dict(poll.poll(_left_ms(deadline)))
                if ready.get(self._out, 0) & select.POLLIN:
                    raise IsolationError("it spoke without being asked")
                if not ready:
                    raise TimeoutError
                if self._out in ready:
                    raise EOFError
                buffer = buffer[os.write(self._in, buffer) :]

    def _read_into(self, view: memoryview, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        while len(view):
            if not poll.poll(_left_ms(deadline)):
                raise TimeoutError
            count = os.readv(self._out, [view])
            if not count:
                raise EOFError
            view = view[count:]


def _start(
    target: StoredTarget,
    level: Level,
    limits: Limits,
    folder: str | None,
    numba_cache: Path | None,
) -> tuple[subprocess.Popen[bytes], int | None]:
    """Return the child, and for a sandbox the process id (seen from outside) of its first process."""
    sandboxed = level == "sandbox"
    settings: dict[str, Any] = {
        "path": None if sandboxed else [os.path.abspath(entry) for entry in sys.path],
        "first_path": [] if target.packages is None else [str(target.packages)],
        "extra_path": bubblewrap.extra_path(target) if sandboxed else [],
        "limits": _resource_limits(limits, sandboxed),
        "parent": None if sandboxed else os.getpid(),
        "first": sandboxed and bubblewrap.first_process_is_ours(),
    }
    arguments = ["-P", "-s" if sandboxed else "-P", WORKER, json.dumps(settings)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    pipes |= {"bufsize": 0, "start_new_session": True}
    if not sandboxed:
        environment = {**os.environ, **ENVIRONMENT, **_cache_setting(target, numba_cache)}
        return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, **pipes), None
    command, info_fd = bubblewrap.sandbox_command(target, arguments, ENVIRONMENT)
    try:
        popen = subprocess.Popen(command.argv, pass_fds=command.fds, env={}, **pipes)
    except BaseException:
        os.close(info_fd)
        raise
    finally:
        command.close()
    return popen, _read_leader(popen, info_fd)


def _cache_setting(target: StoredTarget, numba_cache: Path | None) -> dict[str, str]:
    """Return where a baseline at level `process` keeps compiled code: a folder of this user alone, since numba
    unpickles it.

    The folder was made for one request. On another machine of a cluster it is not there, and each child compiles.
    """
    if numba_cache is None or not is_baseline(target):
        return {}
    with contextlib.suppress(OSError):
        status = numba_cache.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077:
            return {"NUMBA_CACHE_DIR": str(numba_cache)}
    return {}


def _read_leader(popen: subprocess.Popen[bytes], info_fd: int) -> int:
    with os.fdopen(info_fd, "rb") as info:
        text = info.read()  # ends when bubblewrap has written it or has given up
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(END_S)
        words = _last_words(popen)
        popen.kill()
        raise IsolationError(f"the sandbox did not come up: {words}") from None


def _resource_limits(limits: Limits, sandboxed: bool) -> dict[str, int]:
    """Return what the kernel enforces per process. Processes are counted per user: only a sandbox has a user of its
    own.
    """
    by_name = {
        "RLIMIT_CPU": max(1, round(limits.cpu_s)),
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": 1024,
        "RLIMIT_CORE": 0,
    }
    if sandboxed:
        by_name["RLIMIT_NPROC"] = limits.processes + 1  # one is the sandbox's first process
    return by_name


def _pipe(stream: Any) -> int:
    fd: int = stream.fileno()
    os.set_blocking(fd, False)
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # the user's quota for pipes may be used up
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return fd


def _last_words(popen: subprocess.Popen[bytes]) -> str:
    """Return what a process that ended early wrote to its standard error, bounded."""
    if popen.stderr is None:
        return ""
    os.set_blocking(popen.stderr.fileno(), False)
    content = popen.stderr.read(4096) or b""
    return one_line(content.decode(errors="replace")[-300:])


def _left_ms(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic()) * 1000
