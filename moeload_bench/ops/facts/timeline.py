"""The past of a run at the resolution of a screen: bins that grow coarser as the run grows longer.

Axis letters: N bins, M finer bins, L MoE layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray

BINS = 240
"""Bins at most twice as many; then every two become one."""
RUN_COLUMNS = ("loss", "lr", "grad_norm")
"""Columns with a value per row that are shown too."""


class Timeline(NamedTuple):
    """Bins in order. ``step_N``: first step of each.

    Means over the rows of a bin: ``busiest_NL`` the busiest expert's load over the mean, ``noise_NL`` what noise alone
    would give (NaN where unknown), ``unsettled_NL`` the part of time labelled transient (NaN without states), and
    ``dead_NL`` experts below a tenth of an equal share. ``run``: by column of the run, its means in bins of its own,
    up to ten times as fine, that begin at ``run_step_M``; [M].
    """

    step_N: IntArray
    busiest_NL: FloatArray
    noise_NL: FloatArray
    unsettled_NL: FloatArray
    dead_NL: FloatArray
    run_step_M: IntArray
    run: Mapping[str, FloatArray]


class Bins:
    """Sums per bin, at most 2 x `BINS` of them whatever the length of the run. What is NaN does not count."""

    def __init__(self) -> None:
        self._step: list[int] = []
        self._total: list[FloatArray] = []
        self._count: list[IntArray] = []
        self._span, self._open = 1, 0

    def add(self, step: int, value_X: FloatArray) -> None:
        """Take in the values of the next unit of time, which begins at a step."""
        known_X = np.isfinite(value_X)
        filled_X = np.where(known_X, value_X, 0.0)
        if self._open:
            self._total[-1] += filled_X
            self._count[-1] += known_X
        else:
            self._step.append(step)
            self._total.append(filled_X)
            self._count.append(known_X.astype(np.int64))
        self._open = (self._open + 1) % self._span
        if len(self._step) == 2 * BINS and not self._open:
            self._step = self._step[::2]
            self._total = [left + right for left, right in zip(self._total[::2], self._total[1::2], strict=True)]
            self._count = [left + right for left, right in zip(self._count[::2], self._count[1::2], strict=True)]
            self._span *= 2

    def means(self) -> tuple[IntArray, FloatArray]:
        """Return the first step of each bin [N], and the means [N, X], the open bin included."""
        total_NX, count_NX = np.stack(self._total), np.stack(self._count)
        mean_NX = np.full(total_NX.shape, np.nan)
        np.divide(total_NX, count_NX, out=mean_NX, where=count_NX > 0)
        return np.array(self._step, dtype=np.int64), mean_NX

    def __len__(self) -> int:
        """Return how many bins there are."""
        return len(self._step)


def timeline(bins: Bins, run_bins: Bins) -> Timeline | None:
    """Return bins as they are shown, None before the first.

    The values of ``bins``: busiest, noise, unsettled and dead by layer; those of ``run_bins``: `RUN_COLUMNS`.
    """
    if not len(bins):
        return None
    (step_N, mean_NX), (run_step_M, run_MX) = bins.means(), run_bins.means()
    run = {name: mean_M for name, mean_M in zip(RUN_COLUMNS, run_MX.T, strict=True) if np.isfinite(mean_M).any()}
    busiest_NL, noise_NL, unsettled_NL, dead_NL = np.split(mean_NX, 4, axis=1)
    return Timeline(step_N, busiest_NL, noise_NL, unsettled_NL, dead_NL, run_step_M, run)
