"""Side-by-side speed: writes docs/performance.md.

    python benchmarks/compare.py --out docs/performance.md [--cache FOLDER] [--quick]

The peers live in an environment of their own under the cache folder (fev pins datasets < 5), made on the first run. All
times are CPU seconds (`time.process_time`) of one thread, the sides taking turns, so that a busy machine slows both.
`--quick` runs everything at a small size and says so on the page.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import compare_arima
import numpy as np
from compare_arima import run_json

from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.targets import load_class, parse_target

HERE = Path(__file__).parent
PEERS = ("fev==0.10.0", "statsforecast==2.1.1")
TRACES = ("qwen3moe-tiny-8e-aux0/test/seed1", "qwen3moe-tiny-8e/test/seed1")


class Row(NamedTuple):
    """One line of the goals table."""

    what: str
    goal: str
    measured: str
    verdict: str


def peer_python(cache: Path) -> Path:
    """The interpreter of the peers' environment, made when it is not there."""
    python, complete = cache / "peers" / "bin" / "python", cache / "peers" / "complete"
    if not complete.exists():
        venv.create(cache / "peers", with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS], check=True)
        complete.touch()
    return python


def spread(values: list[float], unit: float = 1.0, digits: int = 3) -> str:
    """Median, and the range over the rounds."""
    scaled = np.array(values) * unit
    return f"{np.median(scaled):.{digits}g} ({scaled.min():.{digits}g} to {scaled.max():.{digits}g})"


def verdict(ok: bool) -> str:
    return "met" if ok else "missed"


def arima_rows(peer: Path, quick: bool) -> list[Row]:
    """The three ARIMA goals, over both bundled test traces."""
    rounds, fits = (2, 3) if quick else (4, 12)
    parts = [compare_arima.simple_orders(trace, rounds, fits) for trace in TRACES]
    ours, theirs = ([x for part in parts for x in part[key]] for key in ("ours", "theirs"))
    off, best, gain = (np.array([x for part in parts for x in part[key]]) for key in ("off", "off_best", "gain"))
    ratio = float(np.median(theirs) / np.median(ours))
    stats = [compare_arima.statsforecast(peer, trace, rounds * fits) for trace in TRACES]
    ratio_sf = float(np.mean(stats) / np.median(ours))
    paper = [compare_arima.paper_order(trace, 1 if quick else 6, np.random.default_rng(1)) for trace in TRACES]
    fast, slow = ([x for part in paper for x in part[key]] for key in ("ours", "theirs"))
    more, tv = (np.array([x for part in paper for x in part[key]]) for key in ("gain", "tv"))
    ratio_5 = float(np.median(slow) / np.median(fast))
    change = float(tv[:, 0].mean() / tv[:, 1].mean() - 1)
    worse = float((more < -1).mean())
    return [
        Row(
            "ARIMA(1,1,1), every series and origin of the bundled test traces, against statsmodels' default",
            "1,000 times; forecasts within 0.1 %",
            f"{ratio:,.0f} times: {spread(ours, 1e6)} against {spread(theirs, 1e6)} microseconds per series and "
            f"origin. {(best < 1e-3).mean():.0%} of {len(best)} forecasts are within 0.1 % of the exact optimum near "
            f"our parameters (median {np.median(best):.1e}), {(off < 1e-3).mean():.0%} within 0.1 % of the default "
            f"fit, whose log-likelihood was lower by more than 0.1 for {(gain > 0.1).mean():.0%} of the series",
            verdict(ratio >= 1000 and bool((best < 1e-3).mean() >= 0.95))
            + (", but against the exact optimum, which the default often misses" if (off < 1e-3).mean() < 0.95 else ""),
        ),
        Row(
            "the same, against statsforecast's ARIMA(1,1,1)",
            "200 times",
            f"{ratio_sf:,.0f} times: {np.mean(stats) * 1e6:,.0f} microseconds per series and origin, failures left out",
            verdict(ratio_sf >= 200),
        ),
        Row(
            "ARIMA(5,1,5), history 1,000, against statsmodels with 500 iterations",
            "100 times; log-likelihood no worse than its less 1; window_tv within 1 %",
            f"{ratio_5:,.0f} times: {spread(fast, 1e3)} against {spread(slow, 1e3)} ms per series. Log-likelihood "
            f"higher by {more.mean():.2f} on average, lower by more than 1 for {worse:.0%} of {len(more)} series "
            f"(least {more.min():.1f}); window_tv at 1,000 steps {tv[:, 0].mean():.4f} against {tv[:, 1].mean():.4f} "
            f"({change:+.1%})",
            verdict(ratio_5 >= 100 and change <= 0.01) + (f", but for the likelihood of {worse:.0%}" if worse else ""),
        ),
    ]


