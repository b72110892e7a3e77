"""Cold commands, and two workers against one."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
from compare_common import Row, cpu_s, spread, table, verdict

from moeload_bench.suites.suite import default_suite

CLASSICAL = ("sw_avg", "arima", "lstm")


def command_rows(quick: bool) -> list[Row]:
    """Measure CPU seconds of the process and its children, and wall time."""
    targets = ("sw_avg", "ema") if quick else CLASSICAL
    suite = "mini" if quick else default_suite()
    help_cpu, help_wall = command_seconds("--help")
    run_cpu, run_wall = command_seconds("run", "sw_avg", "--suite", "mini", "--fresh")
    walls: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 if quick else 2):
        for jobs in (1, 2):
            cpu, wall = command_seconds("run", *targets, "--suite", "mini", "--fresh", "--jobs", str(jobs))
            walls[jobs - 1].append(wall)
    if suite != "mini":
        cpu, wall = command_seconds("run", *targets, "--suite", suite, "--fresh", "--jobs", "2")
    ratios = [one / two for one, two in zip(*walls, strict=True)]
    return [
        Row("`moeload-bench run sw_avg` on the mini suite, cold", "5 s, of which start-up 0.5 s",
            f"{run_cpu:.1f} s of CPU ({run_wall:.1f} s wall); `--help` {help_cpu:.2f} s ({help_wall:.2f} s wall)",
            verdict(run_cpu <= 5 and help_cpu <= 0.5), imports),
        Row(f"{', '.join(targets)} on suite {suite}, two workers", "5 minutes of wall time",
            f"{wall:.0f} s wall, {cpu:.0f} s of CPU", verdict(wall <= 300)),
        Row("two workers against one, the same work on the mini suite, wall time", "1.8 times",
            f"{spread(ratios)} times: {spread(walls[1])} against {spread(walls[0])} s; other work on the machine "
            "counts here", verdict(float(np.median(ratios)) >= 1.8)),
    ]  # fmt: skip


def command_seconds(*arguments: str) -> tuple[float, float]:
    before, start = cpu_s(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "moeload_bench", *arguments], check=True, capture_output=True)
    return cpu_s() - before, time.perf_counter() - start


def imports() -> list[str]:
    """Return which modules a cold command spends its time on."""
    command = [sys.executable, "-X", "importtime", "-m", "moeload_bench", "run", "sw_avg", "--suite", "mini", "--fresh"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    found = [line.split("|") for line in lines if line.startswith("import time:") and "[us]" not in line]
    own = sorted(((int(parts[0].split(":")[1]), parts[2].strip()) for parts in found), reverse=True)[:8]
    return table(["module", "own import, ms"], [[f"`{name}`", f"{us / 1e3:.0f}"] for us, name in own])
