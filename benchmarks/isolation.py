"""What isolation costs: start-up, time per call, and the whole mini suite, at each level, measured in one run.

    python benchmarks/isolation.py                 sw_avg at 6 x 8 and 128 x 128, then every baseline on the mini suite
    python benchmarks/isolation.py --calls-only    the first part
    python benchmarks/isolation.py uniform arima   the mini suite for these targets only
    python benchmarks/isolation.py --against DIR   start-up and calls in the sandbox, beside another checkout's

Levels alternate within each repetition, so that a busy machine hits them alike; medians are printed. Goal: the whole
mini suite takes at most 1.1 times as long for `arima`. With --against both checkouts (each with its own .venv) are
measured in turn, and the least of each is compared: what disturbs a machine only ever adds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.hosts import LEVELS, Level, level_available, open_host
from moeload_bench.isolation.targets import parse_target
from moeload_bench.suites.suite import load_suite

SHAPES = ((6, 8), (128, 128))
REPETITIONS = 7
CALLS = 40
HORIZONS = (10, 100, 1000)
WHAT = f"start-up, observe 10 steps, forecast {HORIZONS[-1]} steps"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="forecasters of the second table; the suite's baselines by default")
    parser.add_argument("--calls-only", action="store_true", help="skip the mini suite")
    parser.add_argument("--against", type=Path, help="another checkout, with a .venv")
    arguments = parser.parse_args()
    if arguments.against is not None:
        print_against(arguments.against)
        return
    levels = [level for level in LEVELS if level_available(level) is None]
    for missing in set(LEVELS) - set(levels):
        print(f"no level {missing}: {level_available(missing)}")
    for layers, experts in SHAPES:
        print_calls(layers, experts, levels)
    if not arguments.calls_only:
        print_suite(arguments.targets, levels)


def print_calls(layers: int, experts: int, levels: list[Level]) -> None:
    """Start-up, and wall time per call, of `sw_avg` at one shape; and what a level adds to level `none`."""
    found: dict[Level, list[tuple[float, float, float]]] = defaultdict(list)
    for _ in range(REPETITIONS):
        for level in levels:
            found[level].append(measure(layers, experts, level))
    medians = {
        level: [statistics.median(column) for column in zip(*rows, strict=True)] for level, rows in found.items()
    }
    print(f"\nsw_avg at {layers} x {experts}, milliseconds: {WHAT}")
    for level, values in medians.items():
        added = [value - base for value, base in zip(values, medians["none"], strict=True)]
        cells = [f"{1e3 * value:9.3f} (+{1e3 * more:8.3f})" for value, more in zip(values, added, strict=True)]
        print(f"  {level:8}", *cells)


def print_against(other: Path, repetitions: int = 4) -> None:
    """Least start-up and least median call of `sw_avg` in the sandbox, here and there, and their ratio."""
    here = Path(__file__).resolve().parents[1]
    for layers, experts in SHAPES:
        found: dict[Path, list[list[float]]] = {here: [], other: []}
        for turn in range(2 * repetitions):
            place = (here, other)[(turn + turn // 2) % 2]
            found[place].append(measure_in(place, layers, experts))
        least = {place: np.min(rows, axis=0) for place, rows in found.items()}
        print(f"sw_avg at {layers} x {experts} in the sandbox: {WHAT}; milliseconds here, there, and their ratio")
        print("  ", *(f"{1e3 * a:9.3f} / {1e3 * b:9.3f} = {a / b:.3f}" for a, b in zip(*least.values(), strict=True)))


def measure_in(place: Path, layers: int, experts: int) -> list[float]:
    """`measure` of a checkout's own code, by its own interpreter: the least of five, in a warm harness."""
    measure = f"isolation.measure({layers}, {experts}, 'sandbox')"
    code = f"import isolation; {measure}; print(list(map(min, zip(*({measure} for _ in range(5))))))"
    python = place / ".venv" / "bin" / "python"
    done = subprocess.run([python, "-c", code], cwd=place / "benchmarks", capture_output=True, text=True, check=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def measure(layers: int, experts: int, level: Level) -> tuple[float, float, float]:
    """Seconds of start-up, of one observe and of one forecast."""
    rng = np.random.default_rng(0)
    load = rng.integers(0, 1000, size=(10, layers, experts))
    info = TraceInfo(layers, experts, 1, tuple(range(layers)), None, 1, "none", 0.0, 0)
    observe, forecast = [], []
    started = time.perf_counter()
    with open_host(parse_target("sw_avg"), info, seed=0, level=level) as host:
        startup = time.perf_counter() - started
        for call in range(CALLS if experts < 64 else CALLS // 4):
            block = StepBlock(np.arange(10) + 10 * call, load, load.sum(axis=2))
            started = time.perf_counter()
            host.observe(block)
            observe.append(time.perf_counter() - started)
            started = time.perf_counter()
            host.forecast(ForecastRequest(10 * (call + 1), HORIZONS[-1], HORIZONS))
            forecast.append(time.perf_counter() - started)
    return startup, statistics.median(observe), statistics.median(forecast)


def print_suite(targets: list[str], levels: list[Level]) -> None:
    """Wall and CPU seconds of the whole mini suite for each forecaster, each with its ratio to level `none`.

    CPU seconds are those of the harness and its children together; on a busy machine trust their ratio. A sandbox's are
    not handed to its parent: there they are the harness's own and what it measured of the calls, without start-up.
    """
    suite = load_suite("mini")
    print(f"\nthe whole suite {suite.name}: wall seconds (ratio), CPU seconds (ratio; sandbox: without start-up)")
    for target in targets or list(suite.baselines):
        wall, cpu = {}, {}
        for level in levels:
            started, used = time.perf_counter(), cpu_s()
            (result,) = evaluate(target, suite, level=level, fresh=True)
            wall[level], cpu[level] = time.perf_counter() - started, cpu_s() - used
            if level == "sandbox":
                cpu[level] += sum((run.cost.observe_cpu_s or 0) + (run.cost.forecast_cpu_s or 0) for run in result.runs)
            if result.failures:
                print(f"  {target} at {level}: {len(result.failures)} failed tasks, {result.failures[0]}")
        cells = [f"{level} {wall[level]:7.2f} ({wall[level] / wall['none']:.3f})" for level in levels]
        cells += [f"CPU {level} {cpu[level]:7.2f} ({cpu[level] / cpu['none']:.3f})" for level in levels]
        print(f"  {target:20}", "  ".join(cells), flush=True)


def cpu_s() -> float:
    """CPU seconds of this process and of the children that ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
