"""Forecasters that attack the harness. Each is bounded, so that a sandbox that fails loses a test and not a machine.

An attack that is stopped ends in an exception or a dead process: a failed task. One that gets through returns normally
and forecasts like an honest forecaster, which the tests take as the sandbox's defeat.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from moeload_bench.forecaster import FitRuns, Forecast, ForecastRequest, StepBlock, TraceInfo

MIB = 2**20
LIBC = ctypes.CDLL(None, use_errno=True)
SO_COOKIE, SO_NETNS_COOKIE, SO_PASSPIDFD, SO_PEERPIDFD = 57, 71, 76, 77
CLONE, CLONE_PIDFD = 56, 0x1000


class BlockedError(Exception):
    """The attack found nothing to take."""


class Attacker:
    """Forecasts 1/E; `attack` runs at the first forecast."""

    def __init__(self, info: TraceInfo, seed: int, **kwargs: object) -> None:
        self.info, self.kwargs = info, kwargs
        self.counts: object = {}
        self.done = False

    def observe(self, block: StepBlock) -> None:
        pass

    def forecast(self, request: ForecastRequest) -> Forecast:
        self.attack()
        share = np.full((self.info.num_layers, self.info.num_experts), 1 / self.info.num_experts)
        return Forecast.constant(share, request.horizon)

    def attack(self) -> None:
        """What it does instead of forecasting."""


def blocked_everywhere(attempts: Mapping[str, Callable[[], object]]) -> None:
    """Raise what was refused when every attempt was; return when one of them was not."""
    refusals = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, BlockedError, subprocess.SubprocessError) as error:
            refusals.append(f"{name}: {type(error).__name__}")
        else:
            return
    raise BlockedError("; ".join(refusals))


# ------------------------------------------------------------------------------------------------ reading


class ReadsFile(Attacker):
    """Reads the file it was told of, or lists the folder."""

    def attack(self) -> None:
        path = Path(str(self.kwargs["path"]))
        found = os.listdir(path) if path.is_dir() else [path.read_bytes()]
        if not found:
            raise BlockedError("the folder is empty")


class FindsTraces(Attacker):
    """Looks through the whole file system for anything that may hold loads, labels or recipes."""

    def attack(self) -> None:
        for folder, names, files in os.walk("/"):
            names[:] = [name for name in names if folder != "/" or name not in ("proc", "sys", "dev")]
            # The checkout's own folder may be named moeload-bench, and what is installed in it is not ours.
            ours = "moeload" in re.split(r"site-packages|/\.venv", folder)[-1]
            loot = [f for f in files if f.endswith((".parquet", ".arrow")) or (ours and f.endswith(".toml"))]
            # Libraries ship small data files of their own for tests.
            loot = [f for f in loot if ours or "site-packages" not in folder]
            if loot:
                self.counts = {"found": len(loot)}
                return
        raise BlockedError("no trace anywhere")


class ReadsProc(Attacker):
    """Looks into every process it can see, the harness first."""

    def attack(self) -> None:
        attempts: dict[str, Callable[[], object]]
        pids = {int(str(self.kwargs["pid"])), os.getppid()}
        pids |= {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
        # The sandbox's first process may be looked into where it has the same user: it is inside too, knows nothing.
        attempts = {"1/environ": lambda: self.peek("/proc/1/environ"), "1/root": self.other_root}
        for pid in pids - {0, 1}:
            for name in ("environ", "maps", "mem"):
                attempts[f"{pid}/{name}"] = lambda path=f"/proc/{pid}/{name}": self.peek(path)
            for name in ("fd", "cwd", "root"):
                attempts[f"{pid}/{name}"] = lambda path=f"/proc/{pid}/{name}": os.listdir(path)
        blocked_everywhere(attempts)

    def peek(self, path: str) -> None:
        with open(path, "rb") as file:
            if not file.read(1):
                raise BlockedError("empty")

    def other_root(self) -> None:
        if os.path.samefile("/proc/1/root", "/"):
            raise BlockedError("the same root")


class ReadsSecrets(Attacker):
    """Looks for a secret in the environment, its own and every other process's."""

    def attack(self) -> None:
        secret = str(self.kwargs["secret"])
        seen = repr(dict(os.environ)).encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                seen += path.read_bytes()
            except OSError:
                continue
        if secret.encode() not in seen:
            raise BlockedError("the secret is not there")


