"""vLLM's balancer with its defaults, as a policy of re-planning: `window_size` 1,000 steps, `step_interval` 3,000.

It re-plans for the loads of the last 1,000 steps, every 3,000 steps, whatever that promises. It begins with a quarter
of the interval to go.

Axis letters: S rows, L MoE layers, E experts, R replica slots.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.placement.replan import with_fewest_moves

WINDOW, EVERY, FIRST = 1000, 3000, 750
"""In training steps: loads that decide, from one plan to the next, and before the first one."""


class VllmEplb:
    """Call `add` with each block of rows, in order, then `replan`; ``block_steps``: training steps of a block."""

    name = "vLLM's default"

    def __init__(self, shape: ClusterShape, block_steps: int) -> None:
        self._shape = shape
        self._loads: deque[FloatArray] = deque(maxlen=-(-WINDOW // block_steps))
        self._due = FIRST

    def add(self, share_SLE: FloatArray) -> None:
        """Take in a block of loads or shares; NaN is no load."""
        self._loads.append(np.nan_to_num(share_SLE).sum(axis=0))

    def replan(self, current_LR: IntArray, steps_seen: int) -> IntArray | None:
        """Return the plan [L, R] that follows the one in force, None where none is due; ``steps_seen``: of training."""
        if steps_seen < self._due or not self._loads:
            return None
        self._due = steps_seen + EVERY
        load_LE = np.sum(self._loads, axis=0)
        load_LE[load_LE.sum(axis=1) == 0] = 1.0
        return with_fewest_moves(current_LR, plan(load_LE, self._shape), self._shape)
