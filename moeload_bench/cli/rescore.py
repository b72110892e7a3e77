"""`moeload-bench rescore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.progress import plain_console, say_document
from moeload_bench.errors import SuiteError, printable
from moeload_bench.evaluation.stored import rescore as score_again
from moeload_bench.isolation.targets import load_function
from moeload_bench.results.brief import brief_tables
from moeload_bench.results.captions import failure_lines, why_no_table
from moeload_bench.results.results import load_results
from moeload_bench.suites.suite import Suite, load_suite


def rescore(
    folder: Annotated[Path, typer.Argument(help="The folder that `run --keep-forecasts` wrote.")],
    metric: Annotated[str, typer.Option(help="A metric of window means or of plans, or FILE.py:function.")],
    suite: Annotated[
        str | None, typer.Option(help="A suite's name, or a TOML file.", show_default="the results' own")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="The .parquet trace that was scored instead of a suite.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON instead of a table.")] = False,
) -> None:
    """Score kept forecasts by another metric: nothing is run again.

    [bold]moeload-bench run sw_avg my.py:Mine --keep-forecasts kept[/bold]
    [bold]moeload-bench rescore kept --metric rank_correlation[/bold]
    [bold]moeload-bench rescore kept --metric my_metrics.py:hellinger[/bold]

    The function gets the mean shares over a window, forecast and true, [layers, experts] each, and returns one value
    per layer. Metrics of single steps (tv, error_rate) need the forecasters themselves: `run` has them.
    """
    if suite is not None and trace is not None:
        raise SuiteError(f"got --suite {suite} and --trace {trace}, expected one of them")
    own = ".py:" in metric
    name = metric.rpartition(":")[2] if own else metric
    tasks = open_trace(str(trace)) if trace is not None else _task_list(folder, suite)
    results = score_again(folder, tasks, name, load_function(metric) if own else None)
    if as_json:
        say_document(results.to_json(name))
        return
    console = plain_console()
    for part in list(brief_tables(results, name, console.width)) or [why_no_table(results, name)]:
        console.print(part)
    for line in failure_lines(results):
        console.print(printable(line), style="red")


def _task_list(folder: Path, suite: str | None) -> Suite:
    """Return the suite that the results are of."""
    scored_on = suite or load_results(folder).suite.name
    if scored_on.startswith("trace:"):
        raise SuiteError(f"{folder}: scored on a trace of one's own, {scored_on}: name its file by --trace")
    return load_suite(scored_on)
