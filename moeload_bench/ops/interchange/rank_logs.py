"""Logs that several ranks write: the steps of each, side by side, and their counts added up.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange.logfiles import JsonLines, field_of, whole_number
from moeload_bench.ops.interchange.rows import Log, LogRow


@dataclass
class RankStep:
    """What one rank reports for one step, by layer: loads [its experts], tokens, dropped tokens, micro-batches.

    ``where``: the place of its first line, such as ``rank0.jsonl, line 7``; ``lines``: that of each layer's.
    """

    number: int
    where: str
    load: dict[int, IntArray] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, IntArray] = field(default_factory=dict)
    passes: dict[int, int] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)

    def put(self, layer: int, load_E: IntArray, where: str, passes: int = 1) -> None:
        """Take in a layer's loads; raise `TraceError` if it has some already."""
        if layer in self.load:
            raise TraceError(f"{where}: layer {layer} of step {self.number} again, expected it once")
        self.load[layer], self.passes[layer], self.lines[layer] = load_E, passes, where


@dataclass(frozen=True)
class Rank:
    """The steps of one rank in order; ``cut`` says where its file breaks off, once they are read."""

    path: Path
    steps: Iterator[RankStep]
    cut: list[str] = field(default_factory=list)


def rank_of(
    lines: JsonLines, key: str, expected: Sequence[str], add: Callable[[RankStep, dict[str, Any], str], None]
) -> Rank:
    """Return the rank of a file whose steps are consecutive lines; their field ``key`` is the step's number."""
    return Rank(lines.path, _steps(lines, key, expected, add), lines.cut)


def _steps(
    lines: JsonLines, key: str, expected: Sequence[str], add: Callable[[RankStep, dict[str, Any], str], None]
) -> Iterator[RankStep]:
    """Yield the steps of one file; the last step is left out if a broken line may belong to it."""
    step: RankStep | None = None
    passes: dict[int, int] = {}
    for line, record in lines:
        number = whole_number(field_of(record, key, line.where, expected), key, line.where)
        if step is not None and number < step.number:
            raise TraceError(
                f"{line.where}: {key} {number} after {step.number}: out of order or twice (was the run restarted into "
                "the same folder?), expected numbers that rise"
            )
        if step is None or number > step.number:
            if step is not None:
                passes = passes or step.passes
                yield step
            step = RankStep(number, line.where)
        add(step, record, line.where)
    if step is not None and (not lines.cut or step.passes == passes):
        yield step


def side_by_side(ranks: Sequence[Rank], what: str, cut: list[str]) -> tuple[list[RankStep], Iterator[list[RankStep]]]:
    """Return the first step of all ranks, and all steps; ``cut`` gets where files break off, once they are read.

    Raise `TraceError` if no step is whole, and later if a rank lacks a step that another has.
    """
    groups = _groups(ranks, what, cut)
    first = next(groups, None)
    if first is None:
        raise TraceError(f"{ranks[0].path}: no complete {what} in it{': ' if cut else ''}{'; '.join(cut)}")
    return first, chain([first], groups)


def _groups(ranks: Sequence[Rank], what: str, cut: list[str]) -> Iterator[list[RankStep]]:
    """Yield the same step of all ranks; end with the first file that breaks off."""
    before: int | None = None
    while True:
        group = [(rank, next(rank.steps, None)) for rank in ranks]
        steps = [step for _, step in group if step is not None]
        if not steps or any(rank.cut for rank, step in group if step is None):
            cut += [line for rank in ranks for line in rank.cut]
            return
        first = min(steps, key=lambda step: step.number)
        lacking = [rank for rank, step in group if step is None or step.number != first.number]
        if lacking:
            raise TraceError(
                f"{lacking[0].path}: {what} {first.number} is missing, other files have it ({first.where}), expected "
                "the same in every file"
                + ("" if before is None else f" (--last-step {before} imports what comes before)")
            )
        before = first.number
        yield steps


def log_of_ranks(ranks: Sequence[Rank]) -> Log:
    """Return the log of ranks that each routed tokens of their own: their counts are added."""
    cut: list[str] = []
    first, steps = side_by_side(ranks, "step", cut)
    layers, path = tuple(sorted(first[0].load)), ranks[0].path
    experts = len(first[0].load[layers[0]])
    where = str(path) if len(ranks) == 1 else f"{path.parent} ({len(ranks)} ranks)"
    return Log(where, layers, experts, (added(step, layers, experts) for step in steps), cut=cut)


def added(ranks: Sequence[RankStep], layers: tuple[int, ...], experts: int) -> LogRow:
    """Return the sum of a step's ranks; raise `TraceError` at one with other layers or experts.

    Tokens and dropped tokens are in all of their lines, or in none.
    """
    number, where = ranks[0].number, ranks[0].where
    for step in ranks:
        if wrong := {*layers} ^ {*step.load}:
            place = step.lines.get(min(wrong), step.where)
            raise TraceError(f"{place}: step {number}: layer {min(wrong)} is missing or new, expected {layers}")
        for layer, load_E in step.load.items():
            if len(load_E) != experts:
                got = f"layer {layer} has {len(load_E)} experts"
                raise TraceError(f"{step.lines[layer]}: {got}, expected {experts} in every layer")
    given = {name: {len(getattr(step, name)) for step in ranks} for name in ("tokens", "dropped")}
    for name, lines in given.items():
        if lines not in ({0}, {len(layers)}):
            raise TraceError(f"{where}: step {number}: {name} in some lines only, expected all or none")
    load_LE = np.stack([sum(step.load[m] for step in ranks) for m in layers])
    columns, tokens_L = {}, None
    if given["dropped"] != {0}:
        columns["dropped"] = np.stack([sum(step.dropped[m] for step in ranks) for m in layers])
    if given["tokens"] != {0}:
        tokens_L = np.array([sum(step.tokens[m] for step in ranks) for m in layers], dtype=np.int64)
    return LogRow(number, load_LE, where, tokens_L, columns=columns)


def same_on_all(loads: Sequence[IntArray]) -> bool:
    """Return whether several ranks hold exactly the same counts, as if each of them saw the same tokens."""
    first, *others = loads
    return bool(others) and bool(first.any()) and all(np.array_equal(first, load_LE) for load_LE in others)
