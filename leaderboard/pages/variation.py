"""How scores vary over recipes, and over seeds of one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from leaderboard.pages.separation import STATES
from moeload_bench.results.grid import Standings, run_means, with_runs_of
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.tables import three_digits
from moeload_bench.scoring.catalogue import PRIMARY


def recipe_tables(results: Sequence[Result]) -> str:
    """window_tv of every recipe, one table per state and horizon; the least in bold."""
    parts = [
        f"{PRIMARY}; a cell is the mean over the recipe's test runs of the run's mean over its origins in that state "
        "and over layers; the least of a row in bold."
    ]
    recipes = {recipe: {run.trace for run in results[0].runs if run.recipe == recipe} for recipe in _recipes(results)}
    scores = {recipe: Standings(with_runs_of(results, runs), PRIMARY, None) for recipe, runs in recipes.items()}
    head = ("recipe", *(f"`{result.name}`" for result in results), "*floor_batch*")
    for state in STATES:
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


def _recipes(results: Sequence[Result]) -> list[str]:
    return sorted({run.recipe for run in results[0].runs})


def run_values(result: Result, state: str) -> dict[str, dict[str, list[float | None]]]:
    """Recipe, run to the run's means [K] in a state."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for run in result.runs:
        mean_K = run_means(run, state, PRIMARY)
        if mean_K:
            found.setdefault(run.recipe, {})[run.trace] = mean_K
    return found


def seeds(results: Sequence[Result]) -> str:
    """Return how much runs of one recipe differ, beside how much recipes differ."""
    several = {
        recipe
        for state in STATES
        for recipe, runs in run_values(results[0], state).items()
        if len(runs) > 1
    }  # fmt: skip
    if not several:
        return "No recipe has several test runs."
    horizons = results[0].suite.horizons
    rows = [
        (f"`{recipe}`", state, f"`{result.name}`", *(_spread(runs, k) for k in range(len(horizons))))
        for recipe in sorted(several)
        for state in STATES
        for result in results
        if len(runs := run_values(result, state).get(recipe, {})) > 1
    ]
    both = [
        (state, f"`{result.name}`", *(_seed_and_recipe(run_values(result, state), k) for k in range(len(horizons))))
        for state in STATES
        for result in results
    ]
    heads = [f"h = {h}" for h in horizons]
    return "\n\n".join(
        [
            f"{PRIMARY} of the recipes with several test runs: mean over runs ± standard deviation over runs (seeds).",
            markdown_table(("recipe", "state", "forecaster", *heads), rows),
            f"Standard deviation of log {PRIMARY}: over seeds (pooled within those recipes) / over recipes.",
            markdown_table(("state", "forecaster", *heads), both),
        ]
    )


def _spread(runs: Mapping[str, Sequence[float | None]], k: int) -> str:
    known = [value for value_K in runs.values() if (value := value_K[k]) is not None]
    return f"{three_digits(float(np.mean(known)))} ± {np.std(known, ddof=1):.1g}" if len(known) > 1 else "-"


def _seed_and_recipe(values: Mapping[str, Mapping[str, Sequence[float | None]]], k: int) -> str:
    logs = [[np.log(v) for value_K in runs.values() if (v := value_K[k])] for runs in values.values()]
    several = [group for group in logs if len(group) > 1]
    means = [np.mean(group) for group in logs if group]
    if not several or len(means) < 2:
        return "-"
    within = sum(np.var(group, ddof=1) * (len(group) - 1) for group in several) / sum(len(g) - 1 for g in several)
    return f"{np.sqrt(within):.2f} / {np.std(means, ddof=1):.2f}"
