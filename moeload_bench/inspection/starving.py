"""Experts that die while a run goes on: the alarm of `experts`, block by block, and what was seen at a death.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import counted
from moeload_bench.inspection.experts import (
    ALIVE_BLOCKS,
    BLOCK_STEPS,
    DEAD,
    DEAD_BLOCKS,
    FIRST_BLOCK,
    Flags,
    dying,
    measured,
    over_even,
    rows_per_block,
    standing,
)
from moeload_bench.words import page

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


class Starving:
    """The alarm of a run that goes on. ``alarm_LE``: of which experts it stood after the last whole block."""

    def __init__(self, layers: int, experts: int, stride: int) -> None:
        self._rows, self._stride = rows_per_block(stride), stride
        self._blocks = 0
        most = ALIVE_BLOCKS + DEAD_BLOCKS
        self._share: deque[FloatArray] = deque(maxlen=most)
        self._seen: deque[Mapping[str, FloatArray]] = deque(maxlen=most)
        self._stood_LE: Flags = np.zeros((layers, experts), dtype=np.bool_)
        self._since_LE: IntArray = np.full((layers, experts), -1)
        self._last: deque[Death] = deque(maxlen=MOST_DEATHS)
        self._count = self._warned = 0
        self._from = FIRST_BLOCK * BLOCK_STEPS

    @property
    def alarm_LE(self) -> Flags:
        """Return which experts are warned of: the dead are not."""
        return np.asarray(self._stood_LE & (self._share[-1] >= DEAD)) if self._share else self._stood_LE

    @property
    def deaths(self) -> Deaths:
        """Return the deaths so far."""
        return Deaths(self._count, self._warned, tuple(self._last), self._from)

    def add_block(self, next_step: int, load_LE: IntArray, seen: Mapping[str, FloatArray]) -> Flags:
        """Take in a block that ends before a step: its loads, and the means of the columns of `SEEN`.

        Return which experts died 300 steps before that step, [L, E].
        """
        if not self._blocks:
            self._from = next_step - self._rows * self._stride + FIRST_BLOCK * BLOCK_STEPS
        share_LE, before = over_even(load_LE), self._share[-1] if self._share else None
        if before is not None:
            self._stood_LE = standing(self._stood_LE, before, share_LE)
        self._since_LE = np.where(self._stood_LE, np.where(self._since_LE < 0, next_step, self._since_LE), -1)
        self._share.append(share_LE)
        self._seen.append(seen)
        self._blocks += 1
        if self._blocks < FIRST_BLOCK + DEAD_BLOCKS:
            return np.zeros_like(self._stood_LE)
        died_LE = dying(np.stack(self._share) < DEAD)
        step = next_step - DEAD_BLOCKS * self._rows * self._stride
        for layer, expert in np.argwhere(died_LE).tolist():
            self._die(step, layer, expert)
        return died_LE

    def _die(self, step: int, layer: int, expert: int) -> None:
        since = int(self._since_LE[layer, expert])
        warned = since if 0 <= since < step else None
        before, now = self._seen[ALIVE_BLOCKS - 1], self._seen[-1]
        seen = {
            name: (_of(before[name], layer), _of(now[name], layer)) for name in SEEN if name in before and name in now
        }
        self._last.append(Death(step, layer, expert, warned, seen))
        self._count += 1
        self._warned += warned is not None


def _of(value: FloatArray, layer: int) -> float:
    """Return a run's value, or that of a layer."""
    return float(value[layer] if value.ndim else value)


def alarm_errors() -> str:
    """Return how often the alarm is right, as measured on recorded runs on which it was not chosen."""
    known = measured()
    return (
        f"On recorded runs alarms came at least 100 steps before {100 * (known.recall or 0):.0f} % of {known.deaths} "
        f"deaths of experts; a death followed {100 * (known.precision or 0):.0f} % of the alarms "
        f"({page('docs/reports/studies.md')})."
    )


def death_sentences(deaths: Deaths, names_L: Sequence[str]) -> list[str]:
    """Return what was seen at the last deaths, and what people change then; nothing without a death."""
    if not deaths.number:
        return []
    experts = f"{counted(deaths.number, 'death')} of experts"
    said = [f"{experts} since step {deaths.since:,}, {deaths.warned:,} of them with a warning 100 steps before."]
    for one in deaths.last:
        warned = "without a warning" if one.warned is None else f"warned of since step {one.warned:,}"
        seen = [
            f"{SEEN[name]} {before:.3g} -> {now:.3g}"
            for name, (before, now) in one.seen.items()
            if np.isfinite([before, now]).all()
        ]
        beside = f" In the 100 steps before -> 200 to 300 steps later: {', '.join(seen)}." if seen else ""
        said.append(f"Expert {names_L[one.layer]}.{one.expert} died at step {one.step:,}, {warned}.{beside}")
    return [
        *said,
        "HINT, not measured here: for experts that die, people strengthen the balancing loss, lower the learning rate "
        "or warm it up longer, add a z-loss on the router's logits, or restart the expert from a busy one.",
    ]
