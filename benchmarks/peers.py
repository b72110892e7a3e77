"""Our planner beside EPLB's algorithm as a straightforward loop: how well both balance, on random and recorded loads.

    python benchmarks/peers.py [--out benchmarks/peers.json]

Writes what docs/methods/placement.md shows (`python -m leaderboard pages placement` makes the table from it).
The loop follows the published description word by word over the elements of numpy arrays. It stands for the public
code: on the loads that the public code was run on once, it reaches the same maximum to the digits kept
(tests/placement/test_placement.py). `benchmarks/eplb.py` times our planner beside the public code itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.placement.cost import device_weights
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.traces.lookup import load_trace

PEER_SHAPES = {
    ClusterShape("8 experts, 2 devices, 10 slots", 2, 10): 8,
    ClusterShape("8 experts, 4 devices, 12 slots", 4, 12): 8,
    ClusterShape("16 experts, 4 devices, 20 slots", 4, 20): 16,
    ClusterShape("64 experts, 16 devices, 80 slots, 4 nodes", 16, 80, nodes=4, groups=8): 64,
}
"""Shapes on which balance is compared, and their experts."""
ALPHAS = (1.0, 0.5, 0.1)
"""Of the Dirichlet loads: the lower, the more skewed."""
RECORDED = ("qwen3moe-tiny-8e/test/seed1", "qwen3moe-tiny-8e-aux0/test/seed1")
MEAN_STEPS = 10


def loop_pack(weight: Any, bins: int) -> list[list[int]]:
    """Items in falling order of weight, each to the lightest bin that has room."""
    room = len(weight) // bins
    load = np.zeros(bins)
    held: list[list[int]] = [[] for _ in range(bins)]
    for item in np.argsort(-weight, kind="stable"):
        with_room = [bin_ for bin_ in range(bins) if len(held[bin_]) < room]
        lightest = min(with_room, key=lambda bin_: load[bin_])
        load[lightest] += weight[item]
        held[lightest].append(item)
    return held


def loop_flat(load: Any, slots: int, devices: int) -> list[int]:
    """Replicate, then pack."""
    count = np.ones(len(load), dtype=np.int64)
    for _ in range(slots - len(load)):
        hottest = max(range(len(load)), key=lambda expert: load[expert] / count[expert])
        count[hottest] += 1
    replica = np.repeat(np.arange(len(load)), count)
    return [replica[item] for held in loop_pack((load / count)[replica], devices) for item in held]


def loop_plan(load: Any, shape: ClusterShape) -> list[int]:
    """Return one plan: groups to nodes, then each node on its own."""
    size = len(load) // shape.groups
    out: list[int] = []
    for groups in loop_pack(load.reshape(shape.groups, size).sum(axis=1), shape.nodes):
        experts = np.concatenate([np.arange(group * size, (group + 1) * size) for group in groups])
        local = loop_flat(load[experts], shape.slots // shape.nodes, shape.devices // shape.nodes)
        out.extend(experts[local])
    return out


def imbalance(slot_expert: NDArray[np.int64], load: NDArray[np.float64], devices: int) -> NDArray[np.float64]:
    """Max / mean device load [...] of plans [..., R] under loads [..., E]."""
    device_load = (device_weights(slot_expert, load.shape[-1], devices) @ load[..., None])[..., 0]
    return np.asarray(device_load.max(axis=-1) / device_load.mean(axis=-1))


def doubled(slot_expert_NR: NDArray[np.int64], shape: ClusterShape) -> NDArray[np.bool_]:
    """Return whether a plan [N] puts two replicas of an expert on one device."""
    held = np.sort(slot_expert_NR.reshape(-1, shape.devices, shape.slots_per_device), axis=2)
    return np.asarray((held[..., 1:] == held[..., :-1]).any(axis=(1, 2)))


class Balance(NamedTuple):
    """Our most loaded device over the loop's, as mean and largest over plans, and as mean where the loop doubles none.

    ``loop_doubles``, ``ours_doubles``: the part of the plans that put two replicas of an expert on one device.
    """

    shape: str
    loads: str
    plans: int
    mean: float
    largest: float
    loop_doubles: float
    ours_doubles: float
    mean_undoubled: float | None


def random_loads(experts: int, alpha: float) -> NDArray[np.float64]:
    """Dirichlet loads [N, E], the same in every call: enough that the mean ratio is known to about 0.1 %."""
    plans = 4000 if experts <= 16 else 1000
    return np.random.default_rng(0).dirichlet(np.full(experts, alpha), size=plans)


def recorded_loads() -> NDArray[np.float64]:
    """Shares [N, E] of the bundled traces, all layers, as means of MEAN_STEPS steps."""
    parts = []
    for name in RECORDED:
        share_SLE = load_trace(name).share_SLE()
        rows = len(share_SLE) // MEAN_STEPS
        mean = share_SLE[: rows * MEAN_STEPS].reshape(rows, MEAN_STEPS, -1, share_SLE.shape[2]).mean(axis=1)
        parts.append(mean.reshape(-1, share_SLE.shape[2]))
    return np.concatenate(parts)


def balance(shape: ClusterShape, load_NE: NDArray[np.float64], loads: str) -> Balance:
    """Ours against the loop's on the same loads."""
    loop_NR = np.array([loop_plan(row, shape) for row in load_NE])
    ours_NR = plan(load_NE, shape)
    ratio = imbalance(ours_NR, load_NE, shape.devices) / imbalance(loop_NR, load_NE, shape.devices)
    apart = ~doubled(loop_NR, shape)
    return Balance(
        shape.name, loads, len(load_NE), float(ratio.mean()), float(ratio.max()), float(1 - apart.mean()),
        float(doubled(ours_NR, shape).mean()), float(ratio[apart].mean()) if apart.any() else None,
    )  # fmt: skip


def balances() -> Iterator[Balance]:
    """Yield every shape on random loads, and those of 8 experts on recorded ones."""
    for shape, experts in PEER_SHAPES.items():
        for alpha in ALPHAS:
            yield balance(shape, random_loads(experts, alpha), f"Dirichlet, alpha {alpha:g}")
        if experts == 8:
            yield balance(shape, recorded_loads(), f"recorded, {MEAN_STEPS}-step means")


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    out = parser.parse_args().out
    rows = [balance._asdict() for balance in balances()]
    out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
