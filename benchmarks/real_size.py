"""What commands cost on runs of real size, in CPU seconds and peak memory: a part of docs/reports/performance.md.

    python benchmarks/real_size.py [--folder FOLDER] [--out docs/reports/performance.md] [--only COMMAND ...] [--long]

Every command runs in a child of its own, with one thread: CPU time is that of the child and of all its children, memory
the most that one process held. Traces are made up (drifting shares that settle, multinomial counts), written in parts
of 250 steps and merged as a recording is. They are kept in the folder, and made only if they are not there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from compare_common import machine, table, write_part
from numpy.typing import NDArray

from moeload_bench.recording.parts import Parts
from moeload_bench.traces.trace import Trace

SHARD_STEPS = 250
TOKENS, TOP_K = 1 << 16, 8
BEGIN = "<!-- real size -->\n"


LAUNCH = """
import os, sys
out = [(os.POSIX_SPAWN_OPEN, stream, sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for stream in (1, 2)]
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[2:]], os.environ, file_actions=out)
_, status, used = os.wait4(child, 0)
print(used.ru_utime + used.ru_stime, used.ru_maxrss, os.waitstatus_to_exitcode(status))
"""
"""A small process between this one and the child, whose peak would begin with what its parent holds."""


class Size(NamedTuple):
    """A made-up run."""

    layers: int
    experts: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.layers} x {self.experts} x {self.steps:,}"


class Goal(NamedTuple):
    """A command and what it may take."""

    command: tuple[str, ...]
    size: Size
    cpu_s: float
    memory_gb: float | None

    @property
    def name(self) -> str:
        return " ".join(part for part in self.command if part != "TRACE" and not part.startswith("{"))


MODEL, LONG, SMALL = Size(58, 256, 2_000), Size(58, 256, 20_000), Size(24, 32, 100_000)
SHORT, MILLION = Size(58, 256, 1_000), Size(6, 16, 1_000_000)
PLAN = ["--devices", "32", "--slots", "288", "--expert-mb", "88", "--bandwidth", "50", "--step-ms", "4000"]
COMMANDS: dict[str, tuple[tuple[str, ...], float, float | None]] = {
    "inspect": (("inspect", "TRACE"), 10, 1.0),
    "run": (("run", "--fresh", "--trace", "TRACE"), 60, 1.0),
    "plan": (("plan", "TRACE", *PLAN), 30, 1.0),
    "page": (("inspect", "TRACE", "--html", "{out}"), 40, 1.0),
    "capacity": (("inspect", "TRACE", "--capacity"), 10, 0.6),
}
"""By a short name: the command, CPU seconds and GB that it may take on `MODEL`."""


def goals(long: bool) -> Iterator[Goal]:
    """Every command on the model's size, and on ten times the steps; two of them on many steps of small models."""
    yield Goal(COMMANDS["inspect"][0], SHORT, 5, 1.0)
    for command, cpu_s, memory in COMMANDS.values():
        yield Goal(command, MODEL, cpu_s, memory)
    if long:
        for command, cpu_s, memory in COMMANDS.values():
            yield Goal(command, LONG, 11 * cpu_s, None if memory is None else 1.2 * memory)
        for name in ("inspect", "page"):
            yield Goal(COMMANDS[name][0], SMALL, float("inf"), 0.6)
        yield Goal(COMMANDS["inspect"][0], MILLION, 60, 1.0)


def make_trace(size: Size, folder: Path) -> Path:
    """Return the run's trace, made if it is not there; only one shard of it is ever in memory."""
    target = folder / f"size{size.layers}x{size.experts}x{size.steps}" / "test" / "seed0.parquet"
    if target.is_file():
        return target
    parts = Parts(target)
    parts.remove()
    parts.start(resume=False)
    rng = np.random.default_rng(0)
    logit_LE = rng.normal(0, 0.8, (size.layers, size.experts))
    for first in range(0, size.steps, SHARD_STEPS):
        load_SLE = np.stack([_counts(logit_LE, step, rng) for step in range(first, first + SHARD_STEPS)])
        shard = Trace.from_arrays(
            load_SLE, TOKENS, TOP_K, step_S=np.arange(first, first + SHARD_STEPS), recipe=target.parts[-3],
            global_batch_tokens=TOKENS,
        )  # fmt: skip
        parts.append(shard)
    parts.merge(shard.meta)
    parts.discard()
    return target


def _counts(logit_LE: NDArray[np.float64], step: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return one step's loads; ``logit_LE`` moves in place, by less and less."""
    logit_LE *= 0.9995
    logit_LE += rng.normal(0, 0.08 / (1 + step / 30) + 0.004, logit_LE.shape)
    most = np.log(logit_LE.shape[1] / TOP_K) - 0.3  # no expert may get more than every token
    logit_LE.clip(-most, most, out=logit_LE)
    share_LE = np.exp(logit_LE)
    share_LE /= share_LE.sum(axis=1, keepdims=True)
    return np.asarray(rng.multinomial(TOKENS * TOP_K, share_LE), dtype=np.int64)


def measure(goal: Goal, trace: Path, folder: Path) -> tuple[float, float, float, int]:
    """Return CPU seconds, peak GB of one process, wall seconds and exit status of a command in a child of its own."""
    command = [part.replace("TRACE", str(trace)).format(out=folder / "report.html") for part in goal.command]
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    start = time.perf_counter()
    launch = [sys.executable, "-c", LAUNCH, str(folder / "output.txt"), "-m", "moeload_bench", *command]
    done = subprocess.run(launch, capture_output=True, text=True, check=True, env=environment)
    cpu, kilobytes, status = done.stdout.split()
    return float(cpu), int(kilobytes) / 2**20, time.perf_counter() - start, int(status)


def part(rows: Sequence[Sequence[str]]) -> str:
    """Return the page's part."""
    about = (
        f"Made-up runs of layers x experts x steps, {TOKENS:,} tokens a step, top-{TOP_K}; one core of {machine()}. "
        "CPU seconds of the command in a process of its own, its children included, and the most memory that one of "
        "these processes held (`benchmarks/real_size.py`). A row is a command on a run: less is better."
    )
    head = ["run", "command", "CPU s", "at most", "peak GB", "at most"]
    return "\n".join(["## Real size", "", about, "", *table(head, rows), ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "moeload-real-size")
    parser.add_argument("--out", type=Path, help="the page whose part is replaced")
    parser.add_argument("--only", nargs="*", choices=COMMANDS, help="only these commands")
    parser.add_argument("--long", action="store_true", help="the long runs too: 10 GB of disk and an hour")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows, missed = [], False
    for goal in goals(args.long):
        if args.only and goal.command not in [COMMANDS[name][0] for name in args.only]:
            continue
        cpu, memory, wall, status = measure(goal, make_trace(goal.size, args.folder), args.folder)
        missed |= cpu > goal.cpu_s or memory > (goal.memory_gb or float("inf")) or status != 0
        most = ["-" if value in (None, float("inf")) else f"{value:g}" for value in (goal.cpu_s, goal.memory_gb)]
        rows.append([goal.size.name, f"`{goal.name}`", f"{cpu:.1f}", most[0], f"{memory:.2f}", most[1]])
        print(" | ".join([*rows[-1], f"{wall:.0f} s wall", f"exit {status}"]), flush=True)
    if args.out is not None:
        write_part(args.out, BEGIN, f"\n{part(rows)}\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
