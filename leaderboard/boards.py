"""Boards beside the one of errors: what decisions made from forecasts cost, and how good quantiles are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeload_bench.results.columns import metric_columns
from moeload_bench.results.differences import differences
from moeload_bench.results.formats import signed, three_digits
from moeload_bench.results.leaders import ranked
from moeload_bench.results.render import Table
from moeload_bench.results.results import Results
from moeload_bench.suites.suite import families_of

if TYPE_CHECKING:
    import pandas as pd

DECISIONS = {
    "regret@half": "regret, shape half",
    "drop_rate@half": "tokens dropped, shape half",
}
"""Metrics of a plan, and their heads: the load of its busiest device against a plan from the truth, tokens dropped."""
QUANTILES = "wql"
UNLISTED = frozenset({"lstm.online"})
"""Entries that no board lists: `lstm` forecasts the same where it was fitted on no run. Ranks and intervals, which are
made from all entries, count them still.
"""
CONFORMAL = "sw_avg_conformal"
"""The reference of quantiles: calibrated ones around the reference of errors."""


def decision_board(results: Results, state: str) -> Table | None:
    """Return entries by the regret of the plans made from their forecasts; None without plans in this state."""
    reference, by_metric = results.suite.reference, {}
    entries = ranked(results)
    for metric in DECISIONS:
        if metric not in metric_columns(entries.table):
            return None
        by_metric[metric] = _with_families(entries, metric, state, reference)
    first, *others = by_metric.values()
    if first.empty:
        return None
    rows = tuple((str(name), *_cells(first.loc[name]), *(cell for more in others for cell in _cells(more.loc[name])))
                 for name in first.index)  # fmt: skip
    heads = tuple(f"{words}, {what}" for words in DECISIONS.values() for what in HEADS)
    caption = (
        f"A row is an entry, the least regret first. In percent: what plans made from its forecasts cost, and how much "
        f"less than those of `{reference}`, with 95 % intervals over recipes and over families of models; lower cost "
        "and more less are better. Modelled from recorded loads."
    )
    return Table(caption, ("entry", *heads), rows)


def quantile_board(results: Results, state: str) -> Table | None:
    """Return the entries that give quantiles, by their weighted quantile loss; None without any in this state."""
    if QUANTILES not in metric_columns(results.table) or CONFORMAL not in results.names:
        return None
    losses = _with_families(results, QUANTILES, state, CONFORMAL)
    if losses.empty:
        return None
    rows = tuple((str(name), *_cells(losses.loc[name])) for name in losses.index)
    caption = (
        f"A row is an entry that gives quantiles, the least loss first: the weighted quantile loss (`wql`) in percent, "
        f"and how much less it is than that of `{CONFORMAL}`, with 95 % intervals over recipes and over families."
    )
    return Table(caption, ("entry", *HEADS), rows)


HEADS = ("%", "less, points", "over recipes", "over families")


def _with_families(results: Results, metric: str, state: str, reference: str) -> pd.DataFrame:
    """Return differences with intervals for a new recipe, and `family_low`, `family_high` for a new family.

    Of the entries that boards list.
    """
    families = families_of(results.suite.name, results.suite.sha256)
    by_recipe = differences(results, metric, state, reference, results.suite.twins)
    ends = differences(results, metric, state, reference, families)[["low", "high"]].add_prefix("family_")
    joined = by_recipe.join(ends if families else ends.mul(float("nan")))
    return joined[~joined.index.isin(UNLISTED)]


def _cells(row: pd.Series) -> tuple[str, ...]:
    return (
        three_digits(100 * row["value"], zeros=True), signed(100 * row["less"], 2),
        _interval(row["low"], row["high"]), _interval(row["family_low"], row["family_high"]),
    )  # fmt: skip


def _interval(low: float, high: float) -> str:
    return "-" if low != low else f"[{signed(100 * low, 2)}, {signed(100 * high, 2)}]"
