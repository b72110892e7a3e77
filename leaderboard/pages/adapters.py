"""Other people's forecasters beside two baselines: a part of docs/guide/forecasters.md.

Those that are entries of a suite are read from its results; others from leaderboard/adapters, where they are kept apart
from the leaderboard (`moeload-bench run TARGET --suite mini --out leaderboard/adapters/mini/NAME.parquet`).
"""

from __future__ import annotations

from collections.abc import Mapping

from leaderboard.committed import ROOT, submission_of, suites_with_results
from leaderboard.pages.inputs import suite_results
from leaderboard.pages.parts import Maker
from moeload_bench.results.entry import Entry
from moeload_bench.results.formats import horizon_heads, signed_skill, three_digits
from moeload_bench.results.render import markdown_table
from moeload_bench.results.report import report_of
from moeload_bench.results.results import Results, joined, load_results
from moeload_bench.results.strata import size_groups, with_size
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import load_suite

FOLDER = ROOT / "leaderboard" / "adapters"
BESIDE = ("sw_avg", "arima")


def adapters_tables() -> str:
    """Return one table for each suite on which an adapter was scored, and for each size of batch."""
    pooled = [suite for suite in reversed(suites_with_results()) if not load_suite(suite).apart]
    by_suite = {suite: _with_adapters(suite) for suite in pooled}
    return "\n\n".join(
        _table(with_size(f"Suite `{suite}`", size), part)
        for suite, results in by_suite.items()
        if len(results) > len(BESIDE)
        for size, part in size_groups(results).items()
    )


def _with_adapters(suite: str) -> Results:
    """Return the two baselines on a suite, and every adapter."""
    committed = suite_results(suite)
    entries = [name for name, entry in committed.entries.items() if _is_adapter(entry)]
    others = [load_results(path) for path in sorted((FOLDER / suite).glob("*.parquet"))]
    return joined([committed.select([*BESIDE, *entries]), *others])


def _is_adapter(entry: Entry) -> bool:
    folder = submission_of(entry)
    return folder is not None and folder.record.suite.name == entry.suite.name and folder.record.has_adapter


def _table(title: str, results: Results) -> str:
    """Return skill against the reference by state, error at every horizon, and CPU time."""
    report = report_of(results)
    rows = [
        (state, f"`{row.forecaster}`", signed_skill(row.skill), *map(three_digits, row.value_K), three_digits(row.ms))
        for state in LABELS
        for row in report.rows_in(state)
    ]
    heads = ("state", "forecaster", "skill", *horizon_heads(report.horizons), "CPU ms per origin")
    return f"{title}, `{PRIMARY}`, skill against `{report.reference}`:\n\n{markdown_table(heads, rows)}"


PARTS: Mapping[str, Maker] = {"adapters": adapters_tables}
