"""Result tables for a terminal of 80 columns: one per state, few columns, in the order of skill.

The rest is in the wide table (`moeload_bench.results.wide`) and in `Results.table`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moeload_bench.errors import counted
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.captions import better_words, span_words
from moeload_bench.results.formats import DASH, signed_skill, span
from moeload_bench.results.render import Table, draw_table
from moeload_bench.results.report import Report, ReportRow, has_metric, report_of
from moeload_bench.results.results import Results
from moeload_bench.results.wide import imbalance_percent
from moeload_bench.scoring.catalogue import has_skill, plain_name
from moeload_bench.suites.suite import STATES

LONG_NAME = 20
"""Columns of a forecaster's name; a longer one has a short name in the table."""
MOST_NAME = 26
"""Columns of a short name; a longer one goes on in the next line."""
GAP = 2
FLOOR = "(noise floor)"
MIDDLE = 100
"""The horizon nearest to this one is the first to be shown, and that of the plans' column."""


def brief_tables(results: Results, metric: str, width: int) -> Iterator[Any]:
    """Yield a heading and a table for each state, then what the columns mean; nothing without the metric."""
    if not has_metric(results, metric):
        return
    report = report_of(results, metric)
    of_plans = f"regret@{HEADLINE}"
    plans = report_of(results, of_plans) if has_skill(metric) and has_metric(results, of_plans) else None
    short = short_names(results.names)
    yield ""
    yield f"Suite {results.suite.name}, {counted(len(results.traces), 'run')}."
    for state in (state for state in report.states if state in STATES):
        rows = report.rows_in(state)
        yield ""
        yield f"{state}, {plain_name(metric)} ({metric}): {span_words(rows).removeprefix(f'{state} ')}"
        table = _table(report, plans, rows, short, width)
        yield draw_table(table, most_name=MOST_NAME)
        yield from _absent(report, rows, table.heads)
    yield ""
    yield from (f"{name}: {target}" for target, name in short.items())
    yield from _legend(report, plans)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return a short name for each of more than `LONG_NAME` columns: its class, numbered where another has it."""
    taken = {name for name in names if len(name) <= LONG_NAME}
    short: dict[str, str] = {}
    for name in names:
        if name not in taken:
            base = name.partition("@")[0].rpartition(":")[2]
            numbered = itertools.chain([base], (f"{base}.{n}" for n in itertools.count(2)))
            short[name] = next(candidate for candidate in numbered if candidate not in taken)
            taken.add(short[name])
    return short


def _table(
    report: Report, plans: Report | None, rows: Sequence[ReportRow], short: Mapping[str, str], width: int
) -> Table:
    state = rows[0].state
    columns: dict[str, list[str]] = {}
    if any(not math.isnan(row.skill) for row in rows):
        columns["skill"] = [signed_skill(row.skill) for row in rows]
    if any(not math.isnan(row.low) for row in rows):
        columns["95 %"] = ["n/a" if math.isnan(row.low) else span(row.low, row.high) for row in rows]
    if plans is not None:
        excess = {row.forecaster: row.value_K[_middle(report)] for row in plans.rows_in(state)}
        columns["plan %"] = [_percent(excess.get(row.forecaster, math.nan)) for row in rows]
    elif report.ratio != report.metric and "skill" in columns:
        columns["imbal. %"] = [imbalance_percent(row) for row in rows]
    columns["ms"] = [_milliseconds(row.ms) for row in rows]
    names = [f"{short.get(row.forecaster, row.forecaster)}{row.mark}{'*' if row.falls_back else ''}" for row in rows]
    taken = min(MOST_NAME, max(map(len, [*names, "forecaster", FLOOR]))) + sum(
        GAP + max(map(len, [head, *cells])) for head, cells in columns.items()
    )
    shown = _horizons(report, rows, width - taken)
    heads = ("forecaster", *(f"h={report.horizons[k]:,}" for k in shown), *columns)
    cells = zip(*columns.values(), strict=True)
    lines = [(name, *(_short(row.value_K[k]) for k in shown), *more)
             for name, row, more in zip(names, rows, cells, strict=True)]  # fmt: skip
    if floor_K := report.floors.get((state, "floor_batch")):
        lines.append((FLOOR, *(_short(floor_K[k], least=0.001) for k in shown)))
    return Table("", heads, tuple(lines), quiet=frozenset([len(rows)]))


def _horizons(report: Report, rows: Sequence[ReportRow], room: int) -> list[int]:
    """Return numbers of the horizons for which there is room: the middle one first, then the ends, then the others.

    Horizons without a value are left out.
    """
    valued = [k for k in range(len(report.horizons)) if not all(math.isnan(row.value_K[k]) for row in rows)]
    order = [k for k in dict.fromkeys([_middle(report), *valued[-1:], *valued]) if k in valued]
    shown: list[int] = []
    for k in order:
        cells = [_short(row.value_K[k]) for row in rows]
        room -= GAP + max(map(len, [f"h={report.horizons[k]:,}", *cells]))
        if room < 0 and shown:
            break
        shown.append(k)
    return sorted(shown)


def _absent(report: Report, rows: Sequence[ReportRow], heads: Sequence[str]) -> Iterator[str]:
    """Yield which horizons the table has no column of, and why."""
    hidden = [k for k, h in enumerate(report.horizons) if f"h={h:,}" not in heads]
    empty = [k for k in hidden if all(math.isnan(row.value_K[k]) for row in rows)]
    for why, among in (("no room", [k for k in hidden if k not in empty]), ("no values", empty)):
        if among:
            yield f"Not shown, {why}: h={', '.join(f'{report.horizons[k]:,}' for k in among)}."


def _middle(report: Report) -> int:
    return min(range(len(report.horizons)), key=lambda k: abs(report.horizons[k] - MIDDLE))


def _short(value: float, least: float = 0.01) -> str:
    """Format with three decimals, more below ``least``."""
    if math.isnan(value):
        return DASH
    if abs(value) >= least or value == 0:
        return f"{value:.3f}"
    return f"{value:.2g}" if abs(value) < 1e-4 else f"{value:.4f}"


def _milliseconds(ms: float) -> str:
    """Format with three digits and no power of ten: 1,830."""
    return DASH if math.isnan(ms) else f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def _percent(value: float) -> str:
    return DASH if math.isnan(value) else f"{100 * value:.1f}" if abs(value) >= 0.0995 else f"{100 * value:.2f}"


def _legend(report: Report, plans: Report | None) -> Iterator[str]:
    """Yield one line for each column that is not plain."""
    reference, ratio = report.reference, report.ratio
    rows = [row for state in report.states for row in report.rows_in(state)]
    lines = ["h: training steps ahead" + (better_words(report.metric) if ratio is None else "")]
    if ratio is not None and reference is not None:
        against = "error" if ratio == report.metric else "imbalance of its plans"
        lines.append(f"skill: 1 - {against} / that of {reference}, more is better, 0 is no better")
        if any(not math.isnan(row.low) for row in rows):
            lines.append("95 %: interval of the skill on a new recipe")
        if ratio != report.metric and plans is None:
            lines.append(f"imbal. %: imbalance against that of {reference}'s plans, less is better")
    if plans is not None:
        h = report.horizons[_middle(report)]
        lines.append(f"plan %: {plain_name(plans.metric)}, in percent, at h={h:,} ({plans.metric}); less is better")
    lines.append("ms: CPU time of a forecast, observing included")
    yield "; ".join(lines) + "."
    for name, share in {row.forecaster: row.fallback for row in rows if row.falls_back}.items():
        yield (
            f"* {name} fell back to a plain average in {100 * (share or 0):.0f} % of its forecasts: it had seen too "
            "few rows to fit, or could not fit them. The row is mostly that average's."
        )
    yield "All columns: --wide; a summary: --json; every number: --out FILE.parquet, in Python Results.table."