class ReadsDescriptors(Attacker):
    """Reads whatever open file it inherited."""

    def attack(self) -> None:
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue
            if not target.startswith(("pipe:", "/dev/null", f"/proc/{os.getpid()}", "/proc/self")):
                self.counts = {"inherited": 1}
                return
        raise BlockedError("nothing but the two pipes")


# ------------------------------------------------------------------------------------------------ network


class Connects(Attacker):
    """Connects to an address, over TCP or an abstract unix socket."""

    def attack(self) -> None:
        if "port" in self.kwargs:
            socket.create_connection((str(self.kwargs["host"]), int(str(self.kwargs["port"]))), timeout=2).close()
            return
        with socket.socket(socket.AF_UNIX) as unix:
            unix.connect(b"\0" + str(self.kwargs["abstract"]).encode())


class UncontainedSockets(Attacker):
    """Opens kinds of sockets that a network namespace does not hold: netlink, vsock, raw packets, kernel crypto."""

    def attack(self) -> None:
        kinds = {"netlink": (16, 3), "vsock": (40, 1), "packet": (17, 3), "alg": (38, 5), "raw": (2, 3)}
        blocked_everywhere({name: lambda kind=kind: socket.socket(*kind) for name, kind in kinds.items()})


# ------------------------------------------------------------------------------------------------ writing


class WritesOutside(Attacker):
    """Writes into every folder that is not its own."""

    def attack(self) -> None:
        places = ["/", "/sandbox", "/usr", "/etc", "/home", "/root", "/dev", "/run", "/var/tmp", sys.prefix]
        places += [sys.base_prefix, str(Path(__file__).parent), str(self.kwargs["path"])]
        places += [
            str(Path(sys.modules["moeload_bench"].__path__[0])),
            f"{sys.modules['moeload_bench'].__path__[0]}/data",
        ]
        # What lies under /tmp (an environment that was made there) is a place in its own /tmp.
        places = [place for place in places if not Path(place).is_relative_to("/tmp")]
        blocked_everywhere({place: lambda place=place: self.write(place) for place in places})

    def write(self, place: str) -> None:
        Path(place, "moeload-attack").write_text("was here")


class Overwrites(Attacker):
    """Appends to files that exist: the package, the interpreter, its own source."""

    def attack(self) -> None:
        files = [sys.executable, os.__file__, __file__, sys.modules["moeload_bench.forecaster"].__file__]
        blocked_everywhere({str(file): lambda file=file: open(str(file), "ab").close() for file in files})


class LinksItsOutput(Attacker):
    """Puts links to a file outside where its output might be read or written, and writes through them."""

    def attack(self) -> None:
        victim = str(self.kwargs["path"])
        for name in ("out.json", "forecast.npy", "result"):
            os.symlink(victim, f"/tmp/{name}")
        blocked_everywhere(
            {
                "write": lambda: open("/tmp/out.json", "w").close(),
                "read": lambda: open("/tmp/result").close(),
                "hard link": lambda: os.link(victim, "/tmp/hard"),
                "rename": lambda: os.rename("/tmp/result", __file__),
            }
        )


class FillsDisk(Attacker):
    """Writes at most 512 MiB of files."""

    def attack(self) -> None:
        chunk = b"x" * MIB
        for i in range(512):
            with open(f"{self.kwargs['path']}/fill-{i}", "wb") as file:
                file.write(chunk)


class WritesLargeFile(Attacker):
    """Writes one file of at most 64 MiB; the test allows less."""

    def attack(self) -> None:
        with open("/tmp/large", "wb") as file:
            for _ in range(64):
                file.write(b"x" * MIB)


# ------------------------------------------------------------------------------------------------ resources


class ForkBomb(Attacker):
    """At most 300 children that sleep for at most 10 s."""

    def attack(self) -> None:
        for _ in range(300):
            if os.fork() == 0:
                time.sleep(10)
                os._exit(0)


class ThreadBomb(Attacker):
    """At most 300 threads that sleep for at most 10 s."""

    def attack(self) -> None:
        for _ in range(300):
            threading.Thread(target=time.sleep, args=(10,), daemon=True).start()


class EatsMemory(Attacker):
    """At most 1 GiB in one process; the test allows less."""

    def attack(self) -> None:
        self.held = [np.ones(4 * MIB) for _ in range(32)]


class EatsMemoryInChildren(Attacker):
    """Four children hold 128 MiB each for at most 10 s: each alone is within the limit of the test."""

    def attack(self) -> None:
        for _ in range(4):
            if os.fork() == 0:
                held = np.ones(16 * MIB)
                time.sleep(10)
                os._exit(int(held[0]))
        time.sleep(10)


