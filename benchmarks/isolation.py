"""What isolation costs: start-up, time per call, and the whole mini suite, at each level, measured in one run.

    python benchmarks/isolation.py                 sw_avg at 6 x 8 and 128 x 128, then every baseline on the mini suite
    python benchmarks/isolation.py --calls-only    the first part
    python benchmarks/isolation.py uniform arima   the mini suite for these targets only
    python benchmarks/isolation.py --against DIR   CPU time in the sandbox beside another checkout's, in isolation.json
    python -m leaderboard pages docs/methods/isolation.md    the table made from that

Levels alternate within each repetition, so that a busy machine hits them alike; medians are printed. Goal: the whole
mini suite takes at most 1.1 times as long for `arima`. With --against both checkouts (each with its own .venv) are
measured in turn, and the least of each is compared: what disturbs a machine only ever adds. CPU time is that of a
control group which holds harness, watch and sandbox, so that it can be compared while other work goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from compare_common import cpu_s

from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.groups import new_group
from moeload_bench.isolation.hosts import LEVELS, Level, level_available, open_host
from moeload_bench.isolation.targets import parse_target
from moeload_bench.suites.suite import load_suite

SHAPES = ((6, 8), (128, 128))
REPETITIONS = 7
CALLS = 40
HORIZONS = (10, 100, 1000)
MORE_STARTS, MORE_CALLS, CPU_REPETITIONS = 8, 1000, 4
MEMORY_BYTES = 8 << 30
KEPT = Path(__file__).with_suffix(".json")
WHAT = f"start-up, observe 10 steps, forecast {HORIZONS[-1]} steps"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="forecasters of the second table; the suite's baselines by default")
    parser.add_argument("--calls-only", action="store_true", help="skip the mini suite")
    parser.add_argument("--against", type=Path, help="another checkout, with a .venv")
    arguments = parser.parse_args()
    if arguments.against is not None:
        keep_cpu_against(arguments.against)
        return
    levels = [level for level in LEVELS if level_available(level) is None]
    for missing in set(LEVELS) - set(levels):
        print(f"no level {missing}: {level_available(missing)}")
    for layers, experts in SHAPES:
        print_calls(layers, experts, levels)
    if not arguments.calls_only:
        print_suite(arguments.targets, levels)


def print_calls(layers: int, experts: int, levels: list[Level]) -> None:
    """Print start-up, and wall time per call, of `sw_avg` at one shape; and what a level adds to level `none`."""
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


def keep_cpu_against(other: Path) -> None:
    """Keep in `KEPT` the CPU seconds of a start-up and of an observe with a forecast, here and there.

    They are what more start-ups, or more calls, add to the least of some harnesses.
    """
    here = Path(__file__).resolve().parents[1]
    rows = []
    for layers, experts in SHAPES:
        calls = MORE_CALLS if experts < 64 else MORE_CALLS // 4
        least: dict[Path, tuple[float, float]] = {}
        found: dict[Path, list[list[float]]] = {here: [], other: []}
        for turn in range(2 * CPU_REPETITIONS):
            place = (here, other)[(turn + turn // 2) % 2]
            counts = ((1, 1), (1 + MORE_STARTS, 1), (1, 1 + calls))
            found[place].append([cpu_of(place, layers, experts, *count) for count in counts])
        for place, values in found.items():
            one, starts, called = np.min(values, axis=0)
            least[place] = float(starts - one) / MORE_STARTS, float(called - one) / calls
        for what, a, b in zip(("start-up", "call"), least[here], least[other], strict=True):
            print(f"{layers} x {experts}, {what}: {1e3 * a:.3f} / {1e3 * b:.3f} ms = {a / b:.3f}", flush=True)
            rows.append({"shape": f"{layers} x {experts}", "what": what, "here_ms": 1e3 * a, "there_ms": 1e3 * b})
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=other, capture_output=True, text=True, check=True
    )
    kept = {"there": head.stdout.strip(), "repetitions": CPU_REPETITIONS, "rows": rows}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def cpu_of(place: Path, layers: int, experts: int, starts: int, calls: int) -> float:
    """Return CPU seconds of a checkout's harness that starts so many sandboxes, each asked so often, and of theirs."""
    quarter = 4 if experts >= 64 else 1  # what `measure` divides its number of calls by
    code = (
        f"import isolation; isolation.CALLS = {quarter * calls}\n"
        f"for _ in range({starts}): isolation.measure({layers}, {experts}, 'sandbox')"
    )
    group = new_group(MEMORY_BYTES, None)
    if group is None:
        raise SystemExit("no control group can be made here: CPU time of a sandbox is not handed to its parent")
    try:
        argv = group.command([str(place / ".venv" / "bin" / "python"), "-c", code])
        subprocess.run(argv, cwd=place / "benchmarks", check=True)
        return group.cpu_s() or 0.0
    finally:
        group.remove()


def measure(layers: int, experts: int, level: Level) -> tuple[float, float, float]:
    """Return seconds of start-up, of one observe and of one forecast."""
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
    """Print wall and CPU seconds of the whole mini suite for each forecaster, each with its ratio to level `none`.

    CPU seconds are those of the harness and its children together; on a busy machine trust their ratio. A sandbox's are
    not handed to its parent: there they are the harness's own and what it measured of the calls, without start-up.
    """
    suite = load_suite("mini")
    print(f"\nthe whole suite {suite.name}: wall seconds (ratio), CPU seconds (ratio; sandbox: without start-up)")
    for target in targets or list(suite.baselines):
        wall, cpu = {}, {}
        for level in levels:
            started, used = time.perf_counter(), cpu_s()
            results = evaluate(target, suite, level=level, fresh=True)
            wall[level], cpu[level] = time.perf_counter() - started, cpu_s() - used
            if level == "sandbox":
                cpu[level] += float(results.costs[["observe_cpu_s", "forecast_cpu_s"]].sum().sum())
            if len(results.failures):
                print(
                    f"  {target} at {level}: {len(results.failures)} failed tasks, {results.failures.iloc[0].failure}"
                )
        cells = [f"{level} {wall[level]:7.2f} ({wall[level] / wall['none']:.3f})" for level in levels]
        cells += [f"CPU {level} {cpu[level]:7.2f} ({cpu[level] / cpu['none']:.3f})" for level in levels]
        print(f"  {target:20}", "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
