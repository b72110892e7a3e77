"""The paper's claims and the rule that judges them: one figure per run, bounds on it, and a count of recipes.

Every claim becomes, for each variant of it and each error definition, a figure per run (a ratio, mostly). Bounds stated
with the claim turn the figure into a vote: yes, no, or none when it lies between them. Runs of one recipe share one
vote, so that more seeds of a recipe do not outvote the others. The verdict is "agree" when at least MAJORITY of the
recipes that have a figure vote yes, "disagree" when as many vote no, else "cannot tell". Nothing is tested for
significance: windows of one run are not independent, and the recipes are few.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
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
    """Return what is judged, in the order of the page."""
    facts = paper()
    apart = f"agree at {MARGIN:g} or more, disagree at {1 / MARGIN:.3g} or less"
    lower = f"agree at {1 / MARGIN:.3g} or less, disagree at {MARGIN:g} or more"
    return (
        Claim("settles", "Expert loads go from fluctuating to stable", "title, figures 1 to 4, 10 and 11",
              "largest fraction of the steps after its onset that a layer spends transient again",
              f"agree when every layer has an onset and the figure is at most {BACK:g}; disagree otherwise"),
        Claim("calmer", "The sliding statistics fall once the stable state is reached", "figures 2 to 4, 10 and 11",
              "mean of the statistic before the last layer's onset over that after it", apart),
        Claim("onset", f"The stable state begins after about {facts.onset.steps:,} iterations", facts.onset.setup,
              f"step at which the last layer becomes stable, over {facts.onset.steps:,}",
              f"agree within a factor of {FACTOR:g}; disagree otherwise"),
        Claim("first", "The first MoE layer fluctuates most", "figures 1 to 4 (125M)",
              "the statistic of the first MoE layer over that of the largest other layer", apart),
        Claim("transient", "The transient state is harder to forecast than the stable one", "figures 5 to 9",
              "error in the transient state over error in the stable state", apart),
        Claim("sw-arima", "SW_Avg is more accurate than ARIMA in the stable state", "stable-state errors",
              "error of SW_Avg over error of ARIMA", lower),
        Claim("arima-lstm", "ARIMA is more accurate than LSTM in the stable state",
              "stable-state errors; for LSTM only upper bounds are given", "error of ARIMA over error of LSTM", lower),
        Claim("longer", "The next 2,000 iterations are harder than the next 1,000", "350M, SW_Avg; abstract",
              "error at the longer horizon over error at the shorter, on the same origins", apart),
        Claim("size", "The errors are of the reported size in the stable state", "stable-state errors",
              "error",
              f"agree from the least reported value over {FACTOR:g} to the largest times {FACTOR:g} (from 0 where only "
              "upper bounds are reported); disagree otherwise"),
        Claim("floor", "Errors in the stable state lie at the sampling floor (a reading of the 350M figures, "
              "not a claim of the paper)", "350M, SW_Avg, with assumptions stated below",
              "error over the floor", f"agree up to {NEAR_FLOOR:g}; disagree above"),
    )  # fmt: skip
