"""Which sequences an optimizer step trains on: a pure function of (seed, step), so resuming needs no iterator.

Axis letters: B sequences of a step, N tokens of a sequence.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import RecipeError
from moeload_bench.recipes.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's sequences over all ranks: tokens [B, N], half of the step each belongs to [B], data stage."""

    token_BN: NDArray[np.int64]
    half_B: NDArray[np.int64]
    stage: int

    def split(self, count: int) -> list[Batch]:
        """The sequences in ``count`` parts, in their order."""
        token, half = np.array_split(self.token_BN, count), np.array_split(self.half_B, count)
        return [Batch(t, h, self.stage) for t, h in zip(token, half, strict=True)]


class BatchOrder:
    """The data order of one run.

    Sequence i of a step comes from source i mod n of the stage's n sources, and consecutive sequences of one source
    belong to different halves. Each source is cut into windows that do not overlap; they are visited in a new random
    order in each epoch, drawn from (seed, stage, source, epoch). A stage starts anew.
    """

    def __init__(self, recipe: Recipe, seed: int, streams: Mapping[str, NDArray[np.uint16]]) -> None:
        self._recipe = recipe
        self._seed = seed
        self._windows = {name: _windows(name, ids, recipe.data.sequence_length) for name, ids in streams.items()}
        self._order = functools.lru_cache(maxsize=16)(self._shuffled)

    def batch(self, step: int) -> Batch:
        """The sequences of optimizer step `step` (from 0)."""
        data = self._recipe.data
        stage = self._recipe.stage_at(step)
        sources = data.stages[stage].sources
        local = step - data.stages[stage].start
        rows, halves = [], []
        for i in range(data.sequences):
            slot, j = divmod(i, len(sources))
            per_step = len(range(j, data.sequences, len(sources)))
            rows.append(self._sequence(stage, sources[j], local * per_step + slot))
            halves.append(slot % 2)
        return Batch(np.stack(rows).astype(np.int64), np.array(halves, dtype=np.int64), stage)

    def _sequence(self, stage: int, source: str, number: int) -> NDArray[np.uint16]:
        windows = self._windows[source]
        epoch, at = divmod(number, len(windows))
        row: NDArray[np.uint16] = windows[self._order(stage, source, epoch)[at]]
        return row

    def _shuffled(self, stage: int, source: str, epoch: int) -> NDArray[np.int64]:
        key = hashlib.sha256(f"{self._seed}/{stage}/{source}/{epoch}".encode()).digest()
        # RandomState's streams are frozen for good by numpy's policy (NEP 19); those of Generator may change.
        random = np.random.RandomState(np.frombuffer(key, dtype=np.uint32))
        return random.permutation(len(self._windows[source]))


def _windows(name: str, ids: NDArray[np.uint16], length: int) -> NDArray[np.uint16]:
    count = len(ids) // length
    if count == 0:
        raise RecipeError(f"source {name} has {len(ids)} tokens, fewer than one sequence of {length}")
    return ids[: count * length].reshape(count, length)
