"""Attacks on what is counted and on what a run leaves for the next: sockets, files, children, pages, time."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.errors import ForecastError
from moeload_bench.forecaster import ForecastRequest, trace_info
from moeload_bench.isolation import bubblewrap
from moeload_bench.isolation.hosts import MIB, Level, Limits, fit_target, open_host, share_no_pages
from moeload_bench.isolation.targets import Target, parse_target
from tests.conftest import need, synthetic_trace
from tests.isolation.attacks.arena import HERE, LIMITS, assert_nothing_left, attack, stopped, target

SANDBOX, SLOW = pytest.mark.sandbox, pytest.mark.slow
INFO = trace_info(synthetic_trace(60))
REQUEST = ForecastRequest(0, 10, (1, 10))
TRIES = 5
"""A machine short of memory takes files out of it by itself: a test of what is in memory may see that too."""


@SANDBOX
@SLOW
def test_memory_in_the_queues_of_sockets_counts(tmp_path: Path) -> None:
    """600 MiB that no process holds, at a limit of 286: the number of sockets ends it."""
    assert "MiB of memory, allowed are 286 MiB" in stopped(tmp_path, "HoldsSockets", Limits(memory_bytes=286 * MIB))


@SANDBOX
@SLOW
def test_files_without_content_count(tmp_path: Path) -> None:
    """Each takes a kilobyte of the kernel's memory."""
    assert "files, allowed are 20000" in stopped(tmp_path, "MakesFiles", Limits(files=20_000))


@SANDBOX
@SLOW
def test_children_cannot_be_forgotten(tmp_path: Path) -> None:
    """Nobody would be charged with those that nobody waits for."""
    assert "PermissionError" in stopped(tmp_path, "BurnsUnseen", Limits(cpu_s=3, wall_s_per_call=30))


@SANDBOX
def test_who_takes_less_than_a_call_may_in_every_call_is_ended_too(tmp_path: Path) -> None:
    """The limit on a whole run."""
    reason = stopped(tmp_path, "SleepsInEveryCall", Limits(wall_s_per_call=2, run_wall_s=1.5))
    assert "its calls took more than 1.5 s of wall time in this run" in reason


@pytest.mark.parametrize("level", ["process", pytest.param("sandbox", marks=SANDBOX)])
def test_what_fit_returns_is_bounded(level: Level) -> None:
    """Before it reaches the harness, and by the harness's own rule for who does not keep to that."""
    with pytest.raises(ForecastError, match="fit returned 41943040 bytes, at most 33554432 are kept"):
        fit_target(parse_target(target("FitsTooMuch")), [], seed=0, level=level)


def test_what_left_its_session_is_ended_at_level_process_too(tmp_path: Path) -> None:
    """Orphans become children of the forecaster's process."""
    note = tmp_path / "pid"
    with open_host(parse_target(target("LeavesItsSession", path=note)), INFO, seed=0, level="process") as host:
        host.forecast(REQUEST)
        daemon = int(note.read_text())
        assert Path(f"/proc/{daemon}").exists()
    deadline = time.monotonic() + 5
    while running(daemon) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(daemon)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@SLOW
def test_a_busy_harness_does_not_hold_up_the_watch() -> None:
    """This process computes and lets no other thread of it run, while a forecaster's children use too much: they are
    ended meanwhile."""
    interval = sys.getswitchinterval()
    with open_host(parse_target(target("BurnsLater")), INFO, seed=0, level="process", limits=Limits(cpu_s=2)) as host:
        watch = host._process.watch  # type: ignore[attr-defined]
        host.forecast(REQUEST)
        sys.setswitchinterval(1000)
        try:
            until = time.monotonic() + 60
            while watch.verdict is None and time.monotonic() < until:
                re.match(r"(a|aa)+$", "a" * 24 + "b")
        finally:
            sys.setswitchinterval(interval)
        assert "s of CPU time, allowed are 2 s" in watch.verdict


@SANDBOX
def test_the_first_process_is_closed(tmp_path: Path) -> None:
    """It has the forecaster's user, and may yet neither be written to nor looked into, nor its pipes be opened."""
    assert "BlockedError" in stopped(tmp_path, "OpensFirstProcess")


@SANDBOX
def test_no_terminals_and_no_sockets_but_unix_ones(tmp_path: Path) -> None:
    """Terminals would be the machine's, and other sockets lead out or into the kernel."""
    assert "BlockedError" in stopped(tmp_path, "OpensTerminals")


@SANDBOX
def test_a_forecaster_cannot_ask_which_pages_are_in_memory(tmp_path: Path) -> None:
    """Nor lock files or read what the kernel says of the whole machine."""
    assert "BlockedError" in stopped(tmp_path, "AsksForPages")


@SANDBOX
def test_what_the_kernel_counts_of_the_machine_is_the_same_in_every_run(tmp_path: Path) -> None:
    """Processes, load, memory and open files of all: a run that reads them learns nothing of the runs before."""
    assert attack(tmp_path, target("CountsTheMachine")).failures == []


@SANDBOX
@pytest.mark.slow
@pytest.mark.parametrize("by", ["processes", "pidfds", "cookies"])
def test_runs_pass_no_numbers_by_what_is_counted(by: str) -> None:
    """What a run hears is the same whatever it was told; a run that waits for another count is none the wiser."""
    heard = set()
    for number in (3, 6):
        assert_forecasts(parse_target(target("PassesNumbers", by=by, number=number)))
        heard.add(assert_forecasts(parse_target(target("PassesNumbers", by=by)))["number"])
    assert heard == {0}


