"""Check that a resumed recording is one training: what is counted must stay the same, and a jump of shares is noted.

A jump means that something was not restored (weights, the order of the data) or was changed on purpose. The counts are
exact in either case.

Axis letters: W rows of a window, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import RecordingError, short
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.trace import Trace, layer_names

WINDOW = 20
"""Rows in each of the four windows that are compared: two before, two after."""
LEAST = 0.05
"""The smallest fraction of the tokens that counts as a jump."""
TIMES = 2.0
"""A jump moves the shares at least this many times as far as they move before and after it."""
SAME = ("seed", "experts", "layers", "count_semantics", "counted")
"""Metadata that all steps of a run share, on any machine."""


def check_same_run(meta: TraceMeta, before: TraceMeta, folder: Path) -> None:
    """Raise `RecordingError` if the steps to come belong to another run, or are counted in another way."""
    difference = first_difference(meta, before, SAME)
    if difference is not None:
        name, got, expected = difference
        raise RecordingError(f"{folder}: {name} is {short(got)} now, its steps have {short(expected)}: another run?")


def first_difference(meta: TraceMeta, earlier: TraceMeta, names: Sequence[str]) -> tuple[str, object, object] | None:
    """Return the first of these fields that differs, with both values in words; None if all of them agree."""
    for name in names:
        value, earlier_value = getattr(meta, name), getattr(earlier, name)
        if name == "counted":
            value, earlier_value = value or "all", earlier_value or "all"  # older recordings do not name it
        if value != earlier_value:
            return (name, layer_names(meta), layer_names(earlier)) if name == "layers" else (name, value, earlier_value)
    return None


def resume_notes(shards: Iterable[Trace], resumed: Iterable[int]) -> Iterator[str]:
    """Yield a note for each step of ``resumed`` at which some layer's shares jump; ``shards`` follow one another."""
    steps = sorted(set(resumed))
    if not steps:
        return
    share_SLE, step_S = _shares(shards, steps)
    for step in steps:
        row = int(np.searchsorted(step_S, step))
        jump = _jump(share_SLE, row)
        if jump is not None:
            share, usual = jump
            yield (
                f"at step {step}, where the recording was resumed, shares jump: {100 * share:.1f} % of a layer's "
                f"tokens go to other experts, beside {100 * usual:.1f} % before and after; was everything restored?"
            )


def _shares(shards: Iterable[Trace], steps: list[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return shares [S, L, E] and steps of the rows near those steps."""
    shares, steps_near = [], []
    for shard in shards:
        reach = 2 * WINDOW * shard.meta.stride
        near_S = np.zeros(shard.steps, dtype=np.bool_)
        for step in steps:
            near_S |= (shard.step_S >= step - reach) & (shard.step_S < step + reach)
        shares.append(shard.share_SLE()[near_S])
        steps_near.append(shard.step_S[near_S])
    return np.concatenate(shares), np.concatenate(steps_near)


def _jump(share_SLE: NDArray[np.float64], row: int) -> tuple[float, float] | None:
    """Return how far a layer's shares move there, and at most on either side; None for no jump or too few rows."""
    if row < 2 * WINDOW or row + 2 * WINDOW > len(share_SLE):
        return None
    means_LE = [share_SLE[row + k * WINDOW : row + (k + 1) * WINDOW].mean(axis=0) for k in (-2, -1, 0, 1)]
    before_L, across_L, after_L = (0.5 * np.abs(a_LE - b_LE).sum(axis=1) for a_LE, b_LE in itertools.pairwise(means_LE))
    usual_L = np.maximum(before_L, after_L)
    jumps_L = (across_L > LEAST) & (across_L > TIMES * usual_L)
    if not jumps_L.any():
        return None
    worst = int(np.argmax(np.where(jumps_L, across_L, -1.0)))
    return float(across_L[worst]), float(usual_L[worst])
