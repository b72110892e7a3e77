"""The bubblewrap command that a sandboxed forecaster runs under.

The new root holds the interpreter, its libraries, the installed packages and the one file or package of the
forecaster, all read-only, and a small private /tmp. What may hold trace data (the package's ``data`` and ``suites``,
everything else in a checkout) is not there. Nothing of the network or the user's files is either, and of the
environment only what selects the kernels of numerical libraries.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import os
import re
import shutil
import site
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moeload_bench.errors import IsolationError
from moeload_bench.files import PACKAGE
from moeload_bench.isolation import seccomp
from moeload_bench.isolation.sources import find_module, weights_beside
from moeload_bench.isolation.targets import FileTarget, ModuleTarget, StoredTarget, Target

FORECASTER_PATH = "/sandbox/forecaster.py"
TMP_BYTES = 256 * 2**20
SHM_BYTES = 64 * 2**20
WRITABLE = {"/tmp": TMP_BYTES, "/dev/shm": SHM_BYTES}
HIDDEN_IN_PACKAGE = ("data", "suites", "recording", "recipes", "generator")
ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "NUMBA_CACHE_DIR": "/tmp/numba"}
# They select the kernels of numerical libraries: without them the last bits could differ from the other levels'.
KERNEL_SETTINGS = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "MKL_CBWR",
    "NPY_DISABLE_CPU_FEATURES",
    "ATEN_CPU_CAPABILITY",
)
KERNEL_VALUE = re.compile(r"[\w ,+-]{1,100}", re.ASCII)
MASKED_IN_PROC = (
    "buddyinfo", "cgroups", "crypto", "diskstats", "interrupts", "kpagecgroup", "kpagecount", "kpageflags", "locks",
    "modules", "pagetypeinfo", "sched_debug", "schedstat", "slabinfo", "softirqs", "swaps", "timer_list",
    "vmallocinfo", "vmstat", "zoneinfo",
)  # fmt: skip
FROZEN_IN_PROC = {
    "loadavg": "0.00 0.00 0.00 1/1 1\n",
    "meminfo": "".join(f"{name}: {{total}} kB\n" for name in ("MemTotal", "MemFree", "MemAvailable")),
    "stat": "cpu  1 0 1 1 0 0 0 0 0 0\ncpu0 1 0 1 1 0 0 0 0 0 0\nctxt 0\nbtime 0\nprocesses 1\nprocs_running 1\n",
    "uptime": "1.00 1.00\n",
}
"""What libraries read of the whole machine: there, and the same whatever another run did."""
FOLDERS_MASKED_IN_PROC = ("pressure", "sys/fs")
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
SPARE = 2  # so many times the files' size has to be available, or their pages would push one another out
LIBRARIES = ("/lib", "/lib64", "/lib32", "/usr/lib64", "/usr/lib32")
INSTALL_HINT = "install bubblewrap (Debian and Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"

_slots = itertools.count()


@dataclass(frozen=True)
class Command:
    """What to run, and the descriptors it inherits."""

    argv: list[str]
    fds: tuple[int, ...]

    def close(self) -> None:
        """Close this side's copies of the descriptors."""
        for fd in self.fds:
            os.close(fd)


