"""What was scored on a season after that had closed, beside the table that the season published."""

from __future__ import annotations

from pathlib import Path

from moeload_bench.errors import first_ten
from moeload_bench.results.entry import late_names
from moeload_bench.results.results import Results, joined, load_results
from moeload_bench.suites.suite import season_of
from moeload_bench.traces.lookup import SEASONS


def season_table(results: Results) -> Path | None:
    """Return the folder of the table that a closed season published; None for other results."""
    season = season_of(results.suite.name, results.suite.sha256)
    return SEASONS / season / "results" if season else None


def beside_season(results: Results) -> Results:
    """Return the results beside the table of their season; as they are for another suite and outside a checkout."""
    folder = season_table(results)
    return joined([load_results(folder), results]) if folder is not None and folder.is_dir() else results


def late_words(results: Results) -> str:
    """Return what is to be known of forecasters that came after a season had closed; empty without any."""
    folder, late = season_table(results), late_names(results.entries)
    if folder is None or not late:
        return ""
    entries = len(results) - len(late)
    alone = f"The season's table is {folder.as_posix()} of a checkout"
    table = f"Beside the season's {entries} entries, in no rank and in no correction" if entries else alone
    return f"Scored after the season closed (marked +): {first_ten(late)}. {table}."
