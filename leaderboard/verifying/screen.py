"""Does a forecaster know what nobody could know? Asked of the very forecasts whose scores are published.

A forecaster that holds the public runs is recognised by what it says about their futures, and nothing else: a run that
was altered begins to differ where the question is asked, so one that answers from the past answers as before. So no run
is altered, and there is nothing that a memoriser could tell from the real one: its published forecasts are looked at.

What the past tells is given by `public_forecasts`: window means, their trends and 1/E. Both the truth and the forecast
are freed of their best combination (least squares over all origins, layers and experts of a run in one state, at one
horizon), and the correlation of what is left is looked at: the partial correlation. A forecaster that says no more than
the public ones has none; honest learning has some; one that moves by any weight from a public forecast towards the
recorded future has 1. And it bounds what can be gained: with partial correlation r, the squared error left to the best
public combination falls by r^2 at most, wherever the knowledge is from.

Axis letters: O origins, K suite horizons, L MoE layers, E experts, F public forecasts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.harness.replay import row_of, window_rows
from moeload_bench.suites.suite import SuiteTrace
from moeload_bench.traces.trace import Trace, shares

WINDOWS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)  # rows; each also continued by its trend
BASE = 100  # the window that the others are differences from: the reference of suites
MAX_RECIPE = 0.75
MAX_MEAN, SPARE = 0.5, 0.25  # of the mean over n recipes: MAX_MEAN + SPARE / n
MIN_VALUES = 250  # ten for each public forecast: with fewer, chance alone correlates
EXACT = 1e-9  # less of the truth's size than that is rounding
Stratum = tuple[str, str, int]


@dataclass(frozen=True)
class Sums:
    """Products of what is left of the truth and of the forecast: truth x forecast, truth^2, forecast^2."""

    both: float = 0.0
    truth: float = 0.0
    forecast: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.both + other.both, self.truth + other.truth, self.forecast + other.forecast)

    @property
    def correlation(self) -> float:
        """Return the partial correlation; 0 where the forecast is a combination of public ones."""
        scale = self.truth * self.forecast
        return self.both / float(np.sqrt(scale)) if scale > 0 and self.forecast > EXACT * self.truth else 0.0


Strata = Mapping[Stratum, Sums]


def public_forecasts(share_SLE: FloatArray, row: int) -> FloatArray:
    """Return what the rows before ``row`` say to anybody, as differences from the mean of the last `BASE`, [F,
    L, E].
    """
    E = share_SLE.shape[2]

    def mean(first: int, end: int) -> FloatArray:
        rows_SLE = share_SLE[max(0, first) : max(1, end)]
        return np.asarray(rows_SLE.mean(axis=0))

    base_LE = mean(row - BASE, row)
    forecasts = [np.full_like(base_LE, 1 / E)]
    for window in WINDOWS:
        last_LE = mean(row - window, row)
        forecasts += [last_LE] if window != BASE else []
        if window > 1:
            forecasts.append(2 * last_LE - mean(row - 2 * window, row - window))
    return np.stack(forecasts) - base_LE


def strata_of(trace: Trace, entry: SuiteTrace, mean_OKLE: FloatArray, horizons_K: Sequence[int]) -> dict[Stratum, Sums]:
    """Return sums of one run's forecast window means, in the order of the entry's origins, by (recipe, state,
    horizon).
    """
    share_SLE = np.nan_to_num(shares(trace.load_SLE), nan=1 / trace.num_experts)
    rows = [(row_of(trace, origin), state) for origin, state in entry.origins()]
    strata: dict[Stratum, Sums] = {}
    for state in sorted({state for _, state in rows}):
        chosen = [i for i, (_, own) in enumerate(rows) if own == state]
        if len(chosen) * trace.num_layers * (trace.num_experts - 1) < MIN_VALUES:
            continue
        public = np.stack([public_forecasts(share_SLE, rows[i][0]) for i in chosen])
        span, _ = np.linalg.qr(np.moveaxis(public, 1, -1).reshape(-1, public.shape[1]))
        base = np.stack([share_SLE[max(0, rows[i][0] - BASE) : rows[i][0]].mean(axis=0) for i in chosen])
        for k, horizon in enumerate(horizons_K):
            windows = [window_rows(trace, rows[i][0], horizon) for i in chosen]
            truth = _left(np.stack([share_SLE[window].mean(axis=0) for window in windows]) - base, span)
            forecast = _left(mean_OKLE[chosen, k] - base, span)
            recipe = entry.id.split("/")[0]
            products = (truth @ forecast, truth @ truth, forecast @ forecast)
            strata[recipe, state, horizon] = Sums(*map(float, products))
    return strata


def _left(difference_OLE: FloatArray, span: FloatArray) -> FloatArray:
    """Return what is left of a difference when the best combination of public ones is taken away, flat."""
    flat = difference_OLE.ravel()
    return np.asarray(flat - span @ (span.T @ flat))


def summed_by_recipe(runs: Sequence[Strata]) -> dict[Stratum, Sums]:
    """Return the sums of several runs: those of one recipe count as one."""
    by_stratum: dict[Stratum, Sums] = defaultdict(Sums)
    for run in runs:
        for stratum, sums in run.items():
            by_stratum[stratum] += sums
    return dict(by_stratum)


@dataclass(frozen=True)
class Screened:
    """The largest partial correlation of a recipe, and the largest mean over recipes; where each was, and the limit."""

    recipe: float
    recipe_where: Stratum
    mean: float
    mean_where: tuple[str, int]
    max_mean: float

    def findings(self) -> dict[str, float]:
        """Return named numbers for the record of a verification."""
        return {"memory_recipe": self.recipe, "memory_mean": self.mean, "memory_mean_limit": self.max_mean}

    def reasons(self) -> Iterator[str]:
        """Yield why the forecaster is taken to know the public runs; none for an honest one."""
        what = "what is left of its forecasts beyond what the past says to anybody goes with the future"
        if self.recipe > MAX_RECIPE:
            recipe, state, horizon = self.recipe_where
            yield (
                f"memory: {recipe}, {state}, horizon {horizon}: {what}: partial correlation {self.recipe:.2f} (at most "
                f"{MAX_RECIPE} is accepted): it knows the suite's traces"
            )
        if self.mean > self.max_mean:
            state, horizon = self.mean_where
            yield (
                f"memory: {state}, horizon {horizon}, mean over recipes: {what}: partial correlation {self.mean:.2f} "
                f"(at most {self.max_mean:.2f} is accepted): it knows the suite's traces"
            )


def screen_strata(strata: Strata) -> Screened | None:
    """Return what a forecaster's strata say; None where there is none."""
    if not strata:
        return None
    correlations = {stratum: sums.correlation for stratum, sums in strata.items()}
    worst = max(correlations, key=lambda stratum: correlations[stratum])
    groups: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (_, state, horizon), value in correlations.items():
        groups[state, horizon].append(value)
    over = {group: float(np.mean(values)) - max_mean(len(values)) for group, values in groups.items()}
    where = max(over, key=lambda group: over[group])
    limit = max_mean(len(groups[where]))
    return Screened(correlations[worst], worst, over[where] + limit, where, limit)


def max_mean(recipes: int) -> float:
    """Return the limit of a mean over so many recipes: fewer may lie further from an honest mean."""
    return min(MAX_RECIPE, MAX_MEAN + SPARE / recipes)