class HidesMemory(Attacker):
    """Memory that belongs to no process: memfd and System V segments (64 MiB each)."""

    def attack(self) -> None:
        def shm() -> None:
            if ctypes.CDLL(None, use_errno=True).shmget(0, 64 * MIB, 0o1600) < 0:
                raise OSError(ctypes.get_errno(), "shmget")

        blocked_everywhere({"memfd": lambda: os.truncate(os.memfd_create("x"), 64 * MIB), "shmget": shm})


class SpinsInObserve(Attacker):
    """Computes for at most 30 s."""

    def observe(self, block: StepBlock) -> None:
        spin(30)


class SpinsInForecast(Attacker):
    def attack(self) -> None:
        spin(30)


class BurnsInChildren(Attacker):
    """Two children compute for at most 10 s while the forecaster itself waits."""

    def attack(self) -> None:
        for _ in range(2):
            if os.fork() == 0:
                spin(10)
                os._exit(0)
        time.sleep(10)


class Sleeps(Attacker):
    def attack(self) -> None:
        time.sleep(30)


class StopsItself(Attacker):
    """Stops its own process, as a debugger would."""

    def attack(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


def spin(seconds: float) -> None:
    """Use the processor, without a call that a signal could interrupt."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


# ------------------------------------------------------------------------------------------------ processes


def daemon(seconds: float, number: Path | None = None) -> None:
    """Start a process with a session of its own and no open file; write its number to a file that is named."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if number is not None:
                part = number.with_suffix(".part")
                part.write_text(str(os.getpid()))
                part.rename(number)
            os.closerange(0, 64)
            time.sleep(seconds)
        os._exit(0)


class LeavesChild(Attacker):
    """A daemon (two forks, its own session) that would live for 10 s more; the forecaster goes on as if nothing."""

    def attack(self) -> None:
        daemon(10)


class SignalsParent(Attacker):
    """Signals the harness and another process of the user by the ids it was told."""

    def attack(self) -> None:
        pids = [int(str(pid)) for pid in str(self.kwargs["pids"]).split("-")]
        if os.getppid() not in (0, 1):
            pids.append(os.getppid())
        attempts = {str(pid): lambda pid=pid: os.kill(pid, signal.SIGUSR1) for pid in pids}
        attempts["group"] = lambda: os.killpg(pids[0], signal.SIGUSR1)
        blocked_everywhere(attempts)


class OpensTerminal(Attacker):
    """Opens the controlling terminal."""

    def attack(self) -> None:
        names = ["/dev/tty", "/dev/console", "/dev/tty0", "/dev/tty1", str(self.kwargs.get("path", "/dev/pts/0"))]
        blocked_everywhere({name: lambda name=name: os.close(os.open(name, os.O_RDWR)) for name in names})


class BecomesRoot(Attacker):
    """Asks for root, for capabilities and for higher limits."""

    def attack(self) -> None:
        def raise_limit() -> None:
            try:
                resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))
            except ValueError as error:
                raise BlockedError(str(error)) from error

        blocked_everywhere(
            {
                "setuid": lambda: os.setresuid(0, 0, 0),
                "limit": raise_limit,
                "mknod": lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)),
                "chroot": lambda: os.chroot("/tmp"),
                "nice": lambda: os.nice(-5),
            }
        )


class SystemCalls(Attacker):
    """New namespaces, mounts, tracing and the like, straight to the kernel."""

    def attack(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)

        def call(name: str, *arguments: object) -> None:
            if getattr(libc, name)(*arguments) < 0:
                raise OSError(ctypes.get_errno(), name)

        blocked_everywhere(
            {
                "user namespace": lambda: call("unshare", 0x10000000),
                "mount namespace": lambda: call("unshare", 0x00020000),
                "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
                "umount": lambda: call("umount2", sys.prefix.encode(), 2),
                "ptrace": lambda: call("ptrace", 16, 1, None, None),
                "keyctl": lambda: call("syscall", 250, 0, -3, 0),
                "bpf": lambda: call("syscall", 321, 0, None, 0),
                "userfaultfd": lambda: call("syscall", 323, 0),
            }
        )


class Segfault(Attacker):
    def attack(self) -> None:
        ctypes.string_at(0)


class Exits(Attacker):
    def attack(self) -> None:
        os._exit(0)


