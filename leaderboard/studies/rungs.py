"""The ladder by rung: the quantities of its runs, and what may be claimed of each as the model grows.

Three quantities were named before the first rung was recorded: the onset in steps, the drift in the stable state, and
the strong forecaster's skill. A trend of one of them is claimed only where every run of each rung lies on the same side
of every run of the rung below, in both families of rungs; of everything else the numbers are shown, and nothing is
claimed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from leaderboard.grouped import grouped
from leaderboard.studies.ladder import HORIZONS, PLAN, STEPS, STRONG, LadderRun, planned
from leaderboard.suites.plan import load_plan
from moeload_bench.recipes.recipe import Recipe
from moeload_bench.results.grid import present_mean
from moeload_bench.states.rule import LABELS

CANNOT = "cannot tell"
Value = Callable[[LadderRun], float | None]


class Quantity(NamedTuple):
    """One number of a run; ``log``: its runs differ by factors, so that intervals are taken of its logarithm."""

    name: str
    title: str
    value: Value
    log: bool = True


def onset_of(run: LadderRun) -> float | None:
    """Median over layers of the first stable step; None where half of them or more never are."""
    steps = sorted(float("inf") if step is None else step for step in run.onset_L)
    middle = float(np.median(steps))
    return middle if np.isfinite(middle) else None


def skill_in(state: str, forecaster: str) -> Value:
    """Return a run's skill of a forecaster in a state."""
    return lambda run: score.skill if (score := run.score(forecaster, state)) else None


def regret_in(state: str, forecaster: str, horizon: int) -> Value:
    """Return a run's regret of a forecaster's plans in a state, at one of `HORIZONS`."""
    k = HORIZONS.index(horizon)
    return lambda run: score.regret_K[k] if (score := run.score(forecaster, state)) else None


LOADS = (
    Quantity("onset", "onset, steps", onset_of),
    Quantity("onset-tokens", "onset, tokens", lambda run: _times(onset_of(run), run.step_tokens)),
    Quantity("onset-fraction", "onset, fraction of the run", lambda run: _times(onset_of(run), 1 / run.steps)),
    Quantity("onset-rates", "onset, sum of learning rates", lambda run: _times(onset_of(run), run.learning_rate)),
    Quantity("drift", "drift, stable", lambda run: present_mean(run.drift_L)),
    Quantity("over-dispersion", "over-dispersion", lambda run: run.over_dispersion),
    Quantity("imbalance", f"imbalance at step {STEPS:,}", lambda run: run.imbalance),
    Quantity("dead", f"dead experts at step {STEPS:,}", lambda run: float(run.dead), False),
    Quantity("floor", "floor, 100-step mean", lambda run: run.floor),
)
SKILLS = tuple(
    Quantity(f"skill-{state}", f"skill of `{STRONG}`, {state}", skill_in(state, STRONG), False) for state in LABELS
)
TESTED = (LOADS[0], LOADS[4], *SKILLS)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


class Rung(NamedTuple):
    """A recipe of the plan with the runs that are there; ``missing`` are planned ones that are not."""

    recipe: Recipe
    runs: Sequence[LadderRun]
    missing: Sequence[str]

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def family(self) -> str:
        return self.recipe.balancing.method

    def values(self, quantity: Quantity) -> list[float | None]:
        """Return the quantity of each run."""
        return [quantity.value(run) for run in self.runs]


def rungs_of(runs: Sequence[LadderRun]) -> list[Rung]:
    """Return the rungs of the plan, those without balancing first, each family by size."""
    plan_runs, found = load_plan(PLAN), grouped(sorted(runs, key=lambda run: run.id), lambda run: run.recipe)
    there = {run.id for run in runs}
    return [
        Rung(recipe, found.get(recipe.name, []),
             [run for run in plan_runs.runs if run.split("/")[0] == recipe.name and run not in there])
        for recipe in planned(plan_runs)
    ]  # fmt: skip


def trend(rungs: Sequence[Rung], quantity: Quantity) -> str:
    """`rises with size`, `falls with size`, or `cannot tell` and why."""
    empty = [rung.name for rung in rungs if not rung.values(quantity)]
    if empty:
        return f"{CANNOT}: no run of {', '.join(f'`{name}`' for name in empty)}"
    said = set()
    for family in dict.fromkeys(rung.family for rung in rungs):
        own = [rung.values(quantity) for rung in rungs if rung.family == family]
        for small, large in itertools.pairwise(own):
            said.add(_direction(small, large))
    if said != {"rises"} and said != {"falls"}:
        return f"{CANNOT}: runs of different rungs overlap or disagree"
    planned = sum(len(rung.missing) for rung in rungs)
    left = f"; of the planned runs {planned} are missing" if planned else ""
    return f"{said.pop()} with size, in every run of every rung and family (p = {chance(rungs, quantity):.2g}{left})"


