"""Attacks on the machine from inside the sandbox: nothing is read, written, reached or left running."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import moeload_bench
from moeload_bench.isolation import bubblewrap
from moeload_bench.isolation.hosts import MIB, Limits
from tests.isolation.attacks.arena import HERE, attack, attack_beside_honest, stopped, target

PACKAGE = Path(moeload_bench.__path__[0])
REPOSITORY = HERE.parents[2]
SHORT = Limits(wall_s_per_call=1, cpu_s=20, processes=48)
pytestmark = pytest.mark.sandbox
SLOW = pytest.mark.slow
OTHERS = ("SpinsInObserve", "Sleeps", "StopsItself")


READS_AT_IMPORT = "open('/etc/hostname').read()\n"
"""An attack that runs before there is a forecaster."""


def written(tmp_path: Path, code: str) -> str:
    """Return the target of a module with this code."""
    (tmp_path / "mine.py").write_text(code)
    return f"{tmp_path / 'mine.py'}:Forecaster"


@pytest.mark.parametrize(
    "path",
    [*(PACKAGE / name for name in bubblewrap.HIDDEN_IN_PACKAGE), REPOSITORY / "pyproject.toml", REPOSITORY / ".git",
     REPOSITORY / "tests", REPOSITORY / "leaderboard", Path.home() / ".cache", Path("/etc/passwd"), Path("/sys")],
    ids=lambda path: path.name,
)  # fmt: skip
def test_the_bundled_data_the_repository_and_the_home_cannot_be_read(tmp_path: Path, path: Path) -> None:
    """Folders are empty or not there."""
    assert "FileNotFoundError" in (reason := stopped(tmp_path, "ReadsFile", path=path)) or "is empty" in reason


def test_the_trace_that_is_replayed_and_a_cached_dataset_cannot_be_read(tmp_path: Path) -> None:
    """Neither the file of the run nor what a Hub client left in its cache, wherever they are."""
    cached = tmp_path / "hub" / "datasets--x" / "blobs" / "trace.parquet"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"PAR1")
    assert "FileNotFoundError" in stopped(tmp_path, "ReadsFile", path=cached)
    assert "FileNotFoundError" in stopped(tmp_path, "ReadsFile", path=tmp_path / "run.parquet")


def test_a_second_copy_of_the_package_hides_the_same_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that runs beside a regular installation: what is installed holds the traces too."""
    installed = tmp_path / "lib" / "site-packages" / "moeload_bench" / "data"
    installed.mkdir(parents=True)
    (installed / "run.parquet").write_bytes(b"PAR1")
    before = bubblewrap._interpreter_folders()
    monkeypatch.setattr(bubblewrap, "_interpreter_folders", lambda: [*before, tmp_path / "lib"])
    assert "is empty" in stopped(tmp_path, "ReadsFile", path=installed)


@SLOW
def test_no_trace_is_anywhere_in_the_file_system(tmp_path: Path) -> None:
    """A walk over all that the sandbox shows finds no parquet, no arrow file, no recipe and no suite."""
    assert "no trace anywhere" in stopped(tmp_path, "FindsTraces")


def test_the_harness_and_other_processes_cannot_be_looked_into(tmp_path: Path) -> None:
    """/proc of the parent and of the sandbox's own first process."""
    assert "BlockedError" in stopped(tmp_path, "ReadsProc", pid=os.getpid())


def test_environment_secrets_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in its own environment and in no process's that it can see."""
    monkeypatch.setenv("MOELOAD_TOKEN", "hf_0123456789")
    assert "not there" in stopped(tmp_path, "ReadsSecrets", secret="hf_0123456789")


def test_open_files_of_the_harness_are_not_inherited(tmp_path: Path) -> None:
    """Even those that the harness marked as inheritable."""
    secret = tmp_path / "secret"
    secret.write_text("future")
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        assert "nothing but the two pipes" in stopped(tmp_path, "ReadsDescriptors")


