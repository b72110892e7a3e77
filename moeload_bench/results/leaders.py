"""Who leads: the entries that are not shown worse than the best, never a single one unless it stands alone.

The best entry of a table was picked on that table, so its lead over the next one is no finding. What can be said is who
can have rank 1: with `results.ranks` all pairs are tested at once, and each family of models counts once, since recipes
of one family are alike. With recipes as units the same sets only describe these runs. Out of all ranks are entries that
equal another one on every task, such as one that only adds quantiles, and what was scored after a season had closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moeload_bench.results.entry import late_names
from moeload_bench.results.ranks import rank_table
from moeload_bench.results.results import Results
from moeload_bench.scoring.catalogue import PRIMARY, ratio_metric

Unit = Literal["family", "recipe"]


@dataclass(frozen=True)
class Leaders:
    """Entries in a state, in the order of skill, and those of them that can have rank 1.

    ``units``: how many families, or recipes, the tests rest on.
    """

    entries: tuple[str, ...]
    best: tuple[str, ...]
    units: int

    @property
    def following(self) -> str | None:
        """Return the first entry that is shown worse than the best; None if there is none."""
        return next((name for name in self.entries if name not in self.best), None)


def duplicates(results: Results, metric: str = PRIMARY) -> dict[str, str]:
    """Return the entries whose errors equal another's on every task, with its name; the shortest name stands."""
    errors, twins = results.errors(metric), dict[str, str]()
    names = sorted(results.names, key=lambda name: (len(name), name))
    for place, name in enumerate(names):
        first = next((earlier for earlier in names[:place] if errors[earlier].equals(errors[name])), None)
        if first is not None:
            twins[name] = twins.get(first, first)
    return twins


def ranked(results: Results, metric: str = PRIMARY) -> Results:
    """Return the results of the entries that have a rank."""
    without = {*duplicates(results, metric), *late_names(results.entries)}
    return results.select([name for name in results.names if name not in without])


def leaders(results: Results, state: str, unit: Unit = "family", metric: str = PRIMARY) -> Leaders | None:
    """Return who leads in a state; None where units are too few for a test, or the suite names no families."""
    families = results.suite.families
    units = families if unit == "family" else results.suite.twins
    entries, ratio = ranked(results, metric), ratio_metric(metric)
    errors = entries.errors(ratio or metric)[entries.names]
    tasks = errors[errors.index.get_level_values("state") == state].dropna()
    if len(tasks) == 0 or (unit == "family" and not families):
        return None
    ranks = rank_table(tasks, ("state",), units).set_index("forecaster")
    if ranks.empty:
        return None
    rows = entries.summarize(("state",), metric)
    order = tuple(rows.loc[rows["state"] == state, "forecaster"])
    best = tuple(name for name in order if ranks["rank_low"][name] == 1)
    recipes = tasks.index.get_level_values("recipe").unique()
    return Leaders(order, best, len({units.get(recipe, recipe) for recipe in recipes}))