class RaisesSystemExit(Attacker):
    def attack(self) -> None:
        sys.exit("bye")


class RaisesKeyboardInterrupt(Attacker):
    def attack(self) -> None:
        raise KeyboardInterrupt


class UglyError(Attacker):
    """An exception whose text is huge, has many lines and steers a terminal."""

    def attack(self) -> None:
        raise RuntimeError("\x1b[2Jgone\nsecond line\r\n" + "x" * 10_000_000)


class UnprintableError(Attacker):
    """An exception whose text cannot be had."""

    def attack(self) -> None:
        class NoTextError(Exception):
            def __str__(self) -> str:
                raise ValueError("no")

        raise NoTextError


# ------------------------------------------------------------------------------------------------ what is not charged


class HoldsSockets(Attacker):
    """Three children fill the queues of socket pairs, some 600 MiB in all, for at most 12 s; no process holds it."""

    def attack(self) -> None:
        for _ in range(3):
            if os.fork() == 0:
                held = [pair for _ in range(480) if (pair := self.filled())]
                time.sleep(12)
                os._exit(len(held) % 2)
        time.sleep(12)

    def filled(self) -> tuple[socket.socket, socket.socket]:
        """Both ends, with all that their queues take."""
        pair = socket.socketpair()
        for end in pair:
            end.setblocking(False)
            try:
                while True:
                    end.send(b"x" * 32768)
            except BlockingIOError:
                continue
        return pair


class MakesFiles(Attacker):
    """At most 400,000 empty files: kernel memory."""

    def attack(self) -> None:
        for i in range(200):
            os.mkdir(f"/tmp/{i}")
            for j in range(2000):
                os.close(os.open(f"/tmp/{i}/{j}", os.O_CREAT | os.O_WRONLY))