def test_loopback_cannot_be_reached(tmp_path: Path) -> None:
    """A server of this machine, over TCP, of which there is no socket, and over an abstract unix socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        reason = stopped(tmp_path, "Connects", host="127.0.0.1", port=server.getsockname()[1])
        assert "Address family not supported" in reason
    name = f"moeload-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{name}")
        unix.listen()
        assert "ConnectionRefusedError" in stopped(tmp_path, "Connects", abstract=name)


def test_the_outside_cannot_be_reached(tmp_path: Path) -> None:
    """There is no socket for it: it fails at once, not by time-out."""
    assert "Address family not supported" in stopped(tmp_path, "Connects", host="192.0.2.1", port=53)


def test_sockets_that_no_namespace_contains_cannot_be_opened(tmp_path: Path) -> None:
    """vsock would lead out of a virtual machine, netlink and alg into the kernel."""
    assert "BlockedError" in stopped(tmp_path, "UncontainedSockets")


def test_nothing_outside_its_folder_can_be_written(tmp_path: Path) -> None:
    """Not the root, the package, the environment, /dev or the folder of the run."""
    assert "BlockedError" in stopped(tmp_path, "WritesOutside", path=tmp_path)
    assert not list(tmp_path.rglob("moeload-attack"))


def test_no_file_of_the_package_or_the_interpreter_can_be_changed(tmp_path: Path) -> None:
    """They are read-only, whoever owns them."""
    assert "BlockedError" in stopped(tmp_path, "Overwrites")


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """A link to a file of the user is dangling inside, and nobody outside follows it."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    assert "BlockedError" in stopped(tmp_path, "LinksItsOutput", path=victim)
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("path", ["/dev/shm", pytest.param("/tmp", marks=SLOW)])
def test_a_full_disk_is_its_own(tmp_path: Path, path: str) -> None:
    """Its folders are small file systems in memory that go when it goes."""
    assert "No space left" in stopped(tmp_path, "FillsDisk", path=path)


def test_the_size_of_a_file_is_limited(tmp_path: Path) -> None:
    """By `Limits.file_bytes`."""
    assert "File too large" in stopped(tmp_path, "WritesLargeFile", Limits(file_bytes=8 * MIB))


def test_a_fork_bomb_stops_at_its_limit(tmp_path: Path) -> None:
    """The kernel refuses the next process, or the watch ends them all; none is left."""
    assert "BlockingIOError" in (reason := stopped(tmp_path, "ForkBomb")) or "processes" in reason


@SLOW
def test_a_fork_bomb_does_not_hit_its_neighbour(tmp_path: Path) -> None:
    """Two sandboxes do not share a limit on processes: the honest one goes on while the bomb's children sleep."""
    from moeload_bench.forecaster import ForecastRequest, trace_info
    from moeload_bench.isolation.hosts import open_host
    from moeload_bench.isolation.targets import parse_target
    from tests.conftest import synthetic_trace
    from tests.isolation.attacks.arena import HONEST, assert_nothing_left

    info, request = trace_info(synthetic_trace(60)), ForecastRequest(0, 10, (1, 10))
    bomb = parse_target(target("ForkBomb"))
    with open_host(bomb, info, seed=0, level="sandbox", limits=Limits(processes=40, wall_s_per_call=20)) as attacker:
        with pytest.raises(Exception, match=r"BlockingIOError|processes"):
            attacker.forecast(request)
        with open_host(parse_target(HONEST), info, seed=0, level="sandbox", limits=Limits(processes=40)) as honest:
            honest.forecast(request)
    assert_nothing_left()


def test_threads_are_limited(tmp_path: Path) -> None:
    """A thread counts as a process."""
    assert "can't start new thread" in stopped(tmp_path, "ThreadBomb")


@SLOW
def test_memory_of_one_process_is_limited(tmp_path: Path) -> None:
    """It sees a MemoryError."""
    assert "MemoryError" in stopped(tmp_path, "EatsMemory", Limits(memory_bytes=512 * MIB))


@SLOW
def test_memory_of_all_processes_together_is_limited(tmp_path: Path) -> None:
    """Each child alone is within the limit; their sum ends them all."""
    reason = stopped(tmp_path, "EatsMemoryInChildren", Limits(memory_bytes=400 * MIB))
    assert "MiB of memory, allowed are 400 MiB" in reason


def test_memory_that_belongs_to_no_process_cannot_be_had(tmp_path: Path) -> None:
    """memfd and System V shared memory would be counted nowhere."""
    assert "BlockedError" in stopped(tmp_path, "HidesMemory")


@pytest.mark.parametrize("name", ["SpinsInForecast", *(pytest.param(name, marks=SLOW) for name in OTHERS)])
def test_who_takes_too_long_is_ended(tmp_path: Path, name: str) -> None:
    """Computing, sleeping or stopped: the wall clock is the harness's."""
    call = "observe" if name == "SpinsInObserve" else "forecast"
    assert f"{call} took more than 1 s of wall time" in stopped(tmp_path, name, SHORT)


def test_a_call_that_only_waits_says_so(tmp_path: Path) -> None:
    """Its CPU time is named, and what to do on a busy machine, where an honest call can take too long."""
    fight = attack(tmp_path, target("Sleeps"), Limits(wall_s_per_call=2))
    assert re.search(r"forecast took more than 2 s of wall time and only \d\.\d s of CPU time: .*busy", fight.reason)


