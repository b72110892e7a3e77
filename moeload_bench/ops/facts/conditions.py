"""Settings of a run as they are recorded: learning rate, data, tokens per step; and when one of them steps."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

STEP = 2.0
"""A setting steps where it changes by more than this factor from one block to the next."""
SUDDEN = 4.0
"""A learning rate steps where it changes by so many times its usual change: a warm-up or a decay does not."""
RISING, FALLING = ("restart", "greedy"), ("step", "plateau", "greedy")
"""Parts of the names of schedules that plan steps up, and down."""


NEW_DATA = "new data"
"""What a cause says of another data mark."""


class Conditions(NamedTuple):
    """Learning rate (NaN where unknown), data mark (None where not recorded) and tokens per step of some rows."""

    lr: float
    stage: int | None
    tokens: float = math.nan


def change(before: Conditions, after: Conditions, lr_factor: float) -> str:
    """Return how the learning rate, by a factor or more, tokens and data changed; empty for no change that is known."""
    parts = []
    if _differ(before.lr, after.lr, lr_factor):
        parts.append(f"learning rate {before.lr:.3g} -> {after.lr:.3g}")
    if _differ(before.tokens, after.tokens, STEP):
        parts.append(f"tokens per step {before.tokens:,.0f} -> {after.tokens:,.0f}")
    if before.stage != after.stage:
        parts.append(NEW_DATA)
    return ", ".join(parts)


class SettingWatch:
    """Finds steps of settings that no schedule planned, from the conditions of each block of rows.

    ``blocks``: how many before a block say what is usual; before that nothing is found, so that a short warm-up is
    none. ``schedule``: as the metadata has it.
    """

    def __init__(self, blocks: int, schedule: Mapping[str, Any]) -> None:
        self._past: deque[Conditions] = deque(maxlen=blocks)
        kind = str(schedule.get("kind", ""))
        self._plans_rise = any(name in kind for name in RISING)
        self._plans_fall = any(name in kind for name in FALLING)

    def add(self, now: Conditions) -> str:
        """Take in the conditions of a block; return what stepped since the one before, empty for nothing."""
        past = list(self._past)
        self._past.append(now)
        if len(past) < (self._past.maxlen or 0):
            return ""
        last = past[-1]
        return change(
            last,
            Conditions(
                now.lr if self._rate_steps(past, now.lr) else last.lr,
                now.stage if now.stage not in {conditions.stage for conditions in past} else last.stage,
                now.tokens if _is_new_level([conditions.tokens for conditions in past], now.tokens) else last.tokens,
            ),
            STEP,
        )

    def _rate_steps(self, past: Sequence[Conditions], lr: float) -> bool:
        """Return whether the learning rate left its course by no plan."""
        if self._plans_rise if lr > past[-1].lr else self._plans_fall:
            return False
        usual = [abs(after.lr - before.lr) for before, after in itertools.pairwise(past)]
        return abs(lr - past[-1].lr) > SUDDEN * float(np.median(usual))


def _is_new_level(past: Sequence[float], now: float) -> bool:
    """Return whether a number is more than twice all before, or less than half: a short last batch is neither."""
    return now > STEP * max(past) or STEP * now < min(past)


def _differ(before: float, after: float, factor: float) -> bool:
    low, high = sorted((before, after))
    return high > factor * low