def fev_row(peer: Path, quick: bool) -> Row:
    """Replay and score against fev doing the same job, each in its own process."""
    layers, steps, windows = (1, 4000, 2) if quick else (16, 20000, 10)
    sizes = ["--steps", str(steps)]
    with tempfile.TemporaryDirectory() as folder:
        trace, data = f"{folder}/trace.parquet", f"{folder}/fev"
        replay, peers = [sys.executable, str(HERE / "replay_job.py")], [str(peer), str(HERE / "peer_jobs.py")]
        run_json([*replay, "data", trace, "--layers", str(layers), *sizes])
        run_json([*peers, "fev-data", data, "--series", str(layers * 64), *sizes])
        ours, theirs, decoding = [], [], []
        for _ in range(3):
            decoding.append(run_json([*replay, "decode", trace])["decode"])
            ours.append(run_json([*replay, "run", trace, "--windows", str(windows)]))
            theirs.append(run_json([*peers, "fev", data, "--windows", str(windows)]))
    total = [sum(v for k, v in job.items() if k != "peak_mb") for job in (*ours, *theirs)]
    ratio, peak = float(np.median(total[3:]) / np.median(total[:3])), max(job["peak_mb"] for job in ours)
    middle = {k: [float(np.median([job[k] for job in side])) for side in (ours, theirs)] for k in theirs[0]}
    stages = ", ".join(f"{k} {middle[k][0]:.2f} against {middle[k][1]:.2f} s" for k in ("load", "replay", "score"))
    stages += f"; of our loading {np.median(decoding):.2f} s is pyarrow decoding the file"
    return Row(
        f"replay and score, {layers * 64:,} series x {steps:,} steps x {windows} origins, H = 1,000, naive, "
        "against fev",
        "20 times; peak 0.5 GB",
        f"{ratio:.0f} times ({stages}); peak {peak / 1024:.2f} GB against {theirs[0]['peak_mb'] / 1024:.2f} GB",
        verdict(ratio >= 20 and peak <= 512),
    )


def command_row() -> list[Row]:
    """Cold commands: CPU seconds of the process and its children, and wall time."""
    help_cpu, help_wall = command_seconds(["--help"])
    run_cpu, run_wall = command_seconds(["run", "sw_avg", "--suite", "mini", "--fresh"])
    classical = ["run", "sw_avg", "arima", "lstm", "--suite", "mini", "--fresh", "--jobs"]
    walls: list[list[float]] = [[], []]
    for _ in range(2):
        walls[0].append(command_seconds([*classical, "1"])[1])
        all_cpu, all_wall = command_seconds([*classical, "2"])
        walls[1].append(all_wall)
    faster = min(walls[0]) / min(walls[1])
    return [
        Row("`moeload-bench run sw_avg` on the mini suite, cold", "5 s, of which start-up 0.5 s",
            f"{run_cpu:.1f} s of CPU ({run_wall:.1f} s wall); `--help` {help_cpu:.2f} s ({help_wall:.2f} s wall)",
            verdict(run_cpu <= 5 and help_cpu <= 0.5)),
        Row("three classical baselines, two cores (suite v1; the mini suite stands in for it)", "5 minutes",
            f"{all_cpu:.0f} s of CPU over two workers, {all_wall:.0f} s wall", verdict(all_cpu <= 600)),
        Row("two workers against one, the same work, wall time", "1.8 times",
            f"{faster:.2f} times: {min(walls[1]):.0f} against {min(walls[0]):.0f} s, the better of two; other work on "
            "the machine counts here", verdict(faster >= 1.8)),
    ]  # fmt: skip


def command_seconds(arguments: list[str]) -> tuple[float, float]:
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "moeload_bench", *arguments], check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.perf_counter() - start


