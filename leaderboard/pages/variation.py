"""How scores vary over recipes, and over seeds of one recipe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeload_bench.results.comparison import with_runs_of
from moeload_bench.results.grid import Standings, run_means
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.tables import three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS


def recipe_tables(results: Sequence[Result]) -> str:
    """window_tv of every recipe, one table per state and horizon; the least in bold."""
    parts = [
        f"{PRIMARY}; a cell is the mean over the recipe's test runs of the run's mean over its origins in that state "
        "and over layers; the least of a row in bold."
    ]
    recipes: dict[str, set[str]] = {}
    for run in sorted(results[0].runs, key=lambda run: run.recipe):
        recipes.setdefault(run.recipe, set()).add(run.trace)
    scores = {recipe: Standings(with_runs_of(results, runs), PRIMARY, None) for recipe, runs in recipes.items()}
    head = ("recipe", *(f"`{result.name}`" for result in results), "*floor_batch*")
    for state in LABELS:
        found = {recipe: one.rows(state) for recipe, one in scores.items()}
        there = [recipe for recipe, rows in found.items() if any(row.runs for row in rows)]
        for k, horizon in enumerate(results[0].suite.horizons if there else ()):
            rows = []
            for recipe in there:
                values = [row.value_K[k] for row in found[recipe]]
                least = min((value for value in values if value is not None), default=None)
                texts = [f"**{three_digits(v)}**" if v is not None and v == least else three_digits(v) for v in values]
                floor_K = scores[recipe].floor(state, "floor_batch")
                rows.append((f"`{recipe}`", *texts, three_digits(floor_K[k] if floor_K else None)))
            parts += [f"#### {state}, h = {horizon}", markdown_table(head, rows)]
    return "\n\n".join(parts)


def run_values(result: Result, state: str) -> dict[str, list[list[float | None]]]:
    """Return, by recipe, the means [K] of each run that has origins in a state."""
    found: dict[str, list[list[float | None]]] = {}
    for run in result.runs:
        mean_K = run_means(run, state, PRIMARY)
        if mean_K:
            found.setdefault(run.recipe, []).append(mean_K)
    return found


def seeds(results: Sequence[Result]) -> str:
    """Return how much runs of one recipe differ, beside how much recipes differ."""
    values = {(state, result.name): run_values(result, state) for state in LABELS for result in results}
    first = [values[state, results[0].name].items() for state in LABELS]
    several = sorted({recipe for by_recipe in first for recipe, runs in by_recipe if len(runs) > 1})
    if not several:
        return "No recipe has several test runs."
    heads = [f"h = {h}" for h in results[0].suite.horizons]
    rows = [
        (f"`{recipe}`", state, f"`{name}`", *(_spread(runs, k) for k in range(len(heads))))
        for recipe in several
        for (state, name), by_recipe in values.items()
        if len(runs := by_recipe.get(recipe, [])) > 1
    ]
    both = [
        (state, f"`{name}`", *(_seed_and_recipe(list(by_recipe.values()), k) for k in range(len(heads))))
        for (state, name), by_recipe in values.items()
    ]
    parts = [
        f"{PRIMARY} of the recipes with several test runs: mean over runs ± standard deviation over runs (seeds).",
        markdown_table(("recipe", "state", "forecaster", *heads), rows),
        f"Standard deviation of log {PRIMARY}: over seeds (pooled within those recipes) / over recipes.",
        markdown_table(("state", "forecaster", *heads), both),
    ]
    return "\n\n".join(parts)


def _spread(runs: Sequence[Sequence[float | None]], k: int) -> str:
    known = [value for value_K in runs if (value := value_K[k]) is not None]
    return f"{three_digits(float(np.mean(known)))} ± {np.std(known, ddof=1):.1g}" if len(known) > 1 else "-"


def _seed_and_recipe(recipes: Sequence[Sequence[Sequence[float | None]]], k: int) -> str:
    logs = [[np.log(v) for value_K in runs if (v := value_K[k])] for runs in recipes]
    several = [group for group in logs if len(group) > 1]
    means = [np.mean(group) for group in logs if group]
    if not several or len(means) < 2:
        return "-"
    within = sum(np.var(group, ddof=1) * (len(group) - 1) for group in several) / sum(len(g) - 1 for g in several)
    return f"{np.sqrt(within):.2f} / {np.std(means, ddof=1):.2f}"
