"""Results as data frames, and as a few lines for a prompt or a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeload_bench.errors import counted, not_found, printable
from moeload_bench.results.grid import NOTHING, known_grid, result_grid
from moeload_bench.results.html import html_table
from moeload_bench.results.record import Results
from moeload_bench.results.tables import Table, signed_skill
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
            "skill": row.skill,
            "low": row.new_recipe and row.new_recipe.low,
            "high": row.new_recipe and row.new_recipe.high,
        }
        for row in known_grid(results, metric).rows
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(("skill", "low", "high"), "float64"))


def table_frame(results: Results, state: str | None, metric: str) -> pd.DataFrame:
    """See `Results.table`."""
    import pandas as pd

    if state is not None and state not in (*STATES, CROSSING):
        raise not_found("state", state, (*STATES, CROSSING))
    grid = known_grid(results, metric)
    heads = [f"h={horizon}" for horizon in grid.horizons]
    rows = [
        {
            "state": row.state,
            "forecaster": row.forecaster,
            **dict(zip(heads, row.value_K, strict=True)),
            "skill": row.skill,
            "ms": 1e3 * row.result.per_forecast_s,
            "fallback": row.fallback,
        }
        for row in grid.rows
        if state in (None, row.state)
    ]
    frame = pd.DataFrame(rows, columns=["state", "forecaster", *heads, "skill", "ms", "fallback"])
    return frame.astype(dict.fromkeys([*heads, "skill", "ms", "fallback"], "float64"))


def summary_text(results: Results) -> str:
    """A line on what was run, and each forecaster's skill by state, in the order of skill in the last one."""
    table = _summary(results)
    width = max((len(row[0]) for row in table.rows), default=0)
    lines = ["", *table.heads[1:]], *table.rows
    said = ("  ".join([f"{name:{width}}", *(f"{cell:>9}" for cell in cells)]) for name, *cells in lines)
    return "\n".join([table.caption, *(said if table.rows else ())])


def summary_html(results: Results) -> str:
    """The same as a table."""
    return html_table(_summary(results))


def _summary(results: Results) -> Table:
    """What was run in the caption, and a row of skills by state per forecaster."""
    if not len(results):
        return Table("Results: none", (), ())
    first, failed = results[0], len(results.failures)
    size = f"{counted(len(results), 'forecaster')} on {counted(len(first.runs), 'run')} of suite {first.suite.name}"
    about = f"Results: {size}, {f'{failed} failed tasks' if failed else 'no task failed'}"
    grid = result_grid(results, PRIMARY)
    if grid is None or grid.scores.reference is None:
        return Table(about, ("forecaster",), tuple((printable(result.name),) for result in results))
    states = [state for state in grid.states if state in STATES]
    skills = {(row.forecaster, row.state): signed_skill(row.skill) for row in grid.rows}
    rows = tuple(
        (printable(row.forecaster), *(skills.get((row.forecaster, state), NOTHING) for state in states))
        for row in grid.of_state(states[-1])
    )
    return Table(f"{about}. Skill in {PRIMARY} against {grid.scores.reference}:", ("forecaster", *states), rows)