@SANDBOX
def test_a_forecaster_cannot_take_pages_out_of_memory(tmp_path: Path) -> None:
    """Hints are taken as heard and followed by nobody: a file of the standard library stays where it was."""
    path = Path(os.__file__).with_name("turtle.py")
    for _ in range(TRIES):
        path.read_bytes()
        assert attack(tmp_path, target("DropsPages", path=path)).forecasts == 3
        if resident(path) == 1:
            return
    pytest.fail(f"{TRIES} times the file was out of memory after the attack")


@SANDBOX
def test_not_even_the_owner_of_a_file_can(tmp_path: Path) -> None:
    """Of a file that belongs to whoever runs the harness, which a normal user's sandbox has the rights of."""
    tmp_path.chmod(0o755)
    path = tmp_path / "package.py"
    path.write_bytes(bytes(1 << 16))
    drops = replace(parse_target(target("DropsPages", path=path)), packages=tmp_path)
    for _ in range(TRIES):
        path.read_bytes()
        assert_forecasts(drops)
        if resident(path) == 1:
            return
    pytest.fail(f"{TRIES} times the file was out of memory after the attack")


@SANDBOX
@pytest.mark.parametrize("bits", [0b1010010111000011, 0b0101101000111100])
def test_runs_pass_no_bits_by_the_pages_that_they_read(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do where pages come from the disk; where all are in memory, a run hears the same whatever it was told."""
    monkeypatch.setattr(bubblewrap, "shared_places", lambda _: [tmp_path])
    tmp_path.chmod(0o755)
    for i in range(16):
        (tmp_path / str(i)).write_bytes(bytes(1 << 14))
    told, heard = (
        replace(parse_target(target("PassesBits", folder=tmp_path, **known)), packages=tmp_path)
        for known in ({"bits": bits}, {})
    )

    def passed() -> int:
        assert_forecasts(told)
        return int(assert_forecasts(heard)["bits"])

    for _ in range(TRIES):
        if not out_of_memory(tmp_path):
            pytest.skip("not tested: temporary files of this machine are in memory, where they tell nothing")
        if passed() == bits:
            break
    else:
        pytest.skip("not tested: this machine takes files out of memory so fast that they tell nothing")
    for _ in range(TRIES):
        out_of_memory(tmp_path)
        assert share_no_pages(told, "sandbox", None)
        if (found := passed()) == 2**16 - 1:
            return
        assert found != bits
    pytest.fail(f"{TRIES} times a run heard other bits than from files that are all in memory, at last {found:b}")


@SANDBOX
def test_all_that_a_sandbox_shows_is_read_before(tmp_path: Path) -> None:
    """Every place of this machine that is bound into one lies in what `share_no_pages` reads."""
    found = replace(parse_target("sw_avg"), packages=tmp_path)
    places = [Path(os.path.realpath(place)) for place in bubblewrap.shared_places(found)]
    mounts, _ = bubblewrap._target_mounts(found)
    options = bubblewrap._root_options(mounts)
    bound = {Path(os.path.realpath(options[i + 1])) for i, option in enumerate(options) if option == "--ro-bind"}
    assert tmp_path in bound
    small = {Path("/dev/null"), Path("/usr/bin/setpriv")}
    assert not {path for path in bound - small if not any(path.is_relative_to(place) for place in places)}


def test_files_that_are_too_many_for_memory_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would push one another out: `verify` says that the channel is open."""
    monkeypatch.setattr(bubblewrap, "shared_places", lambda _: [tmp_path])
    (tmp_path / "a").write_bytes(bytes(501))
    assert share_no_pages(parse_target("sw_avg"), "sandbox", 1001) is False
    assert share_no_pages(parse_target("sw_avg"), "process", 1001) is None


def assert_forecasts(forecaster: Target) -> Mapping[str, int]:
    """It answers, in the sandbox; what it counted."""
    with open_host(forecaster, INFO, seed=0, level="sandbox", limits=LIMITS) as host:
        host.forecast(REQUEST)
        return host.counts()


def out_of_memory(folder: Path) -> bool:
    """Whether this machine's files can be taken out of memory; those of the folder are."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return all(resident(path) == 0 for path in folder.iterdir())


def resident(path: Path) -> float:
    """The fraction of a file's pages that is in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        seen = (ctypes.c_ubyte * pages)()
        view = np.frombuffer(mapped, dtype=np.uint8)
        address, length = ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(mapped))
        assert ctypes.CDLL(None, use_errno=True).mincore(address, length, seen) == 0
        del view
        return sum(page & 1 for page in seen) / pages


@SANDBOX
@pytest.mark.parametrize("names", ["statsmodels", pytest.param("numba-torch-sklearn", marks=SLOW)])
def test_honest_libraries_live_with_the_list_of_system_calls(names: str, tmp_path: Path) -> None:
    """Files, threads, children, pipes, and the numerical libraries that forecasters use."""
    for name in names.split("-"):
        need(name, "pip install -e '.[all,dev]'")
    assert attack(tmp_path, target("UsesLibraries", names=names), Limits(wall_s_per_call=300)).forecasts == 3


@SANDBOX
def test_python_may_be_named_by_a_relative_path(tmp_path: Path) -> None:
    """`../venv/bin/python`: the sandbox finds its interpreter all the same."""
    folder = Path(sys.executable).parent
    code = (
        "from moeload_bench.isolation.hosts import level_available\nprint(level_available('sandbox'))\n"
        "from tests.isolation.attacks.test_accounting import *\n"
        "with open_host(parse_target('sw_avg'), INFO, seed=0, level='sandbox') as host:\n"
        "    print(host.forecast(REQUEST).share_BLE.shape)\n"
    )
    argv = [f"../{folder.name}/{Path(sys.executable).name}", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines() == ["None", "(1, 2, 4)"], done.stderr
    assert_nothing_left()
