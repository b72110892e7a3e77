"""What a forecaster's page says: who made it, how it is run again, and every number by recipe and state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leaderboard.grouped import grouped
from leaderboard.site import words
from leaderboard.site.grids import by_recipe, every_metric, fact_text
from leaderboard.site.inputs import Board, Entry
from leaderboard.site.payload import choices, cost_row, skill_note, view_rows
from leaderboard.site.views import REGRET, View, metrics_of, primary_views, scores_of
from leaderboard.site.words import arguments_text, interval_text, megabytes, named, signed_skill, three_digits
from moeload_bench.errors import counted
from moeload_bench.results.grid import ALL, ResultGrid, grid_of, has_metric
from moeload_bench.results.html import NONE
from moeload_bench.results.record import Result
from moeload_bench.results.run_result import RunResult
from moeload_bench.results.tables import Table, table_of
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.submissions.record import MODEL_TYPES, Submission
from moeload_bench.suites.suite import STATES

Facts = list[tuple[str, str]]
MAX_FAILURES = 50
"""Distinct failures that a page lists; the rest are counted."""

STANDINGS = {
    "claimed": "The files do not agree: the numbers are not known to be those of this submission.",
    "checked": "The files agree; it was not run in a verification yet.",
    "verified": "Run by the maintainers in a sandbox; the numbers are those of that run.",
    "verified (sample)": "A part of the runs was run again in a sandbox, with the same numbers within tolerances.",
    "failed": "Run by the maintainers, and refused.",
}


@dataclass(frozen=True)
class Grids:
    """The tables of a suite that all its forecasters' pages take their rows from, computed once."""

    metrics: Mapping[str, ResultGrid | None]
    recipes: Mapping[tuple[str, str], ResultGrid | None]


def grids_of(board: Board) -> Grids:
    """Return the grid of every metric, and by recipe of the two that a page shows so."""
    metrics = {metric: grid_of(scores_of(board, metric)) for metric in metrics_of(board)}
    recipes: dict[tuple[str, str], ResultGrid | None] = {}
    for metric in (metric for metric in (PRIMARY, REGRET) if metrics.get(metric)):
        for recipe in board.recipes:
            scores = scores_of(board, metric).on(board.runs_in(recipe))
            recipes[recipe, metric] = grid_of(scores) if has_metric(scores.results, metric) else None
    return Grids(metrics, recipes)


def section(entry: Entry, board: Board, grids: Grids) -> dict[str, Any]:
    """Return what the page says about one suite."""
    views = [view for view in primary_views(board) if view.horizon is None]
    result, horizons = entry.result, board.suite.horizons
    shown = [metric for metric in (PRIMARY, REGRET) if grids.metrics.get(metric)]
    of_recipes = board.recipes if len(board.recipes) > 1 else []
    return {
        "suite": board.label,
        "standing": entry.standing,
        "standing_text": STANDINGS[entry.standing],
        "reasons": entry.wrong,
        "wins": wins(entry, board, views),
        "charts": win_charts(entry, board, views),
        "headline": headline(entry, board, views[0]),
        "notes": (skill_note(board, PRIMARY), *result.notes),
        "tables": [
            by_recipe(
                [(ALL, grids.metrics[metric]), *((recipe, grids.recipes[recipe, metric]) for recipe in of_recipes)],
                entry.name, horizons, metric,
            )
            for metric in shown
        ],
        "every": every_metric(list(grids.metrics.items()), entry.name, horizons),
        "failures": failures(result),
        "costs": costs(result),
        "verification": verification(entry),
        "findings": findings(entry),
        "run_command": words.run_command(result),
        "made": reproduction_facts(result),
    }  # fmt: skip


def headline(entry: Entry, board: Board, view: View) -> Facts:
    """Return the row of the leaderboard in words; each interval with its claim."""
    names = [one.name for one in board.entries]
    row = view_rows(view, names, PRIMARY, single=False)[names.index(entry.name)]
    value, _, skill, new_recipe, new_seeds, win_rate, ranks, regret, _ = row
    ms, training, _ = cost_row(entry.result)
    return [
        ("Skill", skill),
        ("95 % interval, a new recipe", new_recipe),
        ("95 % interval, these recipes, new seeds", new_seeds),
        ("Ranks that it can have on a new recipe", ranks),
        ("Win rate", win_rate),
        (named(PRIMARY), value),
        (named(REGRET), regret),
        ("ms per forecast", ms),
        ("% of training time", training),
        ("Failed tasks", f"{len(entry.result.failures)} of {sum(len(run.tasks) for run in entry.result.runs)}"),
    ]


def wins(entry: Entry, board: Board, views: Sequence[View]) -> list[str]:
    """Return in words on how many recipes it errs less than the reference, in each state, and where most and least."""
    i, found = board.results.index(entry.result), []
    for state in STATES:
        skills = {view.recipe: skill for view in views if view.state == state and view.recipe in board.recipes
                  and np.isfinite(skill := float(view.skills.skill_F[i]))}  # fmt: skip
        if board.reference is None or len(skills) < 2 or not any(skills.values()):
            continue
        most, least = max(skills, key=skills.__getitem__), min(skills, key=skills.__getitem__)
        found.append(
            f"{state}: less error than {board.reference.name} on {sum(skill > 0 for skill in skills.values())} of "
            f"{counted(len(skills), 'recipe')}; most skill on {most} ({signed_skill(skills[most])}), least on {least} "
            f"({signed_skill(skills[least])})."
        )
    return found


