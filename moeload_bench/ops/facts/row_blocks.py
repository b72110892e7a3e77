"""Rows of a run as blocks: made of single rows, joined, and handed on in whole groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moeload_bench.arrays import Array
from moeload_bench.forecaster import StepBlock
from moeload_bench.recording.writer import Row


def joined(blocks: Sequence[StepBlock]) -> StepBlock:
    """Return blocks that follow each other as one."""
    if len(blocks) == 1:
        return blocks[0]
    return StepBlock(
        np.concatenate([block.step_S for block in blocks]),
        np.concatenate([block.load_SLE for block in blocks]),
        np.concatenate([block.tokens_SL for block in blocks]),
        {name: np.concatenate([block.covariates[name] for block in blocks]) for name in blocks[0].covariates},
    )


def block_of(rows: Sequence[Row], names: Iterable[str]) -> StepBlock:
    """Return rows that follow each other as a block with the columns ``names``."""
    columns: Mapping[str, Array] = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in names}
    step_S, load_SLE, tokens_SL = (np.stack([row[name] for row in rows]) for name in ("step", "load", "tokens"))
    return StepBlock(step_S.astype(np.int64), load_SLE, tokens_SL, columns)


class WholeGroups:
    """Rows that follow each other, handed on in whole groups of ``size``."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rest: StepBlock | None = None

    def add(self, block: StepBlock) -> StepBlock:
        """Take in rows; return those of the groups that are complete, none where there is no such group."""
        rows = block if self._rest is None else joined([self._rest, block])
        end = len(rows) // self._size * self._size
        self._rest = copied(rows.rows(end, len(rows))) if end < len(rows) else None
        return rows.rows(0, end)


def copied(block: StepBlock) -> StepBlock:
    """Return a block that keeps no larger array alive."""
    columns: dict[str, Any] = {name: column.copy() for name, column in block.covariates.items()}
    return StepBlock(block.step_S.copy(), block.load_SLE.copy(), block.tokens_SL.copy(), columns)
