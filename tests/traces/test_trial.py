"""A file that aborts the process that opens it is refused in one line, and the rest goes on.

Readers run in a process of their own: what they must not do would end pytest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moeload_bench.errors import TraceError
from moeload_bench.traces import trial
from moeload_bench.traces.lookup import bundled_folder, list_traces
from moeload_bench.traces.store import data_sha256, read_trace, write_trace
from tests.conftest import synthetic_trace

STEPS = 60
REASON = "it ended the process that opened it first (SIGABRT): Definition level histogram size mismatch"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three traces; the footer of the second says a histogram of one level where the column has two."""
    paths = [write_trace(synthetic_trace(STEPS, seed=i, recipe="own"), tmp_path / f"own/test/seed{i}.parquet")
             for i in range(3)]  # fmt: skip
    content = paths[1].read_bytes()
    two_levels = b"\x19\x26\x00" + bytes([2 * STEPS])  # a Thrift field: a list of two numbers, 0 and 60
    one_level = b"\x19\x16" + bytes([2 * STEPS | 128, 0])  # one number, 60, in two bytes
    if two_levels not in content:
        pytest.skip("this pyarrow writes no histograms of levels")
    paths[1].write_bytes(content.replace(two_levels, one_level, 1))
    return tmp_path


def moeload(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moeload_bench", *map(str, words)], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{file}"),
        ("traces", "meta", "{file}"),
        ("inspect", "{file}", "--html", "{folder}/report.html"),
        ("run", "last_value", "--trace", "{file}"),
        ("export", "trace", "{file}", "--format", "csv", "--out", "{folder}/series.csv"),
        ("import", "wandb", "{file}", "--out", "{folder}/out.parquet"),
        ("validate", "{file}"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_command_refuses_it_in_one_line(folder: Path, words: tuple[str, ...]) -> None:
    """With an exit status of its own, not a signal's, and the file's name."""
    file = folder / "own/test/seed1.parquet"
    done = moeload(*(word.format(file=file, folder=folder) for word in words))
    assert done.returncode in (1, 2), done.stderr
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if REASON in line]
    assert str(file) in line
    assert "terminate called" not in done.stderr


def test_the_rest_of_a_folder_is_validated_and_listed(folder: Path) -> None:
    """The bad file is named; both others are there, in JSON too."""
    validated = moeload("validate", folder)
    assert validated.returncode == 1
    assert [line.split()[0] for line in validated.stdout.splitlines()] == ["ok", "refused", "ok"]
    listed = moeload("traces", "list", folder, "--json")
    assert listed.returncode == 1
    assert [row["id"] for row in json.loads(listed.stdout)] == ["own/test/seed0", "own/test/seed2"]
    assert listed.stderr.startswith(f"refused {folder}/own/test/seed1.parquet: ")
    assert len(listed.stderr.splitlines()) == 1


def test_one_child_opens_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts once, also for threads, and again in a process that was forked: its pipes belong to the parent."""
    started = []
    start = trial._start
    monkeypatch.setattr(trial, "_start", lambda: started.append(1) or start())
    monkeypatch.setattr(trial, "_trial", trial.Trial())
    path = write_trace(synthetic_trace(STEPS), tmp_path / "own.parquet")
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(read_trace, [path] * 20))) == 20
    assert started == [1]
    child = os.fork()
    if child == 0:
        read_trace(path)
        os._exit(len(started))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    read_trace(path)
    assert started == [1]


def test_a_child_that_was_ended_between_files_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system, which lacked memory: no file is blamed for that."""
    monkeypatch.setattr(trial, "_trial", trial.Trial())
    path = write_trace(synthetic_trace(STEPS), tmp_path / "own.parquet")
    read_trace(path)
    child = trial._trial._child
    assert child is not None
    child.kill()
    child.wait()
    read_trace(path)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", r"takes too long to open \(SIGXCPU\)$"),
        ("raise MemoryError('no room')", r"\(status 1\): MemoryError: no room$"),
        ("import os; os._exit(3)", r"\(status 3\): nothing was said$"),
    ],
)
def test_what_ends_the_child_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    """A limit of time, of memory, or anything else; the next file gets a new child."""
    script = tmp_path / "child.py"
    script.write_text(f"import sys\nsys.stdin.readline()\n{body}\n")
    monkeypatch.setattr(trial, "_trial", trial.Trial())
    path = write_trace(synthetic_trace(STEPS), tmp_path / "own.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(trial, "CHILD", script)
        with pytest.raises(TraceError, match=says):
            read_trace(path)
    assert read_trace(path).steps == STEPS


def test_files_that_are_known_need_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own, and what is read with the hash that a suite has."""
    path = write_trace(synthetic_trace(STEPS), tmp_path / "own.parquet")
    expected = data_sha256(read_trace(path))
    monkeypatch.setattr(trial.Trial, "open", lambda self, path: pytest.fail(f"{path} was tried"))
    read_trace(path, expected_sha256=expected)
    for ref in list_traces(bundled_folder())[:2]:
        read_trace(ref.path)


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    """Killed or not: it reads until its standard input ends."""
    path = write_trace(synthetic_trace(STEPS), tmp_path / "own.parquet")
    program = (
        "import os, sys; from moeload_bench import load_trace; from moeload_bench.traces import trial\n"
        "load_trace(sys.argv[1]); print(trial._trial._child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    pid, until = int(done.stdout), time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
