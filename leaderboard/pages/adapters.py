"""Other people's forecasters beside two baselines: a part of docs/guide/forecasters.md.

Those that are entries of a suite are read from its results; others from leaderboard/adapters, where they are kept apart
from the leaderboard (`moeload-bench run TARGET --suite mini --out leaderboard/adapters/mini`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leaderboard.committed import ROOT, submission_of, suites_with_results
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import results_of
from moeload_bench.results.grid import Standings
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result, load_result
from moeload_bench.results.strata import by_stratum, with_size
from moeload_bench.results.tables import horizon_heads, signed_skill, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import load_suite

FOLDER = ROOT / "leaderboard" / "adapters"
BESIDE = ("sw_avg", "arima")


def adapters_tables() -> str:
    """Return one table for each suite on which an adapter was scored, and for each size of batch."""
    found = [(load_suite(suite), _adapters(suite)) for suite in reversed(suites_with_results())]
    return "\n\n".join(
        _table(with_size(f"Suite `{suite.name}`", size), results)
        for suite, adapters in found
        if adapters
        for size, results in by_stratum([*_beside(suite.name), *adapters], suite).items()
    )


def _beside(suite: str) -> list[Result]:
    known = {result.name: result for result in results_of(suite)}
    return [known[name] for name in BESIDE]


def _adapters(suite: str) -> list[Result]:
    entries = [result for result in results_of(suite) if _is_adapter(result)]
    return [*entries, *(load_result(path) for path in sorted((FOLDER / suite).glob("*.json")))]


def _is_adapter(result: Result) -> bool:
    folder = submission_of(result)
    return folder is not None and folder.record.suite.name == result.suite.name and folder.record.has_adapter


def _table(title: str, results: Sequence[Result]) -> str:
    """Skill against the first of the results by state, error at every horizon, and CPU time."""
    scores = Standings(results, PRIMARY, results[0])
    rows = [
        (state, f"`{row.forecaster}`", signed_skill(row.skill), *map(three_digits, row.value_K),
         three_digits(row.result.cpu_ms))
        for state in LABELS
        for row in scores.rows(state)
    ]  # fmt: skip
    heads = ("state", "forecaster", "skill", *horizon_heads(scores.horizons), "CPU ms per origin")
    return f"{title}, `{PRIMARY}`, skill against `{BESIDE[0]}`:\n\n{markdown_table(heads, rows)}"


PARTS: Mapping[str, Maker] = {"adapters": adapters_tables}