class BurnsUnseen(Attacker):
    """Children of 20 ms each, which nobody waits for, burn the processor for at most 12 s of wall time."""

    def attack(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        end = time.monotonic() + 12
        while time.monotonic() < end:
            if os.fork() == 0:
                spin(0.02)
                os._exit(0)
            time.sleep(0.02)


class SleepsInEveryCall(Attacker):
    """Each call takes less than a call may."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        time.sleep(0.8)
        return super().forecast(request)


class LeavesItsSession(Attacker):
    """A daemon with a session of its own, which would live for 30 s; its number is written to the file named."""

    def attack(self) -> None:
        daemon(30, Path(str(self.kwargs["path"])))
        while not Path(str(self.kwargs["path"])).exists():
            time.sleep(0.01)


class FitsTooMuch:
    """40 MiB of what it learned."""

    def __init__(self, info: TraceInfo, seed: int, fitted: bytes | None = None) -> None:
        raise AssertionError("nobody gets that far")

    @classmethod
    def fit(cls, runs: FitRuns, seed: int) -> bytes:
        return bytes(40 * MIB)

    def observe(self, block: object) -> None: ...

    def forecast(self, request: object) -> None: ...


class BurnsLater(Attacker):
    """Answers at once; two children of it compute, each for less than the test allows, and live for at most 30 s."""

    def attack(self) -> None:
        for _ in range(2):
            if os.fork() == 0:
                while time.process_time() < 1.5:
                    pass
                time.sleep(30)
                os._exit(0)


class OpensFirstProcess(Attacker):
    """Writes to the memory of the sandbox's first process, opens its pipes, traces it."""

    def attack(self) -> None:
        attempts: dict[str, Callable[[], object]] = {
            name: lambda name=name: Path(f"/proc/1/{name}").read_bytes() for name in ("environ", "maps", "auxv")
        }
        attempts["mem"] = lambda: os.close(os.open("/proc/1/mem", os.O_RDWR))
        attempts["fd"] = lambda: os.listdir("/proc/1/fd")
        attempts["pipes"] = lambda: [os.close(os.open(f"/proc/1/fd/{n}", os.O_RDWR)) for n in (0, 1, 2)]
        attempts["root"] = lambda: os.listdir("/proc/1/root")
        attempts["cwd"] = lambda: os.listdir("/proc/1/cwd")
        blocked_everywhere(attempts)


class OpensTerminals(Attacker):
    """Pseudo-terminals are few on a machine; sockets of other families than unix, as pairs too."""

    def attack(self) -> None:
        attempts: dict[str, Callable[[], object]] = {
            "ptmx": lambda: os.open("/dev/ptmx", os.O_RDWR),
            "pts": lambda: os.open("/dev/pts/ptmx", os.O_RDWR),
            "openpty": os.openpty,
        }
        for family in (2, 10, 16, 30, 38, 40):  # inet, inet6, netlink, tipc, alg, vsock
            attempts[f"socket {family}"] = lambda family=family: socket.socket(family, socket.SOCK_DGRAM)
            attempts[f"pair {family}"] = lambda family=family: socket.socketpair(family, socket.SOCK_DGRAM)
        blocked_everywhere(attempts)


class AsksForPages(Attacker):
    """Which pages of a shared file are in memory? That would tell it which ones an earlier run has read."""

    def attack(self) -> None:
        with open(sys.executable, "rb") as file:
            fd, seen = file.fileno(), ctypes.create_string_buffer(4096)
            mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            address = ctypes.c_void_p(np.frombuffer(mapped, dtype=np.uint8).ctypes.data)

            def call(number: int, *arguments: object) -> None:
                if LIBC.syscall(number, *arguments) < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

            blocked_everywhere(
                {
                    "mincore": lambda: call(27, address, ctypes.c_size_t(4096), seen),
                    "cachestat": lambda: call(451, fd, seen, seen, 0),
                    "preadv2": lambda: os.preadv(fd, [bytearray(16)], 0, os.RWF_NOWAIT),
                    "preadv2 without it": lambda: call(327, fd, seen, 1, 0, 0, 0),
                    "inotify": lambda: call(294, 0),
                    "fanotify": lambda: call(300, 0, 0),
                    "flock": lambda: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
                    "lock": lambda: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
                    "open file lock": lambda: fcntl.fcntl(fd, 37, bytes(32)),
                    "whose lock": lambda: fcntl.fcntl(fd, fcntl.F_GETLK, bytes(32)),
                    "lease": lambda: fcntl.fcntl(fd, 1024, 0),
                    "notify": lambda: fcntl.fcntl(fd, 1026, 1),
                    "pressure": lambda: self.read("/proc/pressure/memory"),
                    "vmstat": lambda: self.read("/proc/vmstat"),
                    "locks": lambda: self.read("/proc/locks"),
                    "diskstats": lambda: self.read("/proc/diskstats"),
                }
            )

    def read(self, path: str) -> None:
        if not Path(path).read_bytes():
            raise BlockedError("empty")


def refuses(call: Callable[[], object]) -> bool:
    """Whether the kernel refuses a call."""
    try:
        call()
    except OSError:
        return True
    return False


class CountsTheMachine(Attacker):
    """Reads what the kernel counts of all processes; it forecasts if each text is the same whatever ran before."""

    def attack(self) -> None:
        told = {name: Path("/proc", name).read_text() for name in ("stat", "loadavg", "uptime", "meminfo")}
        assert "processes 1\n" in told["stat"]
        assert told["loadavg"] == "0.00 0.00 0.00 1/1 1\n"
        assert told["uptime"] == "1.00 1.00\n"
        total, free, *_ = (line.split()[1] for line in told["meminfo"].splitlines())
        assert total == free
        assert not os.listdir("/proc/sys/fs")
        assert LIBC.sysinfo(ctypes.create_string_buffer(512)) == -1
        assert (number_of_process(), number_of_socket()) == (0, 0)
        assert LIBC.syscall(CLONE, CLONE_PIDFD | signal.SIGCHLD, 0, ctypes.byref(ctypes.c_int()), 0, 0) == -1
        with socket.socket(socket.AF_UNIX) as one:
            for option in (SO_NETNS_COOKIE, SO_PEERPIDFD):
                assert refuses(lambda option=option: one.getsockopt(socket.SOL_SOCKET, option, 8))
            assert refuses(lambda: one.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1))
        for name in ("cgroups", "modules", "crypto"):
            with contextlib.suppress(OSError):
                assert not Path("/proc", name).read_bytes()


def number_of_process() -> int:
    """The number that Linux 6.9 or newer gives a new process, among all of the machine that are asked; 0: refused."""
    child, number = os.fork(), 0
    if child == 0:
        os._exit(0)
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(child)
        number = os.fstat(descriptor).st_ino
        os.close(descriptor)
    os.waitpid(child, 0)
    return number


def number_of_socket() -> int:
    """The number that the kernel gives each socket of the machine that is asked for it; 0: refused."""
    one, other = socket.socketpair()
    with one, other, contextlib.suppress(OSError):
        return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
    return 0


