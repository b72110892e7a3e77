"""What a balancer within the step does to one layer of one micro-batch: masters stay, replicas take tokens from them.

A device holds the same number of consecutive experts, its masters. Once the router has chosen, the balancer fetches
replicas of busy experts to other devices, sends each a quota of tokens, and forgets them after the micro-batch.

Axis letters: N rows (a layer of a micro-batch), D devices, C masters of one, E experts, X replicas of all rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import PlacementError


class Reaction(NamedTuple):
    """The replicas of all rows, and the loads that they leave.

    ``load_ND``: tokens that each device serves. A replica is in ``row_X``, of ``expert_X``, on ``device_X`` and takes
    ``tokens_X`` from its master.
    """

    load_ND: FloatArray
    row_X: IntArray
    expert_X: IntArray
    device_X: IntArray
    tokens_X: FloatArray

    @property
    def imbalance_N(self) -> FloatArray:
        """Return max / mean device load, NaN where a row has no load."""
        total_N = self.load_ND.sum(axis=1)
        known_N = total_N > 0
        largest_N = self.load_ND.max(axis=1) * self.load_ND.shape[1]
        return np.where(known_N, largest_N / np.where(known_N, total_N, 1.0), np.nan)

    @property
    def fetched_ND(self) -> IntArray:
        """Return the replicas that each device fetches: the slots that it needs besides those of its masters."""
        N, D = self.load_ND.shape
        return np.bincount(self.row_X * D + self.device_X, minlength=N * D).reshape(N, D)


def masters_of(load_NE: FloatArray | IntArray, devices: int) -> FloatArray:
    """Return the loads by device [N, D, C], experts held by number; raise `PlacementError` where they do not divide."""
    rows, experts = load_NE.shape
    if devices < 1 or experts % devices:
        raise PlacementError(f"{experts} experts do not divide over {devices} devices: each holds as many masters")
    return np.asarray(load_NE, dtype=np.float64).reshape(rows, devices, -1)


def even_tokens(load_NE: FloatArray | IntArray, devices: int) -> Reaction:
    """Return the replicas that leave every device the mean load, imbalance 1: the bound of all that acts within a step.

    What MoonEP promises. Each device that lacks tokens takes them from one other device, that with the most (Walker's
    alias method: one is enough). So E / D slots for replicas on a device always do, as many as pull requests 6274 and
    7450 of Megatron-LM reserve. The giver's busiest experts go first, so that few replicas are fetched: our own choice.
    Raise `PlacementError` as `masters_of`.
    """
    left_NDC = masters_of(load_NE, devices).copy()
    N, D, C = left_NDC.shape
    served_ND = left_NDC.sum(axis=2)
    mean_N = served_ND.mean(axis=1)
    even_ND = np.zeros((N, D), dtype=np.bool_)
    row_N = np.arange(N)
    replicas = [(np.zeros(0, dtype=np.int64),) * 3 + (np.zeros(0),)]
    for _ in range(D - 1):
        target_N = np.where(even_ND, np.inf, served_ND).argmin(axis=1)
        source_N = np.where(even_ND, -np.inf, served_ND).argmax(axis=1)
        even_ND[row_N, target_N] = True
        lacking_N = np.maximum(0.0, mean_N - served_ND[row_N, target_N])
        order_NC = np.argsort(-left_NDC[row_N, source_N], axis=1, kind="stable")
        held_NC = np.take_along_axis(left_NDC[row_N, source_N], order_NC, axis=1)
        before_NC = np.cumsum(held_NC, axis=1) - held_NC
        taken_NC = np.clip(lacking_N[:, None] - before_NC, 0.0, held_NC)
        taken_NC[taken_NC <= 1e-9 * mean_N[:, None]] = 0.0
        left_NDC[row_N[:, None], source_N[:, None], order_NC] -= taken_NC
        served_ND[row_N, source_N] -= taken_NC.sum(axis=1)
        served_ND[row_N, target_N] += taken_NC.sum(axis=1)
        n, c = np.nonzero(taken_NC)
        replicas.append((n, source_N[n] * C + order_NC[n, c], target_N[n], taken_NC[n, c]))
    return Reaction(served_ND, *(np.concatenate(parts) for parts in zip(*replicas, strict=True)))
