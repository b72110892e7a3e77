"""Experts that die, and alarms before they do: episodes, scored by what happened.

An expert is dead in a block of 100 steps if its share is below 0.1/E. It dies at the first of three dead blocks that
follow two alive ones, from step 300 on. An alarm says after each block which alive experts are in danger: it begins
when an expert is below 0.2/E and falling, and stands until the expert has its even share again. Alarms for one expert
are one episode until it is out of danger. How often the alarm is right was measured on recorded runs (`measured`).

Axis letters: B blocks, L MoE layers, E experts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.files import PACKAGE
from moeload_bench.traces.trace import Trace

Flags = BoolArray
BLOCK_STEPS = 100
DEAD = 0.1
"""Times 1/E: below it, an expert is dead."""
DEAD_BLOCKS, ALIVE_BLOCKS = 3, 2
FIRST_BLOCK = 3
"""Deaths before step 300 are those of a training that has not begun to settle."""
DANGER = 0.2
"""Times 1/E: the alarm begins below it; an episode lasts while the share is below it, or the alarm stands."""
RECOVERED = 1.0
"""Times 1/E: the alarm stands until the share is back there."""
WARNING_BLOCKS = 1
"""A death counts as foreseen if at least so many whole blocks lie between alarm and death."""


MEASURED = PACKAGE / "inspection" / "alarm.json"


class Episode(NamedTuple):
    """Alarms for one expert without a break: its first and last block, and the block of its death, None if it lives."""

    layer: int
    expert: int
    first: int
    last: int
    death: int | None


class AlarmCounts(NamedTuple):
    """What the rates of an alarm are made of, on one run or on several."""

    deaths: int
    foreseen: int
    episodes: int
    right: int
    layer_steps: int

    @property
    def recall(self) -> float | None:
        """Return the part of deaths with an alarm at least 100 steps before."""
        return self.foreseen / self.deaths if self.deaths else None

    @property
    def precision(self) -> float | None:
        """Return the part of episodes that end in a death."""
        return self.right / self.episodes if self.episodes else None

    @property
    def false_rate(self) -> float:
        """Return false episodes for each 100,000 layer-steps."""
        return 1e5 * (self.episodes - self.right) / max(1, self.layer_steps)


@functools.cache
def measured() -> AlarmCounts:
    """Return how the alarm did on recorded runs on which it was not chosen (docs/reports/studies.md)."""
    return AlarmCounts(**json.loads(MEASURED.read_text()))


def rows_per_block(stride: int) -> int:
    """Return how many rows of a trace make a block."""
    return max(1, BLOCK_STEPS // stride)


def over_even(load_LE: IntArray) -> FloatArray:
    """Return the load of each expert over the even share; 1 in a layer without load."""
    total_L1 = load_LE.sum(axis=-1, keepdims=True)
    share_LE: FloatArray = np.ones(load_LE.shape)
    np.divide(load_LE * load_LE.shape[-1], total_L1, out=share_LE, where=total_L1 > 0)
    return share_LE


def block_shares(trace: Trace) -> FloatArray:
    """Return the load of each expert over the even share in each whole block, [B, L, E]; 1 in a block without load."""
    rows = rows_per_block(trace.meta.stride)
    share_BLE = np.empty((trace.steps // rows, *trace.load_SLE.shape[1:]))
    for block in range(len(share_BLE)):
        share_BLE[block] = over_even(trace.load_SLE[block * rows : (block + 1) * rows].sum(axis=0))
    return share_BLE


def dying(dead_BLE: Flags) -> Flags:
    """Return which experts die in the third of five blocks: dead in the last three, alive in the two before, [L, E]."""
    return np.asarray(dead_BLE[ALIVE_BLOCKS:].all(axis=0) & ~dead_BLE[:ALIVE_BLOCKS].any(axis=0))


def deaths(share_BLE: FloatArray) -> Flags:
    """Return in which block an expert dies, [B, L, E]."""
    dead_BLE = share_BLE < DEAD
    died_BLE = np.zeros_like(dead_BLE)
    for block in range(FIRST_BLOCK, len(dead_BLE) - DEAD_BLOCKS + 1):
        died_BLE[block] = dying(dead_BLE[block - ALIVE_BLOCKS : block + DEAD_BLOCKS])
    return died_BLE


def danger(share_BLE: FloatArray, below: float = DANGER) -> Flags:
    """Return after each block which experts are alive, below 0.2/E and falling, [B, L, E]: where an alarm begins."""
    falling_BLE = np.zeros_like(share_BLE, dtype=np.bool_)
    falling_BLE[1:] = share_BLE[1:] < share_BLE[:-1]
    return (share_BLE < below) & (share_BLE >= DEAD) & falling_BLE


def standing(stood_LE: Flags, before_LE: FloatArray, share_LE: FloatArray, below: float = DANGER) -> Flags:
    """Return of which experts the alarm stands after a block, from where it stood and the shares of the last two."""
    begins_LE = danger(np.stack([before_LE, share_LE]), below)[1]
    return np.asarray(begins_LE | stood_LE & (share_LE < RECOVERED))


def alarms(share_BLE: FloatArray, below: float = DANGER) -> Flags:
    """Return the alarm after each block, [B, L, E]: from danger until the even share is back; silent of the dead."""
    standing_BLE = np.zeros_like(share_BLE, dtype=np.bool_)
    for block in range(1, len(share_BLE)):
        standing_BLE[block] = standing(standing_BLE[block - 1], share_BLE[block - 1], share_BLE[block], below)
    return standing_BLE & (share_BLE >= DEAD)


def episodes(alarm_BLE: Flags, share_BLE: FloatArray) -> Iterator[Episode]:
    """Yield the episodes of an alarm: each lasts until its expert dies, or is at 0.2/E or above without an alarm."""
    died_BLE = deaths(share_BLE)
    for layer, expert in np.argwhere(alarm_BLE[FIRST_BLOCK - WARNING_BLOCKS - 1 :].any(axis=0)).tolist():
        over_B = (share_BLE[:, layer, expert] >= DANGER) & ~alarm_BLE[:, layer, expert]
        died = set(np.flatnonzero(died_BLE[:, layer, expert]).tolist())
        first, death = None, None
        for block in range(FIRST_BLOCK - WARNING_BLOCKS - 1, len(over_B)):
            if first is None:
                first = block if alarm_BLE[block, layer, expert] else None
            elif over_B[block] or block in died:
                death = block if block in died else None
                yield Episode(layer, expert, first, block - 1, death)
                first = None
        if first is not None:
            yield Episode(layer, expert, first, len(over_B) - 1, None)


def count(share_BLE: FloatArray, found: Iterable[Episode]) -> AlarmCounts:
    """Return the counts of an alarm's episodes on one run."""
    listed = list(found)
    ended = [episode for episode in listed if episode.death is not None]
    foreseen = sum(episode.death - episode.first > WARNING_BLOCKS for episode in ended if episode.death is not None)
    layer_steps = len(share_BLE) * BLOCK_STEPS * share_BLE.shape[1]
    return AlarmCounts(int(deaths(share_BLE).sum()), foreseen, len(listed), len(ended), layer_steps)


def added(counts: Iterable[AlarmCounts]) -> AlarmCounts:
    """Return the counts of several runs together."""
    return AlarmCounts(*(sum(column) for column in zip(AlarmCounts(0, 0, 0, 0, 0), *counts, strict=True)))
