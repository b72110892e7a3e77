"""Which sequences an optimizer step trains on: a pure function of (seed, step), so resuming needs no iterator.

Axis letters: B sequences of a step, N tokens of a sequence.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import RecipeError
from moeload_bench.recipes.recipe import DataTable, Recipe


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

    In a stage that drifts, sequences come in pairs of one source, one for each half. Of the P pairs of step t of T,
    those of the new sources follow without chance from their number before step t, floor(P t^2 / 2T): the share rises
    linearly, and a step's loads have no noise of a drawn mixture.
    """

    def __init__(self, recipe: Recipe, seed: int, streams: Mapping[str, NDArray[np.uint16]]) -> None:
        self._recipe = recipe
        self._seed = seed
        self._windows = {name: _windows(name, ids, recipe.data.sequence_length) for name, ids in streams.items()}
        self._order = functools.lru_cache(maxsize=16)(self._shuffled)

    def reordered(self, seed: int) -> BatchOrder:
        """The order of another seed, over the same text."""
        other = copy.copy(self)
        other._seed = seed
        other._order = functools.lru_cache(maxsize=16)(other._shuffled)
        return other

    def batch(self, step: int) -> Batch:
        """The sequences of optimizer step `step` (from 0)."""
        stage = self._recipe.stage_at(step)
        drifts = self._recipe.data.stages[stage].towards is not None
        rows, halves = [], []
        for source, number, half in self._drifting(stage, step) if drifts else self._in_turn(stage, step):
            rows.append(self._sequence(stage, source, number))
            halves.append(half)
        return Batch(np.stack(rows).astype(np.int64), np.array(halves, dtype=np.int64), stage)

    def _in_turn(self, stage: int, step: int) -> Iterator[tuple[str, int, int]]:
        """(source, number of the sequence within it, half) of each sequence, sources in turn."""
        sources, data = self._recipe.data.stages[stage].sources, self._recipe.data
        before = [
            _taken_before(data, self._recipe.data.stages[stage].start, step, j, len(sources))
            for j in range(len(sources))
        ]
        for i in range(data.sequences_at(step)):
            slot, j = divmod(i, len(sources))
            yield sources[j], before[j] + slot, slot % 2

    def _drifting(self, stage: int, step: int) -> Iterator[tuple[str, int, int]]:
        """The same in a stage that drifts towards other sources."""
        data = self._recipe.data
        table = data.stages[stage]
        pairs, span, at = data.sequences // 2, data.stages[stage + 1].start - table.start, step - table.start
        new, after = (pairs * t * t // (2 * span) for t in (at, at + 1))
        old = pairs * at - new
        for sources, first, count in (
            (table.sources, old, pairs - (after - new)),
            (table.towards or (), new, after - new),
        ):
            for pair in range(first, first + count):
                slot, j = divmod(pair, len(sources))
                yield from ((sources[j], 2 * slot + half, half) for half in (0, 1))

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


def _taken_before(data: DataTable, start: int, step: int, j: int, sources: int) -> int:
    """Sequences that the steps from ``start`` to before ``step`` took from source ``j`` of so many."""
    edges = [*(first for first, _ in data.batch_sizes), step]
    taken = 0
    for (first, count), after in zip(data.batch_sizes, edges[1:], strict=True):
        taken += max(0, min(after, step) - max(first, start)) * len(range(j, count, sources))
    return taken


def _windows(name: str, ids: NDArray[np.uint16], length: int) -> NDArray[np.uint16]:
    count = len(ids) // length
    if count == 0:
        raise RecipeError(f"source {name} has {len(ids)} tokens, fewer than one sequence of {length}")
    return ids[: count * length].reshape(count, length)