def win_charts(entry: Entry, board: Board, views: Sequence[View]) -> list[dict[str, Any]]:
    """Return the pictures of skill by size of batch and by recipe, a panel per state; the page draws them."""
    i, by_look = board.results.index(entry.result), {(view.state, view.recipe): view for view in views}
    states = [state for state in ("transient", "stable") if (state, ALL) in by_look]
    titles = dict(choices(board))
    groups = [[ALL, *(one.id for one in board.slices)], board.recipes if len(board.recipes) > 1 else []]

    def cell(state: str, choice: str) -> dict[str, str]:
        view = by_look[state, choice]
        recipe, seeds = (NONE if choice in board.recipes else interval_text(*ends[i].tolist())
                         for ends in (view.skills.new_recipe_F2, view.skills.new_seeds_F2))  # fmt: skip
        return {"skill": signed_skill(float(view.skills.skill_F[i])), "recipe": recipe, "seeds": seeds}

    return [
        {
            "caption": caption,
            "rows": [titles[choice] for choice in group],
            "panels": [{"title": state, "cells": [cell(state, choice) for choice in group]} for state in states],
        }
        for caption, group in zip(("by size of batch", "by recipe"), groups, strict=True)
        if len(group) > 1
    ]


def failures(result: Result) -> tuple[str, ...]:
    """Return each distinct reason with where and how often, most frequent first."""
    alike = grouped(result.failures, lambda pair: (pair[0], pair[1].failure or ""))
    ordered = sorted(alike.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [
        f"{trace}: {counted(len(pairs), 'task')} from origin {min(task.origin for _, task in pairs):,}: {reason}"
        for (trace, reason), pairs in ordered
    ]
    more = len(lines) - MAX_FAILURES
    return (*lines[:MAX_FAILURES], *([f"and {more} more in the result file"] if more > 0 else []))


def costs(result: Result) -> Table:
    """Cost and counted events of each run."""
    columns: dict[str, Callable[[RunResult], str]] = {
        "run": lambda run: run.trace,
        "ms per forecast": lambda run: three_digits(1e3 * run.cost.per_forecast_s),
        "% of training": lambda run: three_digits(None if (part := run.cost.of_training) is None else 100 * part),
        "observe (s)": lambda run: three_digits(run.cost.observe_wall_s),
        "forecast (s)": lambda run: three_digits(run.cost.forecast_wall_s),
        "CPU (s)": lambda run: three_digits(_cpu_s(run)),
        "start (s)": lambda run: three_digits(run.cost.startup_wall_s),
        "peak memory": lambda run: megabytes(run.cost.peak_memory_bytes),
        "events that it counted": lambda run: ", ".join(f"{k} {n:,}" for k, n in sorted(run.counts.items())) or NONE,
    }
    caption = "A row is a run, a column what it cost, measured by the harness; less is better."
    return table_of(caption, result.runs, columns, 8)


def _cpu_s(run: RunResult) -> float | None:
    cost = run.cost
    return None if cost.forecast_cpu_s is None else (cost.observe_cpu_s or 0.0) + cost.forecast_cpu_s


def verification(entry: Entry) -> Facts:
    """Return what the maintainers' run was; empty without one that is about this result."""
    found = entry.verification
    if found is None:
        return []
    return [
        ("Run on", found.date),
        ("Commit", fact_text(found.commit)),
        ("Level", found.level),
    ]


def findings(entry: Entry) -> Table | None:
    """Growth of the relative loss on altered traces, as the verification wrote it."""
    found = entry.verification
    if found is None or not found.findings:
        return None
    rows = tuple((name, f"{100 * growth:+.1f} %") for name, growth in sorted(found.findings.items()))
    caption = "A row is a test for memory of the public traces: by how much the relative loss grows; less is better."
    return Table(caption, ("test", "growth"), rows)


def reproduction_facts(result: Result) -> Facts:
    """Return all that is needed to obtain the result again."""
    where = result.environment
    return [
        ("Target", result.forecaster.target),
        ("Arguments", arguments_text(result.forecaster.kwargs) or "none, the defaults"),
        ("Requirements", ", ".join(result.forecaster.requirements) or "none"),
        ("SHA-256 of the code", result.forecaster.source_sha256),
        ("Suite", f"{result.suite.name}, {result.suite.sha256}"),
        ("Seed", str(result.seed)),
        ("Scoring version", str(result.scoring_version)),
        ("Isolation", result.isolation),
        ("Fitting", NONE if result.fit_wall_s is None else f"{three_digits(result.fit_wall_s)} s"),
        ("Hardware", where.hardware),
        ("Python", where.python),
        ("Package", f"{where.package_version}, commit {fact_text(where.commit)}"),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items())) or NONE),
        ("Made", where.created),
    ]


def submission_facts(entry: Entry) -> Facts:
    """Who submitted what under which licence."""
    if entry.folder is None:
        return []
    record = entry.folder.record
    return [
        ("Authors", ", ".join(record.authors)),
        ("Licence", record.licence),
        ("Type", f"{entry.model_type}: {MODEL_TYPES[entry.model_type]}"),
        ("Other data that it learned from", entry.fitted_on or "none"),
        ("Hardware", record.hardware),
        ("Code", code_of(record)),
    ]


def code_of(record: Submission) -> str:
    """Return where the code of a submission is."""
    if record.has_code:
        return f"{record.name}/forecaster.py"
    return "an adapter of the package" if record.has_adapter else "a baseline of the package"


def entries_by_name(boards: Sequence[Board]) -> dict[str, list[tuple[Board, Entry]]]:
    """Forecasters over all suites."""
    return grouped(((board, entry) for board in boards for entry in board.entries), lambda pair: pair[1].name)
