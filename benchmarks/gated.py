"""What `gated` costs beside the moving average: observing and forecasting.

    python benchmarks/gated.py [--rounds N]

CPU seconds of one thread, the two taking turns, so that a busy machine slows both. Under a minute.

Axis letters: L layers, E experts.
"""

from __future__ import annotations

import argparse

import numpy as np
from compare_common import observe_and_forecast, spread, table, verdict
from threadpoolctl import threadpool_limits

OURS, REFERENCE = "gated", "sw_avg"
SHAPES = {(4, 64): 10.0, (60, 256): 50.0}
"""(L, E), and the milliseconds that a forecast may take there."""
MOST_OBSERVE = 3.0
STEPS, ORIGINS = 2000, 4


def cost_rows(L: int, E: int, most_ms: float, rounds: int) -> list[list[str]]:
    """Measure one shape: a row for observing blocks of 250 steps, one for forecasting."""
    pairs = [[observe_and_forecast(name, L, E, STEPS, ORIGINS) for name in (OURS, REFERENCE)] for _ in range(rounds)]
    observe, forecast = np.array(pairs).transpose(2, 1, 0)  # each [forecaster, round]
    ratios = observe[0] / observe[1], forecast[0] / forecast[1]
    middle_ms = 1e3 * np.median(forecast[0]) / ORIGINS
    return [
        [f"observe, {L} x {E}, us per step", *(spread(one, 1e6 / STEPS) for one in observe), spread(ratios[0]),
         f"at most {MOST_OBSERVE:g} times", verdict(bool(np.median(ratios[0]) <= MOST_OBSERVE))],
        [f"forecast, {L} x {E}, ms", *(spread(one, 1e3 / ORIGINS) for one in forecast), spread(ratios[1]),
         f"at most {most_ms:g} ms", verdict(bool(middle_ms <= most_ms))],
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    threadpool_limits(1)
    head = ["what", f"`{OURS}`", f"`{REFERENCE}`", "ratio", "goal", "verdict"]
    rows = [row for (L, E), most_ms in SHAPES.items() for row in cost_rows(L, E, most_ms, rounds)]
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
