"""The package's planner beside EPLB's algorithm as a straightforward loop: plans per second.

    PYTHONPATH=. python benchmarks/placement.py [--origins 40] [--alpha 0.5]

58 layers x 256 experts into 288 slots on 32 devices over 4 nodes (8 groups), the layout EPLB was published for, and
the same without nodes. Loads are Dirichlet. Processor time of this thread, the best of several rounds, so that a busy
machine disturbs little. The loop follows the published description word by word over the elements of numpy arrays, one
layer and origin at a time; ``plain_lists`` is the same loop tuned for the interpreter (Python lists, no numpy
scalars), to show how much of the difference is numpy's cost per element.

How well both balance is in docs/methods/placement.md (`benchmarks/peers.py`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from peers import imbalance, loop_plan

from moeload_bench.placement.plans import ClusterShape, plan

LAYERS, EXPERTS = 58, 256
SHAPES = (ClusterShape("4 nodes", 32, 288, nodes=4, groups=8), ClusterShape("flat", 32, 288))
GOAL = 50


def lists_pack(weight: list[float], bins: int) -> list[list[int]]:
    """`loop_pack` on Python lists."""
    room = len(weight) // bins
    load, held = [0.0] * bins, [[] for _ in range(bins)]  # type: tuple[list[float], list[list[int]]]
    for item in sorted(range(len(weight)), key=lambda i: -weight[i]):
        lightest, least = -1, float("inf")
        for bin_ in range(bins):
            if load[bin_] < least and len(held[bin_]) < room:
                lightest, least = bin_, load[bin_]
        load[lightest] += weight[item]
        held[lightest].append(item)
    return held


def lists_plan(load: list[float], shape: ClusterShape) -> list[int]:
    """`loop_plan` on Python lists."""
    size, slots = len(load) // shape.groups, shape.slots // shape.nodes
    out: list[int] = []
    for groups in lists_pack([sum(load[g * size : (g + 1) * size]) for g in range(shape.groups)], shape.nodes):
        experts = [group * size + i for group in groups for i in range(size)]
        share, count = [load[e] for e in experts], [1] * len(experts)
        each = list(share)
        for _ in range(slots - len(experts)):
            largest = each.index(max(each))
            count[largest] += 1
            each[largest] = share[largest] / count[largest]
        replica = [i for i in range(len(experts)) for _ in range(count[i])]
        held = lists_pack([each[i] for i in replica], shape.devices // shape.nodes)
        out.extend(experts[replica[item]] for items in held for item in items)
    return out


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Least processor time of a round."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def main() -> None:
    """Print one block per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--origins", type=int, default=40)
    parser.add_argument("--alpha", type=float, default=0.5, help="lower is more skewed")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    load = np.random.default_rng(0).dirichlet(np.full(EXPERTS, args.alpha), size=(args.origins, LAYERS))
    for shape in SHAPES:
        compare(shape, load, args.rounds)


def compare(shape: ClusterShape, load: NDArray[np.float64], rounds: int) -> None:
    """Time all three on one shape, and check that they balance alike."""
    few = load.reshape(-1, EXPERTS)[:16]
    lists = few.tolist()
    loop_s = seconds(lambda: [loop_plan(row, shape) for row in few], rounds) / len(few)
    lists_s = seconds(lambda: [lists_plan(row, shape) for row in lists], rounds) / len(few)
    ours_s = seconds(lambda: plan(load, shape), rounds) / (load.size // EXPERTS)
    loops = np.array([loop_plan(row, shape) for row in few])
    print(f"{LAYERS} layers x {EXPERTS} experts -> {shape.slots} slots on {shape.devices} devices, {shape.name}")
    print(f"  loop            {loop_s * 1e6:8.1f} us per plan")
    print(f"  plain_lists     {lists_s * 1e6:8.1f} us per plan  {loop_s / lists_s:6.1f} x")
    print(f"  moeload_bench   {ours_s * 1e6:8.1f} us per plan  {loop_s / ours_s:6.1f} x (goal {GOAL} x)")
    loop, ours = (float(imbalance(plans, few, shape.devices).mean()) for plans in (loops, plan(few, shape)))
    print(f"  max / mean load: loop {loop:.5f}, moeload_bench {ours:.5f}")


if __name__ == "__main__":
    main()