@SLOW
def test_a_module_that_never_finishes_importing_is_ended(tmp_path: Path) -> None:
    """Start-up has the same limit."""
    fight = attack(tmp_path, written(tmp_path, "import time\ntime.sleep(30)\n"), Limits(startup_wall_s=1.5))
    assert "init took more than 1.5 s" in fight.reason


@SLOW
def test_cpu_time_is_limited(tmp_path: Path) -> None:
    """A process that has used its seconds gets a signal that it cannot survive."""
    assert "CPU time" in stopped(tmp_path, "SpinsInForecast", Limits(cpu_s=1, wall_s_per_call=25))


@SLOW
def test_cpu_time_of_children_counts(tmp_path: Path) -> None:
    """Children that compute while the forecaster sleeps are charged to it."""
    assert "s of CPU time, allowed are 1 s" in stopped(tmp_path, "BurnsInChildren", Limits(cpu_s=1, wall_s_per_call=25))


def test_a_child_does_not_outlive_its_sandbox(tmp_path: Path) -> None:
    """A daemon with its own session ends with the rest (asserted by the arena); the forecast itself is allowed."""
    assert attack(tmp_path, target("LeavesChild")).forecasts == 3


def test_signals_do_not_leave_the_sandbox(tmp_path: Path) -> None:
    """Neither the harness nor another process of the user gets one."""
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        try:
            assert "BlockedError" in stopped(tmp_path, "SignalsParent", pids=f"{os.getpid()}-{bystander.pid}")
            assert bystander.poll() is None
        finally:
            bystander.kill()
            signal.signal(signal.SIGUSR1, before)
    assert not got


def test_more_rights_cannot_be_had(tmp_path: Path) -> None:
    """Not root, not higher limits, no devices, no priority."""
    assert "BlockedError" in stopped(tmp_path, "BecomesRoot")


def test_dangerous_system_calls_are_refused(tmp_path: Path) -> None:
    """Namespaces, mounts, tracing, bpf, keyrings, userfaultfd."""
    assert "BlockedError" in stopped(tmp_path, "SystemCalls")


def test_import_time_code_is_inside_too(tmp_path: Path) -> None:
    """What a module does while it is imported is a failure of its tasks, named as such."""
    assert "import raised FileNotFoundError" in attack(tmp_path, written(tmp_path, READS_AT_IMPORT)).reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Segfault", "ended by SIGSEGV"),
        ("Exits", "ended with status 0"),
        ("RaisesSystemExit", "forecast raised SystemExit: bye"),
        ("RaisesKeyboardInterrupt", "ended"),
        ("UglyError", r"forecast raised RuntimeError: \u001b[2Jgone second line"),
        ("UnprintableError", "NoTextError"),
    ],
)
def test_whatever_way_it_ends_the_task_fails_by_name(tmp_path: Path, name: str, reason: str) -> None:
    """One short printable line says how."""
    assert reason in stopped(tmp_path, name)


def test_the_run_goes_on_whatever_one_forecaster_does(tmp_path: Path) -> None:
    """In one evaluation: each attacker's tasks fail by its own reason, the honest one after them is scored."""
    names = {
        "Exits": "ended with status 0",
        "Sleeps": "wall time",
        "ForkBomb": "BlockingIOError",
        "UglyError": "Runtime",
    }
    targets = [target(name) for name in names]
    targets += [written(tmp_path, READS_AT_IMPORT), f"{HERE / 'liars.py'}:BlamesRequest"]
    fights = attack_beside_honest(tmp_path, *targets, limits=SHORT)
    for fight, reason in zip(fights, [*names.values(), "import raised", "nobody may run"], strict=True):
        assert reason in fight.reason


@SLOW
def test_the_terminal_cannot_be_opened(tmp_path: Path) -> None:
    """A harness that runs on a terminal does not hand it on."""
    master, slave = os.openpty()
    script = (
        "import fcntl, os, sys, termios\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "os.close(os.open('/dev/tty', os.O_RDWR))  # it is there for the harness\n"
        "from pathlib import Path\n"
        "from tests.isolation.attacks.arena import stopped\n"
        "print('REASON', stopped(Path(sys.argv[1]), 'OpensTerminal', path=os.ttyname(0)))\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path)]
    child = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=REPOSITORY)
    os.close(slave)
    said: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(master, said))
    reader.start()
    child.wait(60)
    reader.join()
    os.close(master)
    text = b"".join(said).decode()
    assert "REASON" in text, text
    assert "BlockedError" in text


def _read_all(fd: int, said: list[bytes]) -> None:
    try:
        while data := os.read(fd, 4096):
            said.append(data)
    except OSError:  # a terminal whose other side is closed
        return
