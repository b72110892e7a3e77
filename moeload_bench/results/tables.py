"""Tables of texts, before anybody draws them: what is in each cell, and how numbers are written.

`results.console`, `results.markdown` and `results.html` render a `Table`; nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from moeload_bench.results.board import Board, Row
from moeload_bench.results.captions import DASH, table_caption
from moeload_bench.scoring.floors import FLOOR_NAMES

T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns. The caption says what a row is, what a column is, and which direction is better.

    Columns ``numbers_from`` up to ``numbers_to`` are numbers, the others text; the ``quiet`` rows, by number, are
    floors.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers_from: int = 1
    numbers_to: int = 99
    quiet: frozenset[int] = field(default_factory=frozenset)

    def numeric(self, column: int) -> bool:
        """Return whether a column is one of numbers, which stand at its right."""
        return self.numbers_from <= column < self.numbers_to


def table_of(
    caption: str, records: Iterable[T], columns: Mapping[str, Callable[[T], object]], numbers_to: int
) -> Table:
    """Make a table of a record per row, and a function of the record per column."""
    rows = tuple(tuple(str(cell(record)) for cell in columns.values()) for record in records)
    return Table(caption, tuple(columns), rows, numbers_to=numbers_to)


def metric_table(board: Board, costs: bool = True, name: str = "{}", floor: str = "{}") -> Table:
    """Return the rows of a board: error (and excess) at each horizon, and skill; with what forecasts cost, or in
    percent what plans do. ``name`` and ``floor`` are how the names of forecasters and of floors are written.
    """
    of_plans = "@" in board.metric and board.ratio is not None
    last: dict[str, Callable[[Row], str]] = {"skill": skill_text}
    last |= {"ms": ms, "% train": training} if costs else {"imbalance, %": imbalance_percent} if of_plans else {}
    marks = board.results.floor_marks()
    rows: list[tuple[str, ...]] = []
    quiet = set()
    for state in board.states:
        for row in board.rows(state):
            marked = name.format(row.forecaster) + board.mark(row)
            rows.append((state, marked, *error_cells(row), *(cell(row) for cell in last.values())))
        for key in FLOOR_NAMES:
            if value_K := board.floor(state, key):
                quiet.add(len(rows))
                found = map(three_digits, value_K)
                rows.append((state, floor.format(marked_floor(key, marks)), *found, *[""] * len(last)))
    lines = table_caption(board).split("\n")
    if not costs:
        lines = [line for line in lines if not line.startswith("ms:")]
        lines += ["imbalance, %: of the plans, against that of the reference's plans; less is better."] * of_plans
    heads = ("state", "forecaster", *(f"h = {horizon}" for horizon in board.horizons), *last)
    return Table("\n".join(lines), heads, tuple(rows), 2, quiet=frozenset(quiet))


def horizon_heads(horizons: Sequence[int]) -> tuple[str, ...]:
    """Return `h = 1`, `h = 1,000`, ..."""
    return tuple(f"h = {horizon:,}" for horizon in horizons)


def marked_floor(floor: str, marks: Mapping[str, str]) -> str:
    """Return a floor's name, with how far it can be trusted where it is not exact."""
    mark = marks.get(floor, "exact")
    return floor if mark == "exact" else f"{floor} ({mark})"


def error_cells(row: Row, zeros: bool = False) -> list[str]:
    """Return `error (excess)` at each horizon; only the error where there is no floor."""
    if not row.excess_K:
        return [three_digits(value, zeros) for value in row.value_K]
    return [
        three_digits(value, zeros) + ("" if zeros and math.isnan(over) else f" ({three_digits(over, zeros)})")
        for value, over in zip(row.value_K, row.excess_K, strict=True)
    ]


def ms(row: Row) -> str:
    """Return milliseconds per answered origin, observing included."""
    return three_digits(row.ms)


def training(row: Row) -> str:
    """Return per cent of the recorded training time."""
    return three_digits(100 * row.training)


def imbalance_percent(row: Row) -> str:
    """Format the imbalance of a forecaster's plans against that of the reference's, in percent, from a row of plans.

    Skill is a ratio of imbalances, near 0 by nature: this says how much it is.
    """
    return DASH if math.isnan(row.skill) else signed_percent(-row.skill)


def signed_percent(part: float) -> str:
    """Format a fraction as a percentage with its sign."""
    return f"{100 * part + 0.0:+.1f}"


def skill_text(row: Row) -> str:
    """Return skill with its intervals by claim; n/a where there are too few recipes for any."""
    if math.isnan(row.skill):
        return DASH
    claims = {"a new recipe": (row.low, row.high), "these recipes, new seeds": row.seeds}
    spans = "; ".join(f"{claim} {span(*ends, 3)}" for claim, ends in claims.items() if not math.isnan(ends[0]))
    return f"{row.skill:+.3f} {spans or '(n/a)'}"


def skill_span(skill: float, low: float, high: float) -> str:
    """Return skill, with the interval for a new recipe where there is one."""
    return f"{skill:+.3f}" if math.isnan(low) else f"{skill:+.3f} {span(low, high)}"


def span(low: float, high: float, digits: int = 2) -> str:
    """Return the ends of an interval."""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def signed(value: float, digits: int = 3) -> str:
    """Format with a sign and ``digits`` decimals, adding up to six so that a non-zero value never prints as 0.

    An end of an interval that reads -0.00 says neither how far nor on which side it lies.
    """
    if abs(value) >= 10.0**-digits:
        return f"{value:+.{digits}f}"
    shown = next((n for n in range(digits, 7) if round(value, n)), None)
    return f"{0.0:+.{digits}f}" if shown is None else f"{value:+.{shown}f}"


def signed_skill(value: float | None) -> str:
    """Format a skill with three decimals and its sign."""
    return DASH if value is None or not math.isfinite(value) else f"{value + 0.0:+.3f}"


def three_digits(value: float | None, zeros: bool = False) -> str:
    """Format with three significant digits, "-" for nothing; ``zeros`` keeps zeros at the end, for columns."""
    if value is None or not math.isfinite(value):
        return DASH
    if not zeros:
        return f"{value:.3g}"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
