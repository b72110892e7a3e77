"""Loads that move at once: far beyond what they did in the windows before, whether their layer has settled or not.

The move at a check is half the L1 distance between the mean shares of the last 20 steps and those of the 20 steps
before: the fraction of a layer's tokens that went to other experts. It is compared with the largest move in the 200
steps before, which holds the noise of the batch and the drift of a layer that finds its place.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray

MOVE_STEPS, BEFORE_STEPS = 20, 200
"""Steps of the two means that are compared, and steps before that say what is usual: a layer is watched after them."""


@dataclass(frozen=True)
class MoveRule:
    """How large a move is an event: ``factor`` times the largest before, and by ``least`` of the tokens larger.

    Chosen on the runs of docs/archive/fits/events.toml.
    """

    factor: float = 2.5
    least: float = 0.02


class LoadMove(NamedTuple):
    """``moved``: the fraction of a layer's tokens that moved at once; ``before``: the most in the steps before."""

    layer: int
    moved: float
    before: float


class LoadMoves:
    """Finds the layers whose loads moved at once, from the mean shares of blocks of ``block_steps`` steps.

    A move is reported when the later mean lies behind it whole, 20 steps after it began; for 200 steps after it, its
    layer has no other one.
    """

    def __init__(self, layers: int, block_steps: int, rule: MoveRule | None = None) -> None:
        self._rule = rule or MoveRule()
        self.lag = max(1, MOVE_STEPS // block_steps)
        self.blocks = max(3 * self.lag, BEFORE_STEPS // block_steps)
        self._share: deque[FloatArray] = deque(maxlen=2 * self.lag)
        self._move: deque[FloatArray] = deque(maxlen=self.blocks - 2 * self.lag)
        self._quiet_L: IntArray = np.zeros(layers, dtype=np.int64)
        self._moved_L, self._before_L = np.zeros(layers), np.zeros(layers)

    def add(self, share_LE: FloatArray) -> list[LoadMove]:
        """Take in the mean shares of a block; return the moves that are known now."""
        self._share.append(share_LE)
        if len(self._share) < 2 * self.lag:
            return []
        recent = list(self._share)
        difference_LE = sum(recent[self.lag :]) - sum(recent[: self.lag])
        move_L = 0.5 * np.abs(difference_LE).sum(axis=1) / self.lag
        self._quiet_L = np.maximum(self._quiet_L - 1, 0)
        self._moved_L = np.maximum(self._moved_L, move_L)
        if len(self._move) == self._move.maxlen:
            self._begin(move_L, np.max(list(self._move)[: len(self._move) - self.lag + 1], axis=0))
        self._move.append(move_L)
        due_L = self._quiet_L == self.blocks - self.lag + 1
        return [
            LoadMove(layer, float(self._moved_L[layer]), float(self._before_L[layer]))
            for layer in np.flatnonzero(due_L).tolist()
        ]

    def _begin(self, move_L: FloatArray, before_L: FloatArray) -> None:
        """Mark the layers in which a move began; ``before_L``: the largest one whose steps came before it."""
        far_L = (move_L >= self._rule.factor * before_L) & (move_L - before_L >= self._rule.least)
        begins_L = far_L & (self._quiet_L == 0)
        self._quiet_L[begins_L] = self.blocks
        self._moved_L[begins_L], self._before_L[begins_L] = move_L[begins_L], before_L[begins_L]
