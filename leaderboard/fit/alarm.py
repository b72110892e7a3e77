"""How often the alarm for dying experts is right, as `moeload-bench` states it: counts on runs it was not chosen on.

Alarms for one expert are one episode until it is out of danger: at 0.2/E or above without an alarm, or dead.

Axis letters: B blocks of 100 steps, L MoE layers, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leaderboard.fit.lists import FitList
from moeload_bench.arrays import BoolArray, FloatArray
from moeload_bench.ops.facts.experts import (
    BLOCK_STEPS,
    DANGER,
    DEAD_BLOCKS,
    FIRST_BLOCK,
    MEASURED,
    AlarmCounts,
    ExpertAlarm,
    over_even,
    rows_per_block,
)
from moeload_bench.traces.trace import Trace

WARNING_BLOCKS = 1
"""A death counts as foreseen if at least so many whole blocks lie between alarm and death."""
FIRST_ALARM = FIRST_BLOCK - WARNING_BLOCKS - 1
"""The first block whose alarm can foresee a death."""


class Episode(NamedTuple):
    """Alarms for one expert without a break: the first block, and the block of its death, None if it lives."""

    first: int
    death: int | None


def block_shares(trace: Trace) -> FloatArray:
    """Return the load of each expert over the even share in each whole block, [B, L, E]; 1 in a block without load."""
    rows = rows_per_block(trace.meta.stride)
    share_BLE = np.empty((trace.steps // rows, *trace.load_SLE.shape[1:]))
    for block in range(len(share_BLE)):
        share_BLE[block] = over_even(trace.load_SLE[block * rows : (block + 1) * rows].sum(axis=0))
    return share_BLE


def alarms(share_BLE: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Return after each block which experts the alarm warns of, and in which block they died; [B, L, E] each."""
    alarm = ExpertAlarm(*share_BLE.shape[1:])
    alarm_BLE, died_BLE = np.zeros((2, *share_BLE.shape), dtype=np.bool_)
    for block, share_LE in enumerate(share_BLE):
        died_BLE[block + 1 - DEAD_BLOCKS] |= alarm.add_block((block + 1) * BLOCK_STEPS, share_LE, {})
        alarm_BLE[block] = alarm.alarm_LE
    return alarm_BLE, died_BLE


def episodes(alarm_BLE: BoolArray, died_BLE: BoolArray, share_BLE: FloatArray) -> Iterator[Episode]:
    """Yield the episodes of an alarm."""
    safe_BLE = (share_BLE >= DANGER) & ~alarm_BLE
    for layer, expert in np.argwhere(alarm_BLE[FIRST_ALARM:].any(axis=0)).tolist():
        first = None
        for block in range(FIRST_ALARM, len(share_BLE)):
            died = bool(died_BLE[block, layer, expert])
            if first is None:
                first = block if alarm_BLE[block, layer, expert] else None
            elif died or safe_BLE[block, layer, expert]:
                yield Episode(first, block if died else None)
                first = None
        if first is not None:
            yield Episode(first, None)


def count(share_BLE: FloatArray) -> AlarmCounts:
    """Return the counts of the shipped alarm on one run."""
    alarm_BLE, died_BLE = alarms(share_BLE)
    found = list(episodes(alarm_BLE, died_BLE, share_BLE))
    warned = [one.death - one.first for one in found if one.death is not None]
    foreseen = sum(blocks > WARNING_BLOCKS for blocks in warned)
    layer_steps = len(share_BLE) * BLOCK_STEPS * share_BLE.shape[1]
    return AlarmCounts(int(died_BLE.sum()), foreseen, len(found), len(warned), layer_steps)


def added(counts: Iterable[AlarmCounts]) -> AlarmCounts:
    """Return the counts of several runs together."""
    return AlarmCounts(*(sum(column) for column in zip(AlarmCounts(0, 0, 0, 0, 0), *counts, strict=True)))


def alarm(listed: FitList) -> dict[Path, bytes]:
    """Return the counts over all runs, as the package ships them."""
    counts = added(count(block_shares(trace)) for trace in listed.traces())
    return {MEASURED: (json.dumps(counts._asdict()) + "\n").encode()}
