"""Our planner beside EPLB's own algorithm: balance, time, and replicas that share a device.

    make .venv/.loaders && PYTHONPATH=. python benchmarks/eplb.py [--plans 20] [--alpha 0.5] [--rounds 3]

EPLB's algorithm is the file that sglang ships (deepseek.py, by hash), not committed here. Loads are Dirichlet, at
16 layers x 64 experts and at 58 x 256, the layout EPLB was published for, flat and with nodes. *max / mean*: load of
the busiest device over the mean. *Twice*: plans that put two replicas of an expert on one device, in percent; the
second brings nothing. Time: of one layer's plan, processor time of this thread, the best round.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import doubled, imbalance

from moeload_bench.placement.plans import ClusterShape, plan

FILE = Path(sys.prefix) / "loaders" / "eplb.py"
CASES = (
    (16, 64, ClusterShape("flat", 8, 72)),
    (16, 64, ClusterShape("2 nodes", 8, 72, nodes=2, groups=8)),
    (58, 256, ClusterShape("flat", 32, 288)),
    (58, 256, ClusterShape("4 nodes", 32, 288, nodes=4, groups=8)),
)


def eplb() -> Callable[[NDArray[np.float64], ClusterShape], NDArray[np.int64]]:
    """Return EPLB's planner, called as ours is: loads [L, E] to slots [L, R]."""
    spec = importlib.util.spec_from_file_location("eplb", FILE)
    if spec is None or spec.loader is None or not FILE.is_file():
        raise SystemExit(f"{FILE} is not there: make .venv/.loaders")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import torch

    torch.set_num_threads(1)

    def planned(load_LE: NDArray[np.float64], shape: ClusterShape) -> NDArray[np.int64]:
        weight = torch.from_numpy(load_LE)
        place = (shape.slots, shape.groups, shape.nodes, shape.devices, shape.nodes > 1)
        return np.asarray(module.rebalance_experts(weight, *place)[0])

    return planned


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the least processor time of a round."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def main() -> None:
    """Print a row for each size, layout and planner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--alpha", type=float, default=0.5, help="lower is more skewed")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    planners: tuple[tuple[str, Callable[..., Any]], ...] = (("moeload_bench", plan), ("EPLB", eplb()))
    for layers, experts, shape in CASES:
        load = np.random.default_rng(0).dirichlet(np.full(experts, args.alpha), size=(args.plans, layers))
        print(f"{layers} layers x {experts} experts -> {shape.slots} slots on {shape.devices} devices, {shape.name}")
        for name, planner in planners:
            slots = np.stack([planner(load_LE, shape) for load_LE in load])
            cost = seconds(partial(planner, load[0], shape), args.rounds) / layers
            flat = slots.reshape(-1, shape.slots)
            worst = float(imbalance(flat, load.reshape(-1, experts), shape.devices).mean())
            twice = 100 * doubled(flat, shape).mean()
            print(f"  {name:14} max / mean {worst:.5f}   twice {twice:5.1f} %   {cost * 1e6:8.1f} us per plan")


if __name__ == "__main__":
    main()
