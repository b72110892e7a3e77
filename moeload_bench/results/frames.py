"""Results as data frames, and as a few lines for a prompt or a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from moeload_bench.errors import counted, not_found, printable
from moeload_bench.results.comparison import reference_of
from moeload_bench.results.grid import Grid, result_grid
from moeload_bench.results.record import Results
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import CROSSING, STATES

if TYPE_CHECKING:
    import pandas as pd


def skill_frame(results: Results, metric: str) -> pd.DataFrame:
    """See `Results.skill`."""
    import pandas as pd

    rows = [
        {
            "state": row.state,
            "forecaster": row.forecaster,
            "skill": row.skill_value,
            "low": row.interval and row.interval.low,
            "high": row.interval and row.interval.high,
        }
        for row in _grid(results, metric).rows
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(("skill", "low", "high"), "float64"))


def table_frame(results: Results, state: str | None, metric: str) -> pd.DataFrame:
    """See `Results.table`."""
    import pandas as pd

    if state is not None and state not in (*STATES, CROSSING):
        raise not_found("state", state, (*STATES, CROSSING))
    grid = _grid(results, metric)
    heads = [f"h={horizon}" for horizon in grid.horizons]
    rows = [
        {
            "state": row.state,
            "forecaster": row.forecaster,
            **dict(zip(heads, row.value_K, strict=True)),
            "skill": row.skill_value,
            "ms": 1e3 * row.per_forecast_s,
            "fallback": row.fallback,
        }
        for row in grid.rows
        if state in (None, row.state)
    ]
    frame = pd.DataFrame(rows, columns=["state", "forecaster", *heads, "skill", "ms", "fallback"])
    return frame.astype(dict.fromkeys([*heads, "skill", "ms", "fallback"], "float64"))


def _grid(results: Results, metric: str) -> Grid:
    grid = result_grid(results, metric) if len(results) else None
    if grid is None:
        raise not_found("metric", metric, {m for r in results for run in r.runs for t in run.tasks for m in t.metrics})
    return grid


def summary_text(results: Results) -> str:
    """A line on what was run, and each forecaster's skill by state, in the order of skill in the last one."""
    about, heads, rows = _summary(results)
    width = max((len(row[0]) for row in rows), default=0)
    lines = [about]
    if rows:
        lines.append("  ".join([" " * width, *(f"{head:>9}" for head in heads)]))
        lines += ["  ".join([f"{row[0]:{width}}", *(f"{cell:>9}" for cell in row[1:])]) for row in rows]
    return "\n".join(lines)


def summary_html(results: Results) -> str:
    """The same as a table."""
    about, heads, rows = _summary(results)
    head = "".join(f"<th>{html.escape(text)}</th>" for text in ("forecaster", *heads))
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<p>{html.escape(about)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _summary(results: Results) -> tuple[str, list[str], list[list[str]]]:
    """What was run in a line, the states, and a row of texts per forecaster."""
    if not len(results):
        return "Results: none", [], []
    first, failed = results[0], len(results.failures)
    size = f"{counted(len(results), 'forecaster')} on {counted(len(first.runs), 'run')} of suite {first.suite.name}"
    about = f"Results: {size}, {f'{failed} failed tasks' if failed else 'no task failed'}"
    grid, reference = result_grid(results, PRIMARY), reference_of(results)
    if grid is None or reference is None:
        return about, [], [[printable(result.name)] for result in results]
    states: list[str] = [state for state in STATES if any(row.state == state for row in grid.rows)]
    cells: dict[str, dict[str, Any]] = {}
    for row in grid.rows:
        cells.setdefault(row.forecaster, {})[row.state] = row.skill_value
    order = [row.forecaster for row in grid.rows if row.state == states[-1]] if states else []
    rows = [[printable(name), *(_signed(cells[name].get(state)) for state in states)] for name in order]
    return f"{about}. Skill in {PRIMARY} against {reference.name}:", states, rows


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
