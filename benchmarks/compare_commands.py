"""Cold commands, and two workers against one."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from compare_common import Row, compiling, cpu_s, spread, table, verdict

from moeload_bench.evaluation import evaluate
from moeload_bench.suites.suite import suite_names

CLASSICAL = ("sw_avg", "arima", "lstm")


class Unit(NamedTuple):
    """One piece of work that a worker takes whole."""

    what: str
    cpu: float
    fit: bool = False
    learned: bool = False


def command_rows(quick: bool) -> list[Row]:
    """CPU seconds of the process and its children, and wall time."""
    targets = ("sw_avg", "ema") if quick else CLASSICAL
    suite = "v1" if "v1" in suite_names() and not quick else "mini"
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
    stands_in = "" if suite == "v1" else " (stands in for suite v1)"
    return [
        Row("`moeload-bench run sw_avg` on the mini suite, cold", "5 s, of which start-up 0.5 s",
            f"{run_cpu:.1f} s of CPU ({run_wall:.1f} s wall); `--help` {help_cpu:.2f} s ({help_wall:.2f} s wall)",
            verdict(run_cpu <= 5 and help_cpu <= 0.5), imports),
        Row(f"{', '.join(targets)} on suite {suite}{stands_in}, two workers", "5 minutes of wall time",
            f"{wall:.0f} s wall, {cpu:.0f} s of CPU", verdict(wall <= 300), lambda: units(targets)),
        Row("two workers against one, the same work on the mini suite, wall time", "1.8 times",
            f"{spread(ratios)} times: {spread(walls[1])} against {spread(walls[0])} s; other work on the machine "
            "counts here", verdict(float(np.median(ratios)) >= 1.8), lambda: units(targets)),
    ]  # fmt: skip


def command_seconds(*arguments: str) -> tuple[float, float]:
    before, start = cpu_s(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "moeload_bench", *arguments], check=True, capture_output=True)
    return cpu_s() - before, time.perf_counter() - start


def imports() -> list[str]:
    """Which modules a cold command spends its time on."""
    command = [sys.executable, "-X", "importtime", "-m", "moeload_bench", "run", "sw_avg", "--suite", "mini", "--fresh"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    found = [line.split("|") for line in lines if line.startswith("import time:") and "[us]" not in line]
    own = sorted(((int(parts[0].split(":")[1]), parts[2].strip()) for parts in found), reverse=True)[:8]
    return table(["module", "own import, ms"], [[f"`{name}`", f"{us / 1e3:.0f}"] for us, name in own])


@functools.cache
def units(targets: tuple[str, ...]) -> list[str]:
    """CPU seconds of every unit of work of the mini suite, made one after the other, and when two workers would be done
    with them."""
    made: list[Unit] = []

    def timed(call: Callable[..., Any], describe: Callable[..., tuple[str, bool, bool]]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            before = cpu_s()
            out = call(*arguments)
            what, fit, learned = describe(*arguments)
            made.append(Unit(what, cpu_s() - before, fit, learned))
            return out

        return run

    def of_fit(setting: Any, paths: Any, target: Any) -> tuple[str, bool, bool]:
        return f"fit of {target.label}", True, False

    def of_pair(pair: Any) -> tuple[str, bool, bool]:
        return f"{pair.target.label} on {pair.entry.id}", False, pair.fitted.data is not None

    with (
        mock.patch.object(evaluate, "fit_forecaster", timed(evaluate.fit_forecaster, of_fit)),
        mock.patch.object(evaluate, "run_pair", timed(evaluate.run_pair, of_pair)),
    ):
        evaluate.evaluate(list(targets), "mini", fresh=True)
    every = sum(unit.cpu for unit in made)
    end = makespan(made, 2)
    return [
        *table(["unit of work", "CPU s"], [[f"`{unit.what}`", f"{unit.cpu:.1f}"] for unit in made]),
        "",
        f"{every:.1f} s in all; two workers that take units in this order, what was learned after its fit, are done "
        f"after {end:.1f} s: {every / end:.2f} times one worker is the most to be had, before what each worker imports "
        "and reads anew.",
        "",
        *compiling("arima"),
    ]


def makespan(made: list[Unit], workers: int) -> float:
    """When the last unit ends: each goes to the worker that is free first; those of a fit wait for all fits."""
    free, fitted = [0.0] * workers, 0.0
    for unit in made:
        start = max(min(free), fitted if unit.learned else 0.0)
        end = start + unit.cpu
        free[free.index(min(free))] = end
        fitted = max(fitted, end if unit.fit else 0.0)
    return max(free)
