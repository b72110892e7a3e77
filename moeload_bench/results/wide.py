"""The wide table of a report: every horizon, excess, intervals, costs and floors."""

from __future__ import annotations

import math
from collections.abc import Callable

from moeload_bench.results.captions import report_caption
from moeload_bench.results.columns import floor_marks
from moeload_bench.results.formats import DASH, marked_floor, signed_percent, span, three_digits
from moeload_bench.results.render import Table
from moeload_bench.results.report import Report, ReportRow
from moeload_bench.scoring.floors import FLOOR_NAMES


def metric_table(report: Report, costs: bool = True, name: str = "{}", floor: str = "{}") -> Table:
    """Return the rows of a report: error (and excess) at each horizon, and skill; with what forecasts cost, or in
    percent what plans do. ``name`` and ``floor`` are how the names of forecasters and of floors are written.
    """
    of_plans = "@" in report.metric and report.ratio is not None
    last: dict[str, Callable[[ReportRow], str]] = {"skill": skill_text}
    last |= {"ms": ms, "% train": training} if costs else {"imbalance, %": imbalance_percent} if of_plans else {}
    marks = floor_marks(report.results.facts)
    rows: list[tuple[str, ...]] = []
    quiet = set()
    for state in report.states:
        for row in report.rows_in(state):
            marked = name.format(row.forecaster) + row.mark
            rows.append((state, marked, *error_cells(row), *(cell(row) for cell in last.values())))
        for key in FLOOR_NAMES:
            if value_K := report.floors.get((state, key)):
                quiet.add(len(rows))
                cells = map(three_digits, value_K)
                rows.append((state, floor.format(marked_floor(key, marks)), *cells, *[""] * len(last)))
    lines = report_caption(report).split("\n")
    if not costs:
        lines = [line for line in lines if not line.startswith("ms:")]
        lines += ["imbalance, %: of the plans, against that of the reference's plans; less is better."] * of_plans
    heads = ("state", "forecaster", *(f"h = {horizon}" for horizon in report.horizons), *last)
    return Table("\n".join(lines), heads, tuple(rows), 2, quiet=frozenset(quiet))


def error_cells(row: ReportRow, zeros: bool = False) -> list[str]:
    """Return `error (excess)` at each horizon; only the error where there is no floor."""
    if not row.excess_K:
        return [three_digits(value, zeros) for value in row.value_K]
    return [
        three_digits(value, zeros) + ("" if zeros and math.isnan(over) else f" ({three_digits(over, zeros)})")
        for value, over in zip(row.value_K, row.excess_K, strict=True)
    ]


def ms(row: ReportRow) -> str:
    """Return milliseconds per answered origin, observing included."""
    return three_digits(row.ms)


def training(row: ReportRow) -> str:
    """Return per cent of the recorded training time."""
    return three_digits(100 * row.training)


def imbalance_percent(row: ReportRow) -> str:
    """Format the imbalance of a forecaster's plans against that of the reference's, in percent, from a row of plans.

    Skill is a ratio of imbalances, near 0 by nature: this says how much it is.
    """
    return DASH if math.isnan(row.skill) else signed_percent(-row.skill)


def skill_text(row: ReportRow) -> str:
    """Return skill with its intervals by claim; n/a where there are too few recipes for any."""
    if math.isnan(row.skill):
        return DASH
    claims = {"a new recipe": (row.low, row.high), "these recipes, new seeds": row.seeds}
    spans = "; ".join(f"{claim} {span(*ends, 3)}" for claim, ends in claims.items() if not math.isnan(ends[0]))
    return f"{row.skill:+.3f} {spans or '(n/a)'}"
