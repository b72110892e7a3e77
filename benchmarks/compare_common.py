"""What the parts of `compare.py` share: a line of its table, spreads, jobs in other processes, profiles."""

from __future__ import annotations

import cProfile
import json
import os
import platform
import pstats
import resource
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.targets import load_class, parse_target

HERE = Path(__file__).parent
TOP = 8
END = "<!-- end -->"


class Row(NamedTuple):
    """One line of the goals table; ``why`` measures what bounds a goal that is not met, where that can be asked."""

    what: str
    goal: str
    measured: str
    verdict: str
    why: Callable[[], list[str]] = list


def verdict(ok: bool) -> str:
    return "met" if ok else "missed"


def spread(values: Sequence[float], unit: float = 1.0, digits: int = 3) -> str:
    """Format the median, and the range over the rounds."""
    scaled = np.array(values) * unit
    middle, low, high = (f"{float(f'{x:.{digits}g}'):,g}" for x in (np.median(scaled), scaled.min(), scaled.max()))
    return f"{middle} ({low} to {high})"


def quantiles(name: str, values: Iterable[float]) -> list[str]:
    """Return a table of one distribution."""
    at = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    cells = [f"{x:.3g}" for x in np.quantile(np.array(list(values)), at)]
    return table([name, *(f"{q:.0%}" for q in at)], [["", *cells]])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def write_part(page: Path, begin: str, made: str) -> None:
    """Put a text between its mark on a page and the next `<!-- end -->`."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}{made}{END}{rest.partition(END)[2]}", encoding="utf-8")


def run_json(command: Sequence[object]) -> dict[str, float]:
    """Run a job and read the JSON object on the last line that it prints."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    out: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return out


def cpu_s() -> float:
    """Return CPU seconds of this process and of its children that ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def profile(call: Callable[[], object]) -> list[str]:
    """Return a table of the functions that take most CPU time of their own in a call, which is made once before."""
    call()
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(call)
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in stats.values())
    first = sorted(stats.items(), key=lambda item: -item[1][2])[:TOP]
    return table(
        ["function", "calls", "own CPU s", "of all"],
        [
            [f"`{_place(file, line, name)}`", f"{calls:,}", f"{own:.3f}", f"{own / max(total, 1e-9):.0%}"]
            for (file, line, name), (_, calls, own, _, _) in first
        ],
    )


def _place(file: str, line: int, name: str) -> str:
    return name if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {name}"


def new_forecaster(target: str, L: int, E: int) -> Any:
    """Return a forecaster that has seen nothing."""
    parsed = parse_target(target)
    return load_class(parsed)(TraceInfo(L, E, 1, tuple(range(L)), None, 1, "none", 0.0, 0), 0, **parsed.kwargs)


def observe_and_forecast(target: str, L: int, E: int, steps: int, origins: int = 1) -> tuple[float, float]:
    """Return CPU seconds to observe all steps in blocks of 250, and to answer requests at evenly spaced origins."""
    forecaster = new_forecaster(target, L, E)
    load = np.random.default_rng(0).poisson(100, (250, L, E))
    ask = {steps // 250 * (i + 1) // origins for i in range(origins)}
    spent = [0.0, 0.0]
    for block in range(steps // 250):
        start = time.process_time()
        forecaster.observe(StepBlock(np.arange(250) + 250 * block, load, load.sum(axis=2)))
        seen = time.process_time()
        if block + 1 in ask:
            forecaster.forecast(ForecastRequest(250 * (block + 1), 2000, (1, 10, 100, 1000, 2000)))
        spent[0] += seen - start
        spent[1] += time.process_time() - seen
    return spent[0], spent[1]


def machine() -> str:
    """Name processor, cores and memory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu} ({platform.machine()}), {os.cpu_count()} cores, {memory:.0f} GiB of memory"
