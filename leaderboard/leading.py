"""Who leads on some runs, by how much, how sure that is and what it is worth: the sentences of README, site and pages.

Every number is one of `Results.compare`, every name one of `results.leaders`; nothing else is computed here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leaderboard.committed import UNIFORM
from moeload_bench.results.columns import states_of
from moeload_bench.results.leaders import Leaders, leaders
from moeload_bench.results.render import Table
from moeload_bench.results.results import Results
from moeload_bench.results.strata import run_groups
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import package_suite
from moeload_bench.words import listed

if TYPE_CHECKING:
    import pandas as pd

WHEN = {"transient": "before loads settle", "stable": "once loads have settled"}
DASH = "-"
CAPTION = (
    "A column is a state. Not shown worse than the best: entries that can have rank 1 when all pairs are tested at "
    "once (95 %). Each family once is the rule; each recipe once only describes these runs. Savings are those of the "
    "entries that are named, from the least to the greatest, intervals from the lowest end to the highest; more is "
    "better. The load of the busiest device is modelled for each shape of cluster, not measured on one."
)
MOST = 4
"""Entries that are named at most; where more lead, one is named and compared: that with the most skill."""


@dataclass(frozen=True, eq=False)
class Lead:
    """Who leads in a state, and ``rows``: what each of the first ones saves of the next entry, of `Results.compare`.

    ``by_family`` is the rule; ``by_recipe`` only describes these runs. ``rows`` compares with the first entry outside
    of the latter, ``beyond`` with that outside of the former, where it is another one.
    """

    state: str
    by_family: Leaders | None
    by_recipe: Leaders
    rows: pd.DataFrame | None
    beyond: pd.DataFrame | None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the entries that are named, and compared with the next one."""
        return named(self.by_recipe)


def named(leaders: Leaders) -> tuple[str, ...]:
    """Return those that lead where they are few, else the one with the most skill."""
    return leaders.best if len(leaders.best) <= MOST else leaders.best[:1]


@functools.cache
def lead(results: Results, state: str) -> Lead | None:
    """Return who leads in a state; None where recipes are too few for a test."""
    by_family, by_recipe = leaders(results, state), leaders(results, state, "recipe")
    if by_recipe is None:
        return None
    names = named(by_recipe)
    rows = _rows(results, state, names, by_recipe.following)
    differs = by_family is not None and by_family.following not in (None, by_recipe.following)
    beyond = _rows(results, state, names, by_family.following) if by_family is not None and differs else None
    return Lead(state, by_family, by_recipe, rows, beyond)


def leads(results: Results) -> list[Lead]:
    """Return who leads in each state in which that can be said."""
    by_state = (lead(results, state) for state in LABELS if state in states_of(results.table))
    return [of_state for of_state in by_state if of_state is not None]


def _rows(results: Results, state: str, names: Sequence[str], rival: str | None) -> pd.DataFrame | None:
    """Return a row for each name: what it saves of the rival's error."""
    import pandas as pd

    if rival is None:
        return None
    rows = {name: _comparison(results, name, rival).loc[state] for name in names}
    return pd.DataFrame(rows).T


@functools.cache
def _comparison(results: Results, a: str, b: str) -> pd.DataFrame:
    return results.compare(a, b, ["state"]).set_index("state")


def summary(results: Results) -> str:
    """Return in a sentence for each state who leads, by how much and what it is worth; `lead_table` has the rest."""
    by_state = leads(results)
    if not by_state:
        return f"Too few recipes to say who leads: {results.table['recipe'].nunique()}."
    return "\n\n".join(map(_summary, by_state))


def _summary(lead: Lead) -> str:
    when, family, recipe = f"{WHEN[lead.state][:1].upper()}{WHEN[lead.state][1:]}", lead.by_family, lead.by_recipe
    if lead.rows is None:
        return f"{when}, no entry is shown worse than the best."
    if family is not None and family.best == recipe.best == lead.names[:1]:
        who = f"{when}, {_names(lead)} leads alone."
    else:
        who = f"{when}, no entry leads alone.{_told_by_family(family)} {_told_by_recipe(lead)}"
    rows = lead.rows
    by_family, by_recipe = {"a new family": ("family_low", "family_high")}, {"a new recipe": ("low", "high")}
    sure = _spans(rows, by_family) or _spans(rows, by_recipe)
    first, last = (f"{_range(rows, name)} for {_ahead(name)}" for name in (_steps(rows)[0], _steps(rows)[-1]))
    total = _spans(rows, {"over families": ("total_low", "total_high")})
    worth = [end for name in _shapes(rows) for end in _ends(rows, name)]
    load = f" Of the load of the busiest device it is at most {_percent(max(*worth, 0.0))} %." if worth else ""
    return (
        f"{who} Compared with `{recipe.following}`, the first entry that is shown worse, {_saves(lead)} "
        f"{_range(rows, 'saving')} of the error, as a geometric mean{sure}: {first}, {last}. "
        f"Of the sum of errors it is {_range(rows, 'total')}{total}.{load}"
    )


def _told_by_family(family: Leaders | None) -> str:
    """Return how many cannot be told from the best by the rule; nothing where families are too few for it."""
    if family is None:
        return ""
    even = f", even `{UNIFORM}` among them" if UNIFORM in family.best else ""
    return (
        f" With each family of models counted once, {len(family.best)} of {len(family.entries)} cannot be told from "
        f"the best{even}."
    )


