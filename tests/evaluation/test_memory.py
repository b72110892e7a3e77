"""Memory of commands on long runs: the loads once, as they are read, and no second array of that size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace

LAYERS = EXPERTS = 32
CLUSTER = [
    "--devices",
    "4",
    "--slots",
    "36",
    "--expert-mb",
    "50",
    "--bandwidth",
    "25",
    "--step-ms",
    "100",
    "--every",
    "500",
]
COMMANDS = {
    "plan": ["plan", "TRACE", *CLUSTER],
    "run": ["run", "last_value", "--level", "none", "--trace", "TRACE"],
}


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


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_copies_the_loads_of_a_whole_run(name: str, tmp_path: Path) -> None:
    """With more steps the peak grows by the counts themselves, not by a copy of them as floats or counts.

    A copy adds 1 to this ratio; a batch that is being decoded and the mapped file stay below 1 together.
    """
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.ones(EXPERTS), size=LAYERS)
    peaks, sizes = [], []
    for steps in (1200, 9600):
        load = rng.multinomial(1000, share, size=(steps, LAYERS))
        trace = Trace.from_arrays(load, 1000, 1, recipe=f"of{steps}")
        path = write_trace(trace, tmp_path / f"{steps}.parquet")
        sizes.append(load.nbytes)
        peaks.append(peak_bytes(COMMANDS[name], path, tmp_path))
    assert (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) < 2.2
