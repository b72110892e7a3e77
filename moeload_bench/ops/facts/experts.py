"""Experts that die, the alarm before they do, and what was seen at a death.

An expert is dead in a block of 100 steps if its share is below 0.1/E. It dies at the first of three dead blocks that
follow two alive ones, from step 300 on. An alarm says after each block which alive experts are in danger: it begins
when an expert is below 0.2/E and falling, and stands until the expert has its even share again. How often the alarm is
right was measured on recorded runs (`measured`).

Axis letters: B blocks, L MoE layers, E experts.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import counted
from moeload_bench.files import PACKAGE
from moeload_bench.words import page

BLOCK_STEPS = 100
DEAD = 0.1
"""Times 1/E: below it, an expert is dead."""
DEAD_BLOCKS, ALIVE_BLOCKS = 3, 2
FIRST_BLOCK = 3
"""Deaths before step 300 are those of a training that has not begun to settle."""
DANGER = 0.2
"""Times 1/E: the alarm begins below it."""
RECOVERED = 1.0
"""Times 1/E: the alarm stands until the share is back there."""
MEASURED = PACKAGE / "ops" / "facts" / "alarm.json"
SEEN: Mapping[str, str] = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "aux_loss": "auxiliary loss (before its coefficient)",
    "router_entropy": "router entropy of the layer",
}
"""Columns that are shown beside a death, where they are recorded."""
MOST_DEATHS = 3
"""Deaths that are described: the last ones."""


class AlarmCounts(NamedTuple):
    """What the rates of an alarm are made of, on one run or on several (docs/archive/fits/alarm.toml)."""

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


@functools.cache
def measured() -> AlarmCounts:
    """Return how the alarm did on recorded runs on which it was not chosen (docs/reports/studies.md)."""
    return AlarmCounts(**json.loads(MEASURED.read_text()))


class Death(NamedTuple):
    """An expert that died at ``step``, warned of since ``warned`` (None: without a warning).

    ``seen``: by column, its mean in the 100 steps before the death, and 200 to 300 steps later.
    """

    step: int
    layer: int
    expert: int
    warned: int | None
    seen: Mapping[str, tuple[float, float]]


class Deaths(NamedTuple):
    """Deaths from step ``since`` on: how many, how many of them the alarm had warned of, and the last ones."""

    number: int
    warned: int
    last: tuple[Death, ...]
    since: int


def rows_per_block(stride: int) -> int:
    """Return how many rows of a trace make a block."""
    return max(1, BLOCK_STEPS // stride)


def over_even(load_LE: IntArray) -> FloatArray:
    """Return the load of each expert over the even share; 1 in a layer without load."""
    total_L1 = load_LE.sum(axis=-1, keepdims=True)
    share_LE: FloatArray = np.ones(load_LE.shape)
    np.divide(load_LE * load_LE.shape[-1], total_L1, out=share_LE, where=total_L1 > 0)
    return share_LE


class ExpertAlarm:
    """The alarm of a run that goes on, and its ``deaths`` so far. ``block_steps``: steps of a block."""

    def __init__(self, layers: int, experts: int, block_steps: int = BLOCK_STEPS) -> None:
        self._steps, self._blocks = block_steps, 0
        self._share: deque[FloatArray] = deque(maxlen=ALIVE_BLOCKS + DEAD_BLOCKS)
        self._seen: deque[Mapping[str, FloatArray]] = deque(maxlen=ALIVE_BLOCKS + DEAD_BLOCKS)
        self._since_LE: IntArray = np.full((layers, experts), -1)
        self.deaths = Deaths(0, 0, (), FIRST_BLOCK * BLOCK_STEPS)

    @property
    def alarm_LE(self) -> BoolArray:
        """Return which experts are warned of after the last block: the dead are not."""
        stands_LE = self._since_LE >= 0
        return np.asarray(stands_LE & (self._share[-1] >= DEAD)) if self._share else stands_LE

    def add_block(self, next_step: int, share_LE: FloatArray, seen: Mapping[str, FloatArray]) -> BoolArray:
        """Take in a block that ends before a step: loads over the even share, and the means of the columns of `SEEN`.

        Return which experts died 300 steps before that step, [L, E].
        """
        if self._share:
            begins_LE = (share_LE < DANGER) & (share_LE >= DEAD) & (share_LE < self._share[-1])
            stands_LE = begins_LE | (self._since_LE >= 0) & (share_LE < RECOVERED)
            self._since_LE = np.where(stands_LE, np.where(self._since_LE < 0, next_step, self._since_LE), -1)
        else:
            self.deaths = self.deaths._replace(since=next_step - self._steps + FIRST_BLOCK * BLOCK_STEPS)
        self._share.append(share_LE)
        self._seen.append(seen)
        self._blocks += 1
        if self._blocks < FIRST_BLOCK + DEAD_BLOCKS:
            return np.zeros(share_LE.shape, dtype=np.bool_)
        dead_BLE = np.stack(self._share) < DEAD
        died_LE = dead_BLE[ALIVE_BLOCKS:].all(axis=0) & ~dead_BLE[:ALIVE_BLOCKS].any(axis=0)
        for layer, expert in np.argwhere(died_LE).tolist():
            self._die(next_step - DEAD_BLOCKS * self._steps, layer, expert)
        return np.asarray(died_LE)

    def _die(self, step: int, layer: int, expert: int) -> None:
        since = int(self._since_LE[layer, expert])
        warned = since if 0 <= since < step else None
        before, now = self._seen[ALIVE_BLOCKS - 1], self._seen[-1]
        names = [name for name in SEEN if name in before and name in now]
        seen = {name: (_value(before[name], layer), _value(now[name], layer)) for name in names}
        number, foreseen, last, first = self.deaths
        last = (*last, Death(step, layer, expert, warned, seen))[-MOST_DEATHS:]
        self.deaths = Deaths(number + 1, foreseen + (warned is not None), last, first)


def _value(mean: FloatArray, layer: int) -> float:
    """Return a run's value, or that of a layer."""
    return float(mean[layer] if mean.ndim else mean)


def alarm_errors() -> str:
    """Return how often the alarm is right, as measured on recorded runs on which it was not chosen."""
    rates = measured()
    return (
        f"On recorded runs alarms came at least 100 steps before {100 * (rates.recall or 0):.0f} % of {rates.deaths} "
        f"deaths of experts; a death followed {100 * (rates.precision or 0):.0f} % of the alarms "
        f"({page('docs/reports/studies.md')})."
    )


def death_sentences(deaths: Deaths, names_L: Sequence[str]) -> list[str]:
    """Return what was seen at the last deaths, and what people change then; nothing without a death."""
    if not deaths.number:
        return []
    experts = f"{counted(deaths.number, 'death')} of experts"
    sentences = [f"{experts} since step {deaths.since:,}, {deaths.warned:,} of them with a warning 100 steps before."]
    for death in deaths.last:
        warned = "without a warning" if death.warned is None else f"warned of since step {death.warned:,}"
        seen = [
            f"{SEEN[name]} {before:.3g} -> {now:.3g}"
            for name, (before, now) in death.seen.items()
            if np.isfinite([before, now]).all()
        ]
        beside = f" In the 100 steps before -> 200 to 300 steps later: {', '.join(seen)}." if seen else ""
        sentences.append(f"Expert {names_L[death.layer]}.{death.expert} died at step {death.step:,}, {warned}.{beside}")
    return [
        *sentences,
        "HINT, not measured here: for experts that die, people strengthen the balancing loss, lower the learning rate "
        "or warm it up longer, add a z-loss on the router's logits, or restart the expert from a busy one.",
    ]