def _told_by_recipe(lead: Lead) -> str:
    best = lead.by_recipe.best
    named_ones = f": {_names(lead)}" if len(lead.names) == len(best) else ""
    return f"With each recipe counted once, which describes these runs alone, {len(best)} cannot{named_ones}."


def _ahead(column: str) -> str:
    steps = int(column[2:])
    return f"{steps:,} step{'s' if steps > 1 else ''} ahead"


def _saves(lead: Lead) -> str:
    """Return who saves: those that lead, or which of them is named, and why."""
    if picked := _picked(lead):
        return f"{_names(lead)}{picked} saves"
    return "it saves" if len(lead.names) == 1 else "they save, from the least to the most,"


def _picked(lead: Lead) -> str:
    """Return why one of those that lead is named, where it is not all of them."""
    several = len(lead.by_recipe.best) > len(lead.names)
    return ", picked on these runs as the one with the most skill," if several else ""


def lead_table(results: Results) -> Table | None:
    """Return the numbers behind the sentence, a column for each state; None where recipes are too few."""
    by_state = leads(results)
    if not by_state:
        return None
    columns = [dict(_facts(lead)) for lead in by_state]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = tuple((name, *(column.get(name, DASH) for column in columns)) for name in names)
    return Table(CAPTION, ("", *(WHEN[lead.state] for lead in by_state)), rows, numbers_from=99)


def _facts(lead: Lead) -> Iterator[tuple[str, str]]:
    family, recipe, rows = lead.by_family, lead.by_recipe, lead.rows
    if family is not None:
        even = f", even `{UNIFORM}`" if UNIFORM in family.best else ""
        number = f"{len(family.best)} of {len(family.entries)}{even} ({family.units} families)"
        yield "not shown worse than the best, each family once", number
        yield "the first that is, and what is saved of its error", _beyond(lead)
    number = f"{len(recipe.best)} of {len(recipe.entries)} ({recipe.units} recipes)"
    yield "not shown worse than the best, each recipe once", f"{number}: {_names(lead)}{_picked(lead)}"
    if rows is None:
        return
    yield "the first that is", f"`{recipe.following}`"
    intervals = {"a new recipe": ("low", "high"), "a new family": ("family_low", "family_high")}
    yield "saved of its error, geometric mean, horizons alike", _range(rows, "saving") + _spans(rows, intervals)
    jackknife = {"jackknife over families": ("total_low", "total_high")}
    yield "saved of the sum of errors", _range(rows, "total") + _spans(rows, jackknife)
    yield "saved on the median task", _range(rows, "median_task")
    yield "saved by horizon", "; ".join(f"h = {int(name[2:]):,}: {_range(rows, name)}" for name in _steps(rows))
    shapes = [f"`{name.partition('@')[2]}`: {_range(rows, name)}" for name in _shapes(rows)]
    yield "saved of the busiest device's load, by shape", "; ".join(shapes) or DASH


def _spans(rows: pd.DataFrame, intervals: Mapping[str, tuple[str, str]]) -> str:
    """Return the 95 % intervals that there are, in brackets."""
    spans = {what: _span(rows, *ends) for what, ends in intervals.items()}
    words = [f"{what} {span}" for what, span in spans.items() if span != DASH]
    return f" (95 %: {', '.join(words)})" if words else ""


def _beyond(lead: Lead) -> str:
    rows = lead.rows if lead.beyond is None else lead.beyond
    if lead.by_family is None or lead.by_family.following is None or rows is None:
        return DASH
    saved = _range(rows, "saving") + _spans(rows, {"a new family": ("family_low", "family_high")})
    return f"`{lead.by_family.following}`: {saved}"


def ask_words(results: Results, folder: str) -> str:
    """Return how every number is asked for, in one call each; empty for runs of no suite of the package."""
    if package_suite(results.suite.name, results.suite.sha256) is None:
        return ""
    (title, part), *_ = run_groups(results).items()
    rivals = (lead.by_recipe.following for lead in leads(part))
    rival = next(filter(None, rivals), results.suite.reference)
    return (
        f'Every number in one call: `part = run_groups(load_results("{folder}"))["{title}"]`, then `leaders(part, '
        f'"transient")` or `part.compare(NAME, "{rival}", ["state"])`.'
    )


def _steps(rows: pd.DataFrame) -> list[str]:
    """Return the columns of the horizons that have values."""
    return [name for name in map(str, rows) if name.startswith("h=") and rows[name].notna().all()]


def _shapes(rows: pd.DataFrame) -> list[str]:
    names = [name for name in map(str, rows) if name.startswith("busiest@") and not name.endswith(("_low", "_high"))]
    return [name for name in names if rows[name].notna().all()]


def _names(lead: Lead) -> str:
    return listed([f"`{name}`" for name in lead.names])


def _ends(rows: pd.DataFrame, low: str, high: str = "") -> tuple[float, float]:
    return float(rows[low].min()), float(rows[high or low].max())


def _percent(part: float) -> str:
    return f"{round(100 * part, 1) + 0.0:.1f}"


def _range(rows: pd.DataFrame, column: str) -> str:
    """Return the values of a column in percent, from the least to the greatest."""
    low, high = map(_percent, _ends(rows, column))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _span(rows: pd.DataFrame, low: str, high: str) -> str:
    """Return from where to where the intervals of all rows reach; a dash without one."""
    if rows[[low, high]].isna().any(axis=None):
        return DASH
    ends = _ends(rows, low, high)
    return f"{_percent(ends[0])} to {_percent(ends[1])} %"
