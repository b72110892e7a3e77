"""`Results`, what `evaluate` returns: as rows, as data frames, as a figure, and as a few lines for a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moeload_bench.errors import counted, not_found, printable
from moeload_bench.results.grid import NOTHING, known_grid, result_grid
from moeload_bench.results.html import html_table
from moeload_bench.results.json_text import readable_json
from moeload_bench.results.record import Result, packed
from moeload_bench.results.run_result import RunResult, TaskResult
from moeload_bench.results.tables import Table, signed_skill
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import CROSSING, STATES

if TYPE_CHECKING:
    import pandas as pd


class Results(tuple[Result, ...]):
    """What `evaluate` returns: one result per forecaster, in the order asked for."""

    @property
    def failures(self) -> list[tuple[str, str, TaskResult]]:
        """Return (forecaster, trace, task) of every failed task."""
        return [(result.name, trace, task) for result in self for trace, task in result.failures]

    def rows(self, *, floors: bool = False, cost: bool = False) -> Iterator[dict[str, Any]]:
        """Yield one flat record per (forecaster, trace, origin, horizon).

        A failed task has its reason in `failure` and None for every metric: what it scores is a penalty, which counts
        in skill and tables alone. ``floors`` adds `FLOOR.METRIC`, what noise alone costs in the task's state; ``cost``
        what the forecaster cost in that run.
        """
        for result in self:
            for run in result.runs:
                about = _cost_columns(run) if cost else {}
                for task in run.tasks:
                    for k, horizon in enumerate(result.suite.horizons):
                        yield {
                            "forecaster": result.name,
                            "trace": run.trace,
                            "recipe": run.recipe,
                            "state": task.state,
                            "origin": task.origin,
                            "horizon": horizon,
                            "crossing": task.crossing[k],
                            "failure": task.failure,
                            **{
                                metric: None if task.failure is not None else values[k]
                                for metric, values in task.metrics.items()
                            },
                            **(_floor_columns(run, task.state, k) if floors else {}),
                            **about,
                        }

    def to_pandas(self, *, floors: bool = False, cost: bool = False) -> pd.DataFrame:
        """Return `rows` as a data frame; what does not exist is NaN."""
        import pandas as pd

        frame = pd.DataFrame(self.rows(floors=floors, cost=cost))
        numbers = [name for name in frame.columns if frame[name].dtype == object and name not in _TEXTS]
        return frame.astype(dict.fromkeys(numbers, "float64"))

    def skill(self, metric: str = "window_tv") -> pd.DataFrame:
        """Return the skill against the suite's reference: a row per state and forecaster, the most skill first.

        Columns `state`, `forecaster`, `skill`, and `low` and `high` of its 95 % interval for a new recipe (NaN with
        fewer than five recipes). Raise `NotFoundError` for a metric that the results do not hold.
        """
        import pandas as pd

        rows = [
            {
                "state": row.state,
                "forecaster": row.forecaster,
                "skill": row.skill,
                "low": row.new_recipe and row.new_recipe.low,
                "high": row.new_recipe and row.new_recipe.high,
            }
            for row in known_grid(self, metric).rows
        ]
        return pd.DataFrame(rows).astype(dict.fromkeys(("skill", "low", "high"), "float64"))

    def table(self, state: str | None = None, metric: str = "window_tv") -> pd.DataFrame:
        """Return the result table as numbers: state, forecaster, the metric at each horizon (`h=100`), skill, ms per
        forecast.

        ``state`` keeps one of transient, stable, mixed, crossing. Raise `NotFoundError` for another word or metric.
        """
        import pandas as pd

        if state is not None and state not in (*STATES, CROSSING):
            raise not_found("state", state, (*STATES, CROSSING))
        grid = known_grid(self, metric)
        heads = [f"h={horizon}" for horizon in grid.horizons]
        rows = [
            {
                "state": row.state,
                "forecaster": row.forecaster,
                **dict(zip(heads, row.value_K, strict=True)),
                "skill": row.skill,
                "ms": row.result.cpu_ms,
                "fallback": row.fallback,
            }
            for row in grid.rows
            if state in (None, row.state)
        ]
        frame = pd.DataFrame(rows, columns=["state", "forecaster", *heads, "skill", "ms", "fallback"])
        return frame.astype(dict.fromkeys([*heads, "skill", "ms", "fallback"], "float64"))

    def plot(self, metric: str = "window_tv") -> Any:
        """Draw error against the horizon with the floors, one panel per state: a matplotlib figure (extra plot)."""
        from moeload_bench.results.figures import draw_horizon

        return draw_horizon(self, metric)

    def __repr__(self) -> str:
        return _summary_text(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return html_table(_summary(self))

    def to_json(self) -> str:
        """Return a JSON list of the results, each with what belongs to its traces."""
        return "[" + ",\n".join(readable_json(packed(result, own=True)) for result in self) + "]\n"


_TEXTS = ("forecaster", "trace", "recipe", "state", "failure")


def _floor_columns(run: RunResult, state: str, k: int) -> dict[str, Any]:
    floors = run.floors.get(state, {})
    return {f"{floor}.{metric}": values[k] for floor, known in floors.items() for metric, values in known.items()}


def _cost_columns(run: RunResult) -> dict[str, Any]:
    cost = run.cost
    return {
        "forecast_s": cost.per_forecast_s,
        "of_training": cost.of_training,
        "observe_wall_s": cost.observe_wall_s,
        "forecast_wall_s": cost.forecast_wall_s,
        "startup_wall_s": cost.startup_wall_s,
        "peak_memory_bytes": cost.peak_memory_bytes,
    }


def _summary_text(results: Results) -> str:
    """Return a line on what was run, and each forecaster's skill by state, in the order of skill in the last one."""
    table = _summary(results)
    width = max((len(row[0]) for row in table.rows), default=0)
    lines = ["", *table.heads[1:]], *table.rows
    said = ("  ".join([f"{name:{width}}", *(f"{cell:>9}" for cell in cells)]) for name, *cells in lines)
    return "\n".join([table.caption, *(said if table.rows else ())])


def _summary(results: Results) -> Table:
    """Return what was run in the caption, and a row of skills by state per forecaster."""
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