def sandbox_command(
    target: StoredTarget | None, arguments: Sequence[str], environment: dict[str, str]
) -> tuple[Command, int]:
    """Return the command that runs ``python ARGUMENTS`` in the sandbox, and a descriptor that tells its first process.

    Without a ``target`` the sandbox holds no forecaster.
    """
    machine = seccomp.this_machine()
    bwrap = shutil.which("bwrap")
    if machine is None or bwrap is None:
        raise IsolationError(f"isolation level 'sandbox' is not available: {why_unavailable()}")
    mounts, extra_fds = ([], ()) if target is None else _target_mounts(target)
    seccomp_fd = _memory_file("seccomp", seccomp.filter_program(machine))
    info_read, info_write = os.pipe()
    options = [*_namespace_options(), *_root_options(mounts)]
    options += ["--seccomp", str(seccomp_fd), "--info-fd", str(info_write)]
    frozen = {name: _memory_file(name, text.encode()) for name, text in _frozen_proc().items()}
    options += [
        part for name, fd in frozen.items() for part in ("--perms", "0444", "--ro-bind-data", str(fd), f"/proc/{name}")
    ]
    settings = kernel_settings(os.environ) | ENVIRONMENT | environment
    options += ["--clearenv", *(part for item in settings.items() for part in ("--setenv", *item)), "--chdir", "/tmp"]
    args_fd = _memory_file("args", b"".join(option.encode() + b"\0" for option in options))
    argv = [bwrap, "--args", str(args_fd), "--", *_drop_user(), str(interpreter()), *arguments]
    return Command(argv, (*extra_fds, *frozen.values(), seccomp_fd, info_write, args_fd)), info_read


def first_process_is_ours() -> bool:
    """Return whether the worker itself is the sandbox's first process, and has to leave it (`worker`).

    As root, bubblewrap's own is that: it belongs to another user than the forecaster, who cannot touch it.
    """
    return os.geteuid() != 0


def kernel_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of this process's environment the sandbox gets too."""
    return {name: environment[name] for name in KERNEL_SETTINGS if KERNEL_VALUE.fullmatch(environment.get(name, ""))}


def extra_path(target: StoredTarget) -> list[str]:
    """Return folders to put on the worker's ``sys.path`` that its interpreter does not find by itself."""
    paths = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    if isinstance(target, ModuleTarget):
        paths.append(str(_outermost_package(target.module)[1]))
    return [*(path for path in paths if os.path.isdir(path)), str(PACKAGE.parent)]


