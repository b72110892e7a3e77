"""A part of docs/reports/gated.md: the first score of `gated` on recipes that came after its weights, and a later one.

Made from leaderboard/unseen.json, which `python -m leaderboard studies unseen` adds to as runs are recorded, and from
the results of the suite that brings the recipes, on whose open runs it was fitted again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboard.committed import suites_with_results
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import results_of
from leaderboard.studies import unseen as study
from leaderboard.suites.plan import near_twins
from leaderboard.templates import render_words
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.grid import NOTHING
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Tasks, interval, log_ratio, skill
from moeload_bench.results.tables import signed, span
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import STATES

Column = Mapping[str, float]
"""By run the mean log ratio to the reference in one state."""


def unseen(
    scores: study.Scores,
    wanted: int,
    twins: Mapping[str, str],
    after: Mapping[str, Column] | None = None,
    known: Collection[str] = (),
) -> str:
    """Return a row per run, then the mean over recipes with its interval for a new one, by state; ``after`` by state
    too.

    ``known``: recipes with a near twin among those that it learned from, without which the mean is given again.
    """
    if not scores:
        return "No run of these recipes is recorded yet."
    columns: dict[str, Column] = {}
    for state in STATES:
        first = _first(scores, state, study.SUBJECT)
        if first:
            columns[f"`{study.SUBJECT}`, {state}"] = first
            if after is not None:
                columns[f"after, {state}"] = {
                    run: value for run, value in after.get(state, {}).items() if run in scores
                }
            columns[f"`{study.BESIDE}`, {state}"] = _first(scores, state, study.BESIDE)
    rows = [(f"`{run}`", *(_skill(column.get(run)) for column in columns.values())) for run in scores]
    last = [("mean over recipes", *(_mean(column, twins) for column in columns.values()))]
    near = [recipe for recipe in dict.fromkeys(run.split("/")[0] for run in scores) if recipe in known]
    if near:
        others = [{run: value for run, value in column.items() if run.split("/")[0] not in near}
                  for column in columns.values()]  # fmt: skip
        last.append(("without near twins of known ones", *(_mean(column, twins) for column in others)))
    words = render_words(
        Path(__file__).with_name("unseen_words.md.j2"), study=study, scored=len(scores), wanted=wanted, near=near,
        codes=sorted({found["source_sha256"][:12] for found in scores.values()}), after=after is not None,
    )  # fmt: skip
    return f"{markdown_table(('run', *columns), [*rows, *last])}\n\n{words}"


def _first(scores: study.Scores, state: str, name: str) -> Column:
    return {run: found["states"][state][name]["log_ratio"] for run, found in scores.items() if state in found["states"]}


def _skill(log_ratio: float | None) -> str:
    return NOTHING if log_ratio is None else signed(float(1 - np.exp(log_ratio)), 3)


def _mean(column: Column, twins: Mapping[str, str]) -> str:
    """Skill over recipes, of the means over a recipe's runs; near twins have one vote together."""
    tasks = Tasks([run.split("/")[0] for run in column], list(column), twins)
    ratio_R = np.array(list(column.values()))
    found = interval(ratio_R, tasks, "a new recipe")
    return signed(skill(ratio_R, tasks), 3) + (f" {span(found)}" if found else "")


def scores_after(results: Sequence[Result]) -> dict[str, Column]:
    """Return by state and run the log ratio of `gated` as it was fitted for these results; {} where it is not among
    them.
    """
    both = [result for result in results if result.name in (study.SUBJECT, study.REFERENCE)]
    if len(both) < 2:
        return {}
    errors = errors_of(both, PRIMARY)
    found: dict[str, Column] = {}
    for state in STATES:
        here = errors.select(state=state)
        ratio_T = log_ratio(here.by_forecaster[study.SUBJECT], here.by_forecaster[study.REFERENCE])
        number_T, _ = here.tasks.by_run
        runs = list(dict.fromkeys(here.tasks.run_T))
        found[state] = {run: float(np.nanmean(ratio_T[number_T == n])) for n, run in enumerate(runs)}
    return found


def _part() -> str:
    wanted = study.wanted_runs()
    recipes, learned = {run.split("/")[0] for run in wanted}, study.known_recipes()
    twins = {recipe: group[0] for group in near_twins(recipes) for recipe in group}
    known = {recipe for group in near_twins(recipes | learned) if learned & set(group) for recipe in group}
    after = scores_after(results_of(study.PLAN)) if study.PLAN in suites_with_results() else {}
    return unseen(study.read_scores(), len(wanted), twins, after or None, known)


PARTS: Mapping[str, Maker] = {"unseen": _part}
