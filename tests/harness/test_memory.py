"""Memory of commands on long runs: what a few row groups take, however many steps there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.errors import SuiteError
from moeload_bench.harness import workers
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace

LAYERS = EXPERTS = 32
CLUSTER = ["--devices", "4", "--slots", "36", "--expert-mb", "50", "--bandwidth", "25", "--step-ms", "100"]
COMMANDS = {"inspect": ["inspect", "TRACE"], "plan": ["plan", "TRACE", *CLUSTER, "--every", "500"]}
"""Those that end within half a minute; `benchmarks/real_size.py` measures `run` and `report` too."""

LAUNCH = """
import os, sys
nowhere = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ, file_actions=nowhere)
_, status, used = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss)
"""
"""A small process between this one and the child, whose peak would begin with what its parent holds."""


def peak_bytes(command: list[str], trace: Path, folder: Path) -> int:
    """Return the most memory that a command held in a child of its own."""
    words = ["-m", "moeload_bench", *(str(trace) if word == "TRACE" else word for word in command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MOELOAD_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *words], capture_output=True, text=True, env=environment, cwd=folder, check=True
    )
    status, kilobytes = map(int, done.stdout.split())
    assert status == 0
    return kilobytes * 1024


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs whose loads are not read at once, of 74 and of 147 MB: the same rows, twice as many."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    load = rng.multinomial(1000, rng.dirichlet(np.ones(EXPERTS), size=LAYERS), size=(9000, LAYERS))
    return [
        write_trace(
            Trace.from_arrays(np.tile(load, (times, 1, 1)), 1000, 1, recipe=f"of{times}"), folder / f"{times}.parquet"
        )
        for times in (1, 2)
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("name", COMMANDS)
def test_memory_does_not_grow_with_the_steps(name: str, traces: list[Path], tmp_path: Path) -> None:
    """With twice the steps a command takes at most a tenth more memory, and never as much as the loads."""
    short, long = (peak_bytes(COMMANDS[name], path, tmp_path) for path in traces)
    assert long <= 1.1 * short
    assert long < 0.6e9


def test_a_trace_that_does_not_fit_once_for_each_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is held of it times the processes; nothing is refused where the system does not say what it has."""
    runs = {"own": write_trace(synthetic_trace(60), tmp_path / "own.parquet")}
    size = workers.held_bytes(runs["own"])
    monkeypatch.setattr(workers, "available_bytes", lambda: 3 * size)
    workers.check_memory(runs, 3)
    with pytest.raises(SuiteError, match="lower --jobs"):
        workers.check_memory(runs, 4)
    monkeypatch.setattr(workers, "available_bytes", lambda: size - 1)
    with pytest.raises(SuiteError, match="a machine with more memory"):
        workers.check_memory(runs, 1)
    monkeypatch.setattr(workers, "available_bytes", lambda: None)
    workers.check_memory(runs, 4)
