"""What a forecaster's page says: where it wins and loses, what it costs, who made it, and how it is run again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from leaderboard.site import words
from leaderboard.site.board import Board, BoardEntry
from leaderboard.site.board_page import digits, standings, without_empty_columns
from leaderboard.site.forests import forest
from leaderboard.site.words import Facts, arguments_text, direction, fact_text, named, three_digits
from moeload_bench.errors import counted
from moeload_bench.files import file_name
from moeload_bench.publishing.submission import MODEL_TYPES, Submission
from moeload_bench.results.averages import cost_columns
from moeload_bench.results.columns import run_costs
from moeload_bench.results.entry import Entry
from moeload_bench.results.formats import horizon_heads
from moeload_bench.results.render import NONE, Table
from moeload_bench.scoring.catalogue import PRIMARY

MAX_FAILURES = 50
"""Distinct failures that a page lists; the rest are counted."""
COSTS = {
    "ms per forecast (CPU)": ("ms", 1.0),
    "% of training": ("training", 100.0),
    "observe (s)": ("observe_wall_s", 1.0),
    "forecast (s)": ("forecast_wall_s", 1.0),
    "start (s)": ("startup_wall_s", 1.0),
    "peak memory (MB)": ("peak_memory_bytes", 1e-6),
}
"""Columns of the table of costs: which one of the results each shows, and times what."""
STANDINGS = {
    "claimed": "The files do not agree: the numbers are not known to be those of this submission.",
    "checked": "The files agree; it was not run in a verification yet.",
    "scored": "Scored once by the maintainers, from the copy that was committed before the runs were drawn.",
    "verified": "Run by the maintainers in a sandbox; the numbers are those of that run.",
    "verified (sample)": "A part of the runs was run again in a sandbox, with the same numbers within tolerances.",
    "failed": "Run by the maintainers, and refused.",
}


def page_path(name: str) -> str:
    """Return where the page of a forecaster lies."""
    return f"forecasters/{file_name(name)}.html"


def forecaster_page(name: str, boards: Sequence[Board]) -> dict[str, Any]:
    """Return what the template shows of a forecaster, over all boards that it is on."""
    places = [(board, entry) for board in boards for entry in board.entries if entry.name == name]
    record = next((entry.record for _, entry in places if entry.record is not None), None)
    return {
        "name": name,
        "sections": [section(board, entry) for board, entry in places],
        "submission": submission_facts(places[0][1], record) if record else [],
        "link": words.web_link(record.link if record else None),
        "verify_command": words.verify_command(places[0][1].entry),
    }


def section(board: Board, entry: BoardEntry) -> dict[str, Any]:
    """Return what the page says about one board."""
    name = entry.name
    recipes = board.by_recipe[board.by_recipe["forecaster"] == name]
    states = board.states if len(board.recipes) > 1 else []
    return {
        "title": board.title,
        "standing": entry.standing,
        "standing_text": STANDINGS[entry.standing],
        "reasons": entry.wrong,
        "notes": entry.entry.notes,
        "reference": board.results.suite.reference,
        "cells": in_cells(board, name),
        "recipes": forest({state: recipes[recipes["state"] == state] for state in states}, "recipe") if states else [],
        "horizons": by_horizon(board, name),
        "failures": failures(board, name),
        "costs": costs(board, name),
        "verification": verification(entry),
        "findings": findings(entry),
        "run_command": words.run_command(entry.entry),
        "origin": origin(entry.entry),
    }


def in_cells(board: Board, name: str) -> Table:
    """Return the forecaster's row of the standings of each cell."""
    tables = {cell.title: standings(board, cell) for cell in board.cells}
    rows = tuple((title, *row[1:8]) for title, table in tables.items() for row in table.rows if row[0] == name)
    heads = ("runs", *next(iter(tables.values())).heads[1:8])
    caption = (
        f"A row is a size of batches and a state. More skill is better, less of all else. Errors: {named(PRIMARY)}."
    )
    return without_empty_columns(Table(caption, heads, rows))


