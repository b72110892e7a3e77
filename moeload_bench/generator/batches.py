"""Which sequences an optimizer step trains on: a pure function of (seed, step), so resuming needs no iterator.

Axis letters: B sequences of a step, N tokens of a sequence.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import RecipeError
from moeload_bench.generator.recipe import DataTable, Recipe, StageTable


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's sequences over all ranks: tokens [B, N], the half of the step that each belongs to [B], data stage."""

    token_BN: NDArray[np.int64]
    half_B: NDArray[np.int64]
    stage: int

    def split(self, count: int) -> list[Batch]:
        """Return the sequences in ``count`` parts, in their order."""
        token, half = np.array_split(self.token_BN, count), np.array_split(self.half_B, count)
        return [Batch(t, h, self.stage) for t, h in zip(token, half, strict=True)]


class BatchOrder:
    """The data order of one run.

    Sequence i of a step comes from source i mod n of the stage's n sources. If sources have weights, it comes from that
    of the stage's `turns` instead. Consecutive sequences of one source belong to different halves. Each source is cut
    into windows that do not overlap; each epoch visits them in a new random order, drawn from (seed, stage, source,
    epoch). A stage starts from the beginning. Windows that a recipe holds out, `held_out_BN`, are never trained on.

    In a stage that drifts, sequences come in pairs of one source, one for each half. At step t of T, the new sources
    have had floor(P t^2 / 2T) of the pairs, P pairs a step. That number is exact, not drawn: the share rises linearly,
    and a step's loads have no sampling noise from the mixture.
    """

    def __init__(self, recipe: Recipe, seed: int, streams: Mapping[str, NDArray[np.uint16]]) -> None:
        self._recipe = recipe
        self._seed = seed
        self._windows = {name: _windows(name, ids, recipe.data.sequence_length) for name, ids in streams.items()}
        self.held_out_BN = self._hold_out(recipe.data.held_out or 0)
        self._order = functools.lru_cache(maxsize=16)(self._shuffled)

    def _hold_out(self, tokens: int) -> NDArray[np.int64]:
        """Take windows out of every source, evenly spaced, with about so many ``tokens`` in all; return them."""
        each = math.ceil(tokens / self._recipe.data.sequence_length / len(self._windows))
        windows = []
        for name, window_WN in self._windows.items() if tokens else ():
            if each >= len(window_WN):
                raise RecipeError(
                    f"data.held_out: {tokens} tokens need {each} of the {len(window_WN)} sequences of {name}"
                )
            index = np.linspace(0, len(window_WN) - 1, each).astype(np.int64)
            windows.append(window_WN[index].astype(np.int64))
            self._windows[name] = np.delete(window_WN, index, axis=0)
        return np.concatenate(windows) if windows else np.empty((0, self._recipe.data.sequence_length), dtype=np.int64)

    def reordered(self, seed: int) -> BatchOrder:
        """Return the order of another seed, over the same text."""
        order = copy.copy(self)
        order._seed = seed
        order._order = functools.lru_cache(maxsize=16)(order._shuffled)
        return order

    def batch(self, step: int) -> Batch:
        """Return the sequences of optimizer step `step` (from 0)."""
        stage = self._recipe.stage_at(step)
        drifts = self._recipe.data.stages[stage].towards is not None
        rows, halves = [], []
        for source, number, half in self._drifting(stage, step) if drifts else self._in_turn(stage, step):
            rows.append(self._sequence(stage, source, number))
            halves.append(half)
        return Batch(np.stack(rows).astype(np.int64), np.array(halves, dtype=np.int64), stage)

    def _in_turn(self, stage: int, step: int) -> Iterator[tuple[str, int, int]]:
        """Yield (source, number of the sequence within it, half) of each sequence, sources in turn."""
        data = self._recipe.data
        table = data.stages[stage]
        before = _taken_before(data, table, step)
        for j, slot in _slots(table, data.sequences_at(step)):
            yield table.sources[j], before[j] + slot, slot % 2

    def probe(self, step: int, sequences: int) -> Batch:
        """Return ``sequences`` of the stage's mix that a step does not train on, drawn from (seed, step).

        Raise `RecipeError` if a source has fewer windows than that.
        """
        stage = self._recipe.stage_at(step)
        table = self._recipe.data.stages[stage]
        trained: dict[str, set[int]] = {source: set() for source in table.sources}
        for source, number, _ in self._in_turn(stage, step):
            trained[source].add(self._window(stage, source, number))
        order = {source: self._untrained(step, source, numbers) for source, numbers in trained.items()}
        rows, halves = [], []
        for j, slot in _slots(table, sequences):
            source = table.sources[j]
            if slot >= len(order[source]):
                raise RecipeError(
                    f"probe: {sequences} sequences need more of source {source} than the {len(order[source])} that "
                    f"step {step} does not train on"
                )
            rows.append(self._windows[source][order[source][slot]])
            halves.append(slot % 2)
        return Batch(np.stack(rows).astype(np.int64), np.array(halves, dtype=np.int64), stage)

    def _untrained(self, step: int, source: str, trained: set[int]) -> NDArray[np.int64]:
        """Return the windows of a source without those in ``trained``, in an order drawn from (seed, step, source)."""
        rest = np.delete(np.arange(len(self._windows[source])), np.fromiter(trained, dtype=np.int64))
        return rest[random_of(f"{self._seed}/probe/{step}/{source}").permutation(len(rest))]

    def passes(self) -> dict[tuple[int, str], float]:
        """Return, by (stage, source), how often the whole run trains on all windows of the source in that stage."""
        data = self._recipe.data
        ends = [*(stage.start for stage in data.stages[1:]), self._recipe.steps]
        passes: dict[tuple[int, str], float] = {}
        for number, (table, end) in enumerate(zip(data.stages, ends, strict=True)):
            if table.towards is None:
                for source, count in zip(table.sources, _taken_before(data, table, end), strict=True):
                    passes[number, source] = count / len(self._windows[source])
        return passes

    def _drifting(self, stage: int, step: int) -> Iterator[tuple[str, int, int]]:
        """Yield the same as `_in_turn`, in a stage that drifts towards other sources."""
        data = self._recipe.data
        table = data.stages[stage]
        pairs, span, since = data.sequences // 2, data.stages[stage + 1].start - table.start, step - table.start
        new, after = (pairs * t * t // (2 * span) for t in (since, since + 1))
        old = pairs * since - new
        for sources, first, count in (
            (table.sources, old, pairs - (after - new)),
            (table.towards or (), new, after - new),
        ):
            for pair in range(first, first + count):
                slot, j = divmod(pair, len(sources))
                yield from ((sources[j], 2 * slot + half, half) for half in (0, 1))

    def _sequence(self, stage: int, source: str, number: int) -> NDArray[np.uint16]:
        row: NDArray[np.uint16] = self._windows[source][self._window(stage, source, number)]
        return row

    def _window(self, stage: int, source: str, number: int) -> int:
        """Return the window that is sequence ``number`` of a source in a stage."""
        epoch, place = divmod(number, len(self._windows[source]))
        return int(self._order(stage, source, epoch)[place])

    def _shuffled(self, stage: int, source: str, epoch: int) -> NDArray[np.int64]:
        return random_of(f"{self._seed}/{stage}/{source}/{epoch}").permutation(len(self._windows[source]))


def random_of(key: str) -> np.random.RandomState:
    """Return a RandomState of a key: numpy froze its streams (NEP 19), while those of Generator may change."""
    return np.random.RandomState(np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype=np.uint32))


def _slots(table: StageTable, sequences: int) -> Iterator[tuple[int, int]]:
    """Yield (number of the source, number within what the step takes of it) of each sequence of a step."""
    counts = [0] * len(table.sources)
    for _, j in zip(range(sequences), itertools.cycle(table.turns), strict=False):
        yield j, counts[j]
        counts[j] += 1


def _taken_before(data: DataTable, table: StageTable, step: int) -> list[int]:
    """Return, by source, how many sequences the stage's steps before ``step`` took."""
    edges = [*(first for first, _ in data.batch_sizes), step]
    counts = [0] * len(table.sources)
    for (first, count), after in zip(data.batch_sizes, edges[1:], strict=True):
        steps = max(0, min(after, step) - max(first, table.start))
        for j, _ in _slots(table, count) if steps else ():
            counts[j] += steps
    return counts


def _windows(name: str, ids: NDArray[np.uint16], length: int) -> NDArray[np.uint16]:
    count = len(ids) // length
    if count == 0:
        raise RecipeError(f"source {name} has {len(ids)} tokens, fewer than one sequence of {length}")
    return ids[: count * length].reshape(count, length)
