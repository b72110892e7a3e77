"""What `gated` costs beside the moving average: observing, forecasting, fitting, memory.

    python benchmarks/gated.py [--rounds N]

CPU seconds of one thread, the two taking turns, so that a busy machine slows both. The time of the fit is that of the
committed result. Under a minute.

Axis letters: S steps, L layers, E experts.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from compare_common import new_forecaster, observe_and_forecast, spread, table, verdict
from threadpoolctl import threadpool_limits

from moeload_bench.forecaster import StepBlock
from moeload_bench.results.results import load_results

ROOT = Path(__file__).resolve().parents[1]
SUITE = "v3"
RESULT = ROOT / "leaderboard" / "results" / SUITE / "gated.parquet"
OURS, REFERENCE = "gated", "sw_avg"
SHAPES = {(4, 64): 10.0, (60, 256): 50.0}
"""(L, E), and the milliseconds that a forecast may take there."""
MOST_OBSERVE, MOST_FIT_S = 3.0, 600.0
STEPS, BLOCK, ORIGINS = 2000, 250, 4
LENGTHS = (16_000, 64_000)
"""Steps of a run, several times the 3,072 of the longest window."""
SMALL = (2, 16)
"""(L, E) of the run whose memory is measured."""

Lines = list[Sequence[str]]


def step_by_step(name: str, L: int, E: int) -> float:
    """Return CPU seconds per step that is observed on its own, as in a live run."""
    one = new_forecaster(name, L, E)
    load = np.random.default_rng(0).poisson(100, (1, L, E))
    tokens = load.sum(axis=2)
    start = time.process_time()
    for step in range(STEPS):
        one.observe(StepBlock(np.arange(step, step + 1), load, tokens))
    return (time.process_time() - start) / STEPS


def held_bytes(name: str, steps: int) -> int:
    """Return what the forecaster holds after so many steps of a run of the `SMALL` shape."""
    L, E = SMALL
    load = np.random.default_rng(0).poisson(100, (BLOCK, L, E))
    tokens = load.sum(axis=2)
    tracemalloc.start()
    one = new_forecaster(name, L, E)
    before, _ = tracemalloc.get_traced_memory()
    for first in range(0, steps, BLOCK):
        one.observe(StepBlock(np.arange(first, first + BLOCK), load, tokens))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held


def cost_rows(rounds: int) -> Lines:
    """Measure observing in blocks and step by step, and forecasting, at every shape."""
    found: Lines = []
    for (L, E), most_ms in SHAPES.items():
        pairs = [[observe_and_forecast(n, L, E, STEPS, ORIGINS) for n in (OURS, REFERENCE)] for _ in range(rounds)]
        singles = [[step_by_step(name, L, E) for name in (OURS, REFERENCE)] for _ in range(rounds)]
        for what, times in (
            (f"observe blocks of {BLOCK}", [[observe / STEPS for observe, _ in pair] for pair in pairs]),
            ("observe step by step", singles),
        ):
            ratio = [ours / reference for ours, reference in times]
            met = verdict(float(np.median(ratio)) <= MOST_OBSERVE)
            goal = f"at most {MOST_OBSERVE:g} times"
            found.append((f"{what}, {L} x {E}, us per step", *_beside(times, 1e6), spread(ratio), goal, met))
        asked = [[forecast / ORIGINS for _, forecast in pair] for pair in pairs]
        ratio = [ours / reference for ours, reference in asked]
        met = verdict(1e3 * float(np.median([ours for ours, _ in asked])) <= most_ms)
        found.append((f"forecast, {L} x {E}, ms", *_beside(asked, 1e3), spread(ratio), f"at most {most_ms:g} ms", met))
    return found


def _beside(times: Sequence[Sequence[float]], unit: float) -> list[str]:
    return [spread([pair[i] for pair in times], unit) for i in (0, 1)]


def bound_rows() -> Lines:
    """Return the fit of the committed result, and what is held after runs of several lengths."""
    fit_s = load_results(RESULT).entries[OURS].fit_wall_s
    assert fit_s is not None
    found: Lines = [(f"fit on the open runs of {SUITE}, s", f"{fit_s:.0f}", "-", "-", f"at most {MOST_FIT_S:g} s",
                     verdict(fit_s <= MOST_FIT_S))]  # fmt: skip
    L, E = SMALL
    held = {name: [held_bytes(name, steps) for steps in LENGTHS] for name in (OURS, REFERENCE)}
    for i, steps in enumerate(LENGTHS):
        ours, reference = held[OURS][i], held[REFERENCE][i]
        bounded = ours <= 1.05 * held[OURS][0]
        found.append((f"held after {steps:,} steps, {L} x {E}, kB", f"{ours / 1e3:.0f}", f"{reference / 1e3:.0f}",
                      f"{ours / reference:.2f}", "as much at any length", verdict(bounded)))  # fmt: skip
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    threadpool_limits(1)
    head = ("what", f"`{OURS}`", f"`{REFERENCE}`", "ratio", "goal", "verdict")
    print("\n".join(table(list(head), [*cost_rows(given.rounds), *bound_rows()])))


if __name__ == "__main__":
    main()
