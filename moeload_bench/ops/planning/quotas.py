"""UltraEP's way of balancing within the step, from its text: quotas of replicas under the least possible peak load.

Read: README and `docs/blog_v1.md` of Dots-Infra/UltraEP at 94cab099 (arXiv 2606.04101). Masters stay. A binary search
finds the least peak load that replicas can keep every device under. Each device has the same number of slots for them,
a replica takes at least so many tokens, and it stays in its NVLink domain, a group of consecutive devices. How a peak
is tried is our own: the device with most to give sends from its busiest expert to the device with most room, as much as
that has room for (Walker's alias method, as `even_tokens`).

Axis letters: N rows (a layer of a micro-batch), U domains of all rows, P devices of a domain, D devices, C masters of
one, E experts, X replicas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import PlacementError
from moeload_bench.ops.planning.reaction import Reaction, masters_of

TOLERANCE = 0.01
"""Of the mean load, by which the peak may exceed the least one that is found: UltraEP's default."""


@dataclass(frozen=True)
class Pool:
    """Where replicas within the step can go: ``slots`` on each device, inside domains of so many devices.

    ``least``: tokens that a replica takes at least. The slots serve one layer after another.
    """

    slots: int
    domain: int
    least: float = 1.0

    def __post_init__(self) -> None:
        if self.slots < 0 or self.domain < 1 or not (np.isfinite(self.least) and self.least >= 0):
            raise PlacementError(
                f"got {self.slots} slots, domains of {self.domain} devices and at least {self.least} tokens a replica; "
                "expected numbers of at least 0, and 1 device"
            )


def quotas(load_NE: FloatArray | IntArray, devices: int, pool: Pool) -> Reaction:
    """Return the replicas of each row; raise `PlacementError` for experts or domains that do not divide."""
    load_NDC = masters_of(load_NE, devices)
    if devices % pool.domain:
        raise PlacementError(f"{devices} devices do not divide into domains of {pool.domain}")
    (N, _, C), domains = load_NDC.shape, devices // pool.domain
    load_UPC = load_NDC.reshape(N * domains, pool.domain, C)
    peak_N = _least_peaks(load_UPC, N, pool)
    _, unit_X, master_X, target_X, tokens_X = _replicas(load_UPC, np.repeat(peak_N, domains), pool)
    row_X, first_X = np.divmod(unit_X, domains)
    source_X, target_X = first_X * pool.domain + master_X // C, first_X * pool.domain + target_X
    load_ND = load_NDC.sum(axis=2)
    np.subtract.at(load_ND, (row_X, source_X), tokens_X)
    np.add.at(load_ND, (row_X, target_X), tokens_X)
    return Reaction(load_ND, row_X, source_X * C + master_X % C, target_X, tokens_X)


def _least_peaks(load_UPC: FloatArray, rows: int, pool: Pool) -> FloatArray:
    """Return the least peak load [N] that replicas can keep every device of a row under, by bisection."""
    load_UP = load_UPC.sum(axis=2)
    domains = len(load_UP) // max(1, rows)
    mean_N = load_UP.reshape(rows, -1).mean(axis=1)
    high_N: FloatArray = load_UP.reshape(rows, -1).max(axis=1)
    low_N = load_UP.mean(axis=1).reshape(rows, domains).max(axis=1)
    while (open_N := high_N - low_N > TOLERANCE * mean_N).any():
        row_N = np.flatnonzero(open_N)
        peak_N = (low_N[row_N] + high_N[row_N]) / 2
        unit_N = (row_N[:, None] * domains + np.arange(domains)).ravel()
        kept_U = _replicas(load_UPC[unit_N], np.repeat(peak_N, domains), pool)[0]
        kept_N = kept_U.reshape(-1, domains).all(axis=1)
        high_N[row_N[kept_N]] = peak_N[kept_N]
        low_N[row_N[~kept_N]] = peak_N[~kept_N]
    return high_N


def _replicas(
    load_UPC: FloatArray, peak_U: FloatArray, pool: Pool
) -> tuple[BoolArray, IntArray, IntArray, IntArray, FloatArray]:
    """Return in which domains [U] replicas keep every device under the peak, and those replicas.

    Of a replica: its domain, its master and its device, both by number in the domain, and its tokens.
    """
    C, kept_U, slack_U = load_UPC.shape[2], np.ones(len(load_UPC), dtype=np.bool_), 1e-9 * peak_U
    unit_U = np.flatnonzero((load_UPC.sum(axis=2) > (peak_U + slack_U)[:, None]).any(axis=1))
    left_UPC = load_UPC[unit_U]
    room_UP = peak_U[unit_U, None] - left_UPC.sum(axis=2)
    free_UP = np.full(room_UP.shape, pool.slots)
    replicas = [(np.zeros(0, dtype=np.int64),) * 3 + (np.zeros(0),)]
    while len(unit_U):
        row = np.arange(len(unit_U))
        source = room_UP.argmin(axis=1)
        master = left_UPC[row, source].argmax(axis=1)
        target = np.where(free_UP > 0, room_UP, -np.inf).argmax(axis=1)
        tokens = np.minimum(left_UPC[row, source, master], room_UP[row, target])
        helps = (tokens >= pool.least) & (tokens > 0) & (free_UP[row, target] > 0)
        kept_U[unit_U[~helps]] = False
        row, source, master, target, tokens = (part[helps] for part in (row, source, master, target, tokens))
        replicas.append((unit_U[row], source * C + master, target, tokens))
        left_UPC[row, source, master] -= tokens
        room_UP[row, source] += tokens
        room_UP[row, target] -= tokens
        free_UP[row, target] -= 1
        open_U = helps & (room_UP.min(axis=1) < -slack_U[unit_U])
        unit_U, left_UPC, room_UP, free_UP = (part[open_U] for part in (unit_U, left_UPC, room_UP, free_UP))
    unit_X, master_X, target_X, tokens_X = (np.concatenate(parts) for parts in zip(*replicas, strict=True))
    return kept_U, unit_X, master_X, target_X, tokens_X
