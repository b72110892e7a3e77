"""The prior of capacity: how much more windows of other runs needed than what was needed just before.

Axis letters: B blocks, P ratios, R runs, S rows.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboard.committed import recipe_name
from leaderboard.fit.lists import FitList
from moeload_bench.arrays import FloatArray
from moeload_bench.inspection.needs import PRIOR, TIMES, at_parts, dropped_after, needs, seen, size_of, totals
from moeload_bench.schema import Record
from moeload_bench.traces.meta import STRATA, Stratum
from moeload_bench.traces.trace import Trace

BLOCK = 50
HORIZONS = (100, 1000)
"""Rows of a window."""
OTHER_SIZE = 0.25
"""Weight of a large run in what is fitted for small ones, and the reverse; chosen on `train` runs, six large groups."""
POINTS = 200
"""Ratios of other runs are kept as so many quantiles."""
Level = Callable[[FloatArray, int], float]
"""What was needed, of the blocks before a window and the blocks in it."""


class RunNeeds(Record):
    """The largest need over all layers in every block of rows of a run.

    ``tokens``: per expert and row; ``dropped``: by the rows of a window, the mean part of tokens dropped at `TIMES`
    times the level before it.
    """

    id: str
    tokens: float
    peak_B: tuple[float, ...]
    dropped: dict[int, tuple[float, ...]]

    @property
    def recipe(self) -> str:
        """Return the recipe that was trained; a probe is a count of its run."""
        return recipe_name(self.id)

    def needs(self) -> FloatArray:
        """Return the need of every block [B]."""
        return np.array(self.peak_B)


def run_needs(name: str, rows: Trace) -> RunNeeds:
    """Return what a run needed."""
    need_S = needs(rows).max(axis=1)
    blocks = len(need_S) // BLOCK * BLOCK
    dropped = {h: dropped_after(rows, need_S, h, np.array(TIMES)) for h in HORIZONS if len(need_S) >= 2 * h}
    return RunNeeds(
        id=name,
        tokens=float(totals(rows.load_SLE[rows.steps - 1 :]).max() / rows.num_experts),
        peak_B=tuple(float(f"{peak:.6g}") for peak in need_S[:blocks].reshape(-1, BLOCK).max(axis=1)),
        dropped={h: tuple(float(f"{one:.3g}") for one in found.mean(axis=0)) for h, found in dropped.items()},
    )


def lately(peak_B: FloatArray, blocks: int) -> float:
    """Return the largest need of the last half window."""
    return seen(peak_B, blocks)[0]


def origins(peak_B: FloatArray, blocks: int) -> range:
    """Return where windows begin, disjoint, each after at least one window."""
    return range(blocks, len(peak_B) - blocks + 1, blocks)


def weights(runs: Sequence[RunNeeds], groups: Mapping[str, str], size: Stratum) -> FloatArray:
    """Return the weight of each run [R]: groups have equal ones, so have recipes of a group and runs of a recipe.

    Runs with batches of another size count `OTHER_SIZE` as much.
    """
    recipes = Counter(run.recipe for run in runs)
    recipes_of_group = Counter(groups[recipe] for recipe in recipes)
    weight_R = np.array([1 / (recipes_of_group[groups[run.recipe]] * recipes[run.recipe]) for run in runs])
    return weight_R * [1.0 if size_of(run.tokens) == size else OTHER_SIZE for run in runs]


def ratios(
    runs: Sequence[RunNeeds], groups: Mapping[str, str], level: Level, horizon: int, size: Stratum
) -> FloatArray:
    """Return need over level of the windows of these runs, as quantiles [P], for runs with batches of a size."""
    blocks = horizon // BLOCK
    found: list[float] = []
    shares: list[float] = []
    for run, weight in zip(runs, weights(runs, groups, size), strict=True):
        peak_B = run.needs()
        own = [peak_B[at : at + blocks].max() / level(peak_B[:at], blocks) for at in origins(peak_B, blocks)]
        found.extend(own)
        shares.extend(weight / len(own) for _ in own)
    return at_parts(np.array(found), np.array(shares), (np.arange(POINTS) + 0.5) / POINTS)


def prior_text(runs: Sequence[RunNeeds], groups: Mapping[str, str]) -> str:
    """Return what the package ships, for each size of batch."""
    fitted: dict[str, dict[int, dict[str, list[float]]]] = {size: {} for size in STRATA}
    for size, horizon in itertools.product(STRATA, HORIZONS):
        long = [run for run in runs if horizon in run.dropped]
        dropped_F = np.average([run.dropped[horizon] for run in long], axis=0, weights=weights(long, groups, size))
        parts = {"ratio": ratios(runs, groups, lately, horizon, size), "dropped": dropped_F}
        fitted[size][horizon] = {name: [float(f"{one:.5g}") for one in part] for name, part in parts.items()}
    return json.dumps(fitted) + "\n"


def capacity(listed: FitList) -> dict[Path, bytes]:
    """Return the prior, as the package ships it."""
    runs = [run_needs(trace.id, trace) for trace in listed.traces()]
    first = {recipe: group[0] for group in listed.near_twins for recipe in group}
    return {PRIOR: prior_text(runs, {run.recipe: first.get(run.recipe, run.recipe) for run in runs}).encode()}
