"""How the program ends when it is told to, when nobody reads its output, and what it says of names that are no text."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace

PROGRAM = [sys.executable, "-m", "moeload_bench"]
SLOW = """
import time
from moeload_bench.forecaster import Forecast
class Slow:
    def __init__(self, info, seed): self.shape = info.num_layers, info.num_experts
    def observe(self, block): pass
    def forecast(self, request): time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_everything_that_run_started(number: signal.Signals, tmp_path: Path) -> None:
    """A closed ssh session or a scheduler's timeout: workers, their trackers and the forecasters' processes end too,
    and the status names the signal."""
    (tmp_path / "slow.py").write_text(SLOW)
    program = subprocess.Popen(
        [*PROGRAM, "run", f"{tmp_path / 'slow.py'}:Slow", "--jobs", "2"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    below = started_below(program, forecasters=2)
    program.send_signal(number)
    assert program.wait(30) == 128 + number
    gone, alive = psutil.wait_procs(below, timeout=30)
    assert alive == []
    assert len(gone) >= 4


@pytest.mark.slow
def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL of the program, which can tidy nothing up: workers, trackers and forecasters end all the same."""
    (tmp_path / "slow.py").write_text(SLOW)
    words = [*PROGRAM, "run", f"{tmp_path / 'slow.py'}:Slow", "--jobs", "2"]
    program = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    below = started_below(program, forecasters=2)
    program.kill()
    gone, alive = psutil.wait_procs(below, timeout=30)
    assert alive == []
    assert len(gone) >= 4


@pytest.mark.slow
def test_ctrl_c_with_two_jobs_says_one_line(tmp_path: Path) -> None:
    """No thread's traceback and no library's warning: what is kept, and how to go on."""
    (tmp_path / "slow.py").write_text(SLOW)
    # a shell that starts tests in the background has them ignore Ctrl-C, which a child inherits
    heard = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    module = "runpy.run_module('moeload_bench', run_name='__main__', alter_sys=True)"
    words = ["run", f"{tmp_path / 'slow.py'}:Slow", "--jobs", "2", "--json"]
    program = subprocess.Popen(
        [sys.executable, "-c", heard + module, *words], cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    below = started_below(program, forecasters=2)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = program.communicate(timeout=60)
    assert [line for line in errors.decode().splitlines() if line] == [
        "stopped: finished pairs of forecaster and run are kept, and the same command goes on with the others"
    ]
    assert program.returncode == 130
    assert psutil.wait_procs(below, timeout=30)[1] == []


def started_below(program: subprocess.Popen[bytes], forecasters: int) -> list[psutil.Process]:
    """The program's processes, once so many forecasters are among them."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        below = psutil.Process(program.pid).children(recursive=True)
        if sum("worker.py" in " ".join(words_of(one)) for one in below) >= forecasters:
            return below
        time.sleep(0.2)
    raise AssertionError("the forecasters never started")


def words_of(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


NOT_WRITTEN_TO = {"traces list": ("2>&-",), "run nobody": (">&-", ">/dev/full", "| head -c 1 >/dev/null")}
"""A list writes no error and a refusal nothing else; `--help` is cheap enough for all."""


@pytest.mark.parametrize(
    ("words", "closed"),
    [
        (words, closed)
        for words in ("traces list", "--help", "run nobody")
        for closed in (">&-", "2>&-", ">&- 2>&-", ">/dev/full", "| head -c 1 >/dev/null")
        if closed not in NOT_WRITTEN_TO.get(words, ())
    ],
)
def test_closed_streams_give_no_traceback(words: str, closed: str) -> None:
    """Whatever is closed or full, what is still open says at most one line."""
    script = f"{sys.executable} -m moeload_bench {words} {closed}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


def test_a_name_that_is_not_utf8_is_a_name(tmp_path: Path) -> None:
    """It is read, and written with an escape; a missing one is refused in one line."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xffme.parquet"))
    shutil.copy(write_trace(synthetic_trace(400), tmp_path / "own.parquet"), path)
    done = subprocess.run([*PROGRAM, "validate", path], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"ok ")
    done = subprocess.run([*PROGRAM, "validate", f"{path}.parquet"], capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert b"no such file" in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