def chance(rungs: Sequence[Rung], quantity: Quantity) -> float:
    """Return how probable it is that runs whose size plays no part stand by rungs in both families, rising or falling.

    Of the orders of a family's N runs, the product of the factorials of its rungs' runs over N! is one.
    """
    orders = 1.0
    for family in dict.fromkeys(rung.family for rung in rungs):
        sizes = [len(rung.values(quantity)) for rung in rungs if rung.family == family]
        orders *= math.prod(map(math.factorial, sizes)) / math.factorial(sum(sizes))
    return 2 * orders


def _direction(small: Sequence[float | None], large: Sequence[float | None]) -> str:
    lower, upper = [v for v in small if v is not None], [v for v in large if v is not None]
    if len(lower) < len(small) or len(upper) < len(large):
        return CANNOT
    if min(upper) > max(lower):
        return "rises"
    return "falls" if max(upper) < min(lower) else CANNOT


def interval(rungs: Sequence[Rung], rung: Rung, quantity: Quantity) -> tuple[float, float] | None:
    """Return a 95 % t interval on a rung's mean, from the variance of runs in rungs, pooled; not for one run or
    counts.
    """
    if quantity.name == "dead":
        return None
    groups = [[_scaled(v, quantity) for v in one.values(quantity) if v is not None] for one in rungs]
    groups = [group for group in groups if len(group) > 1 and np.isfinite(group).all()]
    freedom = sum(len(group) - 1 for group in groups)
    own = [float("nan") if v is None else _scaled(v, quantity) for v in rung.values(quantity)]
    if freedom == 0 or len(own) < 2 or not np.isfinite(own).all():
        return None
    variance = sum(float(np.var(group)) * len(group) for group in groups) / freedom
    half = float(stats.t.ppf(0.975, freedom)) * np.sqrt(variance / len(own))
    low, high = float(np.mean(own) - half), float(np.mean(own) + half)
    return (float(np.exp(low)), float(np.exp(high))) if quantity.log else (low, high)


def _scaled(value: float, quantity: Quantity) -> float:
    if not quantity.log:
        return value
    return float(np.log(value)) if value > 0 else float("-inf")


def mean_of(rung: Rung, quantity: Quantity) -> float | None:
    """Return the mean of a rung's runs, geometric where they differ by factors; None where a run has no value."""
    values = rung.values(quantity)
    if not values or None in values:
        return None
    own = [value for value in values if value is not None]
    if quantity.log and min(own) > 0:
        return float(np.exp(np.mean(np.log(own))))
    return float(np.mean(own))


def names_of(rungs: Sequence[Rung]) -> list[str]:
    """Return the forecasters with scores, in the order of their first rung."""
    return list(dict.fromkeys(name for rung in rungs for run in rung.runs for name in run.scores))


def order_in(run: LadderRun, state: str) -> list[str]:
    """Return the forecasters of a run in a state, best first; those that say the same by name."""
    known = _skills(run, state)
    return sorted(known, key=lambda name: (-known[name], name))


def rank_in(run: LadderRun, state: str, name: str) -> int | None:
    """Return one more than there are better ones, so that those that say the same share a rank; None without a
    score.
    """
    known = _skills(run, state)
    return 1 + sum(skill > known[name] for skill in known.values()) if name in known else None


def agreement(run: LadderRun, other: LadderRun, state: str) -> float:
    """Kendall's tau-b of two runs' orders of the forecasters that both have: 1 for one order, -1 for its reverse."""
    own, theirs = _skills(run, state), _skills(other, state)
    both = sorted(own.keys() & theirs.keys())
    return round(float(stats.kendalltau([own[name] for name in both], [theirs[name] for name in both]).statistic), 9)


def _skills(run: LadderRun, state: str) -> dict[str, float]:
    """Return skills to nine digits: the same forecasts, summed in another order, differ in the last of sixteen."""
    return {name: round(own[state].skill, 9) for name, own in run.scores.items() if state in own}