def growth_table(quick: bool) -> list[str]:
    """CPU time per step and series when one size grows."""
    shapes = [(6, 8), (12, 16), (12, 128)] if quick else [(6, 8), (12, 16), (12, 128), (128, 128)]
    lines = ["| layers x experts | steps | " + " | ".join(f"`{target}`" for target in TARGETS) + " |"]
    lines.append("| --- " * (2 + len(TARGETS)) + "|")
    for L, E in shapes:
        for steps in (500, 1000) if quick or L == 128 else (1000, 10000, 50000) if L * E < 200 else (1000, 4000):
            cells = [f"{observe_seconds(target, L, E, steps) / (steps * L * E) * 1e9:.1f}" for target in TARGETS]
            lines.append(f"| {L} x {E} | {steps:,} | " + " | ".join(cells) + " |")
    return lines


TARGETS = ("last_value", "sw_avg", "sw_avg@window=1000", "ema", "arima@order=[1,1,1]")


def observe_seconds(target: str, L: int, E: int, steps: int) -> float:
    """Seconds to observe all steps in blocks of 250 and answer one request."""
    parsed = parse_target(target)
    forecaster = load_class(parsed)(TraceInfo(L, E, 1, tuple(range(L)), None, 1, "none", 0.0, 0), 0, **parsed.kwargs)
    load = np.random.default_rng(0).poisson(100, (250, L, E))
    start = time.process_time()
    for at in range(0, steps, 250):
        forecaster.observe(StepBlock(np.arange(at, at + 250), load, load.sum(axis=2)))
    forecaster.forecast(ForecastRequest(steps, 2000, (1, 10, 100, 1000, 2000)))
    return time.process_time() - start


def page(rows: list[Row], growth: list[str], quick: bool) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "statsmodels"))
    size = "**Reduced sizes (`--quick`): a check that everything runs, not a measurement.** " if quick else ""
    table = [f"| {row.what} | {row.goal} | {row.measured} | {row.verdict} |" for row in rows]
    load = f"Load average while it ran: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores."
    machine = f"{platform.machine()}, Python {platform.python_version()}, {packages}; peers: {', '.join(PEERS)}."
    header = ["| what | goal | measured | |", "| --- | --- | --- | --- |"]
    growing = ["## How cost grows", "", GROWTH, "", *growth, ""]
    title = ["# Performance", "", "Generated by `make bench-compare` (`benchmarks/compare.py`); do not edit.", ""]
    lines = [*title, f"{size}{METHOD} {load}", "", machine, "", *header, *table, "", *growing]
    return "\n".join([*lines, "## What bounds it", "", *BOUNDS, ""])


METHOD = (
    "CPU seconds of one thread (`time.process_time`), sides taking turns; median and range over rounds. Compilation by "
    "numba (2 to 8 s of CPU per process for `arima`) is counted in the commands only."
)
GROWTH = (
    "Nanoseconds per step, layer and expert: all steps observed in blocks of 250, and one forecast at the end. Columns "
    "that stay level, or fall where a fixed cost is spread, mean growth that is linear; the first row of a column may "
    "hold compilation."
)
BOUNDS = [
    "- `arima` (1,1,1): a filter and five running sums for each of 96 points of theta, per row and series; at an",
    "  origin the likelihood is evaluated from the sums some 130 times.",
    "- `arima` (5,1,5): passes over 1,000 rows, eleven per Gauss-Newton step, from seven starts. Optimisers end in",
    "  different local optima: some series end lower than statsmodels, more end higher.",
    "- Replay and score: reading the trace is most of it, and decoding parquet most of that; hashes and invariants are",
    "  a quarter. Memory: the arrays of the trace and one row group. A constant forecast stays [1, L, E].",
    "- Two workers: the fit of `lstm` is one unit of work, beside which only other forecasters run; every worker",
    "  compiles `arima` and imports torch anew.",
    "- Mini suite: most of `lstm` is 600 updates of its `train` fit, most of `arima` is compilation.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "moeload-bench")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    compare_arima.quiet()
    peer = peer_python(args.cache)
    rows: list[Row] = []
    sections: list[Callable[[], Any]] = [
        lambda: arima_rows(peer, args.quick), lambda: [fev_row(peer, args.quick)], command_row
    ]  # fmt: skip
    for section in sections:
        rows += section()
        print(*rows[-1:], sep="\n", flush=True)
    args.out.write_text(page(rows, growth_table(args.quick), args.quick))


if __name__ == "__main__":
    main()