def by_horizon(board: Board, name: str) -> Table:
    """Return its errors by cell and horizon."""
    steps = sorted({horizon for cell in board.cells for horizon in board.horizons(cell)})
    rows = board.by_horizon[board.by_horizon["forecaster"] == name]
    lines = []
    for cell in board.cells:
        values = cell.of(rows).set_index("horizon")["value"].reindex(steps)
        lines.append((cell.title, *map(digits, values)))
    caption = (
        f"A row is a size of batches and a state, a column a horizon h in training steps. Errors: {named(PRIMARY)}; "
        f"{direction(PRIMARY)}."
    )
    return Table(caption, ("runs", *horizon_heads(steps)), tuple(lines))


def failures(board: Board, name: str) -> list[str]:
    """Return each distinct reason with its trace and how often it occurred, the most frequent first."""
    failed = board.failures[board.failures["forecaster"] == name]
    groups = failed.groupby(["trace", "failure"])["origin"].agg(["size", "min"]).reset_index()
    rows = groups.sort_values("size", ascending=False, kind="stable").to_dict("records")
    lines = [
        f"{row['trace']}: {counted(row['size'], 'task')} from origin {row['min']:,}: {row['failure']}" for row in rows
    ]
    more = len(lines) - MAX_FAILURES
    return [*lines[:MAX_FAILURES], *([f"and {more} more in the result file"] if more > 0 else [])]


def costs(board: Board, name: str) -> Table:
    """Return cost and counted events of each run."""
    cost = run_costs(board.results.select([name]).table)
    rows = tuple(
        (row["trace"], *(three_digits(scale * row[column]) for column, scale in COSTS.values()), events(row["counts"]))
        for row in cost.merge(cost_columns(cost), on=["forecaster", "trace"]).to_dict("records")
    )
    caption = "A row is a run, a column what it cost, measured by the harness; less is better."
    return Table(caption, ("run", *COSTS, "events that it counted"), rows, 1, 7)


def events(counts: str) -> str:
    """Return counted events, which are JSON, as text."""
    return ", ".join(f"{event} {number:,}" for event, number in sorted(json.loads(counts).items())) or NONE


def verification(entry: BoardEntry) -> Facts:
    """Return what the maintainers' run was; empty without one that is about this result."""
    run = entry.verification
    return [("Run on", run.date), ("Commit", fact_text(run.commit)), ("Level", run.level)] if run else []


def findings(entry: BoardEntry) -> Table | None:
    """Return the growth of the relative loss on altered traces, as the verification wrote it."""
    if entry.verification is None or not entry.verification.findings:
        return None
    rows = tuple((name, f"{100 * growth:+.1f} %") for name, growth in sorted(entry.verification.findings.items()))
    caption = "A row is a test for memory of the public traces: by how much the relative loss grows; less is better."
    return Table(caption, ("test", "growth"), rows)


def origin(entry: Entry) -> Facts:
    """Return all that is needed to obtain the result again."""
    where = entry.environment
    return [
        ("Target", entry.target),
        ("Arguments", arguments_text(entry.kwargs) or "none, the defaults"),
        ("Requirements", ", ".join(entry.requirements) or "none"),
        ("SHA-256 of the code", entry.source_sha256),
        ("Suite", f"{entry.suite.name}, {entry.suite.sha256}"),
        ("Seed", str(entry.seed)),
        ("Scoring version", str(entry.scoring_version)),
        ("Isolation", entry.isolation),
        ("Fitting", NONE if entry.fit_wall_s is None else f"{three_digits(entry.fit_wall_s)} s"),
        ("Hardware", where.hardware),
        ("Python", where.python),
        ("Package", f"{where.package_version}, commit {fact_text(where.commit)}"),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items())) or NONE),
        ("Made", where.created),
    ]


def submission_facts(entry: BoardEntry, record: Submission) -> Facts:
    """Return who submitted what under which licence."""
    code = f"{record.name}/forecaster.py" if record.has_code else "an adapter" if record.has_adapter else "a baseline"
    return [
        ("Authors", ", ".join(record.authors)),
        ("Licence", record.licence),
        ("Type", f"{entry.model_type}: {MODEL_TYPES[entry.model_type]}"),
        ("Other data that it learned from", entry.fitted_on or "none"),
        ("Hardware", record.hardware),
        ("Code", code if record.has_code else f"{code} of the package"),
    ]
