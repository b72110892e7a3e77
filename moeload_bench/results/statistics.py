"""What results allow to conclude: skill, win rate, two intervals, Holm, ranks (docs/methods/statistics.md).

Windows, layers and experts of one training run are not independent, and recipes are few, so nothing here resamples
windows. All of it works on the logarithm of the ratio of a forecaster's error to the reference's on the same task.

Axis letters: T tasks, F forecasters, R runs, C recipes, G groups of near twins, which have one vote.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ResultError, not_found
from moeload_bench.traces.means import ratio_of

Claim = Literal["these recipes, new seeds", "a new recipe"]

CLIP = 20.0
"""Ratios are kept within [1 / CLIP, CLIP]: one task cannot decide a mean."""
EXACT = 1e-12
"""Errors below this, and differences of errors up to it, are rounding."""
MIN_RECIPES = 5
"""With fewer recipes no interval and no test is given."""
Runs = Mapping[str, FloatArray]
"""By recipe, the mean log ratio of each of its runs [R]."""


@dataclass(frozen=True)
class Interval:
    """A t interval on skill. ``recipes`` (near twins are one) and ``runs`` say on how much it rests."""

    claim: Claim
    skill: float
    low: float
    high: float
    confidence: float
    recipes: int
    runs: int


@dataclass(frozen=True, eq=False)
class Tasks:
    """Which run and which recipe each task belongs to; ``run_T`` is unique over recipes (a trace's id).

    ``twins``: recipes that are near twins have the same name there, and one vote together.
    """

    recipe_T: Sequence[str]
    run_T: Sequence[str]
    twins: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_run(self) -> tuple[NDArray[np.intp], list[str]]:
        """Return the number of each task's run [T], in the order in which runs come, and each run's recipe."""
        recipes = dict(zip(self.run_T, self.recipe_T, strict=True))
        number = {run: r for r, run in enumerate(recipes)}
        return np.array([number[run] for run in self.run_T], dtype=np.intp), list(recipes.values())


class Spread(NamedTuple):
    """The variance of one run's mean log ratio within its recipe, NaN without freedom, and its degrees of freedom."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class PairedTest:
    """A paired t test over recipe means, corrected by Holm within its family; p None with too few recipes."""

    forecaster: str
    against: str
    skill: float
    p: float | None
    p_holm: float | None


def log_ratio(error_T: FloatArray, reference_T: FloatArray) -> FloatArray:
    """Return the log of error / reference, clipped to +-log CLIP; [T].

    Errors below EXACT count as 0, and two errors of 0 are equal (0). NaN where either does not exist.
    """
    error, reference = (np.asarray(each, dtype=np.float64) for each in (error_T, reference_T))
    error, reference = (np.where(np.abs(each) < EXACT, 0.0, each) for each in (error, reference))
    ratio = np.full(np.broadcast_shapes(error.shape, reference.shape), np.nan)
    known = np.isfinite(error) & np.isfinite(reference)
    np.divide(error, reference, out=ratio, where=known & (reference > 0))
    ratio[known & (reference == 0)] = CLIP
    ratio[known & (reference == 0) & (error == 0)] = 1.0
    return np.asarray(np.log(np.clip(ratio, 1.0 / CLIP, CLIP)))


def alike(known_XN: NDArray[np.bool_]) -> list[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Return the different rows, each with where it is; none of rows without places."""
    if not known_XN.size:
        return []
    places: dict[bytes, list[int]] = {}
    bits = np.ascontiguousarray(np.packbits(known_XN, axis=1))
    for x, row in enumerate(bits.view(f"V{bits.shape[1]}").ravel().tolist()):
        places.setdefault(row, []).append(x)
    return [(np.array(at, dtype=np.intp), known_XN[at[0]]) for at in places.values()]


@dataclass(frozen=True, eq=False)
class RunMeans:
    """Mean log ratios of runs, [F, R], NaN for a run without a ratio; each run's recipe and who has one vote together.

    With as many tasks per run and runs per recipe, and without near twins, a mean of votes is the mean over tasks.
    """

    mean_FR: FloatArray
    recipe_R: tuple[str, ...]
    group_R: tuple[str, ...]

    @classmethod
    def of(cls, log_ratio_FT: FloatArray, tasks: Tasks) -> RunMeans:
        """Return the means over each run's tasks."""
        number_T, recipe_R = tasks.by_run
        F, R = len(log_ratio_FT), len(recipe_R)
        place_FT = number_T + R * np.arange(F)[:, None]
        known_FT = np.isfinite(log_ratio_FT)
        place, ratio = place_FT[known_FT], log_ratio_FT[known_FT]
        count, total = np.bincount(place, minlength=F * R), np.bincount(place, weights=ratio, minlength=F * R)
        return cls.of_sums(np.asarray(total.reshape(F, R), np.float64), count.reshape(F, R), tasks)

    @classmethod
    def of_sums(cls, total_FR: FloatArray, count_FR: NDArray[np.intp], tasks: Tasks) -> RunMeans:
        """Return the means of which each run's sum of log ratios and their number are known."""
        _, recipe_R = tasks.by_run
        groups = tuple(tasks.twins.get(name, name) for name in recipe_R)
        return cls(ratio_of(total_FR, count_FR), tuple(recipe_R), groups)

    def on(self, at: Sequence[int]) -> RunMeans:
        """Return the means of the runs at these places."""
        names = ((self.recipe_R, self.group_R) if len(at) == len(self.recipe_R) else
                 (tuple(names[i] for i in at) for names in (self.recipe_R, self.group_R)))  # fmt: skip
        return RunMeans(self.mean_FR[:, at], *names)

    def by_recipe(self, i: int) -> dict[str, FloatArray]:
        """Return the means of each recipe's runs of one forecaster, those without a ratio left out."""
        means: dict[str, list[float]] = {}
        for recipe, mean in zip(self.recipe_R, self.mean_FR[i].tolist(), strict=True):
            if not np.isnan(mean):
                means.setdefault(recipe, []).append(mean)
        return {recipe: np.array(runs) for recipe, runs in means.items()}

    @cached_property
    def votes(self) -> list[_Votes]:
        """Return the means by group of near twins: forecasters with ratios on the same runs together."""
        found = []
        for at_F, pattern_R in alike(~np.isnan(self.mean_FR)):
            at_R = np.flatnonzero(pattern_R)
            if at_R.size:
                layout = _layout(*(tuple(names[i] for i in at_R) for names in (self.recipe_R, self.group_R)))
                found.append(_Votes(at_F, layout, self.mean_FR[np.ix_(at_F, at_R[layout.order_R])]))
        return found

    @cached_property
    def skill_F(self) -> FloatArray:
        """Return 1 - geometric mean of the error ratios: over tasks, runs, recipes, groups; NaN without any task."""
        found_F = np.full(len(self.mean_FR), np.nan)
        for votes in self.votes:
            found_F[votes.at_F] = 1.0 - np.exp(votes.center_F)
        return found_F

    @cached_property
    def p_F(self) -> FloatArray:
        """Return the two-sided p of "no difference on a new recipe", a t test on recipes; NaN with too few of them."""
        found_F = np.full(len(self.mean_FR), np.nan)
        for votes in self.votes:
            if votes.groups >= MIN_RECIPES:
                found_F[votes.at_F] = votes.p_F
        return found_F

    def intervals(self, claim: Claim, confidence: float = 0.95) -> list[Interval | None]:
        """Return the interval of each forecaster, as `interval`."""
        found: list[Interval | None] = [None] * len(self.mean_FR)
        for votes, half_F in self._halves(claim, confidence):
            ends = (votes.center_F, votes.center_F + half_F, votes.center_F - half_F)
            columns = zip(votes.at_F.tolist(), *((1.0 - np.exp(each_F)).tolist() for each_F in ends), strict=True)
            for i, middle, low, high in columns:
                found[i] = Interval(claim, middle, low, high, confidence, votes.groups, len(votes.layout.order_R))
        return found

    def ends(self, claim: Claim, confidence: float = 0.95) -> FloatArray:
        """Return the lower and the upper end of each forecaster's interval, [F, 2]; NaN where there is none."""
        found_F2 = np.full((len(self.mean_FR), 2), np.nan)
        for votes, half_F in self._halves(claim, confidence):
            found_F2[votes.at_F, 0] = 1.0 - np.exp(votes.center_F + half_F)
            found_F2[votes.at_F, 1] = 1.0 - np.exp(votes.center_F - half_F)
        return found_F2

    def _halves(self, claim: Claim, confidence: float) -> Iterator[tuple[_Votes, FloatArray]]:
        """Yield half the width of each interval, on the logarithm, where there are recipes and runs enough."""
        for votes in self.votes:
            if votes.groups < MIN_RECIPES:
                continue
            error_F, freedom = votes.new_recipe if claim == "a new recipe" else votes.new_seeds
            if freedom >= 1:
                yield votes, t_quantile(freedom, confidence) * error_F


class _Layout(NamedTuple):
    """An order of runs in which those of a recipe, and recipes of a group, are together, and where each begins."""

    order_R: NDArray[np.intp]
    runs_C: NDArray[np.intp]
    recipes_G: NDArray[np.intp]

    @property
    def first_C(self) -> NDArray[np.intp]:
        return np.cumsum(self.runs_C) - self.runs_C

    @property
    def first_G(self) -> NDArray[np.intp]:
        return np.cumsum(self.recipes_G) - self.recipes_G


@lru_cache(maxsize=1024)
def _layout(recipe_R: tuple[str, ...], group_R: tuple[str, ...]) -> _Layout:
    groups: dict[str, dict[str, list[int]]] = {}
    for r, (recipe, group) in enumerate(zip(recipe_R, group_R, strict=True)):
        groups.setdefault(group, {}).setdefault(recipe, []).append(r)
    runs = [runs for recipes in groups.values() for runs in recipes.values()]
    order, sizes, counts = [r for each in runs for r in each], list(map(len, runs)), list(map(len, groups.values()))
    return _Layout(np.array(order, np.intp), np.array(sizes, np.intp), np.array(counts, np.intp))


class _Votes:
    """Means of forecasters that have ratios on the same runs, in the order of a layout; C recipes, G groups."""

    def __init__(self, at_F: NDArray[np.intp], layout: _Layout, mean_FR: FloatArray) -> None:
        self.at_F, self.layout, self._mean_FR = at_F, layout, mean_FR
        self._recipe_FC = np.add.reduceat(mean_FR, layout.first_C, axis=1) / layout.runs_C
        self._group_FG = np.add.reduceat(self._recipe_FC, layout.first_G, axis=1) / layout.recipes_G
        self.center_F: FloatArray = self._group_FG.mean(axis=1)

    @property
    def groups(self) -> int:
        return len(self.layout.recipes_G)

    @cached_property
    def new_recipe(self) -> tuple[FloatArray, int]:
        """Return standard error and degrees of freedom for a recipe not seen: from the variance of the votes."""
        return self._group_FG.std(axis=1, ddof=1) / np.sqrt(self.groups), self.groups - 1

    @cached_property
    def new_seeds(self) -> tuple[FloatArray, int]:
        """Return standard error and degrees of freedom for new seeds: runs vary, recipes are fixed."""
        runs_C, recipes_G = self.layout.runs_C, self.layout.recipes_G
        freedom = int((runs_C - 1).sum())
        if freedom < 1:
            return np.full(len(self.at_F), np.nan), 0
        off_FR = self._mean_FR - np.repeat(self._recipe_FC, runs_C, axis=1)
        variance_F = np.add.reduceat(off_FR**2, self.layout.first_C, axis=1).cumsum(axis=1)[:, -1] / freedom
        weight_C = np.repeat(1.0 / (self.groups * recipes_G), recipes_G)
        return np.sqrt(variance_F * sum((weight_C**2 / runs_C).tolist())), freedom

    @property
    def p_F(self) -> FloatArray:
        from scipy.special import stdtr

        error_F, freedom = self.new_recipe
        exact_F = error_F == 0.0
        p_F = 2.0 * stdtr(freedom, -np.abs(self.center_F) / np.where(exact_F, 1.0, error_F))
        return np.where(exact_F, np.where(self.center_F == 0.0, 1.0, 0.0), p_F)


def skill(log_ratio_T: FloatArray, tasks: Tasks) -> float:
    """Return 1 - geometric mean of the error ratios: over tasks, runs, recipes, groups of twins; NaN without any task.

    With as many tasks per run and runs per recipe, and without near twins, this is the mean over tasks.
    """
    return float(RunMeans.of(np.asarray(log_ratio_T)[None], tasks).skill_F[0])


def interval(log_ratio_T: FloatArray, tasks: Tasks, claim: Claim, confidence: float = 0.95) -> Interval | None:
    """Return a t interval on skill for one of the two claims; None (print ``n/a``) with fewer than MIN_RECIPES recipes,
    near twins counted as one.

    ``these recipes, new seeds``: the standard error comes from the pooled variance of runs within recipes; also None
    when no recipe has two runs. ``a new recipe``: from the variance of the recipe means. Raise `NotFoundError` for
    another claim.
    """
    if claim not in get_args(Claim):
        raise not_found("claim", claim, get_args(Claim))
    return RunMeans.of(np.asarray(log_ratio_T)[None], tasks).intervals(claim, confidence)[0]


def compare(errors: Mapping[str, FloatArray], against: str, tasks: Tasks) -> list[PairedTest]:
    """Return every other forecaster against one: the reference, or the leader. One family for Holm's correction.

    Raise `ResultError` when ``against`` is not among the forecasters.
    """
    if against not in errors:
        raise ResultError(f"no results of {against!r} to compare with; there is: {', '.join(errors)}")
    names = [name for name in errors if name != against]
    if not names:
        return []
    means = RunMeans.of(log_ratio(np.stack([errors[name] for name in names]), errors[against]), tasks)
    p_values = [None if np.isnan(p) else p for p in means.p_F.tolist()]
    corrected = iter(holm([p for p in p_values if p is not None]))
    rows = zip(names, means.skill_F.tolist(), p_values, strict=True)
    return [PairedTest(name, against, found, p, None if p is None else next(corrected)) for name, found, p in rows]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down correction (1979), in the order given."""
    count = len(p_values)
    corrected, worst = [0.0] * count, 0.0
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (count - rank) * p_values[i]))
        corrected[i] = worst
    return corrected


def told_apart(names: Sequence[str], skill_P: FloatArray, p_P: FloatArray) -> frozenset[tuple[str, str]] | None:
    """Return the pairs that can be told apart, the better one first; None where a pair cannot be tested.

    P: the pairs of names, as `itertools.combinations` gives them; the second one's skill against the first, and its p,
    NaN for none. All pairs are tested, Holm over them, at a level of 0.05.
    """
    if np.isnan(p_P).any():
        return None
    pairs = zip(itertools.combinations(names, 2), skill_P.tolist(), holm(p_P.tolist()), strict=True)
    return frozenset(pair[::-1] if skill > 0 else pair for pair, skill, p in pairs if p < 0.05)


def possible_ranks(names: Sequence[str], apart: Collection[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Return the least and the greatest rank of each forecaster, from the pairs that can be told apart, better first.

    If Holm's correction was over all pairs at a level of 0.05, with probability 0.95 at least every set holds the true
    rank, all of them at once (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91).
    """
    better, worse = Counter(first for first, _ in apart), Counter(second for _, second in apart)
    return {name: (1 + worse[name], len(names) - better[name]) for name in names}


def best_in_hindsight(errors: Mapping[str, FloatArray], tasks: Tasks) -> str | None:
    """Return the forecaster with the least geometric mean error over the tasks: chosen on the scores, so not a fair
    entry.
    """
    if not errors:
        return None
    base = next(iter(errors.values()))
    return max(errors, key=lambda name: skill(log_ratio(errors[name], base), tasks))


def run_means(log_ratio_T: FloatArray, tasks: Tasks) -> dict[str, FloatArray]:
    """Return the means of each recipe's runs; tasks without a ratio are left out, and so are runs without tasks."""
    return RunMeans.of(np.asarray(log_ratio_T)[None], tasks).by_recipe(0)


def skill_of(mean_log_ratio: float) -> float:
    """Return the skill of a mean log ratio: how much less error than the reference, as a fraction."""
    return float(1.0 - np.exp(mean_log_ratio))


def seed_spread(sets: Iterable[Runs]) -> Spread:
    """Return the variance of runs within recipes, pooled over all recipes of all sets of runs."""
    groups = [runs_R for runs in sets for runs_R in runs.values()]
    freedom = sum(len(runs_R) - 1 for runs_R in groups)
    if freedom < 1:
        return Spread(float("nan"), 0)
    return Spread(sum(float(((runs_R - runs_R.mean()) ** 2).sum()) for runs_R in groups) / freedom, freedom)


@lru_cache(maxsize=1024)
def t_quantile(freedom: int, confidence: float) -> float:
    """Return the half width of a two-sided t interval in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + 0.5 * confidence))
