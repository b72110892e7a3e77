"""What `moeload-bench run` prints of results: the answers, the tables, what failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moeload_bench.cli.progress import plain_console
from moeload_bench.errors import printable
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.brief import brief_tables
from moeload_bench.results.captions import answer_lines, failure_lines, why_no_table
from moeload_bench.results.choice import Verdict, verdicts
from moeload_bench.results.render import draw_table
from moeload_bench.results.report import has_metric, report_of
from moeload_bench.results.results import Results
from moeload_bench.results.season import late_words
from moeload_bench.results.strata import run_groups
from moeload_bench.results.wide import metric_table
from moeload_bench.states.rule import StateRule


def print_results(
    results: Results, metric: str, rule: StateRule, wide: bool, steps: int | None = None, stride: int = 1
) -> list[Verdict]:
    """Print what errs least, the tables and what failed; return what errs least. ``steps``, ``stride``: of your run."""
    console = plain_console()
    if late := late_words(results):
        console.print(late)
    choices: list[Verdict] = []
    for part in _below_titles(results):
        of_part = list(verdicts(part, metric))
        for line in answer_lines(part, of_part, rule, steps, stride):
            console.print(line)
        _print_tables(part, metric, wide)
        choices += of_part
    _print_failures(results)
    return choices


def print_scores(results: Results, metric: str) -> None:
    """Print the tables of a metric and what failed, without an answer."""
    for part in _below_titles(results):
        _print_tables(part, metric, wide=False)
    _print_failures(results)


def _below_titles(results: Results) -> Iterator[Results]:
    """Yield the results of each group of runs that are averaged, its title printed."""
    for title, part in run_groups(results).items():
        if title:
            plain_console().print(f"\n{title}\n")
        yield part


def _print_tables(results: Results, metric: str, wide: bool) -> None:
    """Print the tables of a metric, or why there is none."""
    console = plain_console(wide=wide)
    tables = _wide_tables(results, metric) if wide else list(brief_tables(results, metric, console.width))
    for table in tables or [why_no_table(results, metric)]:
        console.print(table)


def _print_failures(results: Results) -> None:
    for line in failure_lines(results):
        plain_console().print(printable(line), style="red")


def _wide_tables(results: Results, metric: str) -> list[Any]:
    metrics = [name for name in dict.fromkeys((metric, f"regret@{HEADLINE}")) if has_metric(results, name)]
    tables = (metric_table(report_of(results, name)) for name in metrics)
    return [
        draw_table(table, f"{name}, suite {results.suite.name}") for name, table in zip(metrics, tables, strict=True)
    ]