class PassesNumbers(Attacker):
    """Tells a later run a number from 0 to 7 by what the kernel counts: of processes, by two names, sockets or pipes.

    Told none, it is the later run.
    """

    def attack(self) -> None:
        if "number" in self.kwargs:
            end = time.monotonic() + 8
            while self.level() % 8 != int(str(self.kwargs["number"])) and time.monotonic() < end:
                self.count_on()
        else:
            self.counts = {"number": self.level() % 8}

    def level(self) -> int:
        if self.kwargs["by"] == "processes":
            lines = Path("/proc/stat").read_text().splitlines()
            return next((int(line.split()[1]) // 64 for line in lines if line.startswith("processes")), 0)
        if self.kwargs["by"] == "pidfds":
            return number_of_process() // 64
        if self.kwargs["by"] == "cookies":
            return number_of_socket() // 16384
        ends = os.pipe()
        number = os.fstat(ends[0]).st_ino // 65536
        for end in ends:
            os.close(end)
        return number

    def count_on(self) -> None:
        if self.kwargs["by"] == "processes":
            if os.fork() == 0:
                os._exit(0)
            os.wait()
        for _ in range(1000 if self.kwargs["by"] == "cookies" else 0):
            number_of_socket()
        for _ in range(1000 if self.kwargs["by"] == "pipes" else 0):
            for end in os.pipe():
                os.close(end)


class DropsPages(Attacker):
    """Takes a shared file out of memory, by every hint there is: the next run would find it gone."""

    def attack(self) -> None:
        with open(str(self.kwargs["path"]), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            for advice in (4, 20, 21):  # MADV_DONTNEED, COLD, PAGEOUT
                with contextlib.suppress(OSError):
                    mapped.madvise(advice)
            os.sync()


class PassesBits(Attacker):
    """Tells a later run 16 bits by which of 16 shared files it reads: the other finds them in memory.

    Told none, it is the later run: what the kernel counts of its own page faults says which files came from the disk.
    """

    def attack(self) -> None:
        files = [f"{self.kwargs['folder']}/{i}" for i in range(16)]
        if "bits" in self.kwargs:
            for i, path in enumerate(files):
                if int(str(self.kwargs["bits"])) >> i & 1:
                    self.touch(path)
        else:
            self.counts = {"bits": sum(self.touch(path) << i for i, path in enumerate(files))}

    def touch(self, path: str) -> bool:
        """Whether a file's first page was in memory; it is now."""
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
            assert mapped[0] == 0
            return resource.getrusage(resource.RUSAGE_SELF).ru_majflt == before


class UsesLibraries(Attacker):
    """What honest forecasters do, under the list of system calls that they may make."""

    def attack(self) -> None:
        import concurrent.futures
        import multiprocessing
        import shutil
        import sqlite3
        import subprocess
        import tempfile
        import threading

        np.linalg.svd(np.random.default_rng(0).normal(size=(80, 80)))
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/a.npy", np.ones(8))
            np.load(f"{folder}/a.npy", mmap_mode="r+")[0] = 2
            shutil.copy2(f"{folder}/a.npy", f"{folder}/b.npy")
            os.rename(f"{folder}/b.npy", f"{folder}/c.npy")
            sqlite3.connect(":memory:").execute("create table t (a)")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(abs, [-1, 2])) == [1, 2]
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
        child.start()
        child.join()
        assert child.exitcode == 0
        subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)
        one, other = socket.socketpair()
        one.sendall(b"x")
        assert other.recv(1) == b"x"
        timer = threading.Timer(0.01, lambda: None)
        timer.start()
        timer.join()
        for name in str(self.kwargs["names"]).split("-"):
            getattr(self, f"with_{name}")()

    def with_statsmodels(self) -> None:
        from statsmodels.tsa.arima.model import ARIMA

        ARIMA(np.random.default_rng(0).normal(size=60), order=(1, 0, 0)).fit()

    def with_numba(self) -> None:
        import numba

        @numba.njit(cache=False)
        def total(values: np.ndarray) -> float:
            found = 0.0
            for value in values:
                found += value
            return found

        assert total(np.ones(10)) == 10

    def with_torch(self) -> None:
        import torch

        net = torch.nn.LSTM(3, 4)
        out, _ = net(torch.ones(5, 2, 3))
        out.sum().backward()
        torch.optim.Adam(net.parameters()).step()

    def with_sklearn(self) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        x = np.random.default_rng(0).normal(size=(200, 3))
        HistGradientBoostingRegressor(max_iter=5).fit(x, x[:, 0])
