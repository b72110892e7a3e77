"""The paper's claims and the rule that judges them: one figure per run, bounds on it, and a count of recipes.

Every claim becomes, for each variant of it and each error definition, a figure per run (a ratio, mostly). Bounds stated
with the claim turn the figure into a vote: yes, no, or none when it lies between them. Runs of one recipe share one
vote, so that more seeds of a recipe do not outvote the others. The verdict is "agree" when at least MAJORITY of the
recipes that have a figure vote yes, "disagree" when as many vote no, else "cannot tell". Nothing is tested for
significance: windows of one run are not independent, and the recipes are few.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

from leaderboard.paper.facts import paper
from leaderboard.paper.study import Value

Verdict = Literal["agree", "disagree", "cannot tell"]
VERDICTS: tuple[Verdict, ...] = ("agree", "disagree", "cannot tell")

MAJORITY = 0.8
"""Fraction of the recipes with a figure that must vote alike."""
MARGIN = 1.05
"""Factor by which two numbers must differ to count as different."""
FACTOR = 2.0
"""Factor within which a magnitude counts as that of the paper."""
NEAR_FLOOR = 1.25
"""An error of at most so many times its floor counts as at the floor."""
LEAST_ORIGINS = 3
"""Origins that a mean error must rest on to count."""
BACK = 0.05
"""Fraction of the steps after its onset that a stable layer may spend transient."""


class Bounds(NamedTuple):
    """A figure within [low, high] is a yes, one outside [no_low, no_high] a no, one between a vote for neither."""

    low: float
    high: float
    no_low: float
    no_high: float

    def vote(self, figure: Value) -> bool | None:
        """Yes, no, or None where there is no figure or it lies between the bounds."""
        if figure is None:
            return None
        if self.low <= figure <= self.high:
            return True
        return False if not self.no_low < figure < self.no_high else None


ABOVE = Bounds(MARGIN, math.inf, 1.0 / MARGIN, math.inf)
BELOW = Bounds(-math.inf, 1.0 / MARGIN, -math.inf, MARGIN)


def yes_between(low: float, high: float) -> Bounds:
    """Yes inside, no outside."""
    return Bounds(low, high, low, high)


class Claim(NamedTuple):
    """A claim of the paper, or a reading of its numbers; ``figure`` says what the figure of a run is."""

    key: str
    statement: str
    source: str
    figure: str
    rule: str


class Finding(NamedTuple):
    """A claim in one variant and column (an error definition or a statistic): the runs' figures, and the verdict."""

    claim: str
    variant: str
    column: str
    recipes: tuple[str, ...]
    figures: tuple[Value, ...]
    votes: tuple[bool | None, ...]

    def voted(self, vote: bool | None) -> Fraction:
        """Return how many recipes vote so; a recipe whose runs with a figure differ counts in parts."""
        cast = self._cast()
        runs = Counter(recipe for recipe, _ in cast)
        return sum((Fraction(1, runs[recipe]) for recipe, given in cast if given is vote), Fraction(0))

    @property
    def judged(self) -> int:
        """Return how many recipes have a figure."""
        return len({recipe for recipe, _ in self._cast()})

    @property
    def verdict(self) -> Verdict:
        """Return what at least MAJORITY of the recipes with a figure say."""
        if self.judged and self.voted(True) >= MAJORITY * self.judged:
            return "agree"
        return "disagree" if self.judged and self.voted(False) >= MAJORITY * self.judged else "cannot tell"

    def _cast(self) -> list[tuple[str, bool | None]]:
        """Recipe and vote of each run with a figure."""
        three = zip(self.recipes, self.figures, self.votes, strict=True)
        return [(recipe, vote) for recipe, figure, vote in three if figure is not None]


def judge(
    claim: str, variant: str, column: str, recipes: Sequence[str], figures: Iterable[Value], bounds: Bounds
) -> Finding:
    """Return the finding that the runs' figures make; ``recipes``: that of each run."""
    values = tuple(figures)
    return Finding(claim, variant, column, tuple(recipes), values, tuple(bounds.vote(value) for value in values))


def claims() -> tuple[Claim, ...]:
    """Return what is judged, in the order of the page: what `claims.toml` says, its numbers filled in."""
    onset = paper().onset
    values = {"margin": MARGIN, "less": 1 / MARGIN, "factor": FACTOR, "near_floor": NEAR_FLOOR, "back": BACK,
              "onset": onset.steps, "setup": onset.setup}  # fmt: skip
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["claims"]
    return tuple(Claim(**{name: text.format_map(values) for name, text in one.items()}) for one in listed)
