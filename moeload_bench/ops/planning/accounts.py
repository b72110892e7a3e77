"""What a run cost under one layout of its experts, added up over parts and windows of it, and what a layout saved."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

from moeload_bench.placement.replan import CostModel

MOST_PARTS = 40
"""Parts of a run that sums are kept for; when there are more, neighbours are put together."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What some steps cost under one layout.

    ``layer_steps``: layers of steps with load; ``imbalance``: their max/mean, added up; ``moves``: what is written off
    of moves; ``received``: the same of replicas, by the device that receives most in each move.
    """

    steps: int = 0
    layer_steps: int = 0
    imbalance: float = 0.0
    moves: float = 0.0
    received: float = 0.0

    def __add__(self, more: Sums) -> Sums:
        """Return the sums over both."""
        return Sums(
            self.steps + more.steps,
            self.layer_steps + more.layer_steps,
            self.imbalance + more.imbalance,
            self.moves + more.moves,
            self.received + more.received,
        )

    def __sub__(self, less: Sums) -> Sums:
        """Return the sums over the steps of these that are not of ``less``."""
        return Sums(
            self.steps - less.steps,
            self.layer_steps - less.layer_steps,
            self.imbalance - less.imbalance,
            self.moves - less.moves,
            self.received - less.received,
        )

    @property
    def mean_imbalance(self) -> float:
        """Return the mean max/mean, NaN without any load."""
        return self.imbalance / self.layer_steps if self.layer_steps else float("nan")


class Account:
    """The sums of one layout: of disjoint parts of the run in order, and of its newest looks."""

    def __init__(self) -> None:
        self.parts: list[Sums] = []
        self._blocks, self._per_part = 0, 1
        self._look, self._newest = Sums(), deque[Sums]()

    @property
    def total(self) -> Sums:
        """Return the sums over the run so far."""
        return reduce(add, self.parts, Sums())

    def charge(self, block: Sums) -> None:
        """Add what a block of steps cost."""
        self._look = self._look + block
        if self._blocks % self._per_part == 0:
            if len(self.parts) == MOST_PARTS:
                self.parts = list(map(add, self.parts[::2], self.parts[1::2]))
                self._per_part *= 2
            self.parts.append(block)
        else:
            self.parts[-1] = self.parts[-1] + block
        self._blocks += 1

    def end_look(self, keep: int) -> None:
        """End a look; ``keep``: how many of the newest are kept, this one among them."""
        self._newest.append(self._look)
        self._look = Sums()
        while len(self._newest) > keep:
            self._newest.popleft()

    def windows(self, looks: int) -> list[Sums]:
        """Return the sums of the newest disjoint windows of so many looks each, the newest window last."""
        newest_first = list(self._newest)[::-1]
        whole = range(0, len(newest_first) // looks * looks, looks)
        return [reduce(add, newest_first[first : first + looks]) for first in whole][::-1]


class Saving(NamedTuple):
    """What a layout saved in percent of the step time, before and after its moves are paid."""

    gain_percent: float
    net_percent: float


def saving(spent: Sums, stayed: Sums, imbalance: float, cost: CostModel, price_factor: float = 1.0) -> Saving:
    """Return what a layout saved against the one that the run began with, over the same steps.

    ``spent`` and ``stayed``: sums of the layout, and of the one that the run began with. ``imbalance``: mean max/mean
    of the latter over the run; ``price_factor``: on what is written off of moves. Steps without load save nothing.
    """
    gain = (stayed.imbalance - spent.imbalance) / max(1, spent.layer_steps) / imbalance * 100 * cost.expert_fraction
    gain = 0.0 if math.isnan(gain) else gain
    price = price_factor * cost.price_ms(spent.moves, spent.received) / max(1, spent.steps) / cost.step_ms
    return Saving(gain, gain - 100 * price)
