"""A part of docs/reports/results.md: by how much intervals narrowed from a full suite to the next, and which pairs of
forecasters can be told apart on the newer one.

Skill and pairs are those of the primary metric over all tasks of a state, for a new recipe; in both suites the same
forecasters are looked at, so that Holm corrects for as many pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leaderboard.committed import suites_with_results
from leaderboard.pages.headline import CLAIM
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import results_by_size
from leaderboard.ranking import pairs_apart
from leaderboard.suites.plan import near_twins
from moeload_bench.errors import ResultError
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.grid import NOTHING
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Interval
from moeload_bench.results.tables import skill_span
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import STATES, full_suites

Pair = tuple[str, str]
"""The better one first."""


@dataclass(frozen=True)
class Side:
    """One state of one suite: by forecaster its interval, and the pairs that can be told apart."""

    suite: str
    found: Mapping[str, Interval]
    apart: frozenset[Pair]
    twins: int
    """Near twins of other recipes that have a vote of their own all the same: the suite was frozen without groups."""

    @property
    def recipes(self) -> int:
        """Return on how many recipes the intervals rest; near twins that the suite groups are one."""
        return max(one.recipes for one in self.found.values())

    @property
    def excluding_zero(self) -> list[str]:
        """Forecasters whose interval lies on one side of the reference."""
        return [name for name, one in self.found.items() if one.low > 0 or one.high < 0]


def narrowing(old: Sequence[Result], new: Sequence[Result]) -> str:
    """Return a table per state, and what it comes to.

    Raises `ResultError` where a suite's reference has no result or a suite has too few recipes for an interval.
    """
    common = [result.name for result in new if result.name in {other.name for other in old}]
    sides = [_errors(results, common) for results in (old, new)]
    parts = []
    for state in STATES:
        if all(state in errors.state_T for errors, _ in sides):
            was, now = (
                _side(results[0].suite.name, errors.select(state=state), reference)
                for results, (errors, reference) in zip((old, new), sides, strict=True)
            )
            parts.append("\n\n".join(_state(state, was, now)))
    return "\n\n".join(parts)


def _errors(results: Sequence[Result], names: Sequence[str]) -> tuple[Errors, str]:
    reference = reference_of(results)
    if reference is None or reference.name not in names:
        raise ResultError(f"{results[0].suite.name}: the reference is not among the results that both suites have")
    by_name = {result.name: result for result in results}
    return errors_of([by_name[name] for name in names], PRIMARY), reference.name


def _side(suite: str, errors: Errors, reference: str) -> Side:
    found = {}
    for name in errors.by_forecaster:
        spans = [one for one in skill(errors, name, reference)[1] if one.claim == CLAIM]
        if not spans:
            raise ResultError(f"{suite}: too few recipes for an interval on {CLAIM}")
        if name != reference:
            found[name] = spans[0]
    apart = pairs_apart(errors.by_forecaster, errors.tasks)
    assert apart is not None, "recipes enough for intervals are enough for tests"
    groups = () if errors.tasks.twins else near_twins(errors.tasks.recipe_T)
    return Side(suite, found, apart, sum(len(group) - 1 for group in groups))


def _state(state: str, was: Side, now: Side) -> Iterator[str]:
    rows, ratios = [], []
    for name in sorted(now.found, key=lambda name: -now.found[name].skill):
        before, after = was.found[name], now.found[name]
        width = before.high - before.low
        ratios.append((after.high - after.low) / width if width else np.nan)
        spans = (skill_span(one.skill, (one,)) for one in (before, after))
        rows.append((f"`{name}`", *spans, f"{ratios[-1]:.2f}" if width else NOTHING))
    yield markdown_table((state, was.suite, now.suite, "width, ratio"), rows)
    count = (len(now.found) + 1) * len(now.found) // 2
    yield (
        f"{state}: the median ratio of widths is {np.nanmedian(ratios):.2f}; intervals rest on {_votes(now)} in "
        f"{now.suite}, on {_votes(was)} in {was.suite}. Intervals that exclude zero: "
        f"{len(was.excluding_zero)} of {len(was.found)} in {was.suite}, {len(now.excluding_zero)} in {now.suite}. "
        f"Pairs told apart: {len(was.apart)} of {count} in {was.suite}, {len(now.apart)} in {now.suite}."
    )
    for words, pairs in (
        (f"Only in {now.suite}", now.apart - was.apart),
        (f"Only in {was.suite}", was.apart - now.apart),
    ):
        if pairs:
            yield f"{words}: {_by_better(pairs)}."


def _votes(side: Side) -> str:
    singly = f" ({side.twins} of them near twins of others, which it counts singly)" if side.twins else ""
    return f"{side.recipes} recipes{singly}"


def _by_better(pairs: frozenset[Pair]) -> str:
    """Pairs in words: each better one once, with all that it is told from."""
    better = sorted({one for one, _ in pairs})
    return "; ".join(
        f"`{one}` before {', '.join(f'`{other}`' for first, other in sorted(pairs) if first == one)}" for one in better
    )


def _part() -> str:
    """Return the two newest full suites with results; of one with both sizes of batch, the first."""
    full = full_suites(suites_with_results())
    if len(full) < 2:
        return "One full suite has results so far."
    return narrowing(*(next(iter(results_by_size(name).values())) for name in full[-2:]))


PARTS: Mapping[str, Maker] = {"narrowing": _part}
