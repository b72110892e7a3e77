"""How much an entry loses from runs that everybody has to runs that nobody had (docs/guide/seasons-manual.md).

Both sides are mean log ratios to the reference on the recipes that they share. New seeds are harder or easier for
everybody: what counts is an entry's drop beyond the median drop of those that learn nothing.

Axis letters: R runs of one recipe.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from moeload_bench.errors import ResultError
from moeload_bench.results.comparison import Errors
from moeload_bench.results.statistics import Runs, holm, log_ratio, run_means, seed_spread, skill_of

ALPHA = 0.05


@dataclass(frozen=True)
class Drop:
    """One entry: skill on both sides over ``recipes`` shared recipes, and its drop in mean log ratio.

    ``beyond``: less the median drop of the unfitted. ``p``: one-sided, of no drop beyond what seeds explain; None where
    no recipe has two runs on a side, or for the unfitted themselves. ``flagged``: ``p_holm`` is below `ALPHA`.
    """

    forecaster: str
    public: float
    season: float
    drop: float
    beyond: float
    recipes: int
    p: float | None
    p_holm: float | None

    @property
    def flagged(self) -> bool:
        return self.p_holm is not None and self.p_holm < ALPHA


def drops(season: Errors, public: Errors, reference: str, unfitted: Collection[str]) -> list[Drop]:
    """Every entry that both sides have, most beyond first; the reference's own drop is 0, and left out of the list.

    Raises `ResultError` where the reference is missing on a side.
    """
    for side, errors in (("season", season), ("public suite", public)):
        if reference not in errors.by_forecaster:
            raise ResultError(f"no results of the reference {reference!r} on the {side}")
    names = [name for name in season.by_forecaster if name in public.by_forecaster and name != reference]
    sides = {name: (run_ratios(season, name, reference), run_ratios(public, name, reference)) for name in names}
    shared = {name: sorted(new.keys() & old.keys()) for name, (new, old) in sides.items()}
    names = [name for name in names if shared[name]]
    found = {name: _drop(*sides[name], shared[name]) for name in names}
    known = [found[name][0] for name in names if name in unfitted]
    usual = float(np.median([*known, *([0.0] if reference in unfitted or not known else [])]))
    p_values = {name: _p(found[name], usual) for name in names if name not in unfitted}
    tested = {name: p for name, p in p_values.items() if p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    made = [
        Drop(
            forecaster=name,
            public=_skill(sides[name][1], shared[name]),
            season=_skill(sides[name][0], shared[name]),
            drop=found[name][0],
            beyond=found[name][0] - usual,
            recipes=len(shared[name]),
            p=p_values.get(name),
            p_holm=corrected.get(name),
        )
        for name in names
    ]
    return sorted(made, key=lambda one: (-one.beyond, one.forecaster))


def run_ratios(errors: Errors, name: str, reference: str) -> Runs:
    """Return by recipe the runs' mean log ratios of an entry to another."""
    return run_means(log_ratio(errors.by_forecaster[name], errors.by_forecaster[reference]), errors.tasks)


def _skill(runs: Runs, recipes: Collection[str]) -> float:
    return skill_of(float(np.mean([runs[recipe].mean() for recipe in recipes])))


def _drop(season: Runs, public: Runs, recipes: Collection[str]) -> tuple[float, float, int]:
    """Mean over recipes of the mean over new runs less that over public ones; its standard error and its freedom.

    Recipes are fixed, seeds vary: the variance of runs is pooled over recipes and sides.
    """
    pairs = [(season[recipe], public[recipe]) for recipe in recipes]
    drop = float(np.mean([new.mean() - old.mean() for new, old in pairs]))
    spread = seed_spread({recipe: runs[recipe] for recipe in recipes} for runs in (season, public))
    votes = sum(1 / len(side) for pair in pairs for side in pair)
    return drop, float(np.sqrt(spread.variance * votes) / len(pairs)), spread.freedom


def _p(found: tuple[float, float, int], usual: float) -> float | None:
    drop, error, freedom = found
    if freedom < 1:
        return None
    if error == 0.0:
        return 0.0 if drop > usual else 1.0
    from scipy.special import stdtr

    return float(stdtr(freedom, -(drop - usual) / error))
