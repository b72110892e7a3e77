"""Write a line of a table, compute a spread, run a job in another process: for all parts of `compare.py`."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.forecaster import TraceInfo
from moeload_bench.isolation.targets import load_class, parse_target

HERE = Path(__file__).parent
END = "<!-- end -->"


class Row(NamedTuple):
    """One line of the goals table."""

    what: str
    goal: str
    measured: str
    verdict: str


def verdict(ok: bool) -> str:
    return "met" if ok else "missed"


def spread(values: Sequence[float], unit: float = 1.0, digits: int = 3) -> str:
    """Format the median, and the range over the rounds."""
    scaled = np.array(values) * unit
    middle, low, high = (f"{float(f'{x:.{digits}g}'):,g}" for x in (np.median(scaled), scaled.min(), scaled.max()))
    return f"{middle} ({low} to {high})"


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
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def new_forecaster(target: str, L: int, E: int) -> Any:
    """Return a forecaster that has seen nothing."""
    parsed = parse_target(target)
    return load_class(parsed)(TraceInfo(L, E, 1, tuple(range(L)), None, 1, "none", 0.0, 0), 0, **parsed.kwargs)


def machine() -> str:
    """Name processor, cores and memory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu} ({platform.machine()}), {os.cpu_count()} cores, {memory:.0f} GiB of memory"