@functools.lru_cache(maxsize=1)
def why_unavailable() -> str | None:
    """Return None when a sandbox comes up on this machine (tried once per process), else the reason."""
    if sys.platform != "linux":
        return f"bubblewrap is for Linux, this is {sys.platform}"
    if seccomp.this_machine() is None:
        return f"no table of system calls for this processor, there is: {', '.join(seccomp.MACHINES)}"
    if shutil.which("bwrap") is None:
        return f"the program bwrap is not installed; {INSTALL_HINT}"
    command, info_fd = sandbox_command(None, ["-S", "-c", "pass"], {})
    try:
        tried = subprocess.run(
            command.argv, pass_fds=command.fds, capture_output=True, text=True, timeout=60, check=False, env={}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bwrap cannot be run: {error}"
    finally:
        command.close()
        os.close(info_fd)
    return None if tried.returncode == 0 else f"a sandbox does not come up: {' '.join(tried.stderr.split())[:300]}"


def _namespace_options() -> list[str]:
    options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--hostname", "sandbox", "--die-with-parent", "--new-session"]
    if first_process_is_ours():
        return [*options, "--unshare-user", "--disable-userns", "--as-pid-1"]
    # Only to let setpriv, the first program inside, give up the user root and all capabilities with it.
    return [*options, "--cap-drop", "ALL", *(part for name in CAPABILITIES for part in ("--cap-add", name))]


def _drop_user() -> list[str]:
    """Return what, as root, switches to a unique user id: RLIMIT_NPROC ignores root and is shared by all processes of
    a user.
    """
    if os.geteuid() != 0:
        return []
    user = _own_user()
    ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return ["/usr/bin/setpriv", *ids, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]


def _own_user() -> int:
    """Return a user id that no other sandbox on this machine has: from this process's id and a running number."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    last = max(int(start) + int(count) for start, _, count in ranges)
    number = os.getpid() * 64 + next(_slots) % 64
    first = 2**29 if last >= 2**30 else last // 2
    return first + number % (min(last, 2**31) - first - 1)


def _root_options(mounts: Sequence[list[str]]) -> list[str]:
    """Return the options that build the file system, in order: what is mounted later lies on top."""
    folders = _interpreter_folders()
    binds = [["--ro-bind", str(folder), str(folder)] for folder in folders]
    binds += [["--ro-bind", str(link.resolve()), str(link)] for link in _interpreter_links(folders)]
    binds += [_library_mount(Path(name)) for name in LIBRARIES]
    for name in ("/etc/ld.so.cache", "/etc/alternatives", "/usr/share/zoneinfo"):
        binds.append(["--ro-bind-try", name, name])
    if os.geteuid() == 0:
        binds.append(["--ro-bind", "/usr/bin/setpriv", "/usr/bin/setpriv"])
    binds += [["--ro-bind", str(folder), str(folder)] for folder in package_folders()]
    binds += mounts
    options = ["--proc", "/proc", *_masked_proc(), "--dev", "/dev", "--tmpfs", "/dev/pts", "--remount-ro", "/dev/pts"]
    options += ["--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    options += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    destinations = [Path(bind[-1]) for bind in binds if bind]
    options += [part for folder in _ancestors(destinations) for part in ("--perms", "0755", "--dir", str(folder))]
    options += [part for bind in binds for part in bind]
    for folder in hidden_folders():
        options += ["--tmpfs", str(folder), "--remount-ro", str(folder)]
    return [*options, "--remount-ro", "/"]


def _masked_proc() -> list[str]:
    """Return what the kernel says of the whole machine, which another sandbox could change: locks, pages, waiting."""
    options = []
    for path in (f"/proc/{name}" for name in FOLDERS_MASKED_IN_PROC):
        options += ["--tmpfs", path, "--remount-ro", path] if os.path.isdir(path) else []
    for path in (f"/proc/{name}" for name in MASKED_IN_PROC):
        options += ["--ro-bind", "/dev/null", path] if os.path.exists(path) else []
    return options


def _frozen_proc() -> dict[str, str]:
    """Return the texts of `FROZEN_IN_PROC`, with the memory that this machine has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    return {name: text.format(total=total) for name, text in FROZEN_IN_PROC.items() if os.path.exists(f"/proc/{name}")}


def _interpreter_folders() -> list[Path]:
    """Return the interpreter, the standard library and the installed packages: never a whole prefix, which may be a
    home.
    """
    named = (sys.base_prefix, sys.prefix)
    prefixes = {Path(p) for prefix in named for p in (os.path.abspath(prefix), os.path.realpath(prefix))}
    places = [prefix / name for prefix in sorted(prefixes) for name in ("bin", "lib", "lib64", "pyvenv.cfg")]
    places += [Path("/usr/lib"), Path(sysconfig.get_path("stdlib")), *map(Path, site.getsitepackages())]
    if site.ENABLE_USER_SITE:
        places.append(Path(site.getusersitepackages()))
    places = [Path(os.path.abspath(path)) for path in places]  # python itself may be named by ../venv/bin/python
    return outermost(path for path in places if path.exists() and not path.is_symlink())


def interpreter() -> Path:
    """Return this interpreter by a path without links or .. before its name, which tells a virtual environment its
    place.
    """
    folder, name = os.path.split(sys.executable)
    return Path(os.path.realpath(folder), name)


def _interpreter_links(folders: Sequence[Path]) -> list[Path]:
    """Return the links from the interpreter's name to its program that lie outside the bound folders."""
    links: list[Path] = []
    link = interpreter()
    while link.is_symlink() and len(links) < 16:
        links.append(link)
        link = link.parent / os.readlink(link)
    links.append(link)
    return [path for path in links if not any(path.is_relative_to(folder) for folder in folders)]


def _library_mount(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", os.readlink(path), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


def package_folders() -> list[Path]:
    """Return this package and its baselines, wherever an editable install keeps them."""
    baselines = find_module("moeload_bench.baselines")
    return outermost([PACKAGE, *([] if baselines is None else [baselines.parent])])


def shared_places(target: Target) -> list[Path]:
    """Return files and folders of this machine's file systems that a sandbox shows: every sandbox the same ones."""
    modules = [_outermost_package(target.module)[0]] if isinstance(target, ModuleTarget) else []
    libraries = [Path(os.path.realpath(name)) for name in LIBRARIES if os.path.isdir(name)]
    packages = [] if target.packages is None else [target.packages]
    return outermost([*_interpreter_folders(), *libraries, *package_folders(), *modules, *packages])


def read_shared(target: Target, available_bytes: int | None) -> bool:
    """Read all files that a sandbox of ``target`` shows into memory, so that load times say nothing of earlier runs.

    A page that is in memory comes faster than one from the disk, and a reader leaves it there. Return False where the
    files are too many for the memory that is available (None: unknown).
    """
    size_by_path = dict(_files(shared_places(target)))
    if available_bytes is not None and SPARE * sum(size_by_path.values()) > available_bytes:
        return False
    for path in size_by_path:
        _read(path)
    return True


def _files(places: list[Path]) -> Iterator[tuple[str, int]]:
    """Yield regular files and their sizes, each once."""
    inodes: set[tuple[int, int]] = set()
    waiting = [str(place) for place in places]
    while waiting:
        path = waiting.pop()
        try:
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                waiting += [entry.path for entry in os.scandir(path)]
        except OSError:  # gone, or not for this user, and so not for a forecaster
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size and (status.st_dev, status.st_ino) not in inodes:
            inodes.add((status.st_dev, status.st_ino))
            yield path, status.st_size


def _read(path: str) -> None:
    """Map a file with all its pages: those in memory are not copied."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        mmap.mmap(fd, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ).close()
    except (OSError, ValueError):  # it has changed meanwhile
        pass
    finally:
        os.close(fd)


def hidden_folders() -> list[Path]:
    """Return the folders, in every bound copy of the package, that hold traces, their labels or how they were made."""
    copies = {PACKAGE}
    for folder in _interpreter_folders():
        for pattern in ("", "*-packages/", "python*/*-packages/"):
            copies.update(copy for copy in folder.glob(f"{pattern}{PACKAGE.name}") if not copy.is_symlink())
    return [copy / name for copy in sorted(copies) for name in HIDDEN_IN_PACKAGE if (copy / name).is_dir()]


def _target_mounts(target: StoredTarget) -> tuple[list[list[str]], tuple[int, ...]]:
    """Return the forecaster itself: its file's content as it is now and its weights, or its outermost package."""
    packages = [] if target.packages is None else [["--ro-bind", str(target.packages), str(target.packages)]]
    if isinstance(target, FileTarget):
        fd = _memory_file("forecaster", target.file.read_bytes())
        code = ["--perms", "0444", "--ro-bind-data", str(fd), FORECASTER_PATH]
        weights = [
            ["--ro-bind", str(file), str(Path(FORECASTER_PATH).with_suffix(suffix))]
            for suffix, file in weights_beside(target.file).items()
        ]
        return [*packages, code, *weights], (fd,)
    place = str(_outermost_package(target.module)[0])
    return [*packages, ["--ro-bind", place, place]], ()


def _outermost_package(module: str) -> tuple[Path, Path]:
    """Return the file or folder of a module's outermost package, and the folder from which it is imported."""
    parts = module.split(".")
    for i in range(len(parts)):
        path = find_module(".".join(parts[: i + 1]))
        if path is not None:
            place = path.parent if path.name == "__init__.py" else path
            return place, place.parents[i]
    raise IsolationError(f"cannot find the module {module!r}")


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that do not lie within another one of them."""
    roots: list[Path] = []
    for path in sorted(set(paths), key=lambda place: len(place.parts)):
        if not any(path.is_relative_to(root) for root in roots):
            roots.append(path)
    return roots


def _ancestors(destinations: Iterable[Path]) -> list[Path]:
    """Return every folder above a mount, top-down: bubblewrap would make them unreadable to the sandbox's user."""
    above = {folder for path in destinations for folder in path.parents if folder != Path("/")}
    return sorted(above - {Path("/tmp"), Path("/dev"), Path("/proc")}, key=lambda path: (len(path.parts), str(path)))


def _memory_file(name: str, content: bytes) -> int:
    fd = os.memfd_create(name)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
